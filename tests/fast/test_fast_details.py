"""Small promises of the fast layer, of its build and of the fused training step."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from bnutils import fast, models
from bnutils.fast import extension as _fast_build
from bnutils.fast import lean as _fast_torch
from bnutils.train import steps as _steps

KERNEL = pytest.mark.skipif(
    bool(fast.available("kernel")), reason="no compiler for the kernel"
)
COMPILE = pytest.mark.skipif(
    bool(fast.available("compile")), reason="no compiler for torch.compile"
)
PYTORCH = nn.BatchNorm1d
each = pytest.mark.parametrize(
    "cls", [fast.TorchBatchNorm1d, pytest.param(fast.KernelBatchNorm1d, marks=KERNEL)]
)


@pytest.fixture
def fresh(monkeypatch, tmp_path) -> Path:
    """The folder for compiled kernels, empty, and nothing loaded."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(fast, "_kernel", None)
    monkeypatch.setattr(_fast_build, "_loaded", {})
    return tmp_path


@pytest.fixture
def compiler(monkeypatch, fresh):
    """A compiler that writes an empty library, or raises; where it was called."""
    calls: list[Path] = []

    def run(where):
        calls.append(Path(where))
        if run.error:
            raise run.error
        for name in run.makes:
            Path(where, name).touch()

    run.error, run.makes, run.calls = None, [f"{_fast_build.NAME}.so"], calls
    monkeypatch.setattr(_fast_build, "_run_compiler", run)
    monkeypatch.setattr(_fast_build, "missing", lambda: "")
    return run


# Gears


@KERNEL
def test_build_says_nothing_if_the_kernel_can_be_used():
    assert fast.build() == ""


@pytest.mark.parametrize("gear", ["auto", "torch"])
def test_gears_that_need_no_compiler_are_available_without_one(
    gear, fresh, monkeypatch
):
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    assert fast.available("kernel")
    assert fast.available(gear) == ""


@pytest.mark.parametrize("gear", ["kernel", "compile"])
def test_the_warning_about_a_gear_points_at_who_asked_for_it(gear, fresh, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    with pytest.warns(UserWarning) as found:
        fast.BatchNorm1d(3, gear=gear)
    assert found[0].filename == __file__


def test_a_pickle_that_comes_where_no_kernel_is_does_not_compile_one(compiler):
    layer = fast.TorchBatchNorm1d(3)
    layer.gear = "kernel"  # as where it comes from
    layer = pickle.loads(pickle.dumps(layer))
    assert layer.gear == "torch" and not compiler.calls
    torch.testing.assert_close(layer(torch.ones(2, 3)), torch.zeros(2, 3))


@COMPILE
@pytest.mark.parametrize(("shape", "fused"), [((4, 3), 0), ((4, 3, 2), 1)], ids=str)
def test_gear_compile_fuses_where_there_are_positions(shape, fused, monkeypatch):
    calls = []

    def forward(*args):
        calls.append(args)
        return _fast_torch.lean_forward(*args)

    roads = forward, _fast_torch.lean_backward
    monkeypatch.setattr(_fast_torch, "compiled", lambda: roads)
    fast.CompileBatchNorm1d(3)(torch.randn(shape))
    assert len(calls) == fused


@each
@pytest.mark.parametrize("gone", ["running_mean", "running_var"])
@pytest.mark.parametrize("training", [True, False])
def test_one_running_statistic_without_the_other_is_refused(cls, gone, training):
    layer = cls(3).train(training)
    setattr(layer, gone, None)
    with pytest.raises(ValueError, match="both be None or neither"):
        layer(torch.randn(4, 3))


# Compiling


@pytest.mark.parametrize(
    ("capability", "words"),
    [
        ("AVX2", "-mavx2 -mfma"),
        (
            "AVX512",
            "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma "
            "-mprefer-vector-width=512",
        ),
        ("DEFAULT", ""),
    ],
)
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_the_compiler_gets_the_instructions_that_pytorch_found(
    capability, words, system, monkeypatch
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(sys, "platform", system)
    openmp = ["-fopenmp"] if system == "linux" else []
    assert _fast_build.flags() == ["-O3", *words.split(), *openmp]


def test_another_source_torch_python_or_machine_gets_a_kernel_of_its_own(
    fresh, monkeypatch
):
    first = _fast_build.folder()
    assert first.parent == fresh and first == _fast_build.folder()
    changes = {
        "source": (_fast_build, "SOURCE", "// nothing"),
        "torch": (torch, "__version__", "0.0.1"),
        "python": (sys, "version", "4.0"),
        "machine": (_fast_build, "flags", lambda: ["-O3", "-mother"]),
    }
    others = set()
    for where, name, value in changes.values():
        with monkeypatch.context() as change:
            change.setattr(where, name, value)
            others.add(_fast_build.folder())
    assert len(others | {first}) == 1 + len(changes)


def test_the_kernel_lies_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _fast_build.folder().parent == tmp_path / "torch_extensions"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert _fast_build.folder().parent == tmp_path / ".cache" / "torch_extensions"


def test_what_is_missing_for_a_build(monkeypatch, tmp_path):
    def program(name):
        (tmp_path / name).touch(mode=0o755)

    monkeypatch.setattr(sys, "executable", str(tmp_path / "env" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler (c++ not found)" in _fast_build.missing()
    program("ccache")
    monkeypatch.setenv("CXX", "ccache g++ -v")
    assert "no ninja" in _fast_build.missing()
    program("c++")
    monkeypatch.delenv("CXX")
    assert "no ninja" in _fast_build.missing()
    (tmp_path / "env").mkdir()
    program("env/ninja")  # as pip installs it
    assert _fast_build.missing() == ""
    (tmp_path / "env" / "ninja").unlink()
    program("ninja")
    assert _fast_build.missing() == ""


def test_a_build_is_kept_and_leaves_no_draft(compiler, fresh):
    path = _fast_build._compile()
    (draft,) = compiler.calls
    assert draft.parent == fresh and draft.name.startswith(_fast_build.NAME)
    assert path == _fast_build.library()
    assert path == _fast_build.folder() / f"{_fast_build.NAME}.so"
    found = sorted(p for p in fresh.iterdir() if p.is_dir())
    assert found == [_fast_build.folder()]
    assert _fast_build._compile() == path
    assert len(compiler.calls) == 1  # what another process compiled is used


def test_half_a_build_is_replaced(compiler):
    _fast_build.folder().mkdir()
    (_fast_build.folder() / "build.ninja").touch()
    assert _fast_build._compile().exists()
    assert len(list(_fast_build.folder().iterdir())) == 1


def test_a_failing_compiler_leaves_nothing_and_is_quoted(compiler, fresh):
    compiler.error = RuntimeError("\n cannot compile\nsome more lines")
    assert _fast_build.load(build=True) == "cannot compile"
    assert fast.build() == "cannot compile"
    compiler.error = OSError()
    assert fast.build() == "OSError"
    assert not [p for p in fresh.iterdir() if p.is_dir()]


def test_a_compiler_that_makes_no_library_is_noticed(compiler):
    compiler.makes = ["notes.txt"]
    assert fast.build() == "the compiler made no library"


def test_a_damaged_library_is_a_reason_and_no_crash(compiler):
    reason = fast.build()  # an empty file is no library
    assert _fast_build.NAME in reason and "\n" not in reason
    assert fast.BatchNorm1d(3).gear == "torch"


def test_what_is_there_is_loaded_once(compiler, monkeypatch):
    loaded = []

    def fake(path):
        loaded.append(path)
        return ModuleType("kernel")

    monkeypatch.setattr(_fast_build, "_import", fake)
    assert "has not been compiled yet" in _fast_build.load(build=False)
    assert not compiler.calls
    first = _fast_build.load(build=True)
    assert isinstance(first, ModuleType)
    assert _fast_build.load(build=False) is _fast_build.load(build=True) is first
    assert loaded == [_fast_build.library()] and len(compiler.calls) == 1


def test_a_library_of_windows_is_found(fresh):
    _fast_build.folder().mkdir()
    library = _fast_build.folder() / f"{_fast_build.NAME}.cp311.pyd"
    library.touch()
    assert _fast_build.library() == library


def test_the_compiler_runs_with_ninja_in_reach_and_in_its_folder(monkeypatch, tmp_path):
    from torch.utils import cpp_extension

    seen = {}

    def load_inline(name, **options):
        seen.update(options, name=name, path=os.environ["PATH"])
        raise RuntimeError("enough")

    monkeypatch.setattr(cpp_extension, "load_inline", load_inline)
    monkeypatch.setenv("PATH", "/first")
    with pytest.raises(RuntimeError, match="enough"):
        _fast_build._run_compiler(str(tmp_path))
    scripts = str(Path(sys.executable).parent)
    assert seen["path"] == f"/first{os.pathsep}{scripts}"
    assert os.environ["PATH"] == "/first"
    assert seen["name"] == _fast_build.NAME
    assert seen["build_directory"] == str(tmp_path)
    assert seen["cpp_sources"] == _fast_build.SOURCE
    assert seen["extra_cflags"] == _fast_build.flags()
    assert seen["is_python_module"] is False  # imported once, by _import


def test_one_process_compiles_at_a_time(fresh):
    fcntl = pytest.importorskip("fcntl")
    path = fresh / "a.lock"
    now = fcntl.LOCK_EX | fcntl.LOCK_NB
    with path.open("w") as other:
        with _fast_build._lock(path), pytest.raises(BlockingIOError):
            fcntl.flock(other, now)
        fcntl.flock(other, now)  # free again


# Gradients


def slopes(layer, x, dy, **options):
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y, *torch.autograd.grad(y, (x, *layer.parameters()), dy, **options)]


@pytest.mark.parametrize("shape", [(37, 12), (11, 5, 6)], ids=str)
def test_rows_longer_than_a_part_go_one_by_one(shape, monkeypatch):
    monkeypatch.setattr(_fast_torch, "LARGE", 1)
    monkeypatch.setattr(_fast_torch, "PART", 1)
    x, dy = torch.randn(2, *shape, dtype=torch.float64)
    layers = (m(shape[1], dtype=x.dtype) for m in (fast.TorchBatchNorm1d, PYTORCH))
    for a, b in zip(*(slopes(m, 0.1 * x, dy) for m in layers), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@each
@pytest.mark.parametrize("shape", [(9, 4), (5, 4, 3)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_gradients_that_can_be_differentiated_know_eps(cls, shape, training):
    x, dy = torch.randn(2, *shape, dtype=torch.float64)
    layers = [m(4, eps=0.5, dtype=x.dtype).train(training) for m in (cls, PYTORCH)]
    found = [slopes(m, x, dy, create_graph=True) for m in layers]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@each
@pytest.mark.parametrize("shape", [(256, 16), (32, 8, 50)], ids=str)
def test_gradients_that_can_be_differentiated_bear_a_large_mean(cls, shape):
    x, dy = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    x += 1e6
    exact = slopes(PYTORCH(shape[1]).double(), x.double(), dy.double())
    found = slopes(cls(shape[1]), x, dy, create_graph=True)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("large", "copies"), [(1, 1), (10**9, 2)])
def test_of_a_large_input_nothing_of_its_size_is_kept(large, copies, monkeypatch):
    monkeypatch.setattr(_fast_torch, "LARGE", large)
    kept, x = [], torch.randn(8, 3, requires_grad=True)

    def pack(t):
        kept.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        fast.TorchBatchNorm1d(3)(x)
    assert kept.count(x.numel()) == copies  # the input itself, and it less a constant


# The fused step


def perceptron(dtype=torch.float64, scale=1.0):
    torch.manual_seed(0)
    net = models.mlp((6, 5, 3)).to(dtype)
    nn.init.normal_(net[-1].weight, std=scale)
    return net


def step(engine, net, **options):
    options = {"kind": "sgd", "lr": 0.1, "weight_decay": 0.0} | options
    found = _steps.STEPS[engine](net, label_smoothing=0.0, classes=3, **options)
    found.rate(1.0)
    return found


def test_the_fused_engine_compiles_its_kernel_if_need_be(compiler):
    compiler.error = RuntimeError("the compiler was called")
    with pytest.raises(RuntimeError, match="engine 'fused': the compiler was called"):
        step("fused", perceptron())


def test_the_rate_of_the_first_group_is_recorded():
    def groups(parameters):
        rates = zip(parameters, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), strict=True)
        return torch.optim.SGD([{"params": [p], "lr": lr} for p, lr in rates])

    found = step("autograd", perceptron(), kind=groups)
    assert found.rate(0.5) == pytest.approx(0.05)
    now = [group["lr"] for group in found.optimizer.param_groups]
    assert now == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25, 0.3])


@KERNEL
def test_batches_may_lie_anywhere_in_memory():
    x = torch.randn(6, 40, dtype=torch.float64)
    y = torch.stack([torch.arange(40) % 3, torch.full((40,), 7)], 1)
    nets = [perceptron(), perceptron()]
    found = [step(e, n)(x.t(), y[:, 0]) for e, n in zip(_steps.STEPS, nets)]
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    for a, b in zip(*(n.parameters() for n in nets), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@KERNEL
@pytest.mark.parametrize("row", [0, 2, 3])
@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_no_output_stands_for_is_refused(label, row):
    x, y = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    y[row] = label
    with pytest.raises(ValueError, match=f"label {label} for 3 classes"):
        step("fused", perceptron())(x, y)


@KERNEL
def test_logits_of_thousands_give_the_loss_all_the_same():
    x, y = torch.randn(40, 6, dtype=torch.float64), torch.arange(40) % 3
    nets = [perceptron(scale=3e3), perceptron(scale=3e3)]
    found = [step(e, n)(x, y) for e, n in zip(_steps.STEPS, nets)]
    assert found[0][0] > 1e3
    assert found[0] == pytest.approx(found[1], rel=1e-12)
