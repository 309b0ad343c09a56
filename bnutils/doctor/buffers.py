"""Stored statistics that do not fit the data: whether, and why."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bnutils.doctor.codes import CouldNot, Found, NotApplicable, finding
from bnutils.doctor.habits import Habit, is_blank, seen_batches
from bnutils.doctor.observe import Seen
from bnutils.doctor.settings import stored

if TYPE_CHECKING:
    from bnutils._modules import Norm
    from bnutils.doctor.case import Case

__all__ = ["doubles", "fits", "limit", "memory"]  # the table knows the checks

_RISK = 0.01  # of a false alarm in a whole examination, if images were all that varies
_SHIFT, _RATIO = 0.5, 2.0  # of sigma; of the variance: smaller differences are harmless
_FAR, _WIDE = 5.0, 100.0  # the same, if it is a single channel
_SHARE = 0.1  # of a layer's channels
_IMAGES = 16  # fewer say nothing about a distribution


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
def stale_statistics(case: Case, path: str, norm: Norm) -> Found | None:
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
    if case.linked and len(one.moments.sizes) < 3:
        raise CouldNot("three graphs are needed: the nodes of one resemble each other")
    tests = 2 * sum(len(other.running_mean) for other in case.moving().values())
    bound = limit(tests, one.moments.images - 1)
    spread = memory(case.habit(path), seen_batches(norm))
    evidence = _evidence(norm, one, bound, spread)
    calm = case.norms_only.seen.get(path)
    if not evidence or calm is None or not _evidence(norm, calm, bound, spread):
        return None
    text, value = evidence
    left = _left(norm, case.habit(path))
    if left > 0.01:
        text += f"; the start value still counts {left:.0%}"
    cause, remedy = _cause(case, path, norm, one)
    remedy = f"{cause}: {remedy}{case.tried()}"
    return Found(text, value, severity=_severity(case), remedy=remedy)


def _severity(case: Case) -> str | None:
    """Less than an error, where the answers of the model do not show the difference."""
    found = case.comparison
    if found is None or found.labels.get("evaluation", 0) > 0.01:
        return None
    if found.distance["evaluation"] <= 0.05:
        return "note"
    return "warning" if found.accuracy else None  # the same labels, by other scores


def _evidence(
    norm: Norm, one: Seen, bound: float, spread: float
) -> tuple[str, float] | None:
    """Evidence that running statistics are significantly and harmfully off, if they are."""
    mean, var = doubles(norm)
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
    errors = f"{largest:.0f}" if largest < 1000 else "over 1000"
    text = (
        f"{int((off | extreme).sum())} of {off.numel()} channels; channel {worst}: running mean "
        f"{mean[worst]:.3g}, data {data.mean[worst]:.3g}; variance {var[worst]:.3g}, data "
        f"{data.var[worst]:.3g} ({errors} standard errors)"
    )
    return text, min(largest, 1e6)


def doubles(norm: Norm) -> tuple[Tensor, Tensor]:
    """Running mean and variance in float64 on the CPU, shapes (C,)."""
    both = norm.running_mean, norm.running_var
    mean, var = (t.detach().double().cpu().flatten() for t in both)
    return mean, var


# ------------------------------------------------------------------ why they do not fit


def _cause(case: Case, path: str, norm: Norm, one: Seen) -> tuple[str, str]:
    """Why stored statistics do not fit, as far as the numbers tell, and what to do."""
    mean, var = doubles(norm)
    data_mean, data_var = one.moments.mean, one.moments.var
    if norm.running_mean.dtype in (torch.bfloat16, torch.float16):
        kind = str(norm.running_mean.dtype).removeprefix("torch.")
        return (
            f"kept in {kind}, which rounds small steps of an average away",
            "keep batch norms in float32 (norm.float()), then recalibrate",
        )
    if fits(var, mean.clamp(min=0), data_mean, data_var):
        return "swapped", "running_mean and running_var fit if they are exchanged"
    if _left(norm, case.habit(path)) > 0.1:
        return (
            "too few steps for the momentum",
            "train longer, take a larger momentum, or recalibrate",
        )
    if bool((mean >= 0).all()) and fits(mean, var, *_after_relu(data_mean, data_var)):
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
    # Old weights on these data and these weights on other data leave the same numbers.
    return (
        "other data than in training, or weights that still move fast",
        "examine with the very batches of training: if this goes, compare input and "
        "preprocessing; if it stays, recalibrate",
    )


def fits(mean: Tensor, var: Tensor, data_mean: Tensor, data_var: Tensor) -> bool:
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


def _common_scale(
    mean: Tensor, var: Tensor, data_mean: Tensor, data_var: Tensor
) -> float | None:
    """One factor between all data and all statistics, if there is one."""
    logs = ((data_var.clamp(min=1e-12) / var.clamp(min=1e-12)).log() / 2).sort().values
    if len(logs) < 2 or logs[-1] - logs[0] > 0.5 or abs(logs.mean()) < 0.35:
        return None
    scale = logs.mean().exp()
    moved = (data_mean - scale * mean).abs() / data_var.clamp(min=1e-12).sqrt()
    return scale.item() if moved.median() < 0.5 else None


def _most_are_off(case: Case) -> bool:
    """Whether more than half of several batch norms are far from their data."""
    far = []
    for path, norm in case.moving().items():
        one = case.as_training.seen.get(path)
        if one is not None and one.moments.means:
            mean, var = doubles(norm)
            far.append(not fits(mean, var, one.moments.mean, one.moments.var))
    return len(far) > 1 and sum(far) > len(far) / 2


def _left(norm: nn.Module, habit: Habit) -> float:
    """Share that the start value has in a moving average."""
    count, a = seen_batches(norm), habit.momentum
    return (1 - a) ** count if count is not None and a and 0 < a < 1 else 0.0
