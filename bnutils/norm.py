"""The PyTorch layer as chapter 4 builds it: pure functions, then the module around them.

``batch_stats`` and ``normalize`` are the mathematics and know nothing of a module;
``BatchNorm1d`` holds parameters and running statistics and decides which of them a call
uses. The NumPy functions of chapters 2 and 3 are here as well, from
:mod:`bnutils.arrays`, which also says what is averaged over what.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bnutils.arrays import batch_norm_backward, batch_norm_forward

if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "BatchNorm1d",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_stats",
    "normalize",
    "per_channel",
]


def batch_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, in two passes (chapter 4).

    Parameters
    ----------
    x : Tensor, shape (N, C) or (N, C, L)

    Returns
    -------
    mean, var : Tensors, shape (C,)
        Both NaN for a channel that holds a NaN or an infinity.
    """
    dims = (0, *range(2, x.dim()))
    mean = x.mean(dims, keepdim=True)  # (1, C) or (1, C, 1)
    mean = mean + (x - mean).mean(dims, keepdim=True)  # what rounding left over
    var = (x - mean).square().mean(dims)  # (C,)
    return mean.flatten(), var


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """Reshape one value per channel so that it broadcasts against ``x`` (chapter 4).

    Parameters
    ----------
    values : Tensor, shape (C,)
    x : Tensor, shape (N, C), (N, C, L) or with more positions behind the channels

    Returns
    -------
    Tensor, shape (1, C), (1, C, 1), ...
        A view of ``values``.
    """
    return values.view(1, -1, *[1] * (x.dim() - 2))


def normalize(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Shift and scale each channel by the statistics given, then by weight and bias.

    Parameters
    ----------
    x : Tensor, shape (N, C) or (N, C, L)
    mean, var : Tensors, shape (C,)
        Of the batch in training, running estimates in evaluation (chapter 7).
    weight, bias : Tensors, shape (C,), or None for 1 and 0
    eps : float

    Returns
    -------
    Tensor, shape of ``x``
    """
    y = (x - per_channel(mean, x)) / torch.sqrt(per_channel(var, x) + eps)
    if weight is not None:
        y = y * per_channel(weight, x)
    if bias is not None:
        y = y + per_channel(bias, x)
    return y


class BatchNorm1d(nn.Module):
    """Drop-in for ``torch.nn.BatchNorm1d``, written from ``nn.Module`` up (chapter 4).

    Same constructor, attributes, ``state_dict``, train/eval behaviour and exception
    types; ``bias`` (PyTorch 2.13) is accepted on every version. Half-precision input
    is normalised in float32 and returned in its own dtype, as PyTorch does. Works under
    ``torch.compile`` and ``torch.export``; ``torch.jit.script`` (deprecated) is not supported.

    Parameters
    ----------
    num_features : int
        C, the number of channels of the input (N, C) or (N, C, L).
    eps : float
        Added to the variance inside the root; must be positive in training.
    momentum : float or None
        Weight of the new batch in the running statistics (not the optimiser's
        momentum); None takes the plain average over all batches.
    affine : bool
        Learn a weight (gamma) and a bias (beta) per channel.
    track_running_stats : bool
        Keep running statistics for evaluation; else each batch uses its own.
    device, dtype
        Of the parameters and buffers.
    bias : bool
        With ``affine``, False leaves the shift out.

    Raises
    ------
    ValueError
        Input not 2-D or 3-D; one value per channel; eps not positive in training;
        one of the two running statistics missing.
    RuntimeError
        Wrong number of channels; devices or dtypes of input and parameters do not fit.
        What PyTorch refuses on the CPU is refused on every device.
    NotImplementedError
        Input that is not floating point.
    """

    _version = 2  # as in PyTorch: from 2 on the state holds num_batches_tracked

    if TYPE_CHECKING:  # what is registered below; None where it is not wanted
        weight: nn.Parameter | None
        bias: nn.Parameter | None
        running_mean: Tensor | None
        running_var: Tensor | None
        num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        new = partial(torch.empty, num_features, device=device, dtype=dtype)
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            self.register_parameter(name, nn.Parameter(new()) if wanted else None)
        self.register_buffer("running_mean", new() if track_running_stats else None)
        self.register_buffer("running_var", new() if track_running_stats else None)
        count = torch.tensor(0, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Set the running statistics to mean 0, variance 1 and no batch seen."""
        if self.track_running_stats:
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        """Set the running statistics, the weight (to 1) and the bias (to 0)."""
        self.reset_running_stats()
        if self.affine:
            nn.init.ones_(self.weight)
            if self.bias is not None:
                nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C) or (N, C, L); training also updates statistics."""
        self._check_input(x)
        if self.training and self.track_running_stats:
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        half = x.dtype in (torch.float16, torch.bfloat16)
        z = x.float() if half else x
        mean, var = self.running_mean, self.running_var
        if self.training or mean is None:
            mean, var = batch_stats(z)
            if self.training and self.track_running_stats:
                self._update_running_stats(mean, var, x.numel() // x.size(1))
        y = normalize(z, mean.to(z), var.to(z), self.weight, self.bias, self.eps)
        return y.to(x.dtype).contiguous()

    @torch.no_grad()
    def _update_running_stats(self, mean: Tensor, var: Tensor, m: int) -> None:
        """Move the running statistics towards those of a batch of m values a channel."""
        if self.running_mean is None or m == 0:
            return
        factor = self.momentum
        if factor is None:  # plain average: the n-th batch counts 1 / n
            count = self.num_batches_tracked
            factor = 0.0 if count is None else 1.0 / float(count)
        unbiased = var * (m / (m - 1))  # Bessel's correction, stored only
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.copy_((1 - factor) * running.to(new) + factor * new)

    def _check_input(self, x: Tensor) -> None:
        """Raise what PyTorch raises for the same mistake, and say what to do."""
        if x.dim() not in (2, 3):
            raise ValueError(
                f"expected 2D or 3D input (got {x.dim()}D input): "
                "give it shape (N, C) or (N, C, L)"
            )
        by_batch = self.training or self.running_mean is None
        if by_batch and x.numel() == x.size(1):
            raise ValueError(
                "Expected more than 1 value per channel when training, got input size "
                f"{tuple(x.shape)}: use a larger batch, drop the last one, or call eval()"
            )
        if self.eps < 0 or (by_batch and self.eps == 0):
            raise ValueError(
                f"batch_norm eps must be positive during training, but got {self.eps}: "
                "it keeps a constant channel from dividing by zero; try 1e-5"
            )
        self._check_channels(x)
        self._check_kind(x)

    def _state(self) -> dict[str, Tensor]:
        """The parameters and running statistics that a call now would use, by name."""
        names = ["weight", "bias"]
        if self.track_running_stats or not self.training:
            names += ["running_mean", "running_var"]
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}

    def _check_channels(self, x: Tensor) -> None:
        """Raise unless every tensor in use has one value for each channel of ``x``."""
        state = self._state()
        if ("running_mean" in state) != ("running_var" in state):
            raise ValueError("running_mean, running_var must both be None or neither")
        for name, value in state.items():
            if value.numel() != x.size(1):
                raise RuntimeError(
                    f"{name} should contain {x.size(1)} elements not {value.numel()}: "
                    f"the input {tuple(x.shape)} has {x.size(1)} channels in dimension 1"
                )

    def _check_kind(self, x: Tensor) -> None:
        """Raise unless input and layer share device and dtype, as PyTorch demands on the CPU.

        One mixture is allowed: half-precision input with everything else in float32.
        """
        if not x.is_floating_point():
            raise NotImplementedError(
                f'"batch_norm" not implemented for {x.dtype}: convert the input to float'
            )
        state = self._state()
        half = x.dtype in (torch.float16, torch.bfloat16)
        mixture = half and all(v.dtype == torch.float32 for v in state.values())
        kinds = ("device",) if mixture else ("device", "dtype")
        for name, value in state.items():
            for kind in kinds:
                wanted, found = getattr(x, kind), getattr(value, kind)
                if found != wanted:
                    raise RuntimeError(
                        f"mixed {kind}: the input is {wanted} but {name} is {found}; "
                        "convert one of them"
                    )

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        *args: Any,
    ) -> None:
        """Accept a state saved before num_batches_tracked existed (version 1)."""
        key = prefix + "num_batches_tracked"
        if (local_metadata.get("version") or 1) < 2 and self.track_running_stats:
            state_dict.setdefault(key, self.num_batches_tracked)
        nn.Module._load_from_state_dict(self, state_dict, prefix, local_metadata, *args)
