"""What needs no data: settings, modes, stored statistics, the optimiser."""

import torch
from torch import Tensor, distributed, nn
from torch.nn.parameter import is_lazy

from bnutils.doctor.codes import CouldNot, Found, NotApplicable, finding

__all__ = ["affine", "is_fresh", "steps_of", "stored"]

_DEAD = 1e-3  # |gamma| relative to the layer's root mean square
_FLAT = 1e-6  # |gamma| of a whole layer


def affine(norm: nn.Module) -> list[Tensor]:
    """Weight and bias of a batch norm, as far as it has them already."""
    both = (getattr(norm, "weight", None), getattr(norm, "bias", None))
    return [p for p in both if p is not None and not is_lazy(p)]


def stored(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Running mean and variance; raises where there are none."""
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise NotApplicable("it keeps no running statistics")
    if is_lazy(mean):
        raise NotApplicable("it is lazy and has no size yet")
    return mean, var


def seen_batches(norm: nn.Module) -> int | None:
    """How many batches a norm has counted; None where it does not count."""
    count = getattr(norm, "num_batches_tracked", None)
    return None if count is None or is_lazy(count) else int(count)


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
        shift = getattr(norm, "bias", None)
        if seen_batches(norm):
            return False
        if shift is not None and not is_lazy(shift) and bool((shift != shift[0]).any()):
            return False
    return True


# ------------------------------------------------------------------ stored statistics


@finding(
    "nonfinite-statistics",
    "error",
    what="NaN or infinity in a running statistic, or a negative variance",
    means="evaluation gives NaN for good: a moving average never forgets a NaN",
    remedy="find the batch that overflowed, then reset_running_stats() and recalibrate",
)
def nonfinite_statistics(case, path, norm):
    mean, var = stored(norm)
    bad = ~mean.isfinite() | ~var.isfinite() | (var < 0)
    if n := int(bad.sum()):
        text = f"{n} of {bad.numel()} channels: not finite, or a negative variance"
        return Found(text, n)


@finding(
    "train-mode-in-eval",
    "error",
    what="a batch norm in training mode, in a model in evaluation mode",
    means="predictions depend on the rest of the batch, and predicting changes the model",
    remedy="call eval() on the whole model before evaluation",
)
def train_mode_in_eval(case, path, norm):
    if case.model.training:
        raise NotApplicable("the model is in training mode")
    if norm.training:
        n = sum(one.training for one in case.norms.values())
        every = len(case.norms)
        text = f"{n} of {every} batch norms are in training mode, the model is not"
        return Found(text, n)


@finding(
    "frozen-by-requires-grad",
    "warning",
    what="training mode, but none of its parameters requires a gradient",
    means="weight and bias stay, but the running statistics go on moving",
    remedy="also call eval() on it, after every model.train()",
)
def frozen_by_requires_grad(case, path, norm):
    own = affine(norm)
    if not own:
        raise NotApplicable("it has no parameters")
    if not (case.model.training and norm.training):
        raise NotApplicable("it is in evaluation mode")
    if not any(p.requires_grad for p in own):
        n = sum(p.numel() for p in own)
        text = f"training mode, but none of its {n} parameters requires a gradient"
        return Found(text, n)


@finding(
    "never-updated",
    "error",
    what="mean 0, variance 1 and no batch seen, in a model that was trained",
    means="evaluation normalises with mean 0 and variance 1, which describe no data",
    remedy="recalibrate: deploy.recalibrate or torch.optim.swa_utils.update_bn",
)
def never_updated(case, path, norm):
    mean, var = stored(norm)
    if case.fresh:
        raise NotApplicable("the model is fresh: no batch norm was trained")
    if not seen_batches(norm) and not mean.any() and bool((var == 1).all()):
        after = "in a trained model"
        if steps := steps_of(case.optimizer):
            after = f"after {steps} optimiser steps"
        return Found(f"0 batches seen {after}: mean 0, variance 1 in all channels", 0)


# ------------------------------------------------------------------ settings


def _momentum(norm: nn.Module) -> float:
    if norm.momentum is None or not norm.track_running_stats:
        raise NotApplicable("it keeps no moving average")
    return norm.momentum


@finding(
    "momentum-zero",
    "error",
    what="momentum 0",
    means="the running statistics never move; evaluation uses what they started with",
    remedy="PyTorch's momentum is the weight of the new batch: 0.1, not 0",
)
def momentum_zero(case, path, norm):
    if _momentum(norm) == 0:
        return Found("momentum = 0", 0)


@finding(
    "momentum-one",
    "warning",
    what="momentum 1",
    means="the running statistics are those of the last batch alone",
    remedy="PyTorch's momentum is the weight of the new batch: 0.1, or None to average",
)
def momentum_one(case, path, norm):
    if _momentum(norm) == 1:
        return Found("momentum = 1", 1)


@finding(
    "momentum-range",
    "error",
    what="momentum outside of [0, 1]",
    means="the running statistics are no average any more and can diverge",
    remedy="choose a momentum between 0 and 1, or None",
)
def momentum_range(case, path, norm):
    momentum = _momentum(norm)
    if not 0 <= momentum <= 1:
        return Found(f"momentum = {momentum:g}", momentum)


@finding(
    "no-running-stats",
    "warning",
    what="no running statistics",
    means="evaluation uses the statistics of each batch: predictions depend on company",
    remedy="use track_running_stats=True unless that is intended",
)
def no_running_stats(case, path, norm):
    if norm.running_mean is None or norm.running_var is None:
        return Found("0 running statistics kept", 0)


@finding(
    "tracking-off",
    "warning",
    what="running statistics there, but track_running_stats=False",
    means="training no longer updates the statistics, evaluation still uses the old ones",
    remedy="set the flag in the constructor, or set both buffers to None",
)
def tracking_off(case, path, norm):
    if norm.running_mean is None or norm.running_var is None:
        raise NotApplicable("it keeps no running statistics")
    if not norm.track_running_stats:
        return Found(
            "track_running_stats = False, but 2 buffers of statistics are there", 2
        )


@finding(
    "sync-without-group",
    "warning",
    what="SyncBatchNorm without a process group",
    means="it normalises each process by itself, like plain batch norm",
    remedy="init_process_group() first, or use plain batch norm",
)
def sync_without_group(case, path, norm):
    if not isinstance(norm, nn.SyncBatchNorm):
        raise NotApplicable("it is no SyncBatchNorm")
    if not (distributed.is_available() and distributed.is_initialized()):
        return Found("0 process groups initialised", 0)


@finding(
    "dead-channels",
    "note",
    what="gamma below a thousandth of the layer's root mean square",
    means="these channels are constant: whatever they compute is lost",
    remedy="remove them, or lower the weight decay on gamma",
)
def dead_channels(case, path, norm):
    gamma = getattr(norm, "weight", None)
    if gamma is None or is_lazy(gamma) or gamma.numel() == 0:
        raise NotApplicable("it has no weight")
    size = gamma.detach().abs().float()
    typical = size.square().mean().sqrt().item()
    if case.fresh and not size.any():
        return None  # a residual branch may start at zero
    dead = int((size <= max(_DEAD * typical, _FLAT)).sum())
    if dead:
        text = (
            f"{dead} of {size.numel()} channels: |gamma| below {_DEAD:g} of the "
            f"layer's {typical:.2g}"
        )
        severity = "note" if 2 * dead < size.numel() else "warning"
        return Found(text, dead, severity=severity)


# ------------------------------------------------------------------ the optimiser


@finding(
    "decayed-norm",
    "note",
    what="weight decay on gamma or beta",
    means="weight decay pulls gamma towards 0; in the layers before, it only changes "
    "the effective learning rate",
    remedy="put batch norm's parameters in a group with weight_decay=0",
)
def decayed_norm(case, path, norm):
    if case.optimizer is None:
        raise CouldNot("no optimizer was given")
    own = {id(p) for p in affine(norm)}
    for group in case.optimizer.param_groups:
        decay = float(group.get("weight_decay", 0) or 0)
        if decay and any(id(p) in own for p in group["params"]):
            return Found(f"weight_decay = {decay:g}", decay)


@finding(
    "several-forwards",
    "warning",
    what="batches seen are a multiple (2 to 32) of the steps taken",
    means="statistics are of micro-batches and move several times per step",
    remedy="count m per micro-batch; momentum 1 - (1 - a)**(1/k) keeps the memory per step",
    unless=("shared-norm", "recomputed"),
)
def several_forwards(case, path, norm):
    """A count that began with an older checkpoint is a multiple by chance only.

    It is within k of k·steps for some k in about one count in ten at 1,000 steps, and in
    one in a hundred at 10,000; hence also: the same k in every batch norm that trains.
    """
    counts = {}
    for other, one in case.norms.items():
        count = seen_batches(one)
        steps = steps_of(case.optimizer, affine(one)) or steps_of(case.optimizer)
        if one.training and steps and count is not None:
            counts[other] = (count, steps)
    if path not in counts:
        raise CouldNot("no optimizer that counts its steps was given")
    n, steps = counts[path]
    k = round(n / steps)
    together = all(
        round(count / taken) == k and abs(count - k * taken) <= k
        for count, taken in counts.values()
    )
    if 2 <= k <= 32 and together:
        text = f"{n} batches seen in {steps} optimiser steps: {k} per step"
        return Found(text, k)
