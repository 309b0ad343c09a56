"""Inputs of every shape and layout in memory, and the mistakes that are refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from layers import on_gpu
from torch import nn
from twins import FLOATS, agree, each, modes, outcome, pair, same_step

pytestmark = pytest.mark.usefixtures("strict")


# Shapes and layouts


LAYOUTS = {
    "contiguous": lambda: torch.randn(4, 3, 5),
    "transposed": lambda: torch.randn(3, 4).t(),
    "channels last": lambda: torch.randn(4, 5, 3).transpose(1, 2),
    "batch last": lambda: torch.randn(3, 5, 4).permute(2, 0, 1),
    "expanded batch": lambda: torch.randn(1, 3, 5).expand(4, 3, 5),
    "expanded channels": lambda: torch.randn(4, 1).expand(4, 3),
    "expanded positions": lambda: torch.randn(4, 3, 1).expand(4, 3, 5),
    "one value": lambda: torch.randn(1, 1, 1).expand(4, 3, 5),
    "every second": lambda: torch.randn(8, 6, 10)[::2, ::2, 1::2],
    "offset": lambda: torch.randn(4 * 3 * 5 + 7)[7:].view(4, 3, 5),
    "overlapping": lambda: torch.randn(20).as_strided((4, 3, 5), (3, 2, 1)),
    "one row": lambda: torch.randn(1, 3, 5),
    "one position": lambda: torch.randn(4, 3, 1),
}


@each
@modes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_the_input(cls, layout, training):
    layers = pair(cls, dtype=torch.float32, training=training)
    x = LAYOUTS[layout]()
    before = x.clone()
    ours, theirs = (layer(x) for layer in layers)
    agree(ours, theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before)
    assert ours.data_ptr() != x.data_ptr()
    # so that .view() works where it did; on the GPU PyTorch keeps a transposed layout
    assert ours.stride() == (theirs.contiguous() if on_gpu() else theirs).stride()
    same_step(layers, x, rtol=1e-3, atol=1e-4)


@each
@modes
def test_gradients_that_come_back_expanded_or_strided(cls, training):
    layers = pair(cls, training=training)
    x = torch.randn(4, 3, 5).double()
    slopes = (
        torch.ones(()).double().expand(4, 3, 5),
        torch.randn(5, 3, 4).double().permute(2, 1, 0),
        torch.zeros(4, 3, 5).double(),
        torch.full((4, 3, 5), math.nan).double(),
    )
    for dy in slopes:
        found = []
        for layer in layers:
            z = x.clone().requires_grad_()
            wanted = (z, *layer.parameters())
            found.append(torch.autograd.grad(layer(z), wanted, dy))
        agree(*found)


@each
@modes
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (4, 3, 0), (0, 3, 0)], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}],
    ids=str,
)
def test_empty_batches(cls, shape, training, options):
    layers = pair(cls, training=training, **options)
    same_step(layers, torch.empty(shape).double())


@each
@modes
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 2), (2, 3, 1)], ids=str)
def test_batches_of_one_value_per_channel(cls, shape, training, track):
    layers = pair(cls, training=training, track_running_stats=track)
    expected = same_step(layers, torch.randn(shape).double())
    alone = math.prod(shape) == 3 and (training or not track)
    assert isinstance(expected, ValueError) == alone


# Mistakes


MISTAKES = {
    "no dimension": ((), "0D"),
    "one dimension": ((3,), "1D"),
    "four dimensions": ((2, 3, 4, 5), "4D"),
    "too few channels": ((5, 2), "2 elements not 3"),
    "too many channels": ((5, 4, 6), "4 elements not 3"),
    "one value per channel": ((1, 3), r"\(1, 3\)"),
    "one value per channel, 3-D": ((1, 3, 1), r"\(1, 3, 1\)"),
}


@each
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_raise_the_same_and_name_the_numbers(cls, mistake):
    shape, numbers = MISTAKES[mistake]
    ours, theirs = pair(cls)
    x = torch.randn(shape).double()
    with pytest.raises(Exception, match=numbers) as caught:
        ours(x)
    found = outcome(theirs, x)
    assert caught.type is type(found)
    assert len(str(caught.value)) >= len(str(found).split("\n")[0])


@each
@modes
@pytest.mark.parametrize(
    "options",
    [{}, {"affine": False}, {"affine": False, "track_running_stats": False}],
    ids=str,
)
def test_wrong_rank_or_channels_raise_as_pytorch_does(cls, options, training):
    for shape in ((), (3,), (2, 3, 4, 5), (5, 2), (5, 4), (2, 4, 3), (1, 4), (5, 1)):
        layers = pair(cls, training=training, **options)
        same_step(layers, torch.randn(shape).double())


@each
@modes
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.cfloat])
def test_input_that_is_not_floating_point(cls, dtype, training):
    layers = pair(cls, dtype=torch.float32, training=training)
    assert isinstance(same_step(layers, torch.ones(5, 3).to(dtype)), Exception)


@each
@modes
@pytest.mark.parametrize("x", [None, 3.0, [[1.0, 2.0]]], ids=str)
def test_input_that_is_no_tensor_is_refused(cls, x, training):
    for layer in pair(cls, training=training):
        assert isinstance(outcome(layer, x), (AttributeError, TypeError))


@each
@modes
def test_a_refused_batch_leaves_the_statistics_alone(cls, training):
    unfit = [
        torch.randn(shape, dtype=dtype)
        for shape in ((5,), (5, 2), (5, 3, 1, 1))
        for dtype in FLOATS[2:]
    ]
    for x in (*unfit, torch.randn(5, 3), torch.empty(5, 3, device="meta").double()):
        ours, _ = pair(cls, training=training)
        before = copy.deepcopy(ours.state_dict())
        assert isinstance(outcome(ours, x), Exception)
        agree(dict(ours.state_dict()), dict(before))


@each
@modes
@pytest.mark.parametrize("away", ["running_mean", "running_var", "weight", "bias", "x"])
def test_two_devices_are_refused_by_name(cls, away, training):
    layers = pair(cls, training=training)
    x = torch.randn(5, 3).double()
    for layer in layers:
        if away != "x":
            value = getattr(layer, away).to("meta")
            setattr(layer, away, nn.Parameter(value) if "run" not in away else value)
    z = x.to("meta") if away == "x" else x
    found = [outcome(layer, z) for layer in layers]
    agree(*found)
    named = f"weight is {x.device}" if away == "x" else f"{away} is meta"
    assert f"input is {z.device} but {named}" in str(found[0])
