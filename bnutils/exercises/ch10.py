"""Checkers of chapter 10: batch size and momentum."""

from __future__ import annotations

import math

import numpy as np

from bnutils.exercises import close, exercise, gap


@exercise("10.1")
def largest(answer):
    """Largest normalised value in a batch of m: sqrt(m - 1)."""
    for m in (2, 3, 8, 100):
        value = float(answer(m))
        at = f"for m = {m}"
        if math.isclose(value, math.sqrt(m - 1), rel_tol=1e-6):
            continue
        if math.isclose(value, (m - 1) / math.sqrt(m), rel_tol=1e-6):
            return f"{at}: that uses the unbiased variance; which one normalises?"
        if math.isclose(value, m - 1, rel_tol=1e-6):
            return f"{at}: divide by the standard deviation, not by the variance"
        if math.isclose(value, math.sqrt(m), rel_tol=1e-6):
            return f"{at}: the value that stands out moves the mean as well"
        return f"{at}: {value:.4g} is not reached, or not the largest"
    return None


@exercise("10.2")
def same_memory(answer):
    """Momentum with the same memory per image: 1 - (1 - momentum) ** (new / old)."""
    for momentum, old, new in ((0.1, 128, 32), (0.1, 32, 128), (0.5, 64, 8)):
        value = float(answer(momentum, old, new))
        keep = 1 - momentum
        at = f"for momentum {momentum}, from {old} to {new} images a batch"
        if math.isclose(value, 1 - keep ** (new / old), rel_tol=1e-6):
            continue
        if math.isclose(value, keep ** (new / old), rel_tol=1e-6):
            return f"{at}: that is the share that is kept; α is the new batch's weight"
        if math.isclose(value, 1 - keep ** (old / new), rel_tol=1e-6):
            return f"{at}: larger batches, fewer steps; should one step forget less?"
        if math.isclose(value, momentum ** (new / old), rel_tol=1e-6):
            return f"{at}: the old value keeps the share 1 - momentum, not momentum"
        if math.isclose(value, momentum * new / old, rel_tol=1e-6):
            return f"{at}: proportional is right for small α only; solve it exactly"
        return f"{at}: {value:.4g} has another memory"
    return None


@exercise("10.3")
def merge(answer):
    """Mean and biased variance of K equal batches from theirs."""
    rng = np.random.default_rng(0)
    x = rng.normal(rng.normal(0, 3, (5, 1, 4)), 2, (5, 8, 4))  # (K, m, C)
    means, variances = x.mean(1), x.var(1)
    result = answer(means.copy(), variances.copy())
    if not isinstance(result, tuple | list) or len(result) != 2:
        return "return two arrays: mean and variance"
    mean, var = result
    if not close(mean, x.mean((0, 1))):
        return f"the mean is off by {gap(mean, x.mean((0, 1))):.3g} (shape (C,)?)"
    within, between = variances.mean(0), means.var(0)
    for value, remark in (
        (within, "the average of the variances misses what differs between batches"),
        (between, "the variance of the means misses what differs within a batch"),
        (within + means.var(0, ddof=1), "divide the variance of the means by K"),
        (within + means.std(0), "add a variance, not a standard deviation"),
    ):
        if close(var, value):
            return remark
    if not close(var, within + between):
        return f"the variance is off by {gap(var, within + between):.3g}"
    return None
