"""Batch norm's relatives, from the same few lines over other axes.

Chapter 14. The mathematics are functions named after those of
``torch.nn.functional``; the layers have the names and arguments of ``torch.nn`` where
PyTorch has them.
"""

import torch
from torch import Tensor

from bnutils.norm import BatchNorm1d, normalize
from bnutils.relatives import functional as _relatives
from bnutils.relatives.batch import BatchNorm2d, BatchRenorm1d, GhostBatchNorm1d
from bnutils.relatives.functional import per_channel, widened

__all__ = ["BatchNorm2d", "BatchRenorm1d", "GhostBatchNorm1d", "GroupNorm"]
__all__ += ["InstanceNorm1d", "LayerNorm", "RMSNorm", "group_norm", "instance_norm"]
__all__ += ["layer_norm", "moments", "rms_norm", "standardize"]

Axes = tuple[int, ...]
Maybe = Tensor | None


def moments(x: Tensor, dims: Axes) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the axes ``dims``, which stay with length 1.

    Two passes, with the second look at the mean of chapter 4.
    """
    mean = x.mean(dims, keepdim=True)
    mean = mean + (x - mean).mean(dims, keepdim=True)
    return mean, (x - mean).square().mean(dims, keepdim=True)


def standardize(
    x: Tensor, dims: Axes, weight: Maybe = None, bias: Maybe = None, eps: float = 1e-5
) -> Tensor:
    """Normalise by the statistics over ``dims``, then scale and shift.

    Parameters
    ----------
    x : Tensor of any shape
    dims : tuple of int
        The axes whose values share a mean and a variance.
    weight, bias : Tensors that broadcast against ``x``, or None for 1 and 0
    eps : float
        Added to the variance, inside the root.
    """
    mean, var = moments(x, dims)
    y = (x - mean) / torch.sqrt(var + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def layer_norm(
    x: Tensor,
    normalized_shape: Axes,
    weight: Maybe = None,
    bias: Maybe = None,
    eps: float = 1e-5,
) -> Tensor:
    """Statistics over the last axes, those of ``normalized_shape``, as are the parameters.

    Ba, Kiros and Hinton (2016), arXiv:1607.06450.
    """
    dims = tuple(range(-len(normalized_shape), 0))
    return standardize(x, dims, weight, bias, eps)


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Maybe = None,
    bias: Maybe = None,
    eps: float = 1e-5,
) -> Tensor:
    """Statistics of each group of neighbouring channels of each example; ``x`` (N, C, ...).

    Weight and bias of shape (C,). Wu and He (2018), arXiv:1803.08494.
    """
    groups = x.unflatten(1, (num_groups, -1))  # (N, G, C / G, ...)
    dims = tuple(range(2, groups.dim()))
    x_hat = standardize(groups, dims, eps=eps).flatten(1, 2)  # (N, C, ...)
    y = x_hat if weight is None else x_hat * per_channel(weight, x)
    return y if bias is None else y + per_channel(bias, x)


def instance_norm(
    x: Tensor, weight: Maybe = None, bias: Maybe = None, eps: float = 1e-5
) -> Tensor:
    """Statistics of each channel of each example: every channel is a group; ``x`` (N, C, L).

    Weight and bias of shape (C,). Ulyanov, Vedaldi and Lempitsky (2016),
    arXiv:1607.08022.
    """
    return group_norm(x, x.size(1), weight, bias, eps)


def rms_norm(
    x: Tensor, normalized_shape: Axes, weight: Maybe = None, eps: float | None = None
) -> Tensor:
    """Divide by the root of the mean square over the last axes; nothing is subtracted.

    ``eps`` None is the spacing of ``x``'s type at 1. Zhang and Sennrich (2019),
    arXiv:1910.07467.
    """
    dims = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    y = x / torch.sqrt(x.square().mean(dims, keepdim=True) + eps)
    return y if weight is None else y * weight


class LayerNorm(_relatives.Scaled):
    """Drop-in for ``torch.nn.LayerNorm``; see :func:`layer_norm`.

    Raises
    ------
    RuntimeError
        The input's last axes are not ``normalized_shape``; dtypes do not fit.
    NotImplementedError
        Input that is not floating point.
    """

    def __init__(
        self,
        normalized_shape,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _relatives.shape_of(normalized_shape)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        wanted = (elementwise_affine, elementwise_affine and bias)
        self._make(self.normalized_shape, wanted, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` over its last axes, those of ``normalized_shape``."""
        parameters = self.normalized_shape, self.weight, self.bias
        _relatives.check_trailing(x, *parameters)
        return layer_norm(widened(x), *parameters, self.eps).to(x.dtype).contiguous()

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        affine = f"elementwise_affine={self.elementwise_affine}"
        return f"{self.normalized_shape}, eps={self.eps}, {affine}{self._bias()}"


class RMSNorm(LayerNorm):
    """Drop-in for ``torch.nn.RMSNorm`` (PyTorch 2.4); see :func:`rms_norm`.

    Raises
    ------
    RuntimeError
        The input's last axes are not ``normalized_shape``.
    NotImplementedError
        Input that is not floating point.
    """

    def __init__(
        self,
        normalized_shape,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__(
            normalized_shape, eps, elementwise_affine, False, device, dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        """Divide ``x`` by its root mean square over ``normalized_shape``."""
        _relatives.check_trailing(x, self.normalized_shape)
        y = rms_norm(widened(x), self.normalized_shape, self.weight, self.eps)
        return _relatives.finished(y, x)

    def _bias(self) -> str:
        return ""


class GroupNorm(_relatives.Scaled):
    """Drop-in for ``torch.nn.GroupNorm``; see :func:`group_norm`.

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
        device=None,
        dtype=None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        _relatives.check_groups(num_groups, num_channels)
        self.num_groups, self.num_channels = num_groups, num_channels
        self.eps, self.affine = eps, affine
        self._make(num_channels, (affine, affine and bias), device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C, ...), per example and group of channels."""
        _relatives.check_grouped(x, self)
        parameters = self.num_groups, self.weight, self.bias, self.eps
        return _relatives.finished(group_norm(widened(x), *parameters), x)

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        groups = f"{self.num_groups}, {self.num_channels}, eps={self.eps}"
        return f"{groups}, affine={self.affine}{self._bias()}"


class InstanceNorm1d(BatchNorm1d):
    """Drop-in for ``torch.nn.InstanceNorm1d``; see :func:`instance_norm`.

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
        device=None,
        dtype=None,
        *,
        bias: bool = True,
    ) -> None:
        options = {"device": device, "dtype": dtype, "bias": bias}
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, **options
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, shape (N, C, L) or (C, L), per example and channel over L."""
        _relatives.check_instance(x, self)
        z = widened(x if x.dim() == 3 else x.unsqueeze(0))  # (N, C, L)
        parameters = self.weight, self.bias, self.eps
        if self.track_running_stats and not self.training:
            mean, var = self.running_mean, self.running_var
            y = normalize(z, mean.to(z), var.to(z), *parameters)
        else:
            y = instance_norm(z, *parameters)
            self._remember(z.detach())
        return _relatives.finished(y.view(x.shape), x)

    def _remember(self, z: Tensor) -> None:
        """Update the running statistics by the averages over the examples."""
        if self.track_running_stats and self.momentum is not None:
            mean, var = (s.mean((0, 2)) for s in moments(z, (2,)))  # (C,)
            self._update_running_stats(mean, var, z.size(2))
