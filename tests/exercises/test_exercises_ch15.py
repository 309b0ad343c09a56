"""Typical mistakes in the exercises of chapter 15 get the remark that names them."""

import numpy as np
import pytest

from bnutils import exercises


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda sizes, r: sizes[r] / sum(sizes), "DDP does what"),
        (lambda sizes, r: len(sizes) / sum(sizes), "a sum, not a mean"),
        (lambda sizes, r: 1, "counts the same"),
        (lambda sizes, r: 7, "sum to"),
        (lambda sizes, r: len(sizes) * sizes[r] / sum(sizes), "right"),
    ],
)
def test_loss_factor(answer, remark):
    assert remark in exercises.check("15.1", answer).remark


def merge(a, b, between=1.0, share=None, divide=False, textbook=False):
    m = a[0] + b[0]
    part = (b[0] / m) if share is None else share
    gap = b[1] - a[1]
    squares = a[2] + b[2] + between * a[0] * b[0] / m * gap**2
    mean = a[1] + part * gap
    if textbook:
        squares = sum(s + n * mu**2 for n, mu, s in (a, b)) - m * mean**2
    return m, mean, squares / (m if divide else 1)


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (merge, "right"),
        (lambda a, b: merge(a, b, share=0.5), "larger part should weigh more"),
        (lambda a, b: merge(a, b, share=0.1), "mean is off"),
        (lambda a, b: merge(a, b, between=0), "between are missing"),
        (lambda a, b: merge(a, b, between=2), "squares are off"),
        (lambda a, b: merge(a, b, divide=True), "not the variance"),
        (lambda a, b: merge(a, b, textbook=True), "large squares"),
        (lambda a, b: merge(a, b)[1:], "three things"),
        (lambda a, b: (1, *merge(a, b)[1:]), "the count is 1"),
        (lambda a, b: (a[0] + b[0], np.nan * a[1], a[2]), "not finite"),
    ],
)
def test_merge(answer, remark):
    assert remark in exercises.check("15.2", answer).remark


def backward(dy, x_hat, std, weight, count, all_sum, own=True, dx=None, together=True):
    sums = np.stack([dy.sum(0), (dy * x_hat).sum(0)])
    total = all_sum(sums[0]), all_sum(sums[1])  # two calls do as well
    g, gx = (v / count for v in total) if together else sums / len(dy)
    dbias, dweight = sums if own else total
    full = weight / std * (dy - g - x_hat * gx)
    return (dx(dy, x_hat, std, weight, g, gx) if dx else full), dweight, dbias


def wrong(**options):
    return lambda *args: backward(*args, **options)


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (backward, "right"),
        (wrong(own=False), "DDP would add them up again"),
        (wrong(together=False), "that is local"),
        (
            wrong(dx=lambda dy, x, s, w, g, gx: (dy - g - x * gx) / s),
            "gamma is missing",
        ),
        (
            wrong(dx=lambda dy, x, s, w, g, gx: w / s * (dy - 12 * g - 12 * x * gx)),
            "divide the sums",
        ),
        (wrong(dx=lambda dy, x, s, w, g, gx: w / s * (dy - g)), "one road is missing"),
        (wrong(dx=lambda dy, *rest: dy), "dx is off"),
        (wrong(dx=lambda dy, *rest: dy.T), "shape of dy"),
        (lambda *args: backward(*args)[0], "three arrays"),
        (lambda *args: (np.zeros(3),) * 3, "dweight of a rank is off"),
    ],
)
def test_backward(answer, remark):
    assert remark in exercises.check("15.3", answer).remark
