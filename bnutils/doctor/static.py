"""Findings that need no data: settings, modes, statistics, the optimiser."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, distributed, nn
from torch.nn.parameter import is_lazy

from bnutils.doctor.report import Finding, finding

__all__ = ["CHECKS", "is_fresh", "steps_of"]

CHECKS: list[Callable] = []
_DEAD = 1e-3  # |gamma| relative to the layer's root mean square
_FLAT = 1e-6  # |gamma| of a whole layer


def _check(function: Callable) -> Callable:
    CHECKS.append(function)
    return function


def _parameters(norm: nn.Module) -> list[Tensor]:
    both = (getattr(norm, "weight", None), getattr(norm, "bias", None))
    return [p for p in both if p is not None and not is_lazy(p)]


def steps_of(optimizer: torch.optim.Optimizer | None, parameters=None) -> int | None:
    """How many steps an optimiser's state has counted; None where it does not count."""
    if optimizer is None:
        return None
    states = optimizer.state
    wanted = states if parameters is None else [p for p in parameters if p in states]
    counts = [states[p]["step"] for p in wanted if "step" in states[p]]
    return max((int(c) for c in counts), default=None)


def is_fresh(norms: dict[str, nn.Module], optimizer) -> bool:
    """Whether nothing says that the model was trained: no batch, no step, no shift.

    A shift (beta) starts with one value for all channels in every common scheme; after
    training its values differ.
    """
    if optimizer is not None and optimizer.state:
        return False
    for norm in norms.values():
        count = getattr(norm, "num_batches_tracked", None)
        shift = getattr(norm, "bias", None)
        if count is not None and not is_lazy(count) and int(count) > 0:
            return False
        if shift is not None and not is_lazy(shift) and bool((shift != shift[0]).any()):
            return False
    return True


def _statistics(norms) -> Iterator[tuple[str, nn.Module, Tensor, Tensor]]:
    for path, norm in norms.items():
        mean, var = norm.running_mean, norm.running_var
        if mean is not None and var is not None and not is_lazy(mean):
            yield path, norm, mean, var


@_check
def _nonfinite(model, norms, optimizer) -> Iterator[Finding]:
    for path, _, mean, var in _statistics(norms):
        bad = ~mean.isfinite() | ~var.isfinite() | (var < 0)
        if n := int(bad.sum()):
            text = f"{n} of {bad.numel()} channels: not finite, or a negative variance"
            yield finding("nonfinite-statistics", path, text, n)


@_check
def _modes(model, norms, optimizer) -> Iterator[Finding]:
    left = [path for path, norm in norms.items() if norm.training]
    if not model.training:
        for path in left:
            text = f"{len(left)} of {len(norms)} batch norms are in training mode, the model is not"
            yield finding("train-mode-in-eval", path, text, len(left))
        return
    for path in left:
        own = _parameters(norms[path])
        if own and not any(p.requires_grad for p in own):
            n = sum(p.numel() for p in own)
            text = f"training mode, but none of its {n} parameters requires a gradient"
            yield finding("frozen-by-requires-grad", path, text, n)


@_check
def _never_updated(model, norms, optimizer) -> Iterator[Finding]:
    if is_fresh(norms, optimizer):
        return
    steps = steps_of(optimizer)
    for path, norm, mean, var in _statistics(norms):
        count = getattr(norm, "num_batches_tracked", None)
        if (count is None or int(count) == 0) and not mean.any() and (var == 1).all():
            after = (
                f" after {steps} optimiser steps" if steps else " in a trained model"
            )
            text = f"0 batches seen{after}: mean 0, variance 1 in all channels"
            yield finding("never-updated", path, text, 0)


@_check
def _momentum(model, norms, optimizer) -> Iterator[Finding]:
    for path, norm in norms.items():
        a = norm.momentum
        if a is None or not norm.track_running_stats:
            continue
        kinds = {0: "momentum-zero", 1: "momentum-one"}
        if a in kinds or not 0 <= a <= 1:
            code = kinds.get(a, "momentum-range")
            yield finding(code, path, f"momentum = {a:g}", a)


@_check
def _tracking(model, norms, optimizer) -> Iterator[Finding]:
    for path, norm in norms.items():
        if norm.running_mean is None or norm.running_var is None:
            yield finding("no-running-stats", path, "0 running statistics kept", 0)
        elif not norm.track_running_stats:
            text = "track_running_stats = False, but 2 buffers of statistics are there"
            yield finding("tracking-off", path, text, 2)


@_check
def _sync(model, norms, optimizer) -> Iterator[Finding]:
    if distributed.is_available() and distributed.is_initialized():
        return
    for path, norm in norms.items():
        if isinstance(norm, nn.SyncBatchNorm):
            yield finding("sync-without-group", path, "0 process groups initialised", 0)


@_check
def _dead(model, norms, optimizer) -> Iterator[Finding]:
    fresh = is_fresh(norms, optimizer)
    for path, norm in norms.items():
        gamma = getattr(norm, "weight", None)
        if gamma is None or is_lazy(gamma) or gamma.numel() == 0:
            continue
        size = gamma.detach().abs().float()
        typical = size.square().mean().sqrt().item()
        if fresh and not (size > 0).any():
            continue  # a residual branch may start at zero
        dead = int((size <= max(_DEAD * typical, _FLAT)).sum())
        if dead:
            text = (
                f"{dead} of {size.numel()} channels: |gamma| below {_DEAD:g} of the "
                f"layer's {typical:.2g}"
            )
            severity = "note" if 2 * dead < size.numel() else "warning"
            yield finding("dead-channels", path, text, dead, severity)


@_check
def _decay(model, norms, optimizer) -> Iterator[Finding]:
    for group in optimizer.param_groups if optimizer is not None else ():
        decay = float(group.get("weight_decay", 0) or 0)
        members = {id(p) for p in group["params"]}
        for path, norm in norms.items():
            if decay and any(id(p) in members for p in _parameters(norm)):
                yield finding("decayed-norm", path, f"weight_decay = {decay:g}", decay)


@_check
def _forwards_per_step(model, norms, optimizer) -> Iterator[Finding]:
    """Batches seen against steps, if one is a small multiple of the other.

    A count that began with an older checkpoint is a multiple of 2 to 32 by chance only:
    within k of k·steps for some k, which hits about one count in ten at 1,000 steps and
    one in a hundred at 10,000; hence also: the same k in every batch norm that trains.
    """
    found = {}
    for path, norm in norms.items():
        count, steps = getattr(norm, "num_batches_tracked", None), None
        if count is not None and not is_lazy(count):
            steps = steps_of(optimizer, _parameters(norm)) or steps_of(optimizer)
        if steps and norm.training:
            found[path] = (int(count), steps, round(int(count) / steps))
    multiples = {k for _, _, k in found.values()}
    if len(multiples) != 1 or not 2 <= min(multiples) <= 32:
        return
    if any(abs(n - k * steps) > k for n, steps, k in found.values()):
        return
    for path, (n, steps, k) in found.items():
        text = f"{n} batches seen in {steps} optimiser steps: {k} per step"
        yield finding("several-forwards", path, text, k)
