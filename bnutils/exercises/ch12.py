"""Checkers of chapter 12: why batch norm works."""

from __future__ import annotations

import numpy as np

from bnutils.exercises import exercise, find_remark, is_tuple_of


@exercise("12.1")
def covariate_shift(answer):
    """Norm of the difference and cosine of two gradients of any shape."""
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    result = answer(before.copy(), after.copy())
    if not is_tuple_of(2, result):
        return "return two numbers: the norm and the cosine"
    if any(np.ndim(part) > 0 for part in result):
        return "a matrix counts as one long vector: each result is one number"
    norm, cosine = (float(part) for part in result)
    change = after - before
    size = [np.sqrt((g**2).sum()) for g in (before, after)]
    right = np.sqrt((change**2).sum())
    mistakes = {
        "that is the squared norm": (change**2).sum(),
        "for a matrix, NumPy's norm with 2 is another one": np.linalg.norm(change, 2),
        "the norm sums, it does not average": np.sqrt((change**2).mean()),
        "that is relative to G; the definition is not": right / size[0],
        "the norm of the difference, not of the norms": abs(size[1] - size[0]),
    }
    return find_remark(norm, right, mistakes, name="the norm") or _cosine_remark(
        cosine, before, after
    )


def _cosine_remark(cosine: float, before: np.ndarray, after: np.ndarray) -> str | None:
    """What is off with the cosine."""
    size = [np.sqrt((g**2).sum()) for g in (before, after)]
    inner = (before * after).sum()
    right = inner / (size[0] * size[1])
    mistakes = {
        "cosine: divide the inner product by both norms": inner,
        "cosine: divide by both norms, not by one of them twice": inner / size[0] ** 2,
        "cosine: that is 1 minus the cosine": 1 - right,
    }
    return find_remark(cosine, right, mistakes, name="the cosine")


@exercise("12.2")
def norm_in_balance(answer):
    """(lr G**2 / (2 decay)) ** (1/4), where the gradient at size 1 has norm G."""
    for lr, decay, unit in ((0.1, 5e-4, 2.0), (0.5, 1e-4, 0.3), (0.01, 1e-3, 10.0)):
        value = float(answer(lr, decay, unit))
        right = (lr * unit**2 / (2 * decay)) ** 0.25
        mistakes = {
            "one more root: the gradient shrinks as W grows": right**2,
            "the roots are still to be taken": right**4,
            "(1 - ηλ) is squared: where is the 2?": right * 2**0.25,
            "more decay, larger weights?": 1 / right,
            "a larger rate makes larger steps": (unit**2 / (2 * decay)) ** 0.25,
            "the gradient enters squared": (lr * unit / (2 * decay)) ** 0.25,
        }
        otherwise = f"at size {value:.4g} growth and decay do not cancel"
        remark = find_remark(value, right, mistakes, otherwise, tolerance=1e-3)
        if remark:
            return f"for η = {lr}, λ = {decay}, gradient {unit} at size 1: {remark}"
    return None


@exercise("12.3")
def matched(answer):
    """SGD: (a**2 lr, decay / a**2); AdamW: (a lr, decay / a)."""
    for kind, power in (("sgd", 2), ("adamw", 1)):
        for a, lr, decay in ((10.0, 0.1, 0.01), (0.5, 0.003, 0.2)):
            result = answer(kind, a, lr, decay)
            if not is_tuple_of(2, result):
                return "return two numbers: learning rate and weight decay"
            rate, new = (float(part) for part in result)
            remark = _rate_remark(rate / lr, a, power)
            remark = remark or _decay_remark(new / decay, a, power)
            if remark:
                return f"for {kind!r} and a = {a:g}: {remark}"
    return None


def _rate_remark(factor: float, a: float, power: int) -> str | None:
    """What is off with the factor of the learning rate."""
    mistakes = {"larger weights need larger steps": a**-power}
    if power == 2:
        not_the_same = (
            "the steps must be a times as large, but the gradient is not the same"
        )
        mistakes[not_the_same] = a
    else:
        mistakes["does the size of an Adam step depend on that of the gradient?"] = (
            a * a
        )
    otherwise = f"the learning rate's factor {factor:.4g} gives another training"
    return find_remark(factor, a**power, mistakes, otherwise)


def _decay_remark(factor: float, a: float, power: int) -> str | None:
    """What is off with the factor of the weight decay."""
    mistakes = {
        "the factor 1 - ηλ must stay, and η has changed": 1.0,
        "the product of rate and decay must stay: which way does λ go?": a**power,
    }
    otherwise = f"the decay's factor {factor:.4g} does not keep 1 - ηλ"
    return find_remark(factor, a**-power, mistakes, otherwise)
