"""Typical mistakes in the exercises of chapter 2 get the remark that names them."""

from __future__ import annotations

import numpy as np
import pytest

from bnutils import exercises


@pytest.mark.parametrize("number", ["02.1", "02.2", "02.3", "02.4"])
def test_the_skeleton_is_not_answered(number):
    assert "not answered yet" in exercises.check(number, lambda *args: ...).remark


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda s: (s[1], int(np.prod(s)) // s[1]), "m comes first"),
        (lambda s: (s[1], 99), "which axis"),
        (lambda s: (s[0], s[1]), "positions"),
        (lambda s: (1, s[1]), "is wrong"),
    ],
)
def test_per_channel(answer, remark):
    assert remark in exercises.check("02.1", answer).remark


def last(axes, ddof=0, outside=False, fixed=None, affine=True):
    def answer(x, weight, bias, eps=1e-5):
        e = fixed or eps
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True, ddof=ddof)
        x_hat = (x - mean) / (np.sqrt(var) + e if outside else np.sqrt(var + e))
        return weight * x_hat + bias if affine else x_hat

    return answer


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (last((0,)), "positions are averaged"),
        (last((1,)), "one mean per example"),
        (last((2,)), "layer norm"),
        (last((0, 2)), "come last here"),
        (last((0, 1), ddof=1), "unbiased"),
        (last((0, 1), outside=True), "inside the root"),
        (last((0, 1), fixed=1e-5), "not used"),
        (last((0, 1), affine=False), "weight and bias are missing"),
        (lambda x, weight, bias, eps: x[0], "has shape"),
        (lambda x, weight, bias, eps: x, "largest error"),
    ],
)
def test_batch_norm_last(answer, remark):
    assert remark in exercises.check("02.2", answer).remark


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda x: (x**2).mean(0) - x.mean(0) ** 2, "numbers you square small?"),
        (lambda x: x.var(0), "largest error"),
        (lambda x: (x - x.mean(0)).var(0), "averaged"),
        (lambda x: (x - np.sum(x, 0) / np.float32(256)).var(0), "averaged"),
        (lambda x: ((x - sum(x) / 256) ** 2).mean(0), "largest error"),
        (lambda x: (x - x[0]).var(0, ddof=1), "unbiased"),
        (lambda x: (x - x[0]).std(0), "standard deviation"),
        (lambda x: x.astype(np.float64).var(0), "stay in float32"),
        (lambda x: (x - x[0]).var(), "one per channel"),
        (lambda x: ((x - x[0]) ** 2).mean(0), "largest error"),
    ],
)
def test_shifted_variance(answer, remark):
    assert remark in exercises.check("02.3", answer).remark


def welford(x):
    """One pass, one example at a time, from the first one on."""
    mean, squares = 0 * x[0], 0 * x[0]
    for n, row in enumerate(x - x[0], 1):
        delta = row - mean
        mean = mean + delta / np.float32(n)
        squares = squares + delta * (row - mean)
    return squares / np.float32(len(x))


@pytest.mark.parametrize(
    "answer",
    [welford, lambda x: (x - x[7]).var(0), lambda x: np.var(x - x[:1], axis=0)],
)
def test_any_safe_single_pass_is_right(answer):
    assert exercises.check("02.3", answer)


def axes(x):
    return (0, *range(2, x.ndim))


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda x, eps: (x.std(axes(x)), x.mean(axes(x))), "right for eps = 0"),
        (
            lambda x, eps: (np.sqrt(x.var(axes(x), ddof=1) + eps), x.mean(axes(x))),
            "biased",
        ),
        (
            lambda x, eps: (np.sqrt(x.var(axes(x)) + eps), 0 * x.mean(axes(x))),
            "subtracted",
        ),
        (lambda x, eps: (np.ones(3), x.mean(axes(x))), "divided by"),
        (lambda x, eps: (np.sqrt(x.var(0) + eps), x.mean()), "both should be (3,)"),
    ],
)
def test_undo(answer, remark):
    assert remark in exercises.check("02.4", answer).remark
