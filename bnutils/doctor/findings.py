"""Findings that need data: what batch norms receive in training mode."""

from collections.abc import Iterator
from statistics import NormalDist

import torch
from torch import nn

from bnutils.doctor.batches import Batches
from bnutils.doctor.observe import Seen
from bnutils.doctor.report import Finding, finding

__all__ = ["batch_of_one", "differing", "shared", "stale", "tiny"]

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
        return 1 / max(int(norm.num_batches_tracked or 1), 1)
    return a / (2 - a) if 0 < a <= 1 else 0.0


def limit(tests: int, freedom: int) -> float:
    """Two-sided limit of |t| at the risk above, for that many tests (Bonferroni)."""
    z = NormalDist().inv_cdf(1 - _RISK / (2 * max(tests, 1)))
    return z + (z**3 + z) / (4 * max(freedom, 1))  # Student's t, to first order


def stale(norms: dict[str, nn.Module], seen: dict[str, Seen]) -> dict[str, Finding]:
    """Running statistics that are significantly and harmfully far from the data's.

    Both are asked: the difference in standard errors exceeds a limit that accounts for
    all channels of all layers, *and* evaluation would shift a tenth of the channels by
    half a standard deviation, or have their variance off by a factor of two (a single
    channel: 5 standard deviations, or a factor of 100). Moving averages lag behind
    weights that train, which is significant but small.
    """
    tests = 2 * sum(norm.num_features for norm in norms.values())
    found = {}
    for path, norm in norms.items():
        one = seen.get(path)
        if one is None or norm.running_mean is None or one.moments.images < _IMAGES:
            continue
        if evidence := _distance(norm, one, limit(tests, one.moments.images - 1)):
            found[path] = finding("stale-statistics", path, *evidence)
    return found


def _distance(norm: nn.Module, one: Seen, bound: float) -> tuple[str, float] | None:
    mean, var = (
        t.detach().double().cpu() for t in (norm.running_mean, norm.running_var)
    )
    data, sigma = one.moments, (var + norm.eps).sqrt()
    gaps = data.mean - mean, data.var - var
    t = [
        g.abs() / e.clamp(min=1e-12)
        for g, e in zip(gaps, data.errors(var, memory(norm)), strict=True)
    ]
    shift = torch.where(t[0] > bound, gaps[0].abs() / sigma, 0.0)
    ratio = (data.var + norm.eps) / (var + norm.eps)
    ratio = torch.where((t[1] > bound) & (data.var > 0), ratio, 1.0)
    factor = torch.maximum(ratio, 1 / ratio)
    off = (shift > _SHIFT) | (factor > _RATIO)
    extreme = (shift > _FAR) | (ratio > _WIDE)
    if not (mean.isfinite() & var.isfinite()).all():
        return None
    if off.double().mean() < _SHARE and not extreme.any():
        return None
    worst = int((shift / _SHIFT + factor.log2()).argmax())
    errors = max(t[0][worst].item(), t[1][worst].item())
    text = (
        f"{int((off | extreme).sum())} of {off.numel()} channels; channel {worst}: running mean "
        f"{mean[worst]:.3g}, data {data.mean[worst]:.3g}; variance {var[worst]:.3g}, data "
        f"{data.var[worst]:.3g} ({_large(errors)} standard errors)" + _unfinished(norm)
    )
    return text, min(errors, 1e6)


def _large(number: float) -> str:
    return f"{number:.0f}" if number < 1000 else "over 1000"


def _unfinished(norm: nn.Module) -> str:
    count, a = getattr(norm, "num_batches_tracked", None), norm.momentum
    if count is None or a is None or not 0 < a < 1:
        return ""
    left = (1 - a) ** int(count)
    return f"; the start value still counts {left:.0%}" if left > 0.01 else ""


def shared(counts: dict[str, int]) -> Iterator[Finding]:
    """Batch norms that one forward calls several times."""
    for path, calls in counts.items():
        if calls > 1:
            yield finding(
                "shared-norm", path, f"called {calls} times per forward", calls
            )


def differing(seen: dict[str, Seen]) -> Iterator[Finding]:
    """Batches that are no random samples, at the first batch norm that runs once.

    With random batches the ratio is about 1, and with b batches below the quantile of
    chi-square with b - 1 degrees of freedom, over b - 1, even if all channels moved
    together. The limit is that quantile at 1e-4, by Wilson and Hilferty's formula.
    """
    for path, one in seen.items():
        if one.calls == 1:
            k = len(one.moments.sizes) - 1
            if k >= 2:
                z = NormalDist().inv_cdf(1 - 1e-4)
                bound = (1 - 2 / (9 * k) + z * (2 / (9 * k)) ** 0.5) ** 3
                ratio = one.moments.scatter()
                if ratio > bound:
                    text = f"means of {k + 1} batches vary {ratio:.1f} times as much as if random"
                    yield finding("batches-differ", path, text, ratio)
            return


def tiny(norms, seen: dict[str, Seen], size: int) -> Iterator[Finding]:
    """Too few values per statistic for the momentum: 4, or a running mean off by σ/10."""
    for path, norm in norms.items():
        one = seen.get(path)
        if one is None or not one.shape or not norm.training:
            continue
        m = round(size * one.per_image)
        noise = (memory(norm) / m) ** 0.5
        if 1 < m <= 4 or (norm.momentum not in (None, 1) and noise > _NOISE):
            text = (
                f"{m} values per statistic; running mean uncertain by {noise:.2f} sigma"
            )
            yield finding("tiny-batch", path, text, m)


def batch_of_one(
    norms, seen: dict[str, Seen], data: Batches, training: bool
) -> Iterator:
    """A batch that leaves one value per channel, at a batch norm that will refuse it."""
    last = data.last if data.last is not None else data.size
    if 1 not in (last, data.size):
        return
    for path, norm in norms.items():
        one, by_batch = seen.get(path), norm.running_mean is None
        if one is not None and one.shape:
            refuses = one.per_image == 1
        else:
            refuses = isinstance(norm, nn.BatchNorm1d)
        if refuses and (by_batch or (training and norm.training)):
            which = (
                "every batch" if data.size == 1 else f"the last of {data.total} batches"
            )
            yield finding("batch-of-one", path, f"{which} has 1 value per channel", 1)
            return
