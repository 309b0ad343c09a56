"""What batches show: statistics that do not fit, batches that are too small or sorted."""

from statistics import NormalDist

import torch
from torch import Tensor, nn

from bnutils.doctor.case import short
from bnutils.doctor.codes import CouldNot, Found, NotApplicable, finding
from bnutils.doctor.habits import Habit, is_blank, seen_batches
from bnutils.doctor.observe import Seen
from bnutils.doctor.settings import counts_of, no_steps, stored

__all__ = ["limit", "memory"]

_RISK = 0.01  # of a false alarm in a whole examination, if images were all that varies
_SHIFT, _RATIO = 0.5, 2.0  # of sigma; of the variance: smaller differences are harmless
_FAR, _WIDE = 5.0, 100.0  # the same, if it is a single channel
_SHARE = 0.1  # of a layer's channels
_IMAGES = 16  # fewer say nothing about a distribution
_NOISE = 0.1  # of sigma: standard error of a running mean


def memory(habit: Habit, count: int | None) -> float:
    """Variance of a running statistic, in units of a batch's: α/(2 - α)."""
    a = habit.momentum
    if a is None:
        return 1 / max(count or 1, 1)
    return a / (2 - a) if 0 < a <= 1 else 0.0


def limit(tests: int, freedom: int) -> float:
    """Two-sided limit of |t| at the risk above, for that many tests (Bonferroni)."""
    z = NormalDist().inv_cdf(1 - _RISK / (2 * max(tests, 1)))
    return z + (z**3 + z) / (4 * max(freedom, 1))  # Student's t, to first order


@finding(
    "stale-statistics",
    "error",
    what="far from the data's, in standard errors and in effect",
    means="evaluation normalises with statistics that are not those of this data",
    remedy="recalibrate on training data; check input scaling, momentum and checkpoint",
    unless=("never-updated", "momentum-zero"),
)
def stale_statistics(case, path, norm):
    """Running statistics that are significantly and harmfully far from the data's.

    Both are asked: the difference in standard errors exceeds a limit that accounts for
    all channels of all layers, *and* evaluation would shift a tenth of the channels by
    half a standard deviation, or have their variance off by a factor of two (a single
    channel: 5 standard deviations, or a factor of 100). Moving averages lag behind
    weights that train, which is significant but small. What is only so with dropout, or
    only without, is dropout's doing.
    """
    one = case.received(path)
    stored(norm)
    if case.fresh or (case.model.training and is_blank(norm)):
        raise NotApplicable("it is new: its training has not begun")
    if case.frozen(path):
        raise NotApplicable("its statistics stay while the model trains")
    if one.moments.images < _IMAGES:
        raise CouldNot(f"{one.moments.images} images, of {_IMAGES} that are needed")
    tests = 2 * sum(len(other.running_mean) for other in case.trained().values())
    bound = limit(tests, one.moments.images - 1)
    spread = memory(case.habit(path), seen_batches(norm))
    evidence = _distance(norm, one, bound, spread)
    calm = case.norms_only.seen.get(path)
    if not evidence or calm is None or not _distance(norm, calm, bound, spread):
        return None
    text, value = evidence
    text += _unfinished(norm, case.habit(path))
    cause, remedy = _cause(case, path, norm, one)
    remedy = f"{cause}: {remedy}{case.tried()}"
    return Found(text, value, severity=_weight(case), remedy=remedy)


def _weight(case) -> str | None:
    """A note, where no output of the model shows the difference."""
    found = case.comparison
    if found is None or found.distance["evaluation"] > 0.05:
        return None
    return None if found.labels.get("evaluation", 0) > 0.01 else "note"


def _distance(
    norm: nn.Module, one: Seen, bound: float, spread: float
) -> tuple[str, float] | None:
    """Evidence that running statistics are significantly and harmfully off, if they are."""
    mean, var = _doubles(norm)
    if not (mean.isfinite() & var.isfinite()).all():
        return None
    eps = getattr(norm, "eps", 1e-5)
    data, sigma = one.moments, (var + eps).clamp(min=1e-12).sqrt()
    errors = data.errors(var, spread)
    t_mean, t_var = (
        gap.abs() / error.clamp(min=1e-12)
        for gap, error in zip((data.mean - mean, data.var - var), errors, strict=True)
    )
    shift = torch.where(t_mean > bound, (data.mean - mean) / sigma, 0.0)
    ratio = (data.var + eps) / (var + eps)
    ratio = torch.where((t_var > bound) & (data.var > 0), ratio, 1.0)
    factor = torch.maximum(ratio, 1 / ratio)
    off = (shift.abs() > _SHIFT) | (factor > _RATIO)
    extreme = (shift.abs() > _FAR) | (ratio > _WIDE)
    if off.double().mean() < _SHARE and not extreme.any():
        return None
    worst = int((shift.abs() / _SHIFT + factor.log2()).argmax())
    largest = max(t_mean[worst].item(), t_var[worst].item())
    text = (
        f"{int((off | extreme).sum())} of {off.numel()} channels; channel {worst}: running mean "
        f"{mean[worst]:.3g}, data {data.mean[worst]:.3g}; variance {var[worst]:.3g}, data "
        f"{data.var[worst]:.3g} ({_large(largest)} standard errors)"
    )
    return text, min(largest, 1e6)


def _doubles(norm: nn.Module) -> tuple[Tensor, Tensor]:
    both = norm.running_mean, norm.running_var
    mean, var = (t.detach().double().cpu().flatten() for t in both)
    return mean, var


# ------------------------------------------------------------------ why they do not fit


def _cause(case, path: str, norm: nn.Module, one: Seen) -> tuple[str, str]:
    """Why stored statistics do not fit, as far as the numbers tell, and what to do."""
    mean, var = _doubles(norm)
    data_mean, data_var = one.moments.mean, one.moments.var
    if norm.running_mean.dtype in (torch.bfloat16, torch.float16):
        kind = str(norm.running_mean.dtype).removeprefix("torch.")
        return (
            f"kept in {kind}, which rounds small steps of an average away",
            "keep batch norms in float32 (norm.float()), then recalibrate",
        )
    if _fits(var, mean.clamp(min=0), data_mean, data_var):
        return "swapped", "running_mean and running_var fit if they are exchanged"
    if _left(norm, case.habit(path)) > 0.1:
        return (
            "too few steps for the momentum",
            "train longer, take a larger momentum, or recalibrate",
        )
    if bool((mean >= 0).all()) and _fits(mean, var, *_after_relu(data_mean, data_var)):
        return (
            "they fit this input after a ReLU",
            "put the activation back that is missing before it",
        )
    if scale := _common_scale(mean, var, data_mean, data_var):
        return (
            f"the data have {scale:.3g} times the scale of the stored statistics",
            "scale the input as in training; recalibrate only if the new scale is meant",
        )
    if _most_are_off(case):
        return (
            "most batch norms are off: weights of another origin (averaged, loaded, pruned), "
            "or weights that still move fast",
            "such weights need statistics of their own: recalibrate",
        )
    return (
        "other data than in training, or weights that still move fast",
        "compare input and preprocessing with those of training, then recalibrate",
    )


def _fits(mean: Tensor, var: Tensor, data_mean: Tensor, data_var: Tensor) -> bool:
    """Whether statistics describe data: to a fifth of sigma, and a factor of 1.5."""
    sigma = data_var.clamp(min=1e-12).sqrt()
    shift = ((mean - data_mean) / sigma).abs().median()
    ratio = (var.clamp(min=1e-12) / data_var.clamp(min=1e-12)).log().abs().median()
    return bool(shift < 0.2 and ratio < 0.4)


def _after_relu(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of max(0, x) for normal x."""
    sigma = var.clamp(min=1e-12).sqrt()
    normal = torch.distributions.Normal(0.0, 1.0)
    z = mean / sigma
    below = normal.cdf(z)
    density = normal.log_prob(z).exp()
    first = mean * below + sigma * density
    second = (mean**2 + var) * below + mean * sigma * density
    return first, (second - first**2).clamp(min=0)


def _common_scale(mean, var, data_mean, data_var) -> float | None:
    """One factor between all data and all statistics, if there is one."""
    logs = ((data_var.clamp(min=1e-12) / var.clamp(min=1e-12)).log() / 2).sort().values
    if len(logs) < 2 or logs[-1] - logs[0] > 0.5 or abs(logs.mean()) < 0.35:
        return None
    scale = logs.mean().exp()
    moved = (data_mean - scale * mean).abs() / data_var.clamp(min=1e-12).sqrt()
    return scale.item() if moved.median() < 0.5 else None


def _most_are_off(case) -> bool:
    """Whether more than half of several batch norms are far from their data."""
    far = []
    for path, norm in case.trained().items():
        one = case.as_training.seen.get(path)
        if one is not None and one.moments.means:
            mean, var = _doubles(norm)
            far.append(not _fits(mean, var, one.moments.mean, one.moments.var))
    return len(far) > 1 and sum(far) > len(far) / 2


def _large(number: float) -> str:
    return f"{number:.0f}" if number < 1000 else "over 1000"


def _left(norm: nn.Module, habit: Habit) -> float:
    """Share that the start value has in a moving average."""
    count, a = seen_batches(norm), habit.momentum
    return (1 - a) ** count if count is not None and a and 0 < a < 1 else 0.0


def _unfinished(norm: nn.Module, habit: Habit) -> str:
    left = _left(norm, habit)
    return f"; the start value still counts {left:.0%}" if left > 0.01 else ""


@finding(
    "fewer-forwards",
    "warning",
    what="fewer batches seen than nine tenths of the steps taken",
    means="it was in evaluation mode while its weights trained: what they learned fits the "
    "stored statistics, not those of batches",
    remedy="call train() again after each validation; keep eval() if that was intended",
)
def fewer_forwards(case, path, norm):
    """Recalibrating counts anew as well, but then the statistics fit the data."""
    counts = counts_of(case)
    if path not in counts:
        raise CouldNot(no_steps(case))
    n, steps = counts[path]
    if not (steps >= 20 and 0 < n < 0.9 * steps and case.habit(path).updates):
        return None
    text = f"{n} batches seen in {steps} optimiser steps"
    one = case.norms_only.seen.get(path)
    if one is None:
        return Found(f"{text}, if it was not recalibrated", n, severity="note")
    mean, var = _doubles(norm)
    if not _fits(mean, var, one.moments.mean, one.moments.var):
        return Found(text, n)


@finding(
    "batches-differ",
    "warning",
    what="means of batches scatter more than those of random batches",
    means="batches are no random samples (sorted?): what tells them apart is normalised away",
    remedy="shuffle the training data",
)
def batches_differ(case, path, norm):
    """Batches that are no random samples, at the first batch norm that runs once.

    With random batches the ratio is about 1, and with b batches below the quantile of
    chi-square with b - 1 degrees of freedom, over b - 1, even if all channels moved
    together. The limit is that quantile at 1e-4, by Wilson and Hilferty's formula.
    """
    moments = case.received(path).moments
    once = [other for other, one in case.as_training.seen.items() if one.calls == 1]
    if path not in once[:1]:
        raise NotApplicable("it is not the first that runs once")
    freedom = len(moments.sizes) - 1
    if freedom < 2:
        raise CouldNot("three batches are needed")
    z = NormalDist().inv_cdf(1 - 1e-4)
    bound = (1 - 2 / (9 * freedom) + z * (2 / (9 * freedom)) ** 0.5) ** 3
    ratio = moments.scatter()
    if ratio > bound:
        many = len(moments.sizes)
        text = f"means of {many} batches vary {ratio:.1f} times as much as if random"
        return Found(text, ratio)


@finding(
    "tiny-batch",
    "warning",
    what="at most 4 values per statistic, or a running mean uncertain by 0.1 sigma",
    means="the statistics are mostly noise, in training and in what is stored",
    remedy="larger batches, a smaller momentum, or GroupNorm/LayerNorm",
)
def tiny_batch(case, path, norm):
    one = case.received(path)
    if not norm.training or not case.habit(path).updates:
        raise NotApplicable("its statistics do not move")
    if not case.batches.size:
        raise CouldNot("the size of a batch is not known")
    m = round(case.batches.size * one.per_image)
    noise = (memory(case.habit(path), seen_batches(norm)) / m) ** 0.5
    averages = case.habit(path).momentum not in (None, 1)
    if 1 < m <= 4 or (averages and noise > _NOISE):
        text = f"{m} values per statistic; running mean uncertain by {noise:.2f} sigma"
        return Found(text, m)


@finding(
    "batch-of-one",
    "error",
    what="a batch that leaves one value per channel in training",
    means="training stops with 'Expected more than 1 value per channel'",
    remedy="drop_last=True, or a batch size that leaves another remainder",
    whole=True,
)
def batch_of_one(case):
    """At the first batch norm that will refuse it; sizes tell, nothing has to be run."""
    if case.batches is None:
        raise CouldNot("no batches were given")
    sizes, usual = case.batches.sizes, case.batches.size
    norms = case.norms if 1 in sizes else {}
    for path, norm in norms.items():
        one = case.as_training.seen.get(path)
        # Not reached: only BatchNorm1d is sure to have one value per image.
        refuses = one.per_image == 1 if one else isinstance(norm, nn.BatchNorm1d)
        by_batch = norm.running_mean is None
        if refuses and (by_batch or (case.trains and norm.training)):
            return Found(f"{_which(case)} has 1 value per channel", 1, path=path)
    if case.one_value and case.trains:  # known from the error alone
        return Found(f"a batch of {usual} has 1 value per channel", 1)
    return None


def _which(case) -> str:
    sizes, total = case.batches.sizes, case.batches.total
    if case.batches.size == 1:
        return "every batch"
    at = sizes.index(1) + 1
    return f"the last of {total} batches" if at == total else f"batch {at}"


@finding(
    "nonfinite-batch",
    "error",
    what="NaN or infinity in a batch of the loader",
    means="in training mode it makes the running statistics NaN, for good",
    remedy="find the example: torch.isfinite on what the data set gives",
    whole=True,
)
def nonfinite_batch(case):
    if case.batches is None:
        raise CouldNot("no batches were given")
    bad = case.batches.nonfinite
    if bad:
        looked = len(bad) + len(case.batches.items)
        text = f"{len(bad)} of {looked} batches hold NaN or infinity, first batch {bad[0] + 1}"
        return Found(text, len(bad))


@finding(
    "forward-fails",
    "error",
    what="the model does not run on the batches",
    means="only what needs no data was examined",
    remedy="compare the batch's shape and dtype with what the model expects",
    whole=True,
    unless=("batch-of-one",),
)
def forward_fails(case):
    if case.not_run:
        raise CouldNot(case.not_run)
    error = case.failure
    if error is None:
        return None
    words, remedy = str(error), None
    if (isinstance(error, TypeError) and "argument" in words) or "give call=" in words:
        remedy = (
            "tell how it is called: examine(..., call=lambda model, batch: model(...))"
        )
    elif "dtype" in words or "scalar type" in words or "same type" in words:
        remedy = "give batch and model, all its parts, the same dtype"
    elif isinstance(error, AttributeError | KeyError | NameError):
        remedy = "the error is in the model's own code: run model(batch) by itself"
    elif "device" in words:
        remedy = "put all of the model on one device; the batches are moved to it"
    return Found(f"input {case.explain_call()}: {short(error)}", 1, remedy=remedy)


# ------------------------------------------------------------------ from end to end

_EXPLAINING = (  # findings that say themselves why evaluation differs
    "nonfinite-statistics",
    "never-updated",
    "stale-statistics",
    "momentum-zero",
    "shared-norm",
    "batches-differ",
)


@finding(
    "evaluation-differs",
    "warning",
    what="evaluation answers otherwise than training mode, beyond noise",
    means="the model was trained to give the answers of training mode",
    remedy="recalibrate on training data: deploy.recalibrate",
    whole=True,
    unless=_EXPLAINING,
)
def evaluation_differs(case):
    """Labels, or outputs if there are none; noise of other batches is subtracted.

    A twentieth of the labels, and three standard deviations of such a count, or accuracy
    that falls by a fiftieth; without labels a quarter of the outputs' spread, and twice
    the noise. Twice that is an error.
    """
    found = case.comparison
    if found is None:
        raise CouldNot(case.not_run or "the outputs of the modes were not compared")
    if case.fresh:
        raise NotApplicable("the model is fresh: no batch norm was trained")
    size = _size_of_gap(found)
    if size < 1:
        return None
    severity = "error" if size >= 2 else "warning"
    excess, left = found.excess()
    remedy = None
    if left < excess / 2:
        remedy = f"recalibrate on training data: deploy.recalibrate{found.tried()}"
    else:
        remedy = (
            "recalibrating on a copy did not help: examples need the company of their "
            "batch, or one norm serves several distributions; larger batches, a norm for "
            "each, or no batch norm"
        )
    text = found.sentence()
    if found.carriers and left < excess / 2:
        text += "; most by " + ", ".join(path for path, _ in found.carriers[:3])
    return Found(text, found.distance["evaluation"], severity=severity, remedy=remedy)


def _size_of_gap(found) -> float:
    """How large a difference is, in units of the smallest that is a finding."""
    excess, _ = found.excess()
    if not found.labels:
        noise = found.distance.get("other batches", 0.0)
        return excess / 0.25 if found.distance["evaluation"] > 2 * noise else 0.0
    changed, noise = found.labels["evaluation"], found.labels.get("other batches", 0.0)
    chance = ((changed + noise) / max(found.images, 1)) ** 0.5
    if excess <= 3 * chance:
        return 0.0
    if not found.accuracy:
        return excess / 0.05
    fall = max(found.accuracy["training"], found.accuracy["recalibrated"])
    return (fall - found.accuracy["evaluation"]) / 0.02


@finding(
    "batch-dependent",
    "warning",
    what="in evaluation mode an example's output depends on the others in its batch",
    means="predictions change with the company of an example",
    remedy="use the running statistics in evaluation: training=self.training; nothing, if "
    "examples are meant to be compared with each other",
    whole=True,
    unless=("no-running-stats",),
)
def batch_dependent(case):
    if case.comparison is None:
        raise CouldNot(case.not_run or "the outputs of the modes were not compared")
    company = case.comparison.company
    if company is None:
        raise CouldNot("no two batches of a size, or random numbers in evaluation")
    if company > 1e-3:
        text = (
            f"outputs move by {company:.1%} of their spread when two batches are mixed"
        )
        return Found(text, company)
