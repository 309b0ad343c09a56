"""Batch norm as one node of the graph, in plain PyTorch: chapter 16's lean version."""

import functools

import torch
from torch import Tensor


def total(t: Tensor) -> Tensor:
    """Sum over everything but the channels, in two stages where there are positions."""
    return t.sum(0) if t.dim() == 2 else t.sum(2).sum(0)


def column(v: Tensor, like: Tensor) -> Tensor:
    """A value per channel, shape (C,), so that it broadcasts against ``like``."""
    return v if like.dim() == 2 else v[:, None]


def lean_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, ...]:
    """Output, centred input, what centring left over, mean, variance, 1 / std."""
    m = x.numel() // x.size(1)
    mean = total(x) / m
    centred = x - column(mean, x)
    rest = total(centred) / m  # rounding of the mean, (C,)
    square = centred * centred
    var = torch.addcmul(total(square) / m, rest, rest, value=-1)
    inv = (var + eps).rsqrt_()
    scale = inv if weight is None else weight * inv
    shift = (
        -rest * scale if bias is None else torch.addcmul(bias, rest, scale, value=-1)
    )
    y = torch.addcmul(column(shift, x), centred, column(scale, x))
    return y, centred, rest, mean + rest, var, inv


def lean_backward(
    dy: Tensor, centred: Tensor, rest: Tensor, inv: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias: Eq. (3.7) with what is per channel folded."""
    m = dy.numel() // dy.size(1)
    product = dy * centred
    dbias = total(dy)
    dweight = torch.addcmul(total(product), rest, dbias, value=-1) * inv
    slope = dweight * inv / m  # of the centred input, (C,)
    level = torch.addcmul(dbias / m, rest, slope, value=-1)
    dx = torch.addcmul(dy, centred, column(slope, dy), value=-1)
    scale = inv if weight is None else weight * inv
    dx = dx.sub_(column(level, dy)).mul_(column(scale, dy))
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


@functools.cache
def compiled() -> tuple:
    """Forward and backward, each fused by ``torch.compile`` at the first call."""
    return torch.compile(lean_forward), torch.compile(lean_backward)


class LeanBatchNorm(torch.autograd.Function):
    """Normalise by the batch: output, mean and biased variance."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps, fuse):
        f = compiled()[0] if fuse else lean_forward
        y, centred, rest, mean, var, inv = f(x, weight, bias, eps)
        ctx.save_for_backward(x, weight, centred, rest, inv)
        ctx.eps, ctx.fuse = eps, fuse
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        return y, mean, var

    @staticmethod
    def backward(ctx, dy, _mean, _var):
        if dy is None:
            return (None,) * 5
        x, weight, *saved, inv = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants the second derivative
            grads = plain_backward(dy, x, weight, ctx.eps)
        else:
            f = compiled()[1] if ctx.fuse else lean_backward
            grads = f(dy, *saved, inv, weight)
        wanted = zip(grads, ctx.needs_input_grad, strict=False)
        return *(g if need else None for g, need in wanted), None, None
