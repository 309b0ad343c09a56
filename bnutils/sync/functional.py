"""The mathematics of synchronised batch norm: chapters 3 and 4, with sums over all ranks.

In the order of chapter 15: the statistics of the whole batch; the gradient, whose sums run
over all ranks too; both as one function for autograd; and a sum over the ranks that autograd
can go through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed
from torch.autograd import Function

from bnutils.norm import batch_stats, per_channel

if TYPE_CHECKING:
    from typing import Any

    from torch.distributed import ProcessGroup


def whole_batch_stats(x: Tensor, group: ProcessGroup) -> tuple[Tensor, Tensor, int]:
    """Mean, biased variance and count of the batch that all ranks hold together.

    The two passes of chapter 4, each ending in a sum over the ranks; no large squares
    are subtracted. The sums travel in float64, which also keeps the count exact.

    Parameters
    ----------
    x : Tensor, shape (N, C) or (N, C, L)
        This rank's part; N may differ between the ranks and be 0.
    group : ProcessGroup

    Returns
    -------
    mean, var : Tensor, shape (C,)
        Of the dtype of ``x``, the same on every rank.
    count : int
        Values per channel, on all ranks together.

    Raises
    ------
    ValueError
        The count is 1, on every rank alike.
    """
    m = x.numel() // x.size(1)  # values per channel, here
    mean, var = batch_stats(x) if m else x.new_zeros(2, x.size(1))  # not NaN if empty
    mean, var = mean.double(), var.double()  # (C,), of this rank's part
    sums = torch.cat([m * mean, mean.new_tensor([m])])  # (C + 1,)
    distributed.all_reduce(sums, group=group)
    whole_mean, count = sums[:-1] / sums[-1], int(sums[-1])
    squares = m * (var + (mean - whole_mean).square())  # (C,)
    # Before the error below: every rank has to come to each collective.
    distributed.all_reduce(squares, group=group)
    if count == 1:
        raise ValueError(
            "Expected more than 1 value per channel when training, got 1 in all "
            "processes together: use a larger batch, drop the last one, or call eval()"
        )
    return whole_mean.to(x.dtype), (squares / sums[-1]).to(x.dtype), count


def whole_batch_gradient(
    g: Tensor,
    g_rstd: Tensor | None,
    x_hat: Tensor,
    rstd: Tensor,
    group: ProcessGroup,
    count: int,
) -> Tensor:
    """Gradient with respect to this rank's x: chapter 3's, its two means over all ranks.

    Parameters
    ----------
    g : Tensor, shape (N, C) or (N, C, L)
        Gradient with respect to ``x_hat``, of the sum of all ranks' losses.
    g_rstd : Tensor, shape (C,), or None
        Gradient with respect to ``rstd``: None on every rank, or on none.
    x_hat : Tensor, of the shape of ``g``
    rstd : Tensor, shape (C,)
        1/std, of the whole batch.
    group : ProcessGroup
    count : int
        Values per channel, on all ranks together.
    """
    dims = (0, *range(2, g.dim()))
    sums = [g.sum(dims), (g * x_hat).sum(dims)]  # (C,) each, of this rank's part
    if g_rstd is not None:  # only when a gradient is differentiated again
        sums.append(g_rstd)
    means = AllSum.apply(torch.stack(sums), group) / count  # unused if there is no data
    mean_g, mean_gx = per_channel(means[0], g), per_channel(means[1], g)
    r = per_channel(rstd, g)
    dx = r * (g - mean_g - x_hat * mean_gx)
    if g_rstd is not None:
        dx = dx - x_hat * r.square() * per_channel(means[2], g)
    return dx


class Standardize(Function):
    """Normalise by the statistics of the batch that all ranks hold together.

    From x to x_hat, 1/std, mean, variance and count. Two collectives forward, one
    backward. The gradient may be differentiated again: it is written in x_hat and 1/std,
    which are outputs of this function themselves.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, eps: float, group: ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """Shapes (N, C) or (N, C, L); N may differ between ranks and be 0."""
        mean, var, count = whole_batch_stats(x, group)
        rstd = torch.rsqrt(var + eps)  # (C,)
        x_hat = (x - per_channel(mean, x)) * per_channel(rstd, x)
        ctx.save_for_backward(x_hat, rstd)
        ctx.group, ctx.count = group, count
        ctx.mark_non_differentiable(mean, var)
        ctx.set_materialize_grads(False)
        return x_hat, rstd, mean, var, count

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, g_rstd: Tensor | None, *_: object
    ) -> tuple[Tensor, None, None]:
        """Return the gradient of x; eps and the group have none."""
        x_hat, rstd = ctx.saved_tensors
        if g is None:  # nothing but 1/std was used
            g = torch.zeros_like(x_hat)
        dx = whole_batch_gradient(g, g_rstd, x_hat, rstd, ctx.group, ctx.count)
        return dx, None, None


class AllSum(Function):
    """Sum of a tensor over all ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        """Return the sum, the same on every rank; ``x`` stays as it is."""
        ctx.group = group
        total = x.clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        """Every rank used the sum, so the gradients of all ranks come together."""
        return AllSum.apply(dy, ctx.group), None
