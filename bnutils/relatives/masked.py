"""Batch norm of padded sequences: statistics over the real positions only (chapter 20).

Plain batch norm counts the padding of shorter sequences as data, so its mean and variance
depend on how much of it a batch holds. Here the layer is told which positions are real.
"""

import torch
from torch import Tensor

from bnutils.norm import BatchNorm1d


class MaskedBatchNorm1d(BatchNorm1d):
    """Batch norm of sequences with padding: only the real positions count.

    The real positions of all sequences, as the rows of one table of shape (m, C), go
    through :class:`bnutils.norm.BatchNorm1d`; so m, mean, variance and running statistics
    are those of the unpadded data, whatever the padding holds, NaN included. The output at
    the padding is 0 and passes no gradient back. Batch norm is that of Ioffe and Szegedy
    (2015), arXiv:1502.03167; PyTorch has no layer with a mask.

    In training, all real positions share their statistics, later ones with earlier ones: in
    a causal model they leak the future, with or without a mask. The number of real positions
    is known only when the layer runs, so ``torch.compile`` breaks its graph here.

    Parameters
    ----------
    num_features, *args, **options
        As of :class:`bnutils.norm.BatchNorm1d`.

    Raises
    ------
    TypeError
        ``mask`` is not a tensor of booleans.
    ValueError
        The input is not 3-D although there is a mask; the mask's shape is not (N, L); in
        training, only one position is real; else as batch norm.
    RuntimeError
        ``mask`` and input are on different devices; else as batch norm.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[[1.0, 3.0, 9.0]], [[5.0, 9.0, 9.0]]])  # (N, C, L) = (2, 1, 3)
    >>> mask = torch.tensor([[True, True, False], [True, False, False]])
    >>> y = MaskedBatchNorm1d(1)(x, mask)  # the mean of 1, 3 and 5 is 3
    >>> [round(v, 2) for v in y.flatten().tolist()]
    [-1.22, 0.0, 0.0, 1.22, 0.0, 0.0]
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise the real positions of ``x``; training also updates statistics.

        Parameters
        ----------
        x : Tensor, shape (N, C, L)
            Without a mask, also (N, C).
        mask : bool Tensor, shape (N, L), or None
            True where a position is real: the opposite of PyTorch's ``key_padding_mask``.
            None: every position is real, which is plain batch norm.
        """
        if mask is None:
            return super().forward(x)
        _check_mask(x, mask)
        self._check_input(x)  # with the shape that the caller knows
        rows = super().forward(x.transpose(1, 2)[mask])  # (m, C), without the padding
        y = rows.new_zeros(x.size(0), x.size(2), x.size(1))
        y[mask] = rows
        return y.transpose(1, 2).contiguous()


def _check_mask(x: Tensor, mask: Tensor) -> None:
    """Raise unless the mask says of each position of ``x`` whether it is real.

    Indexing would accept some wrong masks: one of 0 and 1 as integers picks positions 0
    and 1, again and again, and one of shape (N,) picks whole sequences.
    """
    dtype = getattr(mask, "dtype", type(mask).__name__)
    if dtype != torch.bool:
        raise TypeError(
            f"mask must be a tensor of booleans, True where a position is real, but got "
            f"{dtype}; for 0 and 1, use mask.bool()"
        )
    if x.dim() != 3:
        raise ValueError(
            f"expected 3D input (got {x.dim()}D input): with a mask, give it shape "
            "(N, C, L)"
        )
    if mask.shape != (x.size(0), x.size(2)):
        raise ValueError(
            f"mask should have shape (N, L) = {(x.size(0), x.size(2))} for the input "
            f"{tuple(x.shape)}, but has {tuple(mask.shape)}"
        )
    if mask.device != x.device:
        raise RuntimeError(
            f"mixed device: the input is {x.device} but the mask is {mask.device}; "
            "convert one of them"
        )
