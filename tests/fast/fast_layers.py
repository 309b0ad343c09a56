"""What the tests of the fast layer share: its gears, and how to hold them against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bnutils import fast

KERNEL = pytest.mark.skipif(
    bool(fast.available("kernel")), reason="no compiler for the kernel"
)
COMPILE = pytest.mark.skipif(
    bool(fast.available("compile")), reason="no compiler for torch.compile"
)
each_gear = pytest.mark.parametrize(
    "cls", [fast.TorchBatchNorm1d, pytest.param(fast.KernelBatchNorm1d, marks=KERNEL)]
)
both_modes = pytest.mark.parametrize("training", [True, False])


def normal(*shape, dtype=torch.float64, seed=0) -> Tensor:
    """Random numbers, the same on every call."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=dtype)


def pair(cls, c, dtype=torch.float64, training=True, **options) -> list[nn.Module]:
    """A layer of the class and PyTorch's, in the same state, which hides no mistake."""
    theirs = nn.BatchNorm1d(c, dtype=dtype, **options)
    for name, value in theirs.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 2) if "var" in name else value.normal_()
    ours = cls(c, dtype=dtype, **options)
    ours.load_state_dict(theirs.state_dict())
    return [layer.train(training) for layer in (ours, theirs)]


def gradients(layer, x, dy, **options) -> list[Tensor]:
    """The output, and the gradients of the input and the parameters."""
    x = x.clone().requires_grad_()
    y = layer(x)
    return [y, *torch.autograd.grad(y, (x, *layer.parameters()), dy, **options)]


def agree(layers, x, dy, **close) -> None:
    """Same output, same gradients, same state afterwards."""
    found = [[*gradients(m, x, dy), *m.buffers()] for m in layers]
    torch.testing.assert_close(*found, equal_nan=True, **close)
