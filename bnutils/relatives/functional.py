"""What the layers of :mod:`bnutils.relatives` share: parameters, types and checks."""

import warnings
from functools import partial

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


class Scaled(nn.Module):
    """A layer without memory: a weight and a bias, or neither."""

    def _make(self, shape, wanted: tuple[bool, bool], device, dtype) -> None:
        """Register weight and bias of that shape; None where not wanted."""
        new = partial(torch.empty, shape, device=device, dtype=dtype)
        for name, want in zip(("weight", "bias"), wanted, strict=True):
            self.register_parameter(name, nn.Parameter(new()) if want else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to 1 and the bias to 0."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _bias(self) -> str:
        """What ``repr`` says about the bias."""
        return f", bias={self.bias is not None}"


def shape_of(normalized_shape) -> tuple[int, ...]:
    """The shape as a tuple, from an integer, a list or a tuple."""
    if isinstance(normalized_shape, int):
        return (normalized_shape,)
    return tuple(normalized_shape)


def per_channel(parameter: Tensor | None, x: Tensor) -> Tensor | None:
    """A parameter (C,) with as many axes behind it as ``x`` has behind its channels."""
    if parameter is None:
        return None
    return parameter.view(-1, *(1,) * (x.dim() - 2))


def finished(y: Tensor, x: Tensor) -> Tensor:
    """``y`` in the dtype of ``x`` and in PyTorch's memory layout: channels last, or rows."""
    y = y.to(x.dtype)
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    if last and not x.is_contiguous():
        return y.contiguous(memory_format=torch.channels_last)
    return y.contiguous()


def widened(x: Tensor) -> Tensor:
    """``x`` in float32 if it is half precision."""
    return x.float() if x.dtype in HALF else x


def check_dtype(x: Tensor, *parameters: Tensor | None) -> None:
    """Floating point, and as the parameters unless those are float32 and x is half."""
    for p in parameters:
        fits = p is None or p.dtype == x.dtype
        if not fits and not (x.dtype in HALF and p.dtype == torch.float32):
            raise RuntimeError(
                f"mixed dtype: the input is {x.dtype} but the layer's parameters are "
                f"{p.dtype}; convert one of them"
            )
    if not x.is_floating_point():
        raise NotImplementedError(
            f"normalisation is not implemented for {x.dtype}: convert the input to float"
        )


def check_trailing(x: Tensor, shape: tuple[int, ...], *parameters) -> None:
    """The last axes of ``x`` must be ``shape``, which must not be empty."""
    if not shape or tuple(x.shape[-len(shape) :]) != shape:
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape "
            f"[*{''.join(f', {n}' for n in shape)}], but got input of size "
            f"{list(x.shape)}: this layer normalises the last axes; for (N, C, L) and "
            "one channel axis, transpose or use GroupNorm"
        )
    check_dtype(x, *parameters)


def check_groups(num_groups: int, num_channels: int) -> None:
    """The channels must divide into groups."""
    if num_groups < 1 or num_channels % num_groups:
        raise ValueError(
            f"num_channels ({num_channels}) must be divisible by num_groups "
            f"({num_groups}): each group takes the same number of channels, at least one"
        )


def check_grouped(x: Tensor, layer: nn.Module) -> None:
    """Channels in dimension 1, as many as the layer has; more than one value in all."""
    if x.dim() < 2:
        raise RuntimeError(
            f"Expected at least 2 dimensions for input tensor but received {x.dim()}: "
            "give it shape (N, C, ...)"
        )
    if x.size(1) != layer.num_channels:
        raise RuntimeError(
            f"the input {tuple(x.shape)} has {x.size(1)} channels in dimension 1, but "
            f"the layer was made for {layer.num_channels}"
        )
    if x.numel() == layer.num_groups:
        raise ValueError(
            "Expected more than 1 value per channel when training, got input size "
            f"{tuple(x.shape)} in {layer.num_groups} groups: use fewer groups"
        )
    check_dtype(x, layer.weight, layer.bias)


def check_instance(x: Tensor, layer: nn.Module) -> None:
    """(C, L) or (N, C, L), the right number of channels, and more than one position."""
    if x.dim() not in (2, 3):
        raise ValueError(
            f"expected 2D or 3D input (got {x.dim()}D input): "
            "give it shape (N, C, L), or (C, L) for one example"
        )
    if x.size(-2) != layer.num_features:
        wrong = (
            f"expected input's size at dim={x.dim() - 2} to match num_features "
            f"({layer.num_features}), but got: {x.size(-2)}"
        )
        if layer.affine or layer.running_mean is not None:
            raise ValueError(f"{wrong}; the channels come before the positions")
        warnings.warn(f"{wrong}, which does not matter here", stacklevel=3)
    by_input = layer.training or not layer.track_running_stats
    if by_input and x.size(-1) == 1:
        raise ValueError(
            "Expected more than 1 spatial element when training, got input size "
            f"{tuple(x.shape)}: one value is its own mean and leaves only zeros"
        )
    check_dtype(x, layer.weight, layer.bias)


def check_ghost(ghost_size: int) -> None:
    """A positive whole number."""
    whole = isinstance(ghost_size, int) and not isinstance(ghost_size, bool)
    if not whole or ghost_size < 1:
        raise ValueError(
            "ghost_size is the number of examples in a ghost batch, a positive integer "
            f"such as 32, but got {ghost_size!r}"
        )


def check_limits(r_max: float, d_max: float, tracked: bool) -> None:
    """At least 1 and 0, and running statistics to correct towards."""
    if not tracked:
        raise ValueError(
            "Batch Renorm corrects towards the running statistics, so it needs "
            "track_running_stats=True"
        )
    if not (r_max >= 1 and d_max >= 0):
        raise ValueError(
            f"r_max must be at least 1 and d_max at least 0, but got r_max={r_max}, "
            f"d_max={d_max}; 1 and 0 are plain batch norm"
        )
