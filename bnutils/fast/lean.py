"""Batch norm as one node of the graph, in plain PyTorch: gears "torch" and "compile".

Chapter 16 shows the idea. Four additions are made here.

* Sums are taken of *shifted* values, x less a number near the channel's mean. Squares of
  values far from zero would use up the digits of float32, see ``csrc/normalise.h``.
* An array that has done its work is written over: new memory costs time.
* The backward pass can be differentiated again (:func:`differentiable_backward`).
* A large input goes through in parts that fit the cache (:func:`forward_in_parts`).

Four times, one idea: what is the same for a whole channel is folded into one number
before it meets an array, so that an array is read and written as rarely as possible.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from typing import Any

LARGE = 2**23  # values; from here on the input goes through the cache in parts
PART = 2**18  # values of a part


class Normalised(NamedTuple):
    """What a forward pass makes; all but ``y`` and ``shifted`` are (C,).

    ``shifted`` is x less a number near the mean, or None if it was not kept. The output
    is ``shifted * scale + a constant``, and ``off`` is the mean of ``shifted``.
    """

    y: Tensor
    shifted: Tensor | None
    off: Tensor
    inv_std: Tensor
    scale: Tensor
    mean: Tensor
    var: Tensor


class Gradients(NamedTuple):
    """Of the loss; ``weight`` and ``bias`` are (C,)."""

    x: Tensor
    weight: Tensor
    bias: Tensor


# What is done per channel


def total(t: Tensor) -> Tensor:
    """Sum of each channel, (C,): along the positions first, which lie side by side."""
    return t.sum(0) if t.dim() == 2 else t.sum(2).sum(0)


def average(t: Tensor) -> Tensor:
    """Mean of each channel, (C,)."""
    return t.mean(0) if t.dim() == 2 else t.mean(2).mean(0)


def near_mean(x: Tensor) -> Tensor:
    """A number of each channel, (C,), close to its mean: the mean of about eight rows.

    They are from all over the batch, since a batch may begin with padding.
    """
    step = max(1, x.size(0) // 8)
    return average(x[step // 2 :: step])


def column(v: Tensor, like: Tensor) -> Tensor:
    """A value per channel, shape (C,), so that it broadcasts against ``like``."""
    return v if like.dim() == 2 else v[:, None]


def multiply_add(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """``x * scale + shift``, both (C,); for (N, C) in one pass, where that is faster."""
    if x.dim() == 2:
        return torch.addcmul(shift, x, scale, out=out)
    return torch.mul(x, scale[:, None], out=out).add_(shift[:, None])


def variance(mean_of_squares: Tensor, off: Tensor) -> Tensor:
    """Variance of the shifted values, which is that of x; rounding makes none negative."""
    return torch.addcmul(mean_of_squares, off, off, value=-1).clamp_min_(0)


def output_line(
    off: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """1 / std; scale and constant that make the output of the shifted input."""
    inv_std = (var + eps).rsqrt_()
    scale = inv_std if weight is None else weight * inv_std
    if bias is None:
        return inv_std, scale, -off * scale
    return inv_std, scale, torch.addcmul(bias, off, scale, value=-1)


def gradient_line(
    dbias: Tensor, dot: Tensor, off: Tensor, inv_std: Tensor, scale: Tensor, m: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the weight; slope and level of Eq. (3.7), folded.

    ``dx = scale * dy + slope * shifted + level``, with the sums ``dbias`` of dy and
    ``dot`` of dy * shifted over the m values of a channel.
    """
    dweight = torch.addcmul(dot, off, dbias, value=-1).mul_(inv_std)
    share = scale * (-1 / m)
    slope = dweight * inv_std * share
    return dweight, slope, torch.addcmul(dbias * share, off, slope, value=-1)


# The input as a whole


def forward_whole(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Normalised:
    """Normalise by the batch; keeps the shifted input for the backward pass."""
    k = near_mean(x)
    shifted = x - column(k, x)
    square = shifted * shifted
    off = average(shifted)
    var = variance(average(square), off)
    inv_std, scale, shift = output_line(off, var, weight, bias, eps)
    y = multiply_add(shifted, scale, shift, out=square)
    return Normalised(y, shifted, off, inv_std, scale, k + off, var)


def backward_whole(
    dy: Tensor, shifted: Tensor, off: Tensor, inv_std: Tensor, scale: Tensor
) -> Gradients:
    """Gradients by Eq. (3.7), with what is per channel folded."""
    product = dy * shifted
    dbias, dot = total(dy), total(product)
    m = dy.numel() // dy.size(1)
    dweight, slope, level = gradient_line(dbias, dot, off, inv_std, scale, m)
    dx = multiply_add(shifted, slope, level, out=product)
    if dy.dim() == 2:
        return Gradients(dx.addcmul_(dy, scale), dweight, dbias)
    return Gradients(dx.add_(dy * scale[:, None]), dweight, dbias)


# A large input, part by part. Its arrays do not fit the cache, so that each operation of
# `forward_whole` reads and writes memory; those on a part find it in the cache.


def parts(x: Tensor, *others: Tensor) -> list[tuple[Tensor, ...]]:
    """Views of a few rows each, small enough for the cache, and room for one of them."""
    rows = max(1, PART * x.size(0) // x.numel())
    room = torch.empty_like(x[:rows])
    pieces = zip(*(t.split(rows) for t in (x, *others)), strict=True)
    return [(*piece, room[: len(piece[0])]) for piece in pieces]


def forward_in_parts(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Normalised:
    """As :func:`forward_whole`; of the input's size nothing but the output is made."""
    y, k, m = torch.empty_like(x), near_mean(x), x.numel() // x.size(1)
    pieces = parts(x, y)
    sum_, sum_of_squares = 0, 0
    for x_part, _, room in pieces:
        torch.sub(x_part, column(k, x), out=room)
        sum_ = sum_ + total(room)
        sum_of_squares = sum_of_squares + total(room.mul_(room))
    off = sum_ / m
    var = variance(sum_of_squares / m, off)
    inv_std, scale, shift = output_line(off, var, weight, bias, eps)
    for x_part, y_part, _ in pieces:
        torch.sub(x_part, column(k, x), out=y_part)
        multiply_add(y_part, scale, shift, out=y_part)
    return Normalised(y, None, off, inv_std, scale, k + off, var)


def backward_in_parts(
    dy: Tensor, x: Tensor, off: Tensor, inv_std: Tensor, scale: Tensor
) -> Gradients:
    """As :func:`backward_whole`, from the input itself: it is shifted again, part by part."""
    dx, k, m = torch.empty_like(x), column(near_mean(x), x), x.numel() // x.size(1)
    pieces = parts(x, dy, dx)
    dbias, dot = 0, 0
    for x_part, dy_part, _, room in pieces:
        torch.sub(x_part, k, out=room)
        dbias = dbias + total(dy_part)
        dot = dot + total(room.mul_(dy_part))
    dweight, slope, level = gradient_line(dbias, dot, off, inv_std, scale, m)
    for x_part, dy_part, dx_part, room in pieces:
        torch.sub(x_part, k, out=dx_part)
        multiply_add(dx_part, slope, level, out=dx_part)
        dx_part.add_(torch.mul(dy_part, column(scale, x), out=room))
    return Gradients(dx, dweight, dbias)


def differentiable_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, eps: float
) -> Gradients:
    """The same gradients by operations that can be differentiated again.

    The mean is subtracted twice: for data far from zero the first one is rounded, and
    what is left of it would tilt the gradient.
    """
    dims = (0, *range(2, x.dim()))
    centred = x - x.mean(dims, keepdim=True)
    centred = centred - centred.mean(dims, keepdim=True)
    inv_std = (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
    x_hat = centred * inv_std
    along_one = dy.mean(dims, keepdim=True)
    along_x_hat = (dy * x_hat).mean(dims, keepdim=True)
    scale = inv_std if weight is None else weight.view(inv_std.shape) * inv_std
    dx = scale * (dy - along_one - x_hat * along_x_hat)
    return Gradients(dx, (dy * x_hat).sum(dims), dy.sum(dims))


# The node


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function fused by ``torch.compile`` at its first call."""
    return torch.compile(function)


def transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work.

    Both look into the operations of a layer, and a node has none. PyTorch has no public
    question for it.
    """
    if forward_ad._current_level >= 0:
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


def batched(t: Tensor) -> bool:
    """Whether ``t`` stands for many tensors: torch.func.vmap, or is_grads_batched.

    Those cannot be written over, nor into ``out=``.
    """
    known = torch._C._functorch
    return known.is_batchedtensor(t) or known.is_legacy_batchedtensor(t)


class LeanBatchNorm(torch.autograd.Function):
    """Normalise by the batch: output, mean and biased variance."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        fuse: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        in_parts = x.numel() >= LARGE and not fuse
        if fuse:
            found = compiled(forward_whole)(x, weight, bias, eps)
        elif in_parts:
            found = forward_in_parts(x, weight, bias, eps)
        else:
            found = forward_whole(x, weight, bias, eps)
        ctx.eps, ctx.fuse, ctx.in_parts = eps, fuse, in_parts
        channels = found.off, found.inv_std, found.scale
        ctx.save_for_backward(x, weight, found.shifted, *channels)
        # mean and variance feed the running statistics; nobody asks for their gradients
        ctx.mark_non_differentiable(found.mean, found.var)
        ctx.set_materialize_grads(False)
        return found.y, found.mean, found.var

    @staticmethod
    def backward(  # noqa: D102
        ctx: Any, dy: Tensor | None, _dmean: None, _dvar: None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        if dy is None:
            return None, None, None, None, None
        x, weight, shifted, *channels = ctx.saved_tensors
        differentiated_again = torch.is_grad_enabled()
        if differentiated_again or batched(dy):
            found = differentiable_backward(dy, x, weight, ctx.eps)
        elif ctx.fuse:
            found = compiled(backward_whole)(dy, shifted, *channels)
        elif ctx.in_parts:
            found = backward_in_parts(dy, x, *channels)
        else:
            found = backward_whole(dy, shifted, *channels)
        wanted = ctx.needs_input_grad[:3]
        dx, dweight, dbias = (g if w else None for g, w in zip(found, wanted))
        return dx, dweight, dbias, None, None
