"""A relative and a layer of PyTorch's in the same state, and everything compared."""

from __future__ import annotations

import torch
from torch import nn

from bnutils import relatives

FLAT, LONG, IMAGE = (6, 8), (6, 8, 5), (6, 8, 4, 3)
# All values small and none like another, so that a forgotten eps shows.
X = torch.linspace(-2, 3, 96, dtype=torch.float64).view(4, 6, 4).sin() * 1e-2


def make_input(shape, dtype=torch.float64, seed=0):
    """Channels of different mean and spread, so that no axis can stand for another."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g, dtype=torch.float64)
    axis = max(len(shape) - 3, 0) if len(shape) == 2 and shape[0] == 8 else 1
    c = torch.arange(shape[axis], dtype=torch.float64)
    c = c.view(-1, *(1,) * (len(shape) - 1 - axis))
    n = torch.arange(shape[0], dtype=torch.float64).view(-1, *(1,) * (len(shape) - 1))
    return ((1 + c / 4) * x + c / 2 - n / 3).to(dtype)


def pair(name, args, options, dtype):
    """Our layer and PyTorch's, with the same random weight and bias."""
    torch.manual_seed(1)
    ours = getattr(relatives, name)(*args, **options).to(dtype)
    theirs = getattr(nn, name)(*args, **options).to(dtype)
    for p in theirs.parameters():
        nn.init.normal_(p, mean=1.5)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def batch_norms(kind, **options):
    """A relative and PyTorch's BatchNorm1d, C = 8, with the same parameters, in float64."""
    torch.manual_seed(2)
    theirs = nn.BatchNorm1d(8).double()
    for p in theirs.parameters():
        nn.init.normal_(p, mean=1.5)
    ours = getattr(relatives, kind)(8, **options).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def derivatives(layer, x):
    """Output, gradients of input and parameters, and a second derivative."""
    x = x.clone().requires_grad_()
    g = torch.Generator().manual_seed(7)
    dy = torch.randn(x.shape, generator=g, dtype=torch.float64).to(x.dtype)
    y = layer(x)
    leaves = (x, *layer.parameters())
    first = torch.autograd.grad((y * dy).sum(), leaves, create_graph=True)
    second = [torch.zeros_like(x)]  # of a map that is affine in x
    if first[0].requires_grad:
        options = {"allow_unused": True, "materialize_grads": True}
        second = torch.autograd.grad(first[0].square().sum(), x, **options)
    return [t.detach() for t in (y, *first, *second)]


def assert_close(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        scale = 1 + b.abs().max().item()
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)
