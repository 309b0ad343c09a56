"""A layer of the book and PyTorch's in the same state, taken through the same steps.

The layers are the book's own and the gears of the fast one: each must be
``torch.nn.BatchNorm1d`` to whoever uses it.
"""

from __future__ import annotations

import copy

import pytest
import torch
from layers import as_here, shuffled
from torch import nn

from bnutils import fast, norm

KERNEL = pytest.mark.skipif(
    bool(fast.available("kernel")), reason="no compiler for the kernel"
)


LAYERS = [
    norm.BatchNorm1d,
    fast.TorchBatchNorm1d,
    pytest.param(fast.KernelBatchNorm1d, marks=KERNEL),
]
each = pytest.mark.parametrize("cls", LAYERS)
modes = pytest.mark.parametrize("training", [True, False])
nightly = pytest.mark.nightly
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def pair(cls, c=3, dtype=torch.float64, training=True, **options):
    """A layer of the class and PyTorch's, in the same state and mode."""
    theirs = shuffled(nn.BatchNorm1d(c, dtype=dtype, **options)).train(training)
    ours = cls(c, dtype=dtype, **options).train(training)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def outcome(call, *args, **options):
    """What a call returns, or the exception that it raises."""
    try:
        return call(*args, **options)
    except Exception as error:
        return error


def agree(a, b, **tolerance):
    """Both raise the same type, or return the same values."""
    if isinstance(b, Exception):
        assert as_here(type(a)) is type(b), f"{a!r} instead of {b!r}"
        assert str(a)
        return
    if isinstance(a, Exception):
        raise AssertionError(f"raised {a!r}") from a
    torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


def step(layer, x):
    """Output, gradients and state after a forward and a backward pass."""
    x = x.detach().requires_grad_(x.is_floating_point() and torch.is_grad_enabled())
    y = layer(x)
    grads = []
    if y.requires_grad:
        dy = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
        wanted = [p for p in (x, *layer.parameters()) if p.requires_grad]
        grads = torch.autograd.grad((y.sin() * dy).sum(), wanted, allow_unused=True)
    return y.detach(), list(grads), copy.deepcopy(dict(layer.state_dict()))


def same_step(layers, x, **tolerance):
    """Compare one step; PyTorch counts a batch before it refuses it, so no count then."""
    found = [outcome(step, layer, x) for layer in layers]
    agree(*found, **tolerance)
    if isinstance(found[1], Exception):
        states = [copy.deepcopy(dict(layer.state_dict())) for layer in layers]
        for state in states:
            state.pop("num_batches_tracked", None)
        agree(*states)
    return found[1]
