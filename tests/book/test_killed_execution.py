"""An execution of a notebook that is killed: the notebook is as it was, or complete."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="SIGKILL"),
    pytest.mark.nightly,  # eight processes
]
ROOT = Path(__file__).resolve().parents[2]


def notebook(path: Path, number: int) -> bytes:
    """Store a notebook with two cells and no outputs."""
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": text}
        | {"outputs": [], "execution_count": None}
        for i, text in enumerate(["x = 6", f"print({number} * x)"])
    ]
    nb = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(nb), "utf8")
    return path.read_bytes()


def execute(path: Path) -> list[str]:
    return [sys.executable, str(ROOT / "book" / "_tools" / "execute.py"), str(path)]


def printed(path: Path) -> str:
    cells = json.loads(path.read_text("utf8"))["cells"]
    return "".join("".join(o["text"]) for c in cells for o in c["outputs"])


def test_killed_execution_of_a_notebook(tmp_path):
    path = tmp_path / "99_try.ipynb"
    before = notebook(path, 7)
    for after in (0.3, 1.2, 2.0):
        run = subprocess.Popen(execute(path), stdout=subprocess.DEVNULL)
        time.sleep(after)
        run.kill()
        run.wait()
        assert path.read_bytes() == before or printed(path) == "42\n"
    subprocess.run(execute(path), check=True, capture_output=True)
    assert printed(path) == "42\n"
    assert os.listdir(tmp_path) == [path.name]


def test_execution_killed_while_it_writes(tmp_path):
    """Whatever lies beside the notebook then is gone after the next run."""
    path = tmp_path / "99_try.ipynb"
    before = notebook(path, 7)
    code = f"""
        import os, runpy, signal, sys
        sys.argv = {execute(path)[1:]}
        sys.path.insert(0, {str(ROOT / "book" / "_tools")!r})
        os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
        runpy.run_path(sys.argv[0], run_name="__main__")
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    subprocess.run(execute(path), check=True, capture_output=True)
    assert printed(path) == "42\n"
    assert os.listdir(tmp_path) == [path.name]


def test_ctrl_c_stores_nothing_and_ends_the_kernel(tmp_path, with_ctrl_c):
    """The terminal sends it to the whole group; a kernel is in a group of its own."""
    paths = [tmp_path / "98_at_work.ipynb", tmp_path / "99_waiting.ipynb"]
    started = tmp_path / "pid"
    work = (
        "import os, pathlib, time\n"
        f"pathlib.Path({str(started)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    cells = [{"cell_type": "code", "id": "c0", "metadata": {}, "source": work}]
    nb = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    cells[0] |= {"outputs": [], "execution_count": None}
    before = json.dumps(nb)
    for path in paths:
        path.write_text(before, "utf8")
    command = [*execute(paths[0]), str(paths[1])]
    run = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (started.exists() and started.read_text()):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)
    printed, _ = run.communicate(timeout=30)
    assert run.returncode == 130
    assert printed.splitlines()[1:] == [
        "98_at_work.ipynb ...",
        "Interrupted: what had not run to its end is left as it was.",
    ]
    assert [path.read_text("utf8") for path in paths] == [before, before]
    assert not psutil.pid_exists(int(started.read_text()))
