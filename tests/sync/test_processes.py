"""What is started on several processes ends, says why, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import psutil
import pytest
import torch
from torch import distributed

from bnutils import data, sync

pytestmark = pytest.mark.skipif(os.name != "posix", reason="launch needs POSIX")
# As of a notebook, the functions below travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

ENDS_WITHIN = 30.0  # seconds from a failure to the end of the job; machines are busy


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch, tmp_path):
    """Fail a test that leaves a process, a file or a port behind."""
    marker, folder = uuid.uuid4().hex, tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("BNUTILS_TEST", marker)  # processes inherit it
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    ports = listening()
    yield
    end = time.monotonic() + 3
    while (left := marked(marker)) and time.monotonic() < end:
        time.sleep(0.05)
    for process in left:
        process.kill()
    assert not left
    assert not list(folder.iterdir())
    assert listening() <= ports


def marked(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("BNUTILS_TEST") == marker:
                found.append(process)
        except (psutil.Error, OSError):  # somebody else's, or gone
            pass
    return found


def listening() -> set[int]:
    process = psutil.Process()
    listed = getattr(process, "net_connections", None) or process.connections  # 5.9
    connections = listed("tcp")
    return {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}


def failure(function, *arguments, **options) -> tuple[sync.LaunchError, float]:
    """The error of a job, and how long it took from what the last rank printed."""
    with pytest.raises(sync.LaunchError) as caught:
        sync.run(function, *arguments, **options)
    return caught.value, time.time() - float(caught.value.stdout.split()[-1])


# What travels


@dataclass
class Answer:
    """A class of the notebook."""

    values: list
    helped: int


NUMBER = 3


def helper():
    return NUMBER


def test_a_function_travels_with_what_it_uses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tensor = torch.arange(3.0, requires_grad=True)

    def uses_everything(twice):
        sys.stdout.write("not seen")
        rank, world = distributed.get_rank(), distributed.get_world_size()
        total = tensor * twice(1 + rank)
        distributed.all_reduce(total.detach())
        threads = torch.get_num_threads()
        return Answer([rank, world, threads, data.__name__, total], helper())

    answers = sync.run(uses_everything, lambda x: 2 * x)
    assert [type(answer) for answer in answers] == [Answer, Answer]
    for rank, answer in enumerate(answers):
        assert answer.values[:4] == [rank, 2, 1, "bnutils.data"]
        assert torch.equal(answer.values[4], 6 * torch.arange(3.0))
        assert answer.helped == NUMBER
    assert {path.name for path in tmp_path.iterdir()} == {"temporary"}


def test_what_cannot_travel_is_refused():
    with pytest.raises(ValueError, match="expected a function, got 3"):
        sync.run(3)
    with pytest.raises(ValueError, match="helper cannot be sent to another process"):
        sync.run(helper, threading.Lock())


SCRIPT = """
import os, sys
import torch
from torch import distributed
from bnutils import sync
with sync.process_group() as device:
    total = torch.tensor(float(distributed.get_rank() + 1))
    distributed.all_reduce(total)
    print(__name__, *sys.argv[1:], os.environ["FLAVOUR"], device, total.item())
sys.exit()
"""


def test_a_module_runs_as_a_script_on_every_rank(tmp_path, monkeypatch):
    (tmp_path / "a_script.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(tmp_path)
    stdout = sync.launch("a_script", "--number", 3, env={"FLAVOUR": "sweet"})
    assert stdout == 2 * "__main__ --number 3 sweet cpu 3.0\n"


# How a job fails


def breaks(how):
    """The last of two ranks fails, and says when, while the other waits for it."""
    distributed.barrier()
    if distributed.get_rank() == 1:
        sys.stderr.write("about to break\n")
        sys.stdout.write(f"{time.time()}\n")
        sys.stdout.flush()
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "left":
            os._exit(7)
        elif how == "hung":
            time.sleep(3600)
        raise RuntimeError("broken on purpose\nwith a second line")
    distributed.barrier()


def test_an_error_is_told_with_its_rank_and_traceback():
    error, seconds = failure(breaks, "raised")
    first, second, *_ = str(error).splitlines()
    assert first == "breaks failed"
    assert second == "[rank1]: RuntimeError: broken on purpose"
    assert "in breaks\n    raise RuntimeError" in str(error)  # the line that did it
    assert error.exit_codes[1] == 1
    assert "about to break" in error.stderr
    assert 0 < seconds < ENDS_WITHIN


@pytest.mark.nightly  # chapter 15 shows a rank that is killed
@pytest.mark.parametrize(
    ("how", "words", "code"),
    [
        ("killed", "breaks failed: rank 1 was killed by signal 9", -9),
        ("left", "breaks failed: rank 1 left with code 7", 7),
    ],
)
def test_a_rank_that_vanishes_is_named_as_the_cause(how, words, code):
    error, seconds = failure(breaks, how)
    assert str(error).splitlines()[0] == words
    assert re.search(r"\[rank0\].*Connection (closed|reset) by peer", str(error))
    assert error.exit_codes[1] == code
    assert 0 < seconds < ENDS_WITHIN


@pytest.mark.nightly
def test_a_rank_that_hangs_lets_the_collective_of_the_others_time_out():
    error, seconds = failure(breaks, "hung", timeout=150)
    assert re.search("imed out|timeout", str(error))
    assert error.exit_codes == {0: 1}  # the launcher ended rank 1
    assert 30 <= seconds < 30 + ENDS_WITHIN


def stops(ready):
    """A process that no signal but SIGKILL ends, with a child that has left it."""
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(ready).touch()
    os.kill(os.getpid(), signal.SIGSTOP)


def when_there(path: Path, do) -> threading.Thread:
    def wait():
        end = time.monotonic() + 120
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.05)
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_ctrl_c_ends_what_is_stopped_and_what_was_started(tmp_path, with_ctrl_c):
    ready, interrupted, ended = tmp_path / "ready", [], threading.Event()

    def interrupt():
        # Python drops the exception if the signal comes while it runs code that may not
        # raise, such as a finalizer: whoever presses Ctrl-C presses it again then.
        for _ in range(3):
            interrupted.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)
            if ended.wait(2 * ENDS_WITHIN):
                return

    thread = when_there(ready, interrupt)
    with pytest.raises(KeyboardInterrupt):
        sync.run(stops, ready, processes=1, timeout=150)
    ended.set()
    assert time.monotonic() - interrupted[-1] < ENDS_WITHIN
    thread.join()
    assert ready.exists()


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_a_job_ends_when_its_time_is_over(limit):
    start = time.monotonic()
    with pytest.raises(sync.LaunchError) as caught:
        sync.run(time.sleep, 600, processes=1, timeout=limit)
    assert limit <= time.monotonic() - start < limit + ENDS_WITHIN
    assert f"sleep did not end within {limit:g} s and was stopped" in str(caught.value)
    assert caught.value.exit_codes == {}


LAUNCHER = """
import subprocess, sys, time
from pathlib import Path
from bnutils import sync
def wait(path):
    Path(path).touch()
    time.sleep(600)
sync.run(wait, sys.argv[1])
"""


@pytest.mark.nightly
def test_the_processes_end_with_a_launcher_that_is_killed(tmp_path):
    script, ready = tmp_path / "script.py", tmp_path / "ready"
    script.write_text(LAUNCHER)  # without "if __name__": the script is not run again
    folders = tmp_path / "of the launcher"  # it cannot remove its own
    folders.mkdir()
    root = str(Path(sync.__file__).parents[2])
    launcher = subprocess.Popen(
        [sys.executable, script, ready],
        env=os.environ | {"TMPDIR": str(folders), "PYTHONPATH": root},
    )
    when_there(ready, launcher.kill).join()
    assert launcher.wait() == -signal.SIGKILL
    assert ready.exists()  # the fixture looks for the processes


@pytest.mark.nightly
def test_jobs_at_the_same_time_do_not_meet():
    def world(job):
        total = torch.tensor(float(job))
        distributed.all_reduce(total)
        return total.item()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda job: sync.run(world, job), range(4)))
    assert results == [[2 * job, 2 * job] for job in range(4)]
