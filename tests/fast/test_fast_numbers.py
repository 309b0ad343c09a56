"""Digits: large means, long sums, outliers, threads, and rows of every length."""

from __future__ import annotations

import copy

import pytest
import torch
from fast_layers import (
    KERNEL,
    agree,
    both_modes,
    each_gear,
    gradients,
    normal,
    pair,
)
from torch import nn

from bnutils import fast
from bnutils.fast import lean

PYTORCH = nn.BatchNorm1d


@each_gear
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("shape", [(256, 64), (8192, 8), (64, 8, 50)], ids=str)
def test_no_less_accurate_than_pytorch(cls, shape, offset):
    x, dy = normal(2, *shape, dtype=torch.float32)
    ours, theirs = pair(cls, shape[1], dtype=torch.float32)
    exact = gradients(
        copy.deepcopy(theirs).double(), (x + offset).double(), dy.double()
    )
    found = [gradients(m, x + offset, dy) for m in (ours, theirs)]
    factor = 1.1 if cls is fast.KernelBatchNorm1d else 2  # of float32's rounding
    for name, a, b, e in zip(("y", "dx", "dw", "db"), *found, exact, strict=True):
        error, limit = ((v - e).square().mean().sqrt().item() for v in (a, b))
        assert error <= factor * limit + 1e-8 * e.abs().max().item(), name


@each_gear
@pytest.mark.parametrize("shape", [(256, 16), (32, 8, 50)], ids=str)
@pytest.mark.parametrize("again", [False, True])  # gradients to differentiate again
def test_a_mean_of_a_million_costs_no_digit(cls, shape, again):
    x, dy = normal(2, *shape, dtype=torch.float32)
    x += 1e6  # float32 has steps of 1/16 here, and the mean lies between two
    exact = gradients(PYTORCH(shape[1]).double(), x.double(), dy.double())
    found = gradients(cls(shape[1]), x, dy, create_graph=again)
    for a, e in zip(found, exact, strict=True):
        torch.testing.assert_close(a.double(), e, rtol=1e-5, atol=1e-5 + 9e-5 * again)


@each_gear
@pytest.mark.parametrize("shape", [(64, 3), (4, 3, 50)], ids=str)
def test_channels_far_apart_lose_no_digit(cls, shape):
    x = normal(*shape).float()
    x[:, 1:] += 1e6
    exact = PYTORCH(3).double()(x.double())
    torch.testing.assert_close(cls(3)(x).double(), exact, rtol=1e-5, atol=1e-5)


@each_gear
def test_an_outlier_in_the_first_row_costs_no_accuracy(cls):
    x = torch.randn(512, 4)
    x[0] = 1e5
    exact = PYTORCH(4).double()(x.double())
    assert (cls(4)(x) - exact).abs().max() < 1e-4


@KERNEL
@pytest.mark.parametrize("shape", [(2, 3, 32768), (65536, 3)], ids=str)
def test_long_sums_are_made_in_double_precision(shape):
    """In float32 the same rounding error, thousands of times, would be seen."""
    x = torch.full(shape, 1.1)
    x[::2] *= -1
    layer, m = fast.KernelBatchNorm1d(3, momentum=1.0), 65536
    layer(x).backward(torch.full(shape, 1.1))
    value = torch.tensor(1.1).item()  # as float32 knows it
    expected = pytest.approx([value**2 * m / (m - 1)] * 3, rel=5e-7)
    assert layer.running_var.tolist() == expected
    assert layer.bias.grad.tolist() == pytest.approx([value * m] * 3, rel=5e-7)


@each_gear
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_value_spoils_its_own_channel_only(cls, bad):
    x = torch.randn(8, 3)
    x[2, 1] = bad
    y = cls(3)(x)
    assert y[:, 1].isnan().all()
    assert y[:, [0, 2]].isfinite().all()


# How the work is divided must not show


@KERNEL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rows_of_every_length(dtype):
    """A row is read in steps of 16 or 32 values; the rest must not be forgotten."""
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    for length in range(2, 70):
        x, dy = normal(2, 3, 2, length, dtype=dtype, seed=length)
        agree(pair(fast.KernelBatchNorm1d, 2, dtype=dtype), 1 + 3 * x, dy, **close)


@KERNEL
@pytest.mark.parametrize("shape", [(16, 48, 128), (2048, 48), (3, 24000, 2)], ids=str)
@both_modes
def test_several_threads_share_channels_and_rows(three_threads, shape, training):
    layers = pair(fast.KernelBatchNorm1d, shape[1], training=training)
    agree(layers, *normal(2, *shape))


@each_gear
@pytest.mark.parametrize("shape", [(256, 8, 784), (65536, 8)], ids=str)
def test_padding_in_front_costs_no_digits(cls, shape):
    """The number near the mean, which is subtracted first, is not taken from it alone."""
    x = 1e4 + normal(*shape, dtype=torch.float32)
    x[:8] = 0  # examples
    if x.dim() == 3:
        x[:, :, :8] = 0  # positions
    exact = nn.functional.batch_norm(x.double(), None, None, training=True)
    error = cls(8)(x).double() - exact
    assert error.abs().max() < 1e-4


# From 8 MiB on results are written past the caches, line by line; rows that do not begin with
# a line, or end with one, must not lose a value. 9 MiB in every shape, about.
LARGE_RESULTS = [(9, 64, 4096), (8192, 288), (8191, 289), (2357, 1001), (3, 7, 112347)]


@KERNEL
@both_modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", LARGE_RESULTS, ids=str)
def test_a_large_result_has_the_right_values(shape, dtype, training):
    x, dy = normal(2, *shape, dtype=dtype)
    close = {"rtol": 1e-4, "atol": 2e-4} if dtype == torch.float32 else {}
    layers = pair(fast.KernelBatchNorm1d, shape[1], dtype=dtype, training=training)
    agree(layers, x, dy * 100 / len(x), **close)


@each_gear
@pytest.mark.parametrize("shape", [(37, 12), (11, 5, 6)], ids=str)
@pytest.mark.parametrize("part", [1, 60])  # values: less than a row, and some rows
def test_a_large_input_in_parts_gives_the_same_result(cls, shape, part, monkeypatch):
    monkeypatch.setattr(lean, "LARGE", 1)
    monkeypatch.setattr(lean, "PART", part)
    x, dy = normal(2, *shape)
    for scale, offset in ((3, 5), (0.1, 0)):
        agree(pair(cls, shape[1]), scale * x + offset, dy, rtol=1e-9, atol=1e-10)
