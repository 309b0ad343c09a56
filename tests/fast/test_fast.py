"""Every gear of the fast layer behaves as PyTorch's, falls back aloud, and compiles safely."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from bnutils import conformance, fast
from bnutils.fast import extension as _fast_build
from bnutils.fast import lean as _fast_torch

SHAPES = [(32, 512), (7, 45), (2, 1), (5, 33, 1), (6, 3, 50), (64, 8, 9)]
KERNEL = pytest.mark.skipif(
    bool(fast.available("kernel")), reason="no compiler for the kernel"
)
GEARS = [
    fast.TorchBatchNorm1d,
    pytest.param(fast.KernelBatchNorm1d, marks=KERNEL),
]
each = pytest.mark.parametrize("cls", GEARS)


def pair(cls, c, dtype=torch.float64, **options):
    theirs = nn.BatchNorm1d(c, dtype=dtype, **options)
    for name, value in theirs.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 2) if "var" in name else value.normal_()
    ours = cls(c, dtype=dtype, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def gradients(layer, x, dy):
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y, *torch.autograd.grad(y, (x, *layer.parameters()), dy)]


@each
def test_conformance(cls):
    report = conformance.compare(cls)
    assert report.passed, report


@KERNEL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_kernel_really_runs(dtype, monkeypatch):
    layer = fast.KernelBatchNorm1d(5, dtype=dtype)
    monkeypatch.setattr(
        fast.norm.BatchNorm1d, "forward", lambda *_: pytest.fail("norm")
    )
    for shape in ((4, 5), (4, 5, 3)):
        for mode in (True, False):
            layer.train(mode)(torch.randn(shape, dtype=dtype))


@each
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_values_gradients_and_statistics(cls, shape, training, momentum, affine):
    layers = pair(cls, shape[1], momentum=momentum, affine=affine)
    for _ in range(2):
        x, dy = torch.randn(2, *shape, dtype=torch.float64)
        found = [gradients(m.train(training), 3 * x + 5, dy) for m in layers]
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    for a, b in zip(*(m.buffers() for m in layers), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@each
@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives(cls, training):
    layer, _ = pair(cls, 3)
    layer.train(training)
    weight, bias = (p.detach().clone().requires_grad_() for p in layer.parameters())

    def f(x, weight, bias):
        names = {"weight": weight, "bias": bias}
        return torch.func.functional_call(copy.deepcopy(layer), names, x)

    for shape in ((4, 3), (3, 3, 2)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(f, (x, weight, bias))
        assert torch.autograd.gradgradcheck(f, (x, weight, bias))


@each
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("shape", [(256, 64), (8192, 8), (64, 8, 50)], ids=str)
def test_no_less_accurate_than_pytorch(cls, shape, offset):
    x, dy = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = pair(cls, shape[1], dtype=torch.float32)
    exact = gradients(
        copy.deepcopy(theirs).double(), (x + offset).double(), dy.double()
    )
    found = [gradients(m, x + offset, dy) for m in (ours, theirs)]
    factor = 1.1 if cls is fast.KernelBatchNorm1d else 2  # of float32's rounding
    for name, a, b, e in zip(("y", "dx", "dw", "db"), *found, exact, strict=True):
        error, limit = ((v - e).square().mean().sqrt().item() for v in (a, b))
        assert error <= factor * limit + 1e-8 * e.abs().max().item(), name


@each
@pytest.mark.parametrize("shape", [(256, 16), (32, 8, 50)], ids=str)
def test_a_mean_of_a_million_costs_no_digit(cls, shape):
    x, dy = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    x += 1e6  # float32 has steps of 1/16 here, and the mean lies between two
    exact = gradients(nn.BatchNorm1d(shape[1]).double(), x.double(), dy.double())
    for found, e in zip(gradients(cls(shape[1]), x, dy), exact, strict=True):
        torch.testing.assert_close(found.double(), e, rtol=1e-5, atol=1e-5)


@each
def test_large_inputs_take_another_road_to_the_same_result(cls, monkeypatch):
    monkeypatch.setattr(_fast_torch, "LARGE", 1)
    monkeypatch.setattr(_fast_torch, "PART", 60)
    for shape in ((37, 12), (11, 5, 6)):
        layers = pair(cls, shape[1])
        x, dy = torch.randn(2, *shape, dtype=torch.float64)
        found = [gradients(m, 3 * x + 5, dy) for m in layers]
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(*(m.state_dict() for m in layers))


@KERNEL
@pytest.mark.skipif(sys.platform != "linux", reason="large pages are Linux's")
def test_a_large_result_has_the_right_values():
    x = torch.randn(9, 64, 16384)  # 36 MiB
    layers = fast.KernelBatchNorm1d(64), nn.BatchNorm1d(64)
    torch.testing.assert_close(*(m(x) for m in layers))


@each
def test_an_outlier_in_the_first_row_costs_no_accuracy(cls):
    x = torch.randn(512, 4)
    x[0] = 1e5
    exact = nn.BatchNorm1d(4).double()(x.double())
    assert (cls(4)(x) - exact).abs().max() < 1e-4


@each
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_value_spoils_its_own_channel_only(cls, bad):
    x = torch.randn(8, 3)
    x[2, 1] = bad
    y = cls(3)(x)
    assert y[:, 1].isnan().all()
    assert y[:, [0, 2]].isfinite().all()


@each
def test_several_threads_agree_with_one(cls):
    x, dy = torch.randn(2, 2048, 100)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            found.append(gradients(cls(100), x, dy))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@each
def test_under_transforms_and_forward_mode(cls):
    layer, theirs = (m.eval() for m in pair(cls, 3))
    x = torch.randn(4, 3, dtype=torch.float64)
    many = torch.stack([x, 2 * x])
    torch.testing.assert_close(
        torch.func.vmap(layer)(many), torch.func.vmap(theirs)(many)
    )
    tangent = torch.randn_like(x)
    results = [torch.func.jvp(m, (x,), (tangent,))[1] for m in (layer, theirs)]
    torch.testing.assert_close(*results)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        assert torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent is not None


@each
def test_inference_mode(cls):
    layer, theirs = pair(cls, 3)
    with torch.inference_mode():
        x = torch.randn(4, 3, dtype=torch.float64)
        torch.testing.assert_close(layer(x), theirs(x))
        torch.testing.assert_close(layer.eval()(x), theirs.eval()(x))


@each
def test_changing_what_was_saved_is_noticed(cls):
    layer = cls(3)
    x = torch.randn(4, 3, requires_grad=True)
    z = x * 1
    y = layer(z).sum()
    z.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@each
@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_an_update_of_the_statistics_is_noticed(cls, name):
    layer, w = cls(3), torch.ones(3, requires_grad=True)
    loss = (getattr(layer, name) * w).sum()
    layer(torch.randn(4, 3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@each
def test_copies_and_pickles(cls):
    layer = cls(3)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.gear == layer.gear
        torch.testing.assert_close(other(torch.ones(2, 3)), torch.zeros(2, 3))


def test_unknown_gear():
    with pytest.raises(ValueError, match="no gear 'turbo'; choose one of auto"):
        fast.BatchNorm1d(3, gear="turbo")


@pytest.mark.parametrize("gear", ["kernel", "compile"])
def test_without_a_compiler_the_next_best_gear_says_so(gear, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(fast, "_kernel", None)
    monkeypatch.setattr(_fast_build, "_loaded", {})
    assert "no C++ compiler" in fast.available(gear)
    with pytest.warns(UserWarning, match="no C.. compiler.*install g.*using 'torch'"):
        layer = fast.BatchNorm1d(3, gear=gear)
    assert layer.gear == "torch"
    assert fast.BatchNorm1d(3).gear == "torch"


def test_import_and_auto_compile_nothing(tmp_path):
    code = "from bnutils import fast; print(fast.BatchNorm1d(3).gear)"
    env = {"TORCH_EXTENSIONS_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "torch"
    assert not list(tmp_path.iterdir())
