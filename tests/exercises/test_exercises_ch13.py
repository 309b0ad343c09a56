"""Typical mistakes in the exercises of chapter 13 get the remark that names them."""

import numpy as np
import pytest
from solutions import judge
from torch import nn


def std(var, eps):
    return np.sqrt(var + eps)


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda b, g, beta, m, v, e: b - g * m / std(v, e) + beta, "own bias goes"),
        (lambda b, g, beta, m, v, e: beta - g * m / std(v, e), "a bias of its own"),
        (lambda b, g, beta, m, v, e: g * b / std(v, e) + beta, "mean is missing"),
        (lambda b, g, beta, m, v, e: g * (b + m) / std(v, e) + beta, "subtracted"),
        (lambda b, g, beta, m, v, e: g * (b - m) / std(v, e), "β is missing"),
        (
            lambda b, g, beta, m, v, e: g * (b - m + beta) / std(v, e),
            "after the scaling",
        ),
        (lambda b, g, beta, m, v, e: (b - m) / std(v, e) + beta, "γ is missing"),
        (
            lambda b, g, beta, m, v, e: g * (b - m) / (v**0.5 + e) + beta,
            "inside the root",
        ),
        (
            lambda b, g, beta, m, v, e: g * (b - m) / (v + e) + beta,
            "standard deviation",
        ),
        (lambda b, g, beta, m, v, e: g * (b - m) / v**0.5 + beta, "ε is missing"),
        (lambda b, g, beta, m, v, e: b, "off by"),
    ],
)
def test_folded_bias(answer, remark):
    assert remark in judge("13.1", answer)


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda w, b, s, t: w * s, "two arrays"),
        (lambda w, b, s, t: (s[:, None] * w, b), "belongs to the inputs"),
        (lambda w, b, s, t: (w, b), "weight is off"),
        (lambda w, b, s, t: (w * s, b), "arrives in the bias"),
        (lambda w, b, s, t: (w * s, b + (w * s) @ t), "after the scaling"),
        (lambda w, b, s, t: (w * s, w @ t), "own bias is missing"),
        (lambda w, b, s, t: (w * s, b + t), "on its way"),
        (lambda w, b, s, t: (w * s, 2 * b), "bias is off"),
    ],
)
def test_fold_forward(answer, remark):
    assert remark in judge("13.2", answer)


def by_order(model):
    """The mistake that the exercise is about: neighbours in the list of modules."""
    named = [(n, m) for n, m in model.named_modules() if not list(m.children())]
    return [
        (a, b)
        for (a, first), (b, second) in zip(named, named[1:], strict=False)
        if isinstance(first, nn.Linear) and isinstance(second, nn.BatchNorm1d)
    ]


RIGHT = [("first", "norm_c"), ("inner.0", "inner.1")]


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (by_order, "registered"),
        (lambda model: [*RIGHT, ("third", "norm_b")], "somebody else"),
        (lambda model: [*RIGHT, ("second", "norm_a")], "ReLU between"),
        (lambda model: [pair[::-1] for pair in RIGHT], "layer comes first"),
        (lambda model: RIGHT[1:], "directly follows"),
        (lambda model: RIGHT[:1], "inside containers"),
        (lambda model: [*RIGHT, ("x", "y")], "not such a pair"),
        (lambda model: 3, "list of pairs"),
    ],
)
def test_pairs(answer, remark):
    assert remark in judge("13.3", answer)
