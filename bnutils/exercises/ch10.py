"""Checkers of chapter 10: batch size and momentum."""

from __future__ import annotations

import numpy as np

from bnutils.exercises import exercise, find_remark, gap, is_tuple_of


@exercise("10.1")
def largest(answer):
    """Largest normalised value in a batch of m: sqrt(m - 1)."""
    for m in (2, 3, 8, 100):
        value = float(answer(m))
        mistakes = {
            "that uses the unbiased variance; which one normalises?": (m - 1) / m**0.5,
            "divide by the standard deviation, not by the variance": m - 1,
            "the value that stands out moves the mean as well": m**0.5,
        }
        otherwise = f"{value:.4g} is not reached, or not the largest"
        remark = find_remark(value, (m - 1) ** 0.5, mistakes, otherwise)
        if remark:
            return f"for m = {m}: {remark}"
    return None


@exercise("10.2")
def same_memory(answer):
    """Momentum with the same memory per image: 1 - (1 - momentum) ** (new / old)."""
    for momentum, old, new in ((0.1, 128, 32), (0.1, 32, 128), (0.5, 64, 8)):
        value, keep = float(answer(momentum, old, new)), 1 - momentum
        mistakes = {
            "that is the share that is kept; α is the new batch's weight": (
                keep ** (new / old)
            ),
            "larger batches, fewer steps; should one step forget less?": (
                1 - keep ** (old / new)
            ),
            "the old value keeps the share 1 - momentum, not momentum": (
                momentum ** (new / old)
            ),
            "proportional is right for small α only; solve it exactly": (
                momentum * new / old
            ),
        }
        otherwise = f"{value:.4g} has another memory"
        remark = find_remark(value, 1 - keep ** (new / old), mistakes, otherwise)
        if remark:
            at = f"for momentum {momentum}, from {old} to {new} images a batch"
            return f"{at}: {remark}"
    return None


@exercise("10.3")
def merge(answer):
    """Mean and biased variance of K equal batches from theirs."""
    rng = np.random.default_rng(0)
    x = rng.normal(rng.normal(0, 3, (5, 1, 4)), 2, (5, 8, 4))  # (K, m, C)
    means, variances = x.mean(1), x.var(1)
    result = answer(means.copy(), variances.copy())
    if not is_tuple_of(2, result):
        return "return two arrays: mean and variance"
    mean, var = result
    off = f"the mean is off by {gap(mean, x.mean((0, 1))):.3g} (shape (C,)?)"
    remark = find_remark(mean, x.mean((0, 1)), otherwise=off)
    within, between = variances.mean(0), means.var(0)
    mistakes = {
        "the average of the variances misses what differs between batches": within,
        "the variance of the means misses what differs within a batch": between,
        "divide the variance of the means by K": within + means.var(0, ddof=1),
        "add a variance, not a standard deviation": within + means.std(0),
    }
    return remark or find_remark(var, within + between, mistakes, name="the variance")
