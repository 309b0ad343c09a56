"""Checkers of chapter 9: learning rate and initial scale."""

from __future__ import annotations

import numpy as np

from bnutils.exercises import close, exercise, find_remark


@exercise("09.1")
def matching_rate(answer):
    """The rate times the square of the factor on the weights."""
    for lr, a in ((0.1, 10.0), (0.3, 0.5)):
        rate = answer(lr, a)
        mistakes = {
            "the gradient shrinks, and the weights are larger: both count": a * lr,
            "do larger weights need larger or smaller steps?": lr / a**2,
            "at the same rate the larger weights hardly move": lr,
        }
        otherwise = f"{rate} is not the matching rate"
        if close(rate, lr / a):
            otherwise = "do larger weights need larger or smaller steps?"
        remark = find_remark(rate, a**2 * lr, mistakes, otherwise)
        if remark:
            return f"for lr = {lr} and a = {a}: {remark}"
    return None


@exercise("09.2")
def flattery(answer):
    """Leave one seed out, choose on the others, read on the one."""
    rng = np.random.default_rng(0)
    for shape in ((3, 10), (4, 5)):
        values = 0.9 + 0.01 * rng.normal(size=shape)
        best = values.mean(0).max()
        rest = [np.delete(values, i, axis=0).mean(0) for i in range(len(values))]
        right = np.mean([values[i, r.argmax()] for i, r in enumerate(rest)]) - best
        found = answer(values.copy())
        read_there = np.mean([r.max() for r in rest])
        mistakes = {
            "readings minus the best mean, not the reverse": -right,
            "subtract the best mean over all seeds": right + best,
            "choose without the seed on which you read": 0.0,
            "read on the seed that was left out": read_there - best,
            "choose by the mean over the other seeds": values.max(1).mean() - best,
        }
        otherwise = f"{found:.4f} is not the flattery of these values"
        remark = find_remark(found, right, mistakes, otherwise)
        if remark:
            return remark
    return None


@exercise("09.3")
def scale_to_he(answer):
    """The root of six."""
    scale = answer()
    mistakes = {
        "that is the ratio of the variances; the scale is that of standard deviations": (
            6.0
        ),
        "the bound of a uniform distribution is not its standard deviation": 2**0.5,
        "that turns He's into PyTorch's": 6**-0.5,
        "b / sqrt(3) is smaller than b: which way does the 3 go?": (2 / 3) ** 0.5,
    }
    otherwise = f"{scale} times the default is not He's standard deviation"
    return find_remark(scale, 6**0.5, mistakes, otherwise)
