"""What needs no data: settings, modes, stored statistics, the optimiser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, distributed, nn
from torch.nn.parameter import is_lazy

from bnutils._modules import norms_of
from bnutils.deploy.graph import LAYERS
from bnutils.doctor.codes import CouldNot, Found, NotApplicable, finding
from bnutils.doctor.habits import gamma_and_beta, is_blank, seen_batches

if TYPE_CHECKING:
    from bnutils._modules import Norm
    from bnutils.doctor.case import Case

__all__ = ["stored"]  # the table knows the checks

_DEAD = 1e-3  # |gamma| relative to the layer's root mean square
_FLAT = 1e-6  # |gamma| of a whole layer


def stored(norm: Norm) -> tuple[Tensor, Tensor]:
    """Running mean and variance; raises where there are none."""
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise NotApplicable("it keeps no running statistics")
    if is_lazy(mean):
        raise NotApplicable("it is lazy and has no size yet")
    return mean, var


# ------------------------------------------------------------------ stored statistics


@finding(
    "nonfinite-statistics",
    "error",
    what="NaN or infinity in a running statistic, or a negative variance",
    means="evaluation gives NaN for good: a moving average never forgets a NaN",
    remedy="find the batch that overflowed, then reset_running_stats() and recalibrate",
)
def nonfinite_statistics(case: Case, path: str, norm: Norm) -> Found | None:
    mean, var = stored(norm)
    bad = ~mean.isfinite() | ~var.isfinite() | (var < 0)
    if n := int(bad.sum()):
        text = f"{n} of {bad.numel()} channels: not finite, or a negative variance"
        remedy = None
        if bool(mean.isfinite().all() & var.isfinite().all()):
            if bool((mean > 0).all()):  # as every variance is
                text += "; all means are positive: are the two arrays swapped?"
                remedy = "exchange running_mean and running_var; else recalibrate"
            else:
                remedy = (
                    "a variance was averaged or reduced by hand: leave buffers out of that, "
                    "then recalibrate"
                )
        return Found(text, n, remedy=remedy)


@finding(
    "train-mode-in-eval",
    "error",
    what="a batch norm in training mode, in a model in evaluation mode",
    means="predictions depend on the rest of the batch, and predicting changes the model",
    remedy="call eval() on the whole model before evaluation",
)
def train_mode_in_eval(case: Case, path: str, norm: Norm) -> Found | None:
    if case.model.training:
        raise NotApplicable("the model is in training mode")
    if norm.training:
        n, every = sum(one.training for one in case.norms.values()), len(case.norms)
        text = f"{n} of {every} batch norms are in training mode, the model is not"
        return Found(text, n)


@finding(
    "frozen-by-requires-grad",
    "warning",
    what="training mode, but none of its parameters requires a gradient",
    means="weight and bias stay, but the running statistics go on moving",
    remedy="also call eval() on it, after every model.train()",
)
def frozen_by_requires_grad(case: Case, path: str, norm: Norm) -> Found | None:
    own = [p for p in gamma_and_beta(norm) if p is not None]
    if not own:
        raise NotApplicable("it has no parameters")
    if not case.model.training or case.frozen(path):
        raise NotApplicable("its statistics do not move")
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
def never_updated(case: Case, path: str, norm: Norm) -> Found | None:
    mean, var = stored(norm)
    if seen_batches(norm) or mean.any() or not bool((var == 1).all()):
        return None
    blank = is_blank(norm)
    start = "0 batches seen"
    end = "mean 0, variance 1 in all channels"
    stepped = case.optimizer is not None and bool(case.optimizer.state)
    if stepped and not case.habit(path).updates:
        text = f"a {type(norm).__name__} that never updates: {end}"
        remedy = "load its statistics, or use batch norm where you train from scratch"
        return Found(text, 0, remedy=remedy)
    usual = f"recalibrate: deploy.recalibrate or swa_utils.update_bn{case.tried()}"
    if case.steps:
        text = f"{start} after {case.steps} optimiser steps: {end}"
        return Found(text, 0, remedy=usual)
    lost = (
        "load the checkpoint strictly: its batch norms were fused or have other names; or "
        f"recalibrate{case.tried()}"
    )
    if not case.fresh and not (blank and case.model.training):
        loaded = "; weight and bias are new as well: loaded in part?" if blank else ""
        text = f"{start} in a trained model: {end}{loaded}"
        return Found(text, 0, remedy=lost if blank else usual)
    if case.fresh and not case.model.training and (why := _trained_weights(case.model)):
        text = f"{start}, but the weights seem to be trained ({why}): {end}"
        return Found(text, 0, severity="warning", remedy=lost)
    if case.fresh:
        raise NotApplicable("the model is fresh: no batch norm was trained")
    raise NotApplicable("it is new: its training has not begun")


_FIXED = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0)  # standard deviations by habit


def _trained_weights(model: nn.Module) -> str:
    """What tells that linear and convolution weights are no initial ones, if anything does.

    Every usual scheme draws all weights of a layer with one scale, which follows from the
    number of inputs or of outputs, or is one of a few fixed ones. Fused weights have a
    scale for each output, and follow that of the data. One odd layer of many proves
    nothing, as heads are often initialised by hand: it must be a third of them.
    """
    layers = [
        layer.weight.detach().float().flatten(1)
        for layer in model.modules()
        if isinstance(layer, LAYERS) and not is_lazy(layer.weight)
    ]
    odd = [reason for weight in layers if (reason := _odd_weights(weight))]
    return odd[0] if 3 * len(odd) >= max(len(layers), 1) else ""


def _odd_weights(weight: Tensor) -> str:
    """Why no usual scheme makes these weights (outputs, inputs), or an empty string."""
    outputs, inputs = weight.shape
    squares = weight.square().mean(1)
    rms = squares.mean().sqrt().item()
    # The relative variance of these means of squares, for normal weights.
    chance = 2 / inputs
    if outputs >= 8 and squares.var() > 10 * chance * squares.mean().square():
        return "the outputs of layers have scales of their own"
    # Kernel sizes are in `inputs`: by outputs, schemes count as many again.
    smallest = min(1 / (3 * inputs) ** 0.5, (2 / (outputs * inputs)) ** 0.5)
    usual = any(abs(rms / fixed - 1) < 0.2 for fixed in _FIXED)
    if not usual and not 0.4 * smallest < rms < 3 * (2 / inputs) ** 0.5:
        return f"root mean square {rms:.2g}, which is no scheme's"
    return ""


# ------------------------------------------------------------------ settings


def _momentum(case: Case, path: str, norm: Norm) -> float:
    habit = case.habit(path)
    if habit.momentum is None or not habit.updates:
        raise NotApplicable("it keeps no moving average")
    return habit.momentum


@finding(
    "momentum-zero",
    "error",
    what="momentum 0",
    means="the running statistics never move; evaluation uses what they started with",
    remedy="PyTorch's momentum is the weight of the new batch: 0.1, not 0",
)
def momentum_zero(case: Case, path: str, norm: Norm) -> Found | None:
    if _momentum(case, path, norm) == 0:
        return Found("momentum = 0", 0)


@finding(
    "momentum-one",
    "warning",
    what="momentum 0.9 or more",
    means="the running statistics are those of the last batch, or nearly",
    remedy="PyTorch's momentum is the weight of the new batch: 0.1, or None to average",
)
def momentum_one(case: Case, path: str, norm: Norm) -> Found | None:
    momentum = _momentum(case, path, norm)
    if 0.9 <= momentum <= 1:
        keras = "" if momentum == 1 else ": Keras's, the weight of the old value?"
        return Found(f"momentum = {momentum:g}{keras}", momentum)


@finding(
    "momentum-range",
    "error",
    what="momentum outside of [0, 1]",
    means="the running statistics are no average any more and can diverge",
    remedy="choose a momentum between 0 and 1, or None",
)
def momentum_range(case: Case, path: str, norm: Norm) -> Found | None:
    momentum = _momentum(case, path, norm)
    if not 0 <= momentum <= 1:
        return Found(f"momentum = {momentum:g}", momentum)


@finding(
    "no-running-stats",
    "warning",
    what="no running statistics",
    means="evaluation uses the statistics of each batch: predictions depend on company",
    remedy="use track_running_stats=True unless that is intended",
)
def no_running_stats(case: Case, path: str, norm: Norm) -> Found | None:
    if norm.running_mean is None or norm.running_var is None:
        return Found("0 running statistics kept", 0)


@finding(
    "tracking-off",
    "warning",
    what="running statistics there, but track_running_stats=False",
    means="training no longer updates the statistics, evaluation still uses the old ones",
    remedy="set the flag in the constructor, or set both buffers to None",
)
def tracking_off(case: Case, path: str, norm: Norm) -> Found | None:
    if norm.running_mean is None or norm.running_var is None:
        raise NotApplicable("it keeps no running statistics")
    if not getattr(norm, "track_running_stats", True):
        text = "track_running_stats = False, but 2 buffers of statistics are there"
        return Found(text, 2)


@finding(
    "sync-without-group",
    "warning",
    what="SyncBatchNorm without a process group",
    means="it normalises each process by itself, like plain batch norm",
    remedy="init_process_group() first, or use plain batch norm",
)
def sync_without_group(case: Case, path: str, norm: Norm) -> Found | None:
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
def dead_channels(case: Case, path: str, norm: Norm) -> Found | None:
    gamma, shift = gamma_and_beta(norm)
    if gamma is None:
        raise NotApplicable("it has no weight")
    size = gamma.detach().abs().float()
    typical = size.square().mean().sqrt().item()
    untouched = shift is None or not shift.any()
    if not size.any() and untouched and not case.steps:
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
def decayed_norm(case: Case, path: str, norm: Norm) -> Found | None:
    if case.optimizer is None:
        raise CouldNot("no optimizer was given")
    own = {id(p) for p in gamma_and_beta(norm)}
    for group in case.optimizer.param_groups:
        decay = float(group.get("weight_decay", 0) or 0)
        if decay and any(id(p) in own for p in group["params"]):
            return Found(f"weight_decay = {decay:g}", decay)


# ------------------------------------------------------------------ other modules


@finding(
    "unregistered-norm",
    "error",
    what="batch norms that model.modules() does not hold",
    means="eval(), to(), state_dict() and the optimiser do not reach them",
    remedy="make them once, in the constructor, and keep lists in nn.ModuleList",
    whole=True,
)
def unregistered_norm(case: Case) -> Found | None:
    """In a plain list or dict, or made anew in each forward (seen by running)."""
    held = set(case.model.modules())
    hidden = {}
    for path, module in case.model.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_") or not isinstance(value, list | tuple | dict):
                continue
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            for key, part in parts:
                if isinstance(part, nn.Module) and part not in held and norms_of(part):
                    where = f"{path}.{name}[{key!r}]".lstrip(".")
                    hidden[where] = type(part).__name__
    if hidden:
        text = f"{len(hidden)} modules with batch norm in a plain list or dict"
        return Found(text, len(hidden), path=next(iter(hidden)))
    strangers = case.as_training.strangers
    if strangers:
        n = sum(strangers.values())
        text = f"{n} calls per forward of {', '.join(strangers)} that the model does not hold"
        return Found(text, n)
