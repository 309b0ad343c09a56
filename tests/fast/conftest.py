"""Surroundings of the tests of the fast layer: threads, and a place without a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bnutils.fast import extension


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order():
    torch.manual_seed(0)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_kernel(monkeypatch, tmp_path) -> Path:
    """Nothing compiled, nothing loaded; the folder where a kernel would be looked for."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(extension, "kernel", None)
    monkeypatch.setattr(extension, "_failed", {})
    return tmp_path / "not" / "yet"


@pytest.fixture
def compiler(monkeypatch, no_kernel):
    """A compiler that makes an empty library in no time, or fails; where it was called."""

    def run(where):
        run.calls.append(Path(where))
        if run.error:
            raise run.error
        for name in run.makes:
            Path(where, name).touch()

    run.calls, run.error, run.makes = [], None, [f"{extension.NAME}.so"]
    monkeypatch.setattr(extension, "_run_compiler", run)
    monkeypatch.setattr(extension, "missing_tool", lambda: "")
    return run
