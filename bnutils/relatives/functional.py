"""The mathematics of batch norm's relatives, as functions of tensors (chapter 14).

Each is :func:`standardize` over other axes. Names and arguments are those of
``torch.nn.functional`` where PyTorch has the function. Below them stands what several
layers do around the mathematics: precision, memory layout, and the checks of arguments
that only the relatives have.
"""

import torch
from torch import Tensor

from bnutils.norm import per_channel


def moments(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the axes ``dims``, which stay with length 1.

    Two passes, with the mean corrected as in chapter 4.

    Parameters
    ----------
    x : Tensor of any shape
    dims : tuple of int
        The axes whose values share a mean and a variance.
    """
    mean = x.mean(dims, keepdim=True)
    mean = mean + (x - mean).mean(dims, keepdim=True)
    return mean, (x - mean).square().mean(dims, keepdim=True)


def standardize(
    x: Tensor,
    dims: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
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
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y


def layer_norm(
    x: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Statistics over the last axes, those of ``normalized_shape``, as are the parameters.

    Ba, Kiros and Hinton (2016), arXiv:1607.06450.
    """
    dims = tuple(range(-len(normalized_shape), 0))
    return standardize(x, dims, weight, bias, eps)


def rms_norm(
    x: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide by the root of the mean square over the last axes; nothing is subtracted.

    ``eps`` None is the spacing of ``x``'s type at 1. Zhang and Sennrich (2019),
    arXiv:1910.07467.
    """
    dims = tuple(range(-len(normalized_shape), 0))
    if eps is None:
        eps = torch.finfo(x.dtype).eps
    y = x / torch.sqrt(x.square().mean(dims, keepdim=True) + eps)
    return y if weight is None else y * weight


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Statistics of each group of neighbouring channels of each example; ``x`` (N, C, ...).

    Weight and bias of shape (C,). Wu and He (2018), arXiv:1803.08494.
    """
    groups = x.unflatten(1, (num_groups, -1))  # (N, G, C / G, ...)
    dims = tuple(range(2, groups.dim()))
    y = standardize(groups, dims, eps=eps).flatten(1, 2)  # (N, C, ...)
    if weight is not None:
        y = y * per_channel(weight, x)
    if bias is not None:
        y = y + per_channel(bias, x)
    return y


def instance_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Statistics of each channel of each example: every channel is a group; ``x`` (N, C, L).

    Weight and bias of shape (C,). Ulyanov, Vedaldi and Lempitsky (2016),
    arXiv:1607.08022.
    """
    return group_norm(x, x.size(1), weight, bias, eps)


def weight_standardize(
    weight: Tensor, gain: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """Weights of mean 0 and mean square 1 / fan-in for each output channel, times a gain.

    What Qiao et al. (2019), arXiv:1903.10520, divide by the standard deviation alone is
    here divided by the root of the fan-in as well, as Brock, De and Smith (2021) do,
    arXiv:2101.08692: inputs of mean 0 and variance 1 then give outputs of variance 1.

    Parameters
    ----------
    weight : Tensor, shape (C_out, ...)
        Of a linear layer or a convolution; the fan-in is the number of values in each
        ``weight[i]``.
    gain : Tensor, shape (C_out,), or None for 1
    eps : float
        Added to the variance, inside the root.

    Raises
    ------
    ValueError
        The fan-in is below 2: one weight is its own mean and would leave zero.
    """
    fan_in = weight[0].numel()
    if fan_in < 2:
        raise ValueError(
            "weight standardisation needs at least 2 weights for each output channel, but "
            f"got a weight of shape {tuple(weight.shape)}: one weight is its own mean and "
            "leaves only zeros; do not standardise this layer"
        )
    dims = tuple(range(1, weight.dim()))
    scale = None if gain is None else gain.view(-1, *[1] * len(dims))
    return standardize(weight, dims, scale, eps=eps) / fan_in**0.5


def float32_if_half(x: Tensor) -> Tensor:
    """``x`` in float32 if it is float16 or bfloat16, else ``x`` itself.

    Half precision holds too few digits for a mean and for squares (chapter 4); PyTorch's
    norms compute in float32 too and round once, at the end.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def like_input(y: Tensor, x: Tensor) -> Tensor:
    """``y`` in the dtype of ``x`` and laid out in memory as PyTorch's norms would lay it.

    Images whose channels lie last in memory stay so; everything else comes out by rows.
    What follows a norm may rely on that, as ``view`` does.
    """
    layout = torch.contiguous_format
    if x.dim() == 4 and not x.is_contiguous():
        if x.is_contiguous(memory_format=torch.channels_last):
            layout = torch.channels_last
    return y.to(x.dtype).contiguous(memory_format=layout)


def check_ghost_size(ghost_size: int) -> None:
    """Raise ValueError unless the size of a ghost batch is a positive whole number."""
    whole = isinstance(ghost_size, int) and not isinstance(ghost_size, bool)
    if not whole or ghost_size < 1:
        raise ValueError(
            "ghost_size is the number of examples in a ghost batch, a positive integer "
            f"such as 32, but got {ghost_size!r}"
        )


def check_renorm_limits(r_max: float, d_max: float, tracked: bool) -> None:
    """Raise ValueError unless Batch Renorm can correct within these limits.

    ``tracked`` says whether the layer has running statistics to correct towards.
    """
    if not tracked:
        raise ValueError(
            "Batch Renorm corrects towards the running statistics, so it needs "
            "track_running_stats=True"
        )
    if not (r_max >= 1 and d_max >= 0):  # so that NaN is refused too
        raise ValueError(
            f"r_max must be at least 1 and d_max at least 0, but got r_max={r_max}, "
            f"d_max={d_max}; 1 and 0 are plain batch norm"
        )
