"""Checkers of chapter 11: the experiment of 2015."""

from __future__ import annotations

import numpy as np
import torch

from bnutils.exercises import as_array, exercise, find_remark, gap


@exercise("11.1")
def to_binary(answer):
    """1.0 where x * std + mean > 0.5, else 0.0."""
    mean, std = 0.13, 0.31
    ink = torch.tensor([[0.0, 0.05, 0.2, 0.45], [0.55, 0.7, 0.95, 1.0]])
    x = (ink - mean) / std
    result = answer(x.clone(), mean, std)
    if not isinstance(result, torch.Tensor):
        return f"return a tensor, not {type(result).__name__}"
    if result.dtype == torch.bool:
        return "these are booleans; a Linear layer needs floats"
    if not result.is_floating_point():
        return f"the dtype is {result.dtype}; a Linear layer needs floats"
    mistakes = {
        "one half is on the scale of the original pixels, not of x": x > 0.5,
        "that cuts at the mean of all pixels, not at one half": x > 0,
        "ink and paper are swapped": ink <= 0.5,
    }
    otherwise = "some pixels are on the wrong side, or the shape or the values changed"
    return find_remark(result, ink > 0.5, mistakes, otherwise)


@exercise("11.2")
def speedup(answer):
    """Steps to slow's best accuracy: slow's over fast's; 0 if fast never reaches it."""
    steps = np.array([50, 100, 250, 500, 750, 1000])
    slow = np.array([0.1, 0.3, 0.6, 0.8, 0.9, 0.88])
    fast = np.array([0.5, 0.9, 0.85, 0.93, 0.95, 0.96])
    lower = np.array([0.5, 0.6, 0.7, 0.75, 0.78, 0.79])
    value = float(answer(steps, slow, fast))
    mistakes = {
        "larger means that `fast` is faster: turn the fraction around": 100 / 750,
        "`slow` was at its best before its last look": 1000 / 100,
        "equal counts as reached, also when it is lost again later": 750 / 500,
        "not the step of `fast`'s own best: when does it match `slow`?": 750 / 1000,
        "divide the steps, not their positions in the list": 4 / 1,
    }
    otherwise = f"{value:.4g} is not the ratio of the two steps"
    remark = find_remark(value, 750 / 100, mistakes, otherwise, tolerance=1e-9)
    if remark:
        return remark
    if float(answer(steps, slow, lower)) != 0:
        return "`fast` may never reach the accuracy: return 0.0 then"
    return None


@exercise("11.3")
def bands(answer):
    """sigmoid(bias + |weight| * (-1.0364, 0, 1.0364)), shape (3, C)."""
    weight, bias = np.array([1.0, 2.5, -1.5, 0.4]), np.array([0.0, -1.0, 0.7, 2.0])
    q = np.array([[-1.0364], [0.0], [1.0364]])

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    result = as_array(answer(weight.copy(), bias.copy()))
    if result.shape != (3, 4):
        return f"the shape is {result.shape}; for 4 units it should be (3, 4)"
    z = bias + abs(weight) * q
    mistakes = {
        "that is what goes into the sigmoid, not what comes out": z,
        "check a unit with negative γ: is it in order?": sigmoid(bias + weight * q),
        "γ is the standard deviation, not the variance": sigmoid(bias + weight**2 * q),
        "one standard deviation is the 84th percentile; 85 asks for a little more": (
            sigmoid(bias + abs(weight) * np.sign(q))
        ),
        "add β before the sigmoid": sigmoid(abs(weight) * q) + bias,
        "the order is 15th, 50th, 85th": sigmoid(z)[::-1],
    }
    off = f"the largest error is {gap(result, sigmoid(z)):.3g}"
    return find_remark(result, sigmoid(z), mistakes, off, tolerance=1e-3)
