"""One batch norm by itself: what it does with its statistics, and what it has learned."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from bnutils.doctor.copies import replica
from bnutils.norm import BatchNorm1d

if TYPE_CHECKING:
    from bnutils._modules import Norm

_KNOWN = (_BatchNorm.forward, nn.SyncBatchNorm.forward, BatchNorm1d.forward)


class Habit(NamedTuple):
    """How a batch norm keeps its statistics in training mode."""

    updates: bool  # whether they move at all
    momentum: float | None  # weight of the new batch; None: an average over all batches


def habit_of(norm: Norm) -> Habit:
    """How a norm keeps its statistics.

    For PyTorch's classes and the book's the attributes tell. Frozen classes, and norms of
    other authors, are tried on a copy: many have a ``momentum`` that weighs the *old*
    value, and many frozen ones have none.
    """
    momentum = getattr(norm, "momentum", None)
    told = Habit(bool(getattr(norm, "track_running_stats", True)), momentum)
    forward = inspect.getattr_static(type(norm), "forward", None)
    known = forward in _KNOWN and "forward" not in vars(norm)
    if known or norm.running_mean is None or is_lazy(norm.running_mean):
        return told
    measured = _measured(norm)
    if measured is None:
        return told
    if abs(measured) < 1e-6:
        return Habit(False, None)
    averages = momentum is None and hasattr(norm, "momentum")
    return Habit(True, None if averages else round(measured, 4))


def _measured(norm: Norm) -> float | None:
    """The weight of a new batch, from what one batch does to the running mean."""
    try:
        twin = replica(norm)
    except Exception:
        return None
    twin.training = True
    old = twin.running_mean.detach().clone().flatten()
    generator = torch.Generator().manual_seed(0)
    # Shapes of one channel: which of them a class of norms takes, must be tried.
    for shape in ((), (3,), (3, 3), (3, 3, 3)):
        x = torch.randn(16, len(old), *shape, generator=generator) + 2
        x = x.to(old.device, old.dtype) + old.view(1, -1, *[1] * len(shape))
        try:
            with torch.no_grad():
                twin(x)
        except Exception:
            continue
        gap = x.mean([0, *range(2, x.dim())]) - old
        moved = twin.running_mean.detach().flatten() - old
        return ((moved * gap).sum() / gap.square().sum()).item()
    return None


def seen_batches(norm: Norm) -> int | None:
    """How many batches a norm has counted; None where it does not count."""
    count = getattr(norm, "num_batches_tracked", None)
    return None if count is None or is_lazy(count) else int(count)


def gamma_and_beta(norm: Norm) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of a batch norm; None for one that it has not, or not yet."""
    both = (getattr(norm, "weight", None), getattr(norm, "bias", None))
    return tuple(
        p if isinstance(p, Tensor) and not is_lazy(p) and p.numel() else None
        for p in both
    )


def varies(parameter: Tensor | None) -> bool:
    """Whether channels differ: at first they do not, in every common scheme."""
    return parameter is not None and bool((parameter != parameter[0]).any())


def is_blank(norm: Norm) -> bool:
    """Whether weight, bias and count are as the constructor left them."""
    return not any(map(varies, gamma_and_beta(norm))) and not seen_batches(norm)
