"""Gears: which one is taken, and what is said where one cannot be had."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys

import pytest
import torch
from fast_layers import KERNEL

from bnutils import fast
from bnutils.fast import extension


@KERNEL
def test_build_says_nothing_if_the_kernel_can_be_used():
    assert fast.build() == fast.available("kernel") == ""
    assert fast.BatchNorm1d(3).gear == "kernel"  # "auto" takes what is there


def test_unknown_gear():
    with pytest.raises(ValueError, match="no gear 'turbo'; choose one of auto"):
        fast.BatchNorm1d(3, gear="turbo")


@pytest.mark.parametrize("gear", ["kernel", "compile"])
def test_without_a_compiler_the_next_best_gear_says_so(gear, no_kernel, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    assert "no C++ compiler (compiler not found)" in fast.available(gear)
    with pytest.warns(
        UserWarning, match=r"no C\+\+.*install g.*using 'torch'"
    ) as found:
        layer = fast.BatchNorm1d(3, gear=gear)
    assert found[0].filename == __file__  # it points at who asked for the gear
    assert layer.gear == "torch"


@pytest.mark.parametrize("gear", ["auto", "torch"])
def test_gears_that_need_no_compiler_are_available_without_one(
    gear, no_kernel, monkeypatch
):
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    assert fast.available(gear) == ""
    assert fast.BatchNorm1d(3, gear=gear).gear == "torch"


def test_a_gear_that_has_failed_to_compile_is_not_available(compiler):
    assert fast.available("kernel") == ""
    compiler.error = RuntimeError("sums.h:1:1: error: what?")
    with pytest.warns(UserWarning, match=r"'kernel': sums.h:1:1: error: what\?; using"):
        assert fast.BatchNorm1d(3, gear="kernel").gear == "torch"
    assert fast.available("kernel") == "sums.h:1:1: error: what?"
    assert fast.available("torch") == ""


def test_a_pickle_that_comes_where_no_kernel_is_does_not_compile_one(compiler):
    layer = fast.TorchBatchNorm1d(3)
    layer.gear = "kernel"  # as where it comes from
    layer = pickle.loads(pickle.dumps(layer))
    assert layer.gear == "torch" and not compiler.calls
    torch.testing.assert_close(layer(torch.ones(2, 3)), torch.zeros(2, 3))


def test_import_and_auto_compile_nothing(tmp_path):
    code = "from bnutils import fast; print(fast.BatchNorm1d(3).gear)"
    places = {
        "TORCH_EXTENSIONS_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | places,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "torch"
    assert not list(tmp_path.iterdir())


# Excerpts of the C++


def marks(text):
    return re.findall(r"^ *// \[(.*)\]$", text, re.M)


def test_every_mark_in_the_sources_is_closed_and_has_a_name_of_its_own():
    names = []
    for path in extension.sources(extension.CSRC):
        found = marks(path.read_text("utf8"))
        names += found[::2]
        assert found[1::2] == [f"/{name}" for name in found[::2]], path.name
    assert names and len(set(names)) == len(names)


def test_excerpts_name_their_file_and_stand_as_they_are_written():
    text = fast.excerpt("sums")
    first, *lines = text.splitlines()
    assert first == "// fast/csrc/sums.h"
    source = (extension.CSRC / "sums.h").read_text("utf8")
    assert "\n".join(lines) + "\n// [/sums]" in source
    inside = fast.excerpt("forward, second pass").splitlines()
    assert inside[1].startswith("T result(")  # without the indentation of its struct
    assert not marks(text) and not marks("\n".join(inside))


def test_an_unknown_excerpt_is_refused_with_the_names_that_there_are():
    with pytest.raises(ValueError, match=r"no excerpt '/sums'; there are: .*sums"):
        fast.excerpt("/sums")
