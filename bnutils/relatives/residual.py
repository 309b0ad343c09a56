"""What residual networks without batch norm have in its place (chapter 19).

Batch norm in the branch of a residual block keeps the branch small beside the skip path, and
takes the mean out of what a ReLU sends on. Here one number per block does the first, and
standardised weights do the second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bnutils.relatives.functional import float32_if_half, weight_standardize

if TYPE_CHECKING:
    from typing import Any


class ScaledResidual(nn.Module):
    """A residual block whose branch is multiplied by one learned number.

    The output is ``shortcut(x) + scale * branch(x)``. With the scale at 0 the block starts
    as its shortcut, whatever the branch contains: SkipInit of De and Smith (2020),
    arXiv:2002.10444. The branch gets no gradient as long as the scale is 0; the scale does,
    so that the first step of the optimiser ends this.

    Parameters
    ----------
    branch : nn.Module
        Any module whose output has the shape of the shortcut's.
    scale : float
        The initial scale: 0 for SkipInit, 1 for a plain residual block.
    shortcut : nn.Module, optional
        What the skip path does where the shape changes, such as a convolution with
        stride; by default it passes x on as it is.
    device, dtype
        Of the scale alone, a parameter of shape ().

    Raises
    ------
    RuntimeError
        Branch and shortcut give different shapes, even if these would broadcast.
    """

    def __init__(
        self,
        branch: nn.Module,
        scale: float = 0.0,
        shortcut: nn.Module | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.initial_scale = scale
        self.scale = nn.Parameter(torch.empty((), device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scale to its initial value; branch and shortcut stay as they are."""
        nn.init.constant_(self.scale, self.initial_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Add the scaled branch to the shortcut."""
        skip: Tensor = x if self.shortcut is None else self.shortcut(x)
        y: Tensor = self.branch(x)
        if y.shape != skip.shape:
            raise RuntimeError(
                f"the branch gives shape {tuple(y.shape)} but the skip path "
                f"{tuple(skip.shape)}: they are added, so give the block a shortcut that "
                "changes the shape as the branch does"
            )
        return skip + self.scale.to(y.dtype) * y

    def extra_repr(self) -> str:
        """The scale's initial value, as ``repr`` shows it."""
        return f"scale={self.initial_scale}"


class WSConv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` with standardised weights and a learned gain per output channel.

    At each call the weights pass through :func:`bnutils.relatives.weight_standardize`; the
    stored ones are never changed. Since only their direction counts, a larger stored weight
    gets a smaller gradient, as before a batch norm (chapter 12). ``padding``, ``groups`` and
    the other arguments are those of ``torch.nn.Conv2d``. Half-precision weights are
    standardised in float32.

    Parameters
    ----------
    *args, **options
        As of ``torch.nn.Conv2d``.
    eps : float
        Added to the variance of the weights.

    Raises
    ------
    ValueError
        Each output channel has a single weight; else as ``torch.nn.Conv2d``.
    """

    def __init__(self, *args: Any, eps: float = 1e-6, **options: Any) -> None:
        super().__init__(*args, **options)
        self.eps = eps
        self.gain = nn.Parameter(torch.ones_like(self.weight[:, 0, 0, 0]))
        self.standardized_weight()  # says at once that there are too few weights

    def reset_parameters(self) -> None:
        """Draw weight and bias as ``torch.nn.Conv2d`` does, and set the gain to 1."""
        super().reset_parameters()
        if "gain" in self._parameters:  # Conv2d calls this before there is one
            nn.init.ones_(self.gain)

    def standardized_weight(self) -> Tensor:
        """Return the weights that the convolution uses, in the dtype of the stored ones."""
        weight, gain = float32_if_half(self.weight), float32_if_half(self.gain)
        return weight_standardize(weight, gain, self.eps).to(self.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``, shape (N, C_in, H, W) or (C_in, H, W)."""
        return self._conv_forward(x, self.standardized_weight(), self.bias)

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        return f"{super().extra_repr()}, eps={self.eps}"
