"""Checkers of chapter 9: learning rate and initial scale."""

from __future__ import annotations

import numpy as np

from bnutils.exercises import close, exercise


@exercise("09.1")
def matching_rate(answer):
    """The rate times the square of the factor on the weights."""
    for lr, a in ((0.1, 10.0), (0.3, 0.5)):
        rate = answer(lr, a)
        if close(rate, a**2 * lr):
            continue
        at = f"for lr = {lr} and a = {a}"
        if close(rate, a * lr):
            return f"{at}: the gradient shrinks, and the weights are larger: both count"
        if close(rate, lr / a**2) or close(rate, lr / a):
            return f"{at}: do larger weights need larger or smaller steps?"
        if close(rate, lr):
            return f"{at}: at the same rate the larger weights hardly move"
        return f"{at}: {rate} is not the matching rate"
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
        if close(found, right):
            continue
        remarks = {
            -right: "readings minus the best mean, not the reverse",
            right + best: "subtract the best mean over all seeds",
            0.0: "choose without the seed on which you read",
            np.mean([r.max() for r in rest])
            - best: "read on the seed that was left out",
            np.mean(values.max(1)) - best: "choose by the mean over the other seeds",
        }
        text = (t for v, t in remarks.items() if close(found, v))
        return next(text, f"{found:.4f} is not the flattery of these values")
    return None


@exercise("09.3")
def scale_to_he(answer):
    """The root of six."""
    scale = answer()
    remarks = {
        6.0: "that is the ratio of the variances; the scale is that of standard deviations",
        2**0.5: "the bound of a uniform distribution is not its standard deviation",
        6**-0.5: "that turns He's into PyTorch's",
        (2 / 3) ** 0.5: "b / sqrt(3) is smaller than b: which way does the 3 go?",
    }
    if close(scale, 6**0.5):
        return None
    found = (text for value, text in remarks.items() if close(scale, value))
    return next(found, f"{scale} times the default is not He's standard deviation")
