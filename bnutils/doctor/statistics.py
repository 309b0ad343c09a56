"""What batches show: statistics that do not fit, batches that are too small or sorted."""

from statistics import NormalDist

import torch
from torch import nn

from bnutils.doctor.case import short
from bnutils.doctor.codes import CouldNot, Found, NotApplicable, finding
from bnutils.doctor.observe import Seen
from bnutils.doctor.settings import seen_batches, stored

__all__ = ["limit", "memory"]

_RISK = 0.01  # of a false alarm in a whole examination, if images were all that varies
_SHIFT, _RATIO = 0.5, 2.0  # of sigma; of the variance: smaller differences are harmless
_FAR, _WIDE = 5.0, 100.0  # the same, if it is a single channel
_SHARE = 0.1  # of a layer's channels
_IMAGES = 16  # fewer say nothing about a distribution
_NOISE = 0.1  # of sigma: standard error of a running mean


def memory(norm: nn.Module) -> float:
    """Variance of a running statistic, in units of a batch's: α/(2 - α)."""
    a = norm.momentum
    if a is None:
        return 1 / max(seen_batches(norm) or 1, 1)
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
    if case.fresh:
        raise NotApplicable("the model is fresh: no batch norm was trained")
    if case.frozen(norm):
        raise NotApplicable("it is in evaluation mode while the model trains")
    if one.moments.images < _IMAGES:
        raise CouldNot(f"{one.moments.images} images, of {_IMAGES} that are needed")
    tests = 2 * sum(len(other.running_mean) for other in case.trained().values())
    bound = limit(tests, one.moments.images - 1)
    evidence = _distance(norm, one, bound)
    calm = case.norms_only.get(path)
    if evidence and calm is not None and _distance(norm, calm, bound):
        return Found(*evidence)


def _distance(norm: nn.Module, one: Seen, bound: float) -> tuple[str, float] | None:
    mean, var = (
        t.detach().double().cpu() for t in (norm.running_mean, norm.running_var)
    )
    if not (mean.isfinite() & var.isfinite()).all():
        return None
    data, sigma = one.moments, (var + norm.eps).sqrt()
    errors = data.errors(var, memory(norm))
    t_mean, t_var = (
        gap.abs() / error.clamp(min=1e-12)
        for gap, error in zip((data.mean - mean, data.var - var), errors, strict=True)
    )
    shift = torch.where(t_mean > bound, (data.mean - mean) / sigma, 0.0)
    ratio = (data.var + norm.eps) / (var + norm.eps)
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
        f"{data.var[worst]:.3g} ({_large(largest)} standard errors)" + _unfinished(norm)
    )
    return text, min(largest, 1e6)


def _large(number: float) -> str:
    return f"{number:.0f}" if number < 1000 else "over 1000"


def _unfinished(norm: nn.Module) -> str:
    count, a = seen_batches(norm), norm.momentum
    if count is None or a is None or not 0 < a < 1:
        return ""
    left = (1 - a) ** count
    return f"; the start value still counts {left:.0%}" if left > 0.01 else ""


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
    once = [other for other, one in case.as_training.items() if one.calls == 1]
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
    if not norm.training:
        raise NotApplicable("it is in evaluation mode")
    m = round(case.batches.size * one.per_image)
    noise = (memory(norm) / m) ** 0.5
    if 1 < m <= 4 or (norm.momentum not in (None, 1) and noise > _NOISE):
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
    size, last, total = case.batches.size, case.batches.last, case.batches.total
    if 1 not in (size if last is None else last, size):
        return None
    for path, norm in case.norms.items():
        one = case.as_training.get(path)
        # Not reached: only BatchNorm1d is sure to have one value per image.
        refuses = one.per_image == 1 if one else isinstance(norm, nn.BatchNorm1d)
        by_batch = norm.running_mean is None
        if refuses and (by_batch or (case.trains and norm.training)):
            which = "every batch" if size == 1 else f"the last of {total} batches"
            return Found(f"{which} has 1 value per channel", 1, path=path)
    return None


@finding(
    "forward-fails",
    "error",
    what="the model does not run on the batches",
    means="the model does not run on this batch; only what needs no data was examined",
    remedy="compare the batch's shape and dtype with what the model expects",
    whole=True,
)
def forward_fails(case):
    if case.batches is None:
        raise CouldNot("no batches were given")
    if case.used or not case.errors:
        return None
    last = case.errors[-1]
    if "more than 1 value per channel" in str(last) and case.trains:
        if batch_of_one(case):
            return None  # has a finding of its own
    shape = tuple(case.batches.inputs[0].shape)
    return Found(f"input {shape}: {short(last)}", len(case.errors))
