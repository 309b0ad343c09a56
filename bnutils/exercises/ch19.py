"""Checkers of chapter 19: residual networks."""

from __future__ import annotations

import numpy as np

from bnutils.exercises import exercise, find_remark, is_tuple_of


@exercise("19.1")
def signal(answer):
    """The mean square after so many blocks, for three places of the norm."""
    for depth, gamma in ((3, 1.0), (6, 0.5), (5, 0.0)):
        square = gamma**2
        cases = {
            "none": (
                2.0**depth,
                {
                    "each block doubles what it gets": 1.0 + depth,
                    "that is the root of the mean square": 2 ** (depth / 2),
                },
            ),
            "branch": (
                1 + depth * square,
                {
                    "γ multiplies the values, and the mean is of squares": 1
                    + depth * gamma,
                    "the norm makes every branch equally large": (1 + square) ** depth,
                    "the signal starts at 1": depth * square,
                },
            ),
            "sum": (
                1.0,
                {
                    "the norm comes last in each block": 1 + depth * square,
                    "the norm undoes the doubling": 2.0**depth,
                },
            ),
        }
        for kind, (expected, mistakes) in cases.items():
            result = answer(kind, depth, gamma)
            remark = find_remark(result, expected, mistakes, name="the mean square")
            if remark:
                return f"{kind!r}, depth {depth}, γ = {gamma:g}: {remark}"
    return None


@exercise("19.2")
def activation_gain(answer):
    """The factor that gives an activation variance 1 for standard normal inputs."""
    z, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    cases = {
        "ReLU": (lambda x: np.maximum(x, 0), np.sqrt(2 / (1 - 1 / np.pi))),
        "the identity": (lambda x: 1.0 * x, 1.0),
        "tanh": (np.tanh, None),
        "a shifted square": (lambda x: x**2 + 3, np.sqrt(0.5)),
    }
    for name, (function, expected) in cases.items():
        y = function(z)
        mean, square = weights @ y, weights @ y**2
        var = square - mean**2
        expected = 1 / np.sqrt(var) if expected is None else expected
        mistakes = {
            "that makes the mean square 1; the variance leaves the mean out": square
            ** -0.5,
            "a factor multiplies the standard deviation, not the variance": 1 / var,
            "turn it around: the factor has to undo the standard deviation": var**0.5,
        }
        # A careful sum over random numbers, or a grid, is answer enough.
        remark = find_remark(
            answer(function), expected, mistakes, name="the factor", tolerance=5e-3
        )
        if remark:
            return f"{name}: {remark}"
    return None


@exercise("19.3")
def scaled_block_backward(answer):
    """Gradients of y = x + scale * relu(x) W^T in x, scale and W."""
    rng = np.random.default_rng(0)
    x, dy, w = rng.normal(size=(6, 4)), rng.normal(size=(6, 4)), rng.normal(size=(4, 4))
    names = ("the gradient of x", "the gradient of the scale", "the gradient of W")
    for scale in (0.7, 0.0):
        h = np.maximum(x, 0)
        through = (x > 0) * (dy @ w)
        branch = dy * (h @ w.T)
        right = (dy + scale * through, branch.sum(), scale * dy.T @ h)
        result = answer(dy.copy(), x.copy(), scale, w.copy())
        if not is_tuple_of(3, result):
            return "return three things: the gradients of x, of the scale and of W"
        mistakes = (
            {
                "the skip path is missing": scale * through,
                "the scale is missing": dy + through,
                "where is ReLU's mask?": dy + scale * (dy @ w),
                "W and its transpose are exchanged": dy + scale * (x > 0) * (dy @ w.T),
            },
            {
                "what the scale multiplies is the branch alone": scale * right[1],
                "the scale is one number: sum over everything": branch.sum(1),
                "W and its transpose are exchanged": (dy * (h @ w)).sum(),
            },
            {
                "the scale is missing": dy.T @ h,
                "it has the shape of W, outputs first": scale * h.T @ dy,
                "W sees the output of the ReLU, not x": scale * dy.T @ x,
            },
        )
        for name, value, expected, wrong in zip(
            names, result, right, mistakes, strict=True
        ):
            remark = find_remark(value, expected, wrong)
            if remark:
                return f"scale {scale:g}, {name}: {remark}"
    return None
