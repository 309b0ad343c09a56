"""The tools that keep stored outputs honest: provenance, normalise, execute."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import nbformat.v4 as v4
import provenance
import pytest
from normalise import normalise, text

TOOL = provenance.ROOT / "book" / "_tools" / "execute.py"


def notebook(*sources: str) -> dict:
    nb = v4.new_notebook(cells=[v4.new_code_cell(s) for s in sources])
    return json.loads(json.dumps(nb))


def run_tool(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def stored(tmp_path):
    """A function that stores a notebook as chapter 99 and returns its path."""

    def store(*sources: str):
        path = tmp_path / "99_try.ipynb"
        path.write_text(text(normalise(notebook(*sources))), "utf8")
        return path

    return store


def outputs(path) -> str:
    return "".join(
        "".join(o.get("text", ""))
        for c in json.loads(path.read_text("utf8"))["cells"]
        for o in c["outputs"]
    )


def test_fingerprint_follows_code_cells_but_not_prose():
    nb = notebook("x = 1")
    prose = copy.deepcopy(nb)
    prose["cells"].append(json.loads(json.dumps(v4.new_markdown_cell("words"))))
    assert provenance.fingerprint(prose, "99") == provenance.fingerprint(nb, "99")
    assert provenance.fingerprint(notebook("x = 2"), "99") != provenance.fingerprint(
        nb, "99"
    )


def test_fingerprint_follows_modules_imported_through_modules(tmp_path, monkeypatch):
    package = tmp_path / "bnutils"
    (package / "exercises").mkdir(parents=True)
    for name in (
        "__init__",
        "alone",
        "exercises/__init__",
        "exercises/ch99",
        "exercises/ch98",
    ):
        (package / f"{name}.py").write_text("")
    (package / "first.py").write_text("from .second import thing\n")
    (package / "second.py").write_text("thing = 1\n")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    nb = notebook("from bnutils import exercises, first")
    assert list(provenance.modules(nb, "99")) == [
        "bnutils",
        "bnutils.exercises",
        "bnutils.exercises.ch99",
        "bnutils.first",
        "bnutils.second",
    ]
    before = provenance.fingerprint(nb, "99")
    (package / "alone.py").write_text("unrelated = 1\n")
    (package / "exercises" / "ch98.py").write_text("unrelated = 1\n")
    assert provenance.fingerprint(nb, "99") == before
    (package / "second.py").write_text("thing = 2\n")
    assert provenance.fingerprint(nb, "99") != before


def test_normalise_drops_what_changes_from_run_to_run():
    nb = notebook("print(1)", "print(1)")
    nb["cells"][0]["id"] = nb["cells"][1]["id"] = "same"
    nb["cells"][0]["metadata"] = {
        "tags": ["timing"],
        "execution": {"iopub.status": "2026"},
        "scrolled": True,
    }
    nb["cells"][0]["outputs"] = [
        {"output_type": "stream", "name": "stdout", "text": piece}
        for piece in ("1\n", "2\n")
    ]
    nb["metadata"] = {
        "widgets": {},
        "kernelspec": {"name": "mine"},
        provenance.KEY: {"code": "abc"},
    }
    new = normalise(nb)
    assert new["cells"][0]["metadata"] == {"tags": ["timing"]}
    assert new["cells"][0]["outputs"][0]["text"] == ["1\n", "2\n"]
    assert len({c["id"] for c in new["cells"]}) == 2
    assert new["metadata"]["kernelspec"]["name"] == "python3"
    assert new["metadata"][provenance.KEY] == {"code": "abc"}
    assert text(normalise(new)) == text(new)


def test_execution_stores_outputs_and_a_second_run_has_nothing_to_do(stored):
    path = stored("x = 6", "print(7 * x)")
    assert run_tool(str(path)).returncode == 0
    assert outputs(path) == "42\n"
    first = path.read_bytes()
    again = run_tool(str(path))
    assert "0 to execute" in again.stdout
    assert run_tool("--force", str(path)).returncode == 0
    assert path.read_bytes() == first


def test_a_failing_cell_is_named_and_the_notebook_left_as_it_was(stored):
    path = stored("print('fine')", "1 / 0", "print('later')")
    before = path.read_bytes()
    run = run_tool(str(path))
    assert run.returncode == 1
    assert "cell 2 failed" in run.stdout
    assert "ZeroDivisionError" in run.stdout
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_what_a_cell_writes_to_stderr_is_not_stored(stored):
    path = stored("import sys", "print('a warning', file=sys.stderr)")
    before = path.read_bytes()
    run = run_tool(str(path))
    assert run.returncode == 1
    assert "cell 2 wrote to stderr: a warning" in run.stdout
    assert path.read_bytes() == before
