"""Checkers of chapter 14: convolutions and relatives."""

from __future__ import annotations

import numpy as np

from bnutils.exercises import exercise, find_remark


@exercise("14.1")
def shared(answer):
    """How many values one mean averages, for four norms."""
    for n, c, l, g in ((8, 6, 5, 2), (1, 12, 7, 4)):
        sizes = {"batch": n * l, "layer": c * l, "instance": l, "group": c // g * l}
        for kind, expected in sizes.items():
            value = answer(kind, n, c, l, g)
            at = f"{kind} norm of ({n}, {c}, {l}), {g} groups"
            if value == expected:
                continue
            if value == n * expected and kind != "batch":
                return f"{at}: does an example share its mean with the others?"
            if value * l == expected:
                return f"{at}: do the positions not share a mean?"
            if kind == "group" and value == g * l:
                return f"{at}: that is as many channels as there are groups"
            if value * expected == n * c * l:
                return f"{at}: that is the number of means, not of values in one"
            return f"{at}: {value} is not the number of values"
    return None


@exercise("14.2")
def ghost(answer):
    """Ghost batches of neighbours, each with its own biased statistics."""
    rng = np.random.default_rng(0)
    x = rng.normal(np.arange(12.0)[:, None] / 3, 2, (12, 5))
    size, eps = 4, 0.1
    result = answer(x.copy(), size, eps)

    def by(parts, ddof=0, eps_inside=True):
        mean = parts.mean(1, keepdims=True)
        var = parts.var(1, keepdims=True, ddof=ddof)
        std = np.sqrt(var + eps) if eps_inside else np.sqrt(var) + eps
        return (parts - mean) / std

    neighbours = x.reshape(-1, size, 5)
    every_third = x.reshape(size, -1, 5).swapaxes(0, 1)
    mistakes = {
        "that is the whole batch; each ghost batch has its own mean": by(x[None])[0],
        "which variance normalises?": by(neighbours, ddof=1).reshape(12, 5),
        "where does eps belong?": by(neighbours, eps_inside=False).reshape(12, 5),
        "ghost batches are neighbours": by(every_third).swapaxes(0, 1).reshape(12, 5),
        "that many batches, not that size": by(x.reshape(size, -1, 5)).reshape(12, 5),
    }
    expected = by(neighbours).reshape(12, 5)
    if np.shape(result) != (12, 5):
        return f"the shape is {np.shape(result)}, but should be that of x"
    return find_remark(result, expected, mistakes)


@exercise("14.3")
def renorm_backward(answer):
    """Batch norm's gradient with r in the place of the weight."""
    rng = np.random.default_rng(1)
    x, dy = rng.normal(1, 2, (9, 4)), rng.normal(0.3, 1, (9, 4))
    r, eps = np.array([0.5, 1.5, 2.0, 3.0]), 0.1
    result = answer(dy.copy(), x.copy(), r.copy(), eps)
    std = np.sqrt(x.var(0) + eps)
    x_hat = (x - x.mean(0)) / std
    core = dy - dy.mean(0) - x_hat * (dy * x_hat).mean(0)
    mistakes = {
        "r is missing: it scales x_hat": core / std,
        "r multiplies x_hat, so it multiplies the gradient": core / std / r,
        "the batch statistics depend on x as well; r and d do not": dy * r / std,
        "the variance depends on x as well": r / std * (dy - dy.mean(0)),
        "the mean depends on x as well": r / std * (dy - x_hat * (dy * x_hat).mean(0)),
        "eps is missing": r / np.sqrt(x.var(0)) * core,
    }
    expected = r / std * core
    return find_remark(result, expected, mistakes)
