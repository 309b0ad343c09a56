"""Standardised weights and scaled branches, which PyTorch lacks, are what their papers define."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from siblings import assert_close, make_input
from torch import nn
from torch.nn import functional as F

from bnutils import relatives


def by_batch_norm(weight, gain, eps):
    """The same weights by PyTorch's batch norm: each output channel is a channel."""
    rows = weight.flatten(1)  # (C_out, fan-in)
    scale = gain / rows.size(1) ** 0.5
    y = F.batch_norm(rows[None], None, None, scale, training=True, eps=eps)
    return y[0].view_as(weight)


# Weights


@pytest.mark.parametrize("shape", [(5, 3, 2, 4), (5, 3, 2), (5, 6)])
@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_standardised_weights_are_their_definition(shape, eps):
    w = make_input(shape).numpy()
    gain = np.linspace(-1, 2, 5)
    axes = tuple(range(1, len(shape)))
    mean, var = w.mean(axes, keepdims=True), w.var(axes, keepdims=True)
    fan_in = np.prod(shape[1:])
    factor = gain.reshape(-1, *[1] * len(axes))
    expected = torch.from_numpy(factor * (w - mean) / np.sqrt((var + eps) * fan_in))
    args = torch.from_numpy(w), torch.from_numpy(gain)
    result = relatives.weight_standardize(*args, eps=eps)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_standardised_weights_need_no_gain_and_have_a_small_eps():
    w = 1e-3 * make_input((5, 3, 2, 2))
    result = relatives.weight_standardize(w)
    torch.testing.assert_close(result, by_batch_norm(w, torch.ones(5).double(), 1e-6))


def test_derivatives_of_standardised_weights_are_those_of_batch_norm():
    weight = make_input((5, 3, 2, 2)).requires_grad_()
    gain = torch.linspace(-1, 2, 5, dtype=torch.float64, requires_grad=True)
    dy = make_input((5, 3, 2, 2), seed=3)
    found = []
    for function in (relatives.weight_standardize, by_batch_norm):
        y = function(weight, gain, 0.1)
        first = torch.autograd.grad((y * dy).sum(), (weight, gain), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), weight)
        found.append([y, *first, *second])
    assert_close(*found, 1e-12)


def test_white_input_keeps_its_variance_through_standardised_weights():
    torch.manual_seed(0)
    conv = relatives.WSConv2d(16, 32, 3, bias=False)
    y = conv(torch.randn(64, 16, 8, 8))
    assert y.var().item() == pytest.approx(1, abs=0.05)
    y = conv(torch.full((1, 16, 8, 8), 7.0))  # a constant has no way through
    assert y.abs().max() < 1e-4


@pytest.mark.parametrize("shape", [(4, 1, 1, 1), (4, 1)])
def test_a_single_weight_is_refused(shape):
    with pytest.raises(ValueError, match="its own mean"):
        relatives.weight_standardize(torch.ones(shape))


def test_a_convolution_of_single_weights_is_refused_when_it_is_made():
    with pytest.raises(ValueError, match="do not standardise this layer"):
        relatives.WSConv2d(4, 4, 1, groups=4)


OPTIONS = [
    {},
    {"bias": False, "stride": 2, "padding": 1},
    {"groups": 2, "dilation": 2},
    {"padding": "same", "padding_mode": "circular"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(o) or "plain")
def test_the_layer_is_a_convolution_with_those_weights(options):
    torch.manual_seed(0)
    ours = relatives.WSConv2d(4, 6, 3, **options, dtype=torch.float64, eps=0.01)
    nn.init.normal_(ours.gain)
    theirs = nn.Conv2d(4, 6, 3, **options, dtype=torch.float64)
    theirs.weight.data = by_batch_norm(ours.weight, ours.gain, 0.01).detach()
    theirs.bias = ours.bias
    x = make_input((2, 4, 7, 8))
    assert_close([ours(x), ours(x[0])], [theirs(x), theirs(x[0])], 1e-12)


def test_the_scale_of_stored_weights_does_not_matter():
    layer = relatives.WSConv2d(4, 6, 3, dtype=torch.float64, eps=0.0)
    x = make_input((2, 4, 7, 8))
    before = layer(x)
    layer.weight.data *= 10
    assert_close([layer(x)], [before], 1e-12)


def test_stored_weights_stay_as_they_are():
    layer = relatives.WSConv2d(4, 6, 3)
    before = copy.deepcopy(layer.state_dict())
    layer(torch.randn(2, 4, 5, 5))
    assert list(before) == ["weight", "bias", "gain"]
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_reset_draws_anew_and_sets_the_gain():
    layer = relatives.WSConv2d(4, 6, 3)
    before = layer.weight.clone()
    nn.init.zeros_(layer.gain)
    layer.reset_parameters()
    assert torch.equal(layer.gain, torch.ones(6))
    assert not torch.equal(layer.weight, before)


def test_half_precision_weights_are_standardised_in_float32():
    layer = relatives.WSConv2d(4, 6, 3, dtype=torch.bfloat16)
    exact = by_batch_norm(layer.weight.double(), layer.gain.double(), 1e-6)
    weight = layer.standardized_weight()
    assert weight.dtype == torch.bfloat16
    error = (weight.double() - exact).abs()
    assert (error <= 0.51 * torch.finfo(torch.bfloat16).eps * exact.abs() + 1e-6).all()


def test_the_layer_is_made_where_and_as_asked():
    layer = relatives.WSConv2d(4, 6, 3, device="meta", dtype=torch.float64)
    for parameter in layer.parameters():
        assert (parameter.device.type, parameter.dtype) == ("meta", torch.float64)
    assert re.fullmatch(r"4, 6, kernel_size=.*, eps=1e-06", layer.extra_repr())


# Branches


def test_a_scaled_block_is_the_sum_and_its_derivatives():
    torch.manual_seed(0)
    branch, x = nn.Linear(8, 8).double(), make_input((6, 8)).requires_grad_()
    block = relatives.ScaledResidual(branch, 0.3, dtype=torch.float64)
    leaves = (x, block.scale, branch.weight)
    ours = torch.autograd.grad(block(x).square().sum(), leaves)
    y = x + 0.3 * F.linear(x, branch.weight, branch.bias)
    slope = (2 * y * F.linear(x, branch.weight, branch.bias)).sum()
    theirs = torch.autograd.grad(y.square().sum(), (x, branch.weight))
    assert_close(ours, (theirs[0], slope, theirs[1]), 1e-12)


def test_a_block_starts_as_the_identity_and_its_scale_learns_first():
    x = make_input((6, 8), torch.float32)
    block = relatives.ScaledResidual(nn.Linear(8, 8))
    assert torch.equal(block(x), x)
    block(x).square().sum().backward()
    assert block.scale.grad.abs() > 0
    assert block.branch.weight.grad.abs().max() == 0


def test_a_shortcut_changes_the_skip_path():
    block = relatives.ScaledResidual(nn.Linear(8, 5), shortcut=nn.Linear(8, 5))
    x = torch.randn(3, 8)
    assert torch.equal(block(x), block.shortcut(x))


@pytest.mark.parametrize("width", [1, 5])
def test_shapes_that_differ_are_refused_even_if_they_would_broadcast(width):
    block = relatives.ScaledResidual(nn.Linear(8, width))
    with pytest.raises(RuntimeError, match="give the block a shortcut"):
        block(torch.randn(3, 8))


def test_the_scale_does_not_change_the_type_of_the_output():
    block = relatives.ScaledResidual(nn.Identity(), 0.5)
    x = torch.ones(3, dtype=torch.bfloat16)
    y = block(x)
    assert (y.dtype, y.tolist()) == (torch.bfloat16, [1.5] * 3)


def test_reset_restores_the_initial_scale_and_leaves_the_branch():
    block = relatives.ScaledResidual(nn.Linear(2, 2), 0.5, dtype=torch.float64)
    weight = block.branch.weight.clone()
    nn.init.ones_(block.scale)
    block.reset_parameters()
    assert (block.scale.item(), block.scale.dtype) == (0.5, torch.float64)
    assert torch.equal(block.branch.weight, weight)
    assert "scale=0.5" in repr(block)
    assert relatives.ScaledResidual(nn.Identity(), device="meta").scale.is_meta
