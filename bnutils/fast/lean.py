"""Batch norm as one node of the graph, in plain PyTorch: chapter 16's lean version."""

import functools

import torch
from torch import Tensor
from torch.autograd import forward_ad

LARGE = 2**23  # values; from here on the input goes through the cache in parts
PART = 2**18  # values of a part


def total(t: Tensor) -> Tensor:
    """Sum over everything but the channels, in two stages where there are positions."""
    return t.sum(0) if t.dim() == 2 else t.sum(2).sum(0)


def column(v: Tensor, like: Tensor) -> Tensor:
    """A value per channel, shape (C,), so that it broadcasts against ``like``."""
    return v if like.dim() == 2 else v[:, None]


def affine(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """``x * scale + shift``, both (C,), in one pass where that is the faster way."""
    if x.dim() == 2:
        return torch.addcmul(shift, x, scale, out=out)
    return torch.mul(x, scale[:, None], out=out).add_(shift[:, None])


def average(t: Tensor) -> Tensor:
    """Mean of each channel, shape (C,)."""
    return t.mean(0) if t.dim() == 2 else t.mean(2).mean(0)


def near(x: Tensor) -> Tensor:
    """A value of each channel, (C,), close to its mean: sums of differences are exact."""
    return average(x[:8])


def lean_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, ...]:
    """Output; what backward needs: shifted input, its mean, 1 / std, slope; statistics."""
    k = near(x)
    shifted = x - column(k, x)
    square = shifted * shifted
    off = average(shifted)
    var = torch.addcmul(average(square), off, off, value=-1).clamp_min_(0)
    inv, scale, shift = line(off, var, weight, bias, eps)
    y = affine(shifted, scale, shift, out=square)
    return y, shifted, off, inv, scale, k + off, var


def line(
    off: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """1 / std; slope and constant of the output as a function of the shifted input."""
    inv = (var + eps).rsqrt_()
    scale = inv if weight is None else weight * inv
    if bias is None:
        return inv, scale, -off * scale
    return inv, scale, torch.addcmul(bias, off, scale, value=-1)


def lean_backward(
    dy: Tensor, shifted: Tensor, off: Tensor, inv: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias: Eq. (3.7) with what is per channel folded."""
    product = dy * shifted
    dbias = total(dy)
    dweight, slope, level = fold(dbias, total(product), off, inv, scale, dy)
    dx = affine(shifted, slope, level, out=product)
    if dy.dim() == 2:
        return dx.addcmul_(dy, scale), dweight, dbias
    return dx.add_(dy * scale[:, None]), dweight, dbias


def fold(
    dbias: Tensor, dot: Tensor, off: Tensor, inv: Tensor, scale: Tensor, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the weight; then dx = scale * dy + slope * shifted + level."""
    dweight = torch.addcmul(dot, off, dbias, value=-1).mul_(inv)
    share = scale * (-dy.size(1) / dy.numel())
    slope = dweight * inv * share
    return dweight, slope, torch.addcmul(dbias * share, off, slope, value=-1)


def parts(x: Tensor, *others: Tensor) -> tuple:
    """Views of a few rows each, small enough for the cache, and room for one of them."""
    rows = max(1, PART * x.size(0) // x.numel())
    room = torch.empty_like(x[:rows])
    pieces = zip(*(t.split(rows) for t in (x, *others)), strict=True)
    return [(*piece, room[: len(piece[0])]) for piece in pieces]


def parts_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, ...]:
    """As :func:`lean_forward`, part by part; nothing of the input's size is kept."""
    y, k, m = torch.empty_like(x), near(x), x.numel() // x.size(1)
    pieces = parts(x, y)
    first = second = 0
    for here, _, room in pieces:
        torch.sub(here, column(k, x), out=room)
        first = first + total(room)
        second = second + total(room.mul_(room))
    off = first / m
    var = torch.addcmul(second / m, off, off, value=-1).clamp_min_(0)
    inv, scale, shift = line(off, var, weight, bias, eps)
    for here, there, _ in pieces:
        affine(torch.sub(here, column(k, x), out=there), scale, shift, out=there)
    return y, None, off, inv, scale, k + off, var


def parts_backward(
    dy: Tensor, x: Tensor, off: Tensor, inv: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`lean_backward`, part by part, from the input itself."""
    dx, k = torch.empty_like(x), column(near(x), x)
    pieces = parts(x, dy, dx)
    dbias = dot = 0
    for here, grad, _, room in pieces:
        torch.sub(here, k, out=room)
        dbias = dbias + total(grad)
        dot = dot + total(room.mul_(grad))
    dweight, slope, level = fold(dbias, dot, off, inv, scale, dy)
    for here, grad, there, room in pieces:
        affine(torch.sub(here, k, out=there), slope, level, out=there)
        there.add_(torch.mul(grad, column(scale, x), out=room))
    return dx, dweight, dbias


def plain_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same gradients by operations that can be differentiated again."""
    dims = (0, *range(2, x.dim()))
    centred = x - x.mean(dims, keepdim=True)
    centred = centred - centred.mean(dims, keepdim=True)
    inv = (centred.square().mean(dims, keepdim=True) + eps).rsqrt()
    x_hat = centred * inv
    along_one = dy.mean(dims, keepdim=True)
    along_x_hat = (dy * x_hat).mean(dims, keepdim=True)
    scale = inv if weight is None else weight.view(inv.shape) * inv
    dx = scale * (dy - along_one - x_hat * along_x_hat)
    return dx, (dy * x_hat).sum(dims), dy.sum(dims)


def transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work."""
    if forward_ad._current_level >= 0:
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


def batched(t: Tensor) -> bool:
    """Whether ``t`` stands for many tensors: torch.func.vmap, or is_grads_batched."""
    known = torch._C._functorch
    return known.is_batchedtensor(t) or known.is_legacy_batchedtensor(t)


@functools.cache
def compiled() -> tuple:
    """Forward and backward, each fused by ``torch.compile`` at the first call."""
    return torch.compile(lean_forward), torch.compile(lean_backward)


class LeanBatchNorm(torch.autograd.Function):
    """Normalise by the batch: output, mean and biased variance."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps, fuse):  # noqa: D102
        ctx.eps, ctx.fuse, ctx.large = eps, fuse, not fuse and x.numel() >= LARGE
        f = compiled()[0] if fuse else parts_forward if ctx.large else lean_forward
        y, *saved, mean, var = f(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, *saved)
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        return y, mean, var

    @staticmethod
    def backward(ctx, dy, _mean, _var):  # noqa: D102
        if dy is None:
            return (None,) * 5
        x, weight, shifted, *channels = ctx.saved_tensors
        if torch.is_grad_enabled() or batched(dy):  # operations that allow both
            grads = plain_backward(dy, x, weight, ctx.eps)
        elif ctx.large:
            grads = parts_backward(dy, x, *channels)
        else:
            f = compiled()[1] if ctx.fuse else lean_backward
            grads = f(dy, shifted, *channels)
        wanted = zip(grads, ctx.needs_input_grad, strict=False)
        return *(g if need else None for g, need in wanted), None, None
