"""The arithmetic of folding: an evaluation batch norm as numbers, and into a layer.

Chapter 13 shows ``affine`` and ``scaled``; ``replace`` does both to two modules of a
model. Everything is computed in float64 on the CPU and rounded once: folding is done once
and kept.
"""

import torch
from torch import Tensor, nn


def affine(bn: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel that a batch norm applies in evaluation (chapter 13).

    Returns
    -------
    scale, shift : Tensors, shape (C,), float64, on the CPU
    """
    mean, var = bn.running_mean.cpu().double(), bn.running_var.cpu().double()
    scale = 1 / torch.sqrt(var + bn.eps)
    if bn.weight is not None:
        scale = scale * bn.weight.detach().cpu().double()
    shift = -mean * scale
    if bn.bias is not None:
        shift = shift + bn.bias.detach().cpu().double()
    return scale, shift


def scaled(layer: nn.Module, scale: Tensor) -> Tensor:
    """A layer's weight with every output channel multiplied by its factor, float64."""
    weight = layer.weight.detach().cpu().double()
    if not getattr(layer, "transposed", False):
        return weight * scale.view(-1, *[1] * (weight.dim() - 1))  # (out, in, ...)
    grouped = weight.unflatten(0, (layer.groups, -1))  # (groups, in, out, ...)
    factors = scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
    return (grouped * factors).flatten(0, 1)


def absorb(layer: nn.Module, bn: nn.Module) -> None:
    """Give a layer the weight and bias with which it does the batch norm's work too."""
    scale, shift = affine(bn)
    if layer.bias is not None:
        shift = shift + scale * layer.bias.detach().cpu().double()
    old = layer.weight
    for name, values in (("weight", scaled(layer, scale)), ("bias", shift)):
        values = values.to(old.device, old.dtype, memory_format=torch.preserve_format)
        setattr(layer, name, nn.Parameter(values, old.requires_grad))


def rank_of(layer: nn.Module) -> int | None:
    """Number of dimensions of an output whose channels are those of a batch norm.

    None where the batch norm itself refuses all others.
    """
    if isinstance(layer, nn.Linear):
        return 2  # (N, C)
    if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
        return 3  # (N, C, L)
    return None


_SHAPE_OF_RANK = {2: "(N, C)", 3: "(N, C, L)"}


class PassOn(nn.Module):
    """Stands where a folded ``BatchNorm1d`` stood; passes on input of ``dim`` dimensions.

    A ``Linear`` works on the last axis and a batch norm on axis 1. They are the same in
    (N, C) alone, so folding is right for that; other input is an AssertionError, not a
    wrong result.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        torch._assert(  # which torch.fx and torch.export can follow, unlike an if
            x.dim() == self.dim,
            f"a BatchNorm1d was folded here for {_SHAPE_OF_RANK[self.dim]}: use the "
            "unfolded model for others",
        )
        return x

    def extra_repr(self) -> str:
        """What may pass."""
        return _SHAPE_OF_RANK[self.dim]


def replace(layer: nn.Module, bn: nn.Module) -> None:
    """Fold a batch norm into a layer; what was the batch norm passes its input on.

    The batch-norm object itself becomes another kind of module. A model may hold it under
    several names, or in a plain list that no search through its modules finds; whatever
    refers to the object sees the new one.
    """
    absorb(layer, bn)
    rank = rank_of(layer)
    other = nn.Identity() if rank is None else PassOn(rank)
    other.train(bn.training)
    bn.__class__, bn.__dict__ = other.__class__, other.__dict__
