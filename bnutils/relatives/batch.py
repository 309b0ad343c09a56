"""Batch norm's closest relatives: for images, in ghost batches, renormalised."""

import torch
from torch import Tensor

from bnutils.norm import BatchNorm1d, batch_stats, normalize
from bnutils.relatives.functional import (
    check_ghost,
    check_limits,
    finished,
    per_channel,
    widened,
)


class BatchNorm2d(BatchNorm1d):
    """Drop-in for ``torch.nn.BatchNorm2d``: an image is a sequence of its pixels.

    Arguments as :class:`bnutils.norm.BatchNorm1d`.

    Raises
    ------
    ValueError, RuntimeError, NotImplementedError
        Input not 4-D; else as in one dimension.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C, H, W), per channel over N, H and W."""
        if x.dim() != 4:
            raise ValueError(
                f"expected 4D input (got {x.dim()}D input): give it shape (N, C, H, W)"
            )
        return finished(super().forward(x.flatten(2)).view(x.shape), x)


class GhostBatchNorm1d(BatchNorm1d):
    """Batch norm of parts of the batch: Hoffer, Hubara and Soudry (2017).

    In training the batch is cut, in order, into ghost batches of ``ghost_size``
    examples (the last one may be smaller), and each goes through batch norm as a batch
    of its own. So the running statistics take one step per ghost batch, which
    ``num_batches_tracked`` counts, and a ghost size from the batch size up is batch
    norm. Evaluation is batch norm's. arXiv:1705.08741.

    Parameters
    ----------
    num_features, *args, **options
        As of :class:`bnutils.norm.BatchNorm1d`.
    ghost_size : int
        Examples in a ghost batch.

    Raises
    ------
    ValueError
        ``ghost_size`` is not a positive integer; the last ghost batch has one value per
        channel (nothing is updated then); else as batch norm.
    """

    def __init__(self, num_features, *args, ghost_size: int = 32, **options) -> None:
        check_ghost(ghost_size)
        super().__init__(num_features, *args, **options)
        self.ghost_size = ghost_size

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C) or (N, C, L)."""
        if not self.training and self.running_mean is not None:
            return super().forward(x)
        self._check_input(x)
        ghosts = x.split(self.ghost_size)
        self._check_input(ghosts[-1])  # before anything is updated
        return torch.cat([BatchNorm1d.forward(self, z) for z in ghosts])

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        return f"{super().extra_repr()}, ghost_size={self.ghost_size}"


class BatchRenorm1d(BatchNorm1d):
    """Batch norm corrected towards its running statistics: Ioffe (2017).

    In training x_hat becomes r x_hat + d, per channel, with r = std / running std and
    d = (mean - running mean) / running std, clipped to [1/r_max, r_max] and
    [-d_max, d_max], constants for the gradient. Without clipping the output is that of
    evaluation; with r_max = 1 and d_max = 0 it is batch norm's. The running statistics
    are those from before the batch; unlike the paper's they average variances, not
    standard deviations, so that the state is batch norm's. arXiv:1702.03275.

    Parameters
    ----------
    num_features, *args, **options
        As of :class:`bnutils.norm.BatchNorm1d`.
    r_max, d_max : float
        Also attributes, for schedules; the paper starts with 1 and 0 and ends with
        3 and 5.

    Raises
    ------
    ValueError
        ``r_max`` below 1 or ``d_max`` below 0; ``track_running_stats=False``; else as
        batch norm.
    """

    def __init__(
        self, num_features, *args, r_max: float = 3.0, d_max: float = 5.0, **options
    ) -> None:
        super().__init__(num_features, *args, **options)
        self.r_max, self.d_max = r_max, d_max
        check_limits(r_max, d_max, self.track_running_stats)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C) or (N, C, L); training also updates statistics."""
        if not self.training:
            return super().forward(x)
        self._check_input(x)
        check_limits(self.r_max, self.d_max, self.running_mean is not None)
        z = widened(x)
        mean, var = batch_stats(z)
        r, d = self.correction(mean, var)  # towards the statistics before this batch
        self.num_batches_tracked.add_(1)
        self._update_running_stats(mean, var, x.numel() // x.size(1))
        x_hat = normalize(z, mean, var, r, d, self.eps)
        weight, bias = per_channel(self.weight, x), per_channel(self.bias, x)
        y = x_hat if weight is None else x_hat * weight
        return finished(y if bias is None else y + bias, x)

    @torch.no_grad()
    def correction(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return r and d, shape (C,), of a batch with these statistics; no gradient."""
        std = torch.sqrt(self.running_var.to(var) + self.eps)
        r = torch.sqrt(var + self.eps) / std
        d = (mean - self.running_mean) / std
        return r.clamp(1 / self.r_max, self.r_max), d.clamp(-self.d_max, self.d_max)

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        return f"{super().extra_repr()}, r_max={self.r_max}, d_max={self.d_max}"
