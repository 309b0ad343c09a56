"""Checkers of chapter 12: why batch norm works."""

from __future__ import annotations

import math

import numpy as np

from bnutils.exercises import exercise


@exercise("12.1")
def covariate_shift(answer):
    """Norm of the difference and cosine of two gradients of any shape."""
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    result = answer(before.copy(), after.copy())
    if not isinstance(result, tuple | list) or len(result) != 2:
        return "return two numbers: the norm and the cosine"
    if any(np.ndim(part) > 0 for part in result):
        return "a matrix counts as one long vector: each result is one number"
    norm, cosine = (float(part) for part in result)
    return _norm_remark(norm, before, after) or _cosine_remark(cosine, before, after)


def _norm_remark(norm: float, before: np.ndarray, after: np.ndarray) -> str | None:
    """What is off with the norm of the difference."""
    change = after - before
    size = [np.sqrt((g**2).sum()) for g in (before, after)]
    true = np.sqrt((change**2).sum())
    for wrong, remark in (
        ((change**2).sum(), "that is the squared norm"),
        (np.linalg.norm(change, 2), "for a matrix, NumPy's norm with 2 is another one"),
        (np.sqrt((change**2).mean()), "the norm sums, it does not average"),
        (true / size[0], "that is relative to G; the definition is not"),
        (abs(size[1] - size[0]), "the norm of the difference, not of the norms"),
    ):
        if math.isclose(norm, wrong, rel_tol=1e-6):
            return remark
    if not math.isclose(norm, true, rel_tol=1e-6):
        return f"the norm is off by {abs(norm - true):.3g}"
    return None


def _cosine_remark(cosine: float, before: np.ndarray, after: np.ndarray) -> str | None:
    """What is off with the cosine."""
    size = [np.sqrt((g**2).sum()) for g in (before, after)]
    inner = (before * after).sum()
    true = inner / (size[0] * size[1])
    for wrong, remark in (
        (inner, "divide the inner product by both norms"),
        (inner / size[0] ** 2, "divide by both norms, not by one of them twice"),
        (1 - true, "that is 1 minus the cosine"),
    ):
        if math.isclose(cosine, wrong, rel_tol=1e-6):
            return f"cosine: {remark}"
    if not math.isclose(cosine, true, rel_tol=1e-6):
        return f"the cosine is off by {abs(cosine - true):.3g}"
    return None


@exercise("12.2")
def norm_in_balance(answer):
    """(lr G**2 / (2 decay)) ** (1/4), where the gradient at size 1 has norm G."""
    for lr, decay, unit in ((0.1, 5e-4, 2.0), (0.5, 1e-4, 0.3), (0.01, 1e-3, 10.0)):
        value = float(answer(lr, decay, unit))
        at = f"for η = {lr}, λ = {decay}, gradient {unit} at size 1"
        true = (lr * unit**2 / (2 * decay)) ** 0.25
        if math.isclose(value, true, rel_tol=1e-3):
            continue
        for wrong, remark in (
            (true**2, "one more root: the gradient shrinks as W grows"),
            (true**4, "the roots are still to be taken"),
            (true * 2**0.25, "(1 - ηλ) is squared: where is the 2?"),
            ((2 * decay / (lr * unit**2)) ** 0.25, "more decay, larger weights?"),
            ((unit**2 / (2 * decay)) ** 0.25, "a larger rate makes larger steps"),
            ((lr * unit / (2 * decay)) ** 0.25, "the gradient enters squared"),
        ):
            if math.isclose(value, wrong, rel_tol=1e-3):
                return f"{at}: {remark}"
        return f"{at}: at size {value:.4g} growth and decay do not cancel"
    return None


@exercise("12.3")
def matched(answer):
    """SGD: (a**2 lr, decay / a**2); AdamW: (a lr, decay / a)."""
    for kind, power in (("sgd", 2), ("adamw", 1)):
        for a, lr, decay in ((10.0, 0.1, 0.01), (0.5, 0.003, 0.2)):
            result = answer(kind, a, lr, decay)
            if not isinstance(result, tuple | list) or len(result) != 2:
                return "return two numbers: learning rate and weight decay"
            rate, new = (float(part) for part in result)
            at = f"for {kind!r} and a = {a:g}"
            remark = _rate_remark(rate / lr, a, power)
            remark = remark or _decay_remark(new / decay, a, power)
            if remark:
                return f"{at}: {remark}"
    return None


def _rate_remark(factor: float, a: float, power: int) -> str | None:
    """What is off with the factor of the learning rate."""
    if math.isclose(factor, a**power, rel_tol=1e-6):
        return None
    if math.isclose(factor, a**-power, rel_tol=1e-6):
        return "larger weights need larger steps"
    if power == 2 and math.isclose(factor, a, rel_tol=1e-6):
        return "the steps must be a times as large, but the gradient is not the same"
    if power == 1 and math.isclose(factor, a * a, rel_tol=1e-6):
        return "does the size of an Adam step depend on that of the gradient?"
    return f"the learning rate's factor {factor:.4g} gives another training"


def _decay_remark(factor: float, a: float, power: int) -> str | None:
    """What is off with the factor of the weight decay."""
    if math.isclose(factor, a**-power, rel_tol=1e-6):
        return None
    if math.isclose(factor, 1, rel_tol=1e-6):
        return "the factor 1 - ηλ must stay, and η has changed"
    if math.isclose(factor, a**power, rel_tol=1e-6):
        return "the product of rate and decay must stay: which way does λ go?"
    return f"the decay's factor {factor:.4g} does not keep 1 - ηλ"
