"""What `make` shows of a stage, the order of a run, and what `make clean` leaves alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import stage
import whole_run
from provenance import ROOT

PASSED = """.....
============================== seconds by part ===============================
notebooks                        12 s   longest: 09_rates.ipynb 9 s
tests/norm                        3 s   longest: test_norm.py 3 s
======================== 5 passed, 1 skipped in 15.02s ========================
"""
FAILED = """.F
=================================== FAILURES ===================================
______________________________ test_is_named_here ______________________________
E   assert 1 == 2
=========================== short test summary info ============================
FAILED tests/test_x.py::test_is_named_here - assert 1 == 2
========================= 1 failed, 1 passed in 0.04s ==========================
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a stage whose command says something and ends with a status; status and lines."""
    monkeypatch.setattr(stage, "LOGS", tmp_path / "logs")

    def run(says: str, status: int):
        code = f"import sys; print({says!r}); sys.exit({status})"
        done = stage.main(["units", sys.executable, "-c", code])
        assert (tmp_path / "logs" / "units.log").read_text("utf8").startswith(says[:9])
        return done, capsys.readouterr().out.splitlines()

    return run


def test_a_stage_that_passes_is_a_line_and_says_where_the_time_went(run):
    status, lines = run(PASSED, 0)
    assert status == 0
    assert lines[0].split() == [
        "units",
        "passed",
        "0:00",
        "5",
        "passed,",
        "1",
        "skipped",
    ]
    assert [line.split()[0] for line in lines[1:]] == ["notebooks", "tests/norm"]


def test_a_stage_that_fails_shows_what_failed_and_keeps_the_status(run):
    status, lines = run(FAILED, 3)
    assert status == 3
    assert "E   assert 1 == 2" in lines
    assert lines[-1].split() == [
        "units",
        "failed",
        "0:00",
        "1",
        "failed,",
        "1",
        "passed",
    ]
    assert ".F" not in lines


def test_a_stage_without_pytest_that_fails_shows_its_last_lines(run):
    status, lines = run("\n".join(map(str, range(1000))), 1)
    assert status == 1
    assert lines[-2] == "999" and len(lines) < 200


def test_notebooks_and_the_build_begin_before_the_tests():
    names = [
        "tests/a.py::test",
        "tests/book/test_book_site.py::test",
        "notebooks/02.ipynb::Cell 0",
        "notebooks/02.ipynb::Cell 1",
    ]
    items = [SimpleNamespace(nodeid=name) for name in names]
    whole_run.pytest_collection_modifyitems(items)
    assert [item.nodeid for item in items] == [*names[2:], names[1], names[0]]


needs_make = pytest.mark.skipif(
    not shutil.which("make"), reason="make is not installed"
)


@needs_make
def test_make_clean_leaves_an_environment_alone_that_make_did_not_make(tmp_path):
    shutil.copy2(ROOT / "Makefile", tmp_path)
    for folder in ("_build", ".venv/bin", ".venv/book", ".venv/test"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text("mine")
    (tmp_path / ".venv/book/.done").write_text("")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    assert left == {"Makefile", ".venv", ".venv/bin", ".venv/bin/python", ".venv/test"}


@needs_make
def test_make_clean_leaves_nothing_where_make_made_all(tmp_path):
    shutil.copy2(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv/test").mkdir(parents=True)
    (tmp_path / ".venv/test/.done").write_text("")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert [p.name for p in tmp_path.iterdir()] == ["Makefile"]
