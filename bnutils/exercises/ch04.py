"""Checkers of chapter 4: the layer, its memory and what it refuses."""

from __future__ import annotations

import math

import torch
from torch import nn

from bnutils.exercises import class_of, close, exercise, find_remark, gap


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


@exercise("04.1")
def running_after(answer):
    """Running mean after k updates by the same batch."""
    for k, momentum, start, mean in ((1, 0.1, 0.0, 5.0), (4, 0.25, 2.0, -3.0)):
        got = answer(k, momentum, start, mean)

        def blend(kept, start=start, mean=mean):
            return start * kept + mean * (1 - kept)

        right = blend((1 - momentum) ** k)
        mistakes = {
            "momentum is the weight of the new batch, not of the old mean": (
                blend(momentum**k)
            ),
            "the layer did not start at 0": right - start * (1 - momentum) ** k,
        }
        for other in (k - 1, k + 1):
            late = f"that is the value after {other} batches"
            mistakes[late] = blend((1 - momentum) ** other)
        remark = find_remark(got, right, mistakes)
        if remark:
            case = f"k={k}, momentum={momentum}, start={start}, batch_mean={mean}"
            return f"for {case}: {remark}"
    return None


@exercise("04.2")
def update(answer):
    """One update of both running statistics, (N, C) and (N, C, L)."""
    g = _generator()
    for shape in ((6, 3), (6, 3, 3)):
        remark = _one_update(answer, 2 + torch.randn(shape, generator=g), g)
        if remark:
            return f"for x of shape {shape}: {remark}"
    x = nn.Linear(3, 3)(torch.randn(6, 3, generator=g))
    mean, var = answer(torch.zeros(3), torch.ones(3), x, 0.1)
    if mean.requires_grad or var.requires_grad:
        return "the numbers are right, but they still belong to the graph of x"
    return None


def _one_update(answer, x, g):
    bn = nn.BatchNorm1d(3, momentum=0.2)
    bn.running_mean.normal_(generator=g)
    bn.running_var.uniform_(0.5, 2, generator=g)
    old_mean, old_var = bn.running_mean.clone(), bn.running_var.clone()
    bn(x)
    mean, var = answer(old_mean.clone(), old_var.clone(), x.clone(), 0.2)
    if mean.shape != (3,) or var.shape != (3,):
        return f"one value per channel is 3 values, not shape {(*mean.shape,)}"
    dims = [d for d in range(x.dim()) if d != 1]
    off = f"the running mean is off by {gap(mean, bn.running_mean):.2g}; which axes?"
    reversed_mean = 0.2 * old_mean + 0.8 * x.mean(dims)
    mistakes = {"momentum weighs the new batch, not the old value": reversed_mean}
    remark = find_remark(mean, bn.running_mean, mistakes, off)
    biased, n = x.var(dims, correction=0), len(x)
    mistakes = {
        "that variance normalises; the one to store estimates other data": (
            0.8 * old_var + 0.2 * biased
        ),
        "Bessel's m counts all values of a channel, not the examples": (
            0.8 * old_var + 0.2 * biased * n / (n - 1)
        ),
    }
    return remark or find_remark(
        var, bn.running_var, mistakes, name="the running variance"
    )


@exercise("04.3")
def averaged(answer):
    """What momentum=None holds after batches of different sizes."""
    g, batches = _generator(), []
    for i, n in enumerate((4, 9, 30), start=1):
        batches.append(i + i * torch.randn(n, 2, generator=g))
    bn, fixed = nn.BatchNorm1d(2, momentum=None), nn.BatchNorm1d(2)
    for x in batches:
        bn(x)
        fixed(x)
    mean, var = answer([x.clone() for x in batches])
    joined = torch.cat(batches)
    mistakes = {
        "larger batches weigh more in yours; in the layer each counts the same": (
            joined.mean(0)
        ),
        "that is a fixed momentum of 0.1": fixed.running_mean,
        "the start value still has a weight: what is 1 / n at the first batch?": (
            bn.running_mean * 3 / 4
        ),
    }
    remark = find_remark(mean, bn.running_mean, mistakes, name="the running mean")
    if remark:
        return remark
    if any(close(var, joined.var(0, correction=c)) for c in (0, 1)):
        return "the mean is right; the layer never sees the batches joined"
    biased = torch.stack([x.var(0, correction=0) for x in batches]).mean(0)
    mistakes = {"the variance to store is the unbiased one": biased}
    remark = find_remark(var, bn.running_var, mistakes, name="the variance")
    return f"the mean is right; {remark}" if remark else None


@exercise("04.4")
def batch_norm_2d(answer):
    """A BatchNorm2d out of the chapter's BatchNorm1d."""
    kind = class_of(answer)
    if kind is None:
        return "hand over the class itself, not a layer made from it"
    if "BatchNorm1d" not in [base.__name__ for base in kind.__mro__[1:]]:
        return "let it inherit from this chapter's BatchNorm1d"
    if not hasattr(kind, "_check_kind"):  # the class as it is in the middle
        return (
            "this BatchNorm1d does not check its input yet: "
            "run the cells under 'What should it refuse?' first"
        )
    g, layer, expected = _generator(), kind(3), nn.BatchNorm2d(3)
    for mode in (True, False):
        x = 2 + torch.randn(4, 3, 5, 2, generator=g)
        y, y_expected = layer.train(mode)(x), expected.train(mode)(x)
        at = "in training" if mode else "in evaluation"
        if y.shape != x.shape:
            return f"{at} an input of shape {(*x.shape,)} became {(*y.shape,)}"
        if not close(y, y_expected, 1e-4):
            off = gap(y, y_expected)
            return f"{at} the output is off by {off:.2g}: statistics over N, H and W?"
        if not close(layer.running_var, expected.running_var, 1e-4):
            return "the running variance differs: how many values has a channel?"
    if not all(_refuses(kind(3), s, ValueError) for s in ((4, 3), (4, 3, 5))):
        return "it takes four-dimensional input; anything else should be a ValueError"
    if not _refuses(kind(3), (4, 1, 5, 5), RuntimeError):
        return "a check is gone: one channel for a layer of three"
    if not _refuses(kind(3), (1, 3, 1, 1), ValueError):
        return "a check is gone: one value per channel in training"
    if not _refuses(kind(3), (4, 3, 2, 2), RuntimeError, torch.float64):
        return "a check is gone: float64 input for a layer of float32"
    if not _refuses(kind(3, eps=0.0), (4, 3, 2, 2), ValueError):
        return "a check is gone: eps = 0 in training"
    if sum(map(callable, vars(kind).values())) != 1:
        return "it works, and changes more than one method"
    return None


def _refuses(
    layer: nn.Module,
    shape: tuple[int, ...],
    error: type,
    dtype: torch.dtype = torch.float32,
) -> bool:
    try:
        layer(torch.ones(shape, dtype=dtype))
    except Exception as raised:  # its type is what counts
        return type(raised) is error
    return False


@exercise("04.5")
def masked_stats(answer):
    """Statistics over the real positions of padded sequences."""
    x = 3 + 2 * torch.randn(4, 2, 6, generator=_generator())
    mask = torch.arange(6) < torch.tensor([6, 2, 3, 1])[:, None]  # (N, L)
    real = x.transpose(1, 2)[mask]  # (m, C)
    by_sequence = torch.stack([s[:, r].mean(1) for s, r in zip(x, mask, strict=True)])
    m, (var_right, mean_right) = len(real), torch.var_mean(real, 0, correction=0)
    for padding in (1000.0, 0.0, math.nan):
        padded = torch.where(mask[:, None], x, padding)
        mean, var = map(torch.as_tensor, answer(padded.clone(), mask.clone()))
        if mean.shape != (2,) or var.shape != (2,):
            return f"two channels are two values, not shape {(*mean.shape,)}"
        if math.isnan(padding) and (mean.isnan().any() or var.isnan().any()):
            return (
                "with NaN in the padding the result is NaN. "
                "0 · NaN is NaN: choose with torch.where, do not multiply"
            )
        positions = mask.numel()
        mistakes = {
            f"that is the mean over all {positions} positions; {m} are real": (
                padded.mean((0, 2))
            ),
            f"the sum is right; divide by the {m} positions that are real": (
                real.sum(0) / positions
            ),
            "every real position counts the same; in yours every sequence does": (
                by_sequence.mean(0)
            ),
        }
        remark = find_remark(
            mean, mean_right, mistakes, name="the mean", tolerance=1e-4
        )
        if remark:
            return remark
        mistakes = {
            "the variance is the unbiased one": var_right * m / (m - 1),
            "the variance divides by all positions": var_right * m / positions,
        }
        off = "which deviations are in your variance?"
        remark = find_remark(var, var_right, mistakes, off, tolerance=1e-4)
        if remark:
            return f"the mean is right; {remark}"
    return None
