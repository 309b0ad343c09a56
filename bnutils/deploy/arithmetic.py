"""The arithmetic of folding: an evaluation batch norm as numbers, and into a layer."""

import torch
from torch import Tensor, nn

__all__ = ["PassOn", "absorb", "affine", "rank_of", "replace", "scaled"]


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
    weight, bias = scaled(layer, scale), shift
    if layer.bias is not None:
        bias = bias + scale * layer.bias.detach().cpu().double()
    old = layer.weight
    for name, value in (("weight", weight), ("bias", bias)):
        value = value.to(old.device, old.dtype, memory_format=torch.preserve_format)
        setattr(layer, name, nn.Parameter(value, old.requires_grad))


def rank_of(layer: nn.Module) -> int | None:
    """Number of dimensions of an output whose channels are those of a batch norm.

    None where the batch norm itself refuses all others.
    """
    if isinstance(layer, nn.Linear):
        return 2
    return 3 if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d) else None


class PassOn(nn.Module):
    """Stands where a folded ``BatchNorm1d`` stood; passes on input of ``dim`` dimensions.

    A ``Linear`` works on the last axis and a batch norm on axis 1. They are the same in
    (N, C) alone, so folding is right for that; other input is an error, not a wrong result.

    Raises
    ------
    AssertionError
        The input has another number of dimensions.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``."""
        wanted = {2: "(N, C)", 3: "(N, C, L)"}[self.dim]
        torch._assert(
            x.dim() == self.dim,
            f"a BatchNorm1d was folded here for {wanted}: use the unfolded model for others",
        )
        return x

    def extra_repr(self) -> str:
        """What may pass."""
        return {2: "(N, C)", 3: "(N, C, L)"}[self.dim]


def replace(layer: nn.Module, bn: nn.Module) -> None:
    """Fold a batch norm into a layer; what was the batch norm passes its input on."""
    absorb(layer, bn)
    rank = rank_of(layer)
    other = nn.Identity() if rank is None else PassOn(rank)
    other.train(bn.training)
    # the object itself changes: whatever refers to it, lists included, sees the new one
    bn.__class__, bn.__dict__ = other.__class__, other.__dict__
