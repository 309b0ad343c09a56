"""Small promises about the files of the compiled kernel."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import test_fast_details

from bnutils import fast
from bnutils.fast import extension as _fast_build

compiler, fresh = test_fast_details.compiler, test_fast_details.fresh


# The kernel


def test_what_is_missing_is_said_before_anything_is_done(compiler, fresh, monkeypatch):
    monkeypatch.setattr(_fast_build, "missing", lambda: "there is no compiler")
    assert fast.build() == "there is no compiler"
    assert not compiler.calls and not list(fresh.iterdir())


def test_a_build_makes_the_folders_that_lead_to_its_own(compiler, fresh, monkeypatch):
    where = fresh / "not" / "yet"
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(where))
    assert _fast_build._compile().parent.parent == where


def test_a_build_keeps_others_out_until_it_is_there(compiler, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    path = _fast_build.folder().with_suffix(".lock")
    inner = _fast_build._run_compiler

    def run(where):
        with path.open("w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        inner(where)

    monkeypatch.setattr(_fast_build, "_run_compiler", run)
    assert _fast_build._compile().exists()
    assert len(compiler.calls) == 1


def test_a_system_without_locks_compiles_all_the_same(compiler, fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows: no such module
    assert _fast_build._compile().exists()
    assert list(fresh.iterdir()) == [_fast_build.folder()]


def test_the_compiler_runs_where_no_path_is_set(monkeypatch, tmp_path):
    from torch.utils import cpp_extension

    seen = []
    monkeypatch.delenv("PATH")
    monkeypatch.setattr(
        cpp_extension, "load_inline", lambda *_, **__: seen.append(os.environ["PATH"])
    )
    _fast_build._run_compiler(str(tmp_path))
    *usual, scripts = seen[0].split(os.pathsep)
    assert usual == os.defpath.split(os.pathsep)
    assert scripts == str(Path(sys.executable).parent)
    assert "PATH" not in os.environ
