"""Batch norm's relatives as layers: drop-ins for PyTorch's, and two that PyTorch lacks.

First those without memory (layer, RMS and group norm), then those that are a
:class:`bnutils.norm.BatchNorm1d` with another forward pass. The mathematics is in
:mod:`bnutils.relatives.functional`; here is what surrounds it: parameters, running
statistics, and which input a layer refuses: what PyTorch's refuses, with the same type of
error.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bnutils.norm import BatchNorm1d, batch_stats, normalize, per_channel
from bnutils.relatives.functional import (
    check_ghost_size,
    check_renorm_limits,
    float32_if_half,
    group_norm,
    instance_norm,
    layer_norm,
    like_input,
    moments,
    rms_norm,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class _Scaled(nn.Module):
    """A layer without memory: it has a weight and a bias, one of them, or neither."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def _make_parameters(
        self,
        shape: int | tuple[int, ...],
        weight: bool,
        bias: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Register weight and bias of that shape, or None where one is not wanted."""
        new = partial(torch.empty, shape, device=device, dtype=dtype)
        self.register_parameter("weight", nn.Parameter(new()) if weight else None)
        self.register_parameter("bias", nn.Parameter(new()) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to 1 and the bias to 0."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class LayerNorm(_Scaled):
    """Drop-in for ``torch.nn.LayerNorm``; see :func:`bnutils.relatives.layer_norm`.

    Raises
    ------
    RuntimeError
        The input's last axes are not ``normalized_shape``; dtypes do not fit.
    NotImplementedError
        Input that is not floating point.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if isinstance(normalized_shape, int):
            normalized_shape = (normalized_shape,)
        self.normalized_shape = tuple(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        bias = elementwise_affine and bias
        self._make_parameters(
            self.normalized_shape, elementwise_affine, bias, device, dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` over its last axes, those of ``normalized_shape``."""
        self._check_shape(x)
        _check_dtype(x, self.weight, self.bias)
        z = float32_if_half(x)
        y = layer_norm(z, self.normalized_shape, self.weight, self.bias, self.eps)
        return y.to(x.dtype).contiguous()  # by rows, whatever x is, as PyTorch

    def _check_shape(self, x: Tensor) -> None:
        """Raise unless the last axes of ``x`` are ``normalized_shape``, which is not ()."""
        shape = self.normalized_shape
        if not shape or tuple(x.shape[-len(shape) :]) != shape:
            raise RuntimeError(
                f"Given normalized_shape={list(shape)}, expected input with shape "
                f"[*{''.join(f', {n}' for n in shape)}], but got input of size "
                f"{list(x.shape)}: this layer normalises the last axes; for (N, C, L) and "
                "one channel axis, transpose or use GroupNorm"
            )

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        affine = f"elementwise_affine={self.elementwise_affine}"
        bias = f"bias={self.bias is not None}"
        return f"{self.normalized_shape}, eps={self.eps}, {affine}, {bias}"


class RMSNorm(LayerNorm):
    """Drop-in for ``torch.nn.RMSNorm``; see :func:`bnutils.relatives.rms_norm`.

    It raises what :class:`LayerNorm` raises, but takes parameters of any dtype.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            normalized_shape, eps, elementwise_affine, False, device, dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        """Divide ``x`` by its root mean square over ``normalized_shape``."""
        self._check_shape(x)
        _check_dtype(x)  # any weight fits, as in PyTorch
        z = float32_if_half(x)
        y = rms_norm(z, self.normalized_shape, self.weight, self.eps)
        return like_input(y, x)

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        return super().extra_repr().removesuffix(", bias=False")  # it never has one


class GroupNorm(_Scaled):
    """Drop-in for ``torch.nn.GroupNorm``; see :func:`bnutils.relatives.group_norm`.

    Raises
    ------
    ValueError
        The channels do not divide into the groups; one value in each group in all.
    RuntimeError
        Wrong number of channels or of axes; dtypes do not fit.
    NotImplementedError
        Input that is not floating point.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"num_channels ({num_channels}) must be divisible by num_groups "
                f"({num_groups}): each group takes the same number of channels, at least "
                "one"
            )
        self.num_groups, self.num_channels = num_groups, num_channels
        self.eps, self.affine = eps, affine
        self._make_parameters(num_channels, affine, affine and bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C, ...), per example and group of channels."""
        self._check_shape(x)
        _check_dtype(x, self.weight, self.bias)
        z = float32_if_half(x)
        y = group_norm(z, self.num_groups, self.weight, self.bias, self.eps)
        return like_input(y, x)

    def _check_shape(self, x: Tensor) -> None:
        """Raise unless dimension 1 is the channels, and there is more than one value."""
        if x.dim() < 2:
            raise RuntimeError(
                f"Expected at least 2 dimensions for input tensor but received {x.dim()}: "
                "give it shape (N, C, ...)"
            )
        if x.size(1) != self.num_channels:
            raise RuntimeError(
                f"the input {tuple(x.shape)} has {x.size(1)} channels in dimension 1, but "
                f"the layer was made for {self.num_channels}"
            )
        if x.numel() == self.num_groups:
            raise ValueError(
                "Expected more than 1 value per channel when training, got input size "
                f"{tuple(x.shape)} in {self.num_groups} groups: use fewer groups"
            )

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        groups = f"{self.num_groups}, {self.num_channels}, eps={self.eps}"
        return f"{groups}, affine={self.affine}, bias={self.bias is not None}"


class InstanceNorm1d(BatchNorm1d):
    """Drop-in for ``torch.nn.InstanceNorm1d``; see :func:`bnutils.relatives.instance_norm`.

    Without parameters and without memory by default, as PyTorch's.

    Raises
    ------
    ValueError
        Input not 2-D or 3-D; wrong number of channels; one position per channel.
    RuntimeError
        Dtypes do not fit.
    NotImplementedError
        Input that is not floating point.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        options: dict[str, Any] = {"device": device, "dtype": dtype, "bias": bias}
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, **options
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C, L) or (C, L), per example and channel over L."""
        self._check_shape(x)
        _check_dtype(x, self.weight, self.bias)
        z = float32_if_half(x if x.dim() == 3 else x.unsqueeze(0))  # (N, C, L)
        if self.track_running_stats and not self.training:
            mean, var = self.running_mean.to(z), self.running_var.to(z)
            y = normalize(z, mean, var, self.weight, self.bias, self.eps)
        else:
            y = instance_norm(z, self.weight, self.bias, self.eps)
            self._remember(z.detach())
        return like_input(y.view(x.shape), x)

    def _remember(self, z: Tensor) -> None:
        """Move the running statistics towards the averages over the examples."""
        # As PyTorch: momentum None remembers nothing, and batches are never counted.
        if self.track_running_stats and self.momentum is not None:
            mean, var = moments(z, (2,))  # (N, C, 1)
            self._update_running_stats(mean.mean((0, 2)), var.mean((0, 2)), z.size(2))

    def _check_shape(self, x: Tensor) -> None:
        """(C, L) or (N, C, L), the right number of channels, and more than one position."""
        if x.dim() not in (2, 3):
            raise ValueError(
                f"expected 2D or 3D input (got {x.dim()}D input): "
                "give it shape (N, C, L), or (C, L) for one example"
            )
        if x.size(-2) != self.num_features:
            wrong = (
                f"expected input's size at dim={x.dim() - 2} to match num_features "
                f"({self.num_features}), but got: {x.size(-2)}"
            )
            if self.affine or self.running_mean is not None:
                raise ValueError(f"{wrong}; the channels come before the positions")
            warnings.warn(f"{wrong}, which does not matter here", stacklevel=3)
        by_input = self.training or not self.track_running_stats
        if by_input and x.size(-1) == 1:
            raise ValueError(
                "Expected more than 1 spatial element when training, got input size "
                f"{tuple(x.shape)}: one value is its own mean and leaves only zeros"
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
        return like_input(super().forward(x.flatten(2)).view(x.shape), x)


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

    def __init__(
        self, num_features: int, *args: Any, ghost_size: int = 32, **options: Any
    ) -> None:
        check_ghost_size(ghost_size)
        super().__init__(num_features, *args, **options)
        self.ghost_size = ghost_size

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C) or (N, C, L)."""
        if not self.training and self.running_mean is not None:
            return super().forward(x)
        self._check_input(x)
        ghosts = x.split(self.ghost_size)
        self._check_input(ghosts[-1])  # before anything is updated
        return torch.cat([BatchNorm1d.forward(self, ghost) for ghost in ghosts])

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
        self,
        num_features: int,
        *args: Any,
        r_max: float = 3.0,
        d_max: float = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(num_features, *args, **options)
        self.r_max, self.d_max = r_max, d_max
        check_renorm_limits(r_max, d_max, self.track_running_stats)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C) or (N, C, L); training also updates statistics."""
        if not self.training:
            return super().forward(x)
        self._check_input(x)
        check_renorm_limits(self.r_max, self.d_max, self.running_mean is not None)
        z = float32_if_half(x)
        mean, var = batch_stats(z)
        r, d = self.correction(mean, var)  # towards the statistics before this batch
        self.num_batches_tracked.add_(1)
        self._update_running_stats(mean, var, x.numel() // x.size(1))
        y = normalize(z, mean, var, r, d, self.eps)
        if self.weight is not None:
            y = y * per_channel(self.weight, x)
        if self.bias is not None:
            y = y + per_channel(self.bias, x)
        return like_input(y, x)

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


def _check_dtype(x: Tensor, *parameters: Tensor | None) -> None:
    """Raise unless ``x`` is floating point and the parameters share its dtype.

    As in batch norm, half-precision input may meet float32 parameters.
    """
    half = x.dtype in (torch.float16, torch.bfloat16)
    for parameter in parameters:
        if parameter is None or parameter.dtype == x.dtype:
            continue
        if not (half and parameter.dtype == torch.float32):
            raise RuntimeError(
                f"mixed dtype: the input is {x.dtype} but the layer's parameters are "
                f"{parameter.dtype}; convert one of them"
            )
    if not x.is_floating_point():
        raise NotImplementedError(
            f"normalisation is not implemented for {x.dtype}: convert the input to float"
        )
