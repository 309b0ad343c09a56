"""Typical mistakes in the exercises of chapter 11 get the remark that names them."""

import numpy as np
import pytest
from solutions import judge


def undo(x, mean, std):
    return x * std + mean


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda x, mean, std: (x > 0.5).float(), "not of x"),
        (lambda x, mean, std: (x > 0).float(), "mean of all pixels"),
        (lambda x, mean, std: undo(x, mean, std) > 0.5, "booleans"),
        (lambda x, mean, std: (undo(x, mean, std) > 0.5).long(), "int64"),
        (lambda x, mean, std: (undo(x, mean, std) <= 0.5).float(), "swapped"),
        (lambda x, mean, std: undo(x, mean, std), "wrong side"),
        (lambda x, mean, std: (undo(x, mean, std) > 0.5).numpy(), "ndarray"),
    ],
)
def test_to_binary(answer, remark):
    assert remark in judge("11.1", answer)


def first(steps, reached):
    return steps[np.argmax(reached)]


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (
            lambda s, a, b: s[np.argmax(a)] / first(s, b >= a.max()),
            "may never reach",
        ),
        (lambda s, a, b: first(s, b >= a.max()) / s[np.argmax(a)], "turn the fraction"),
        (lambda s, a, b: s[-1] / first(s, b >= a.max()), "before its last look"),
        (lambda s, a, b: s[np.argmax(a)] / first(s, b > a.max()), "equal counts"),
        (lambda s, a, b: s[np.argmax(a)] / s[np.argmax(b)], "own best"),
        (lambda s, a, b: np.argmax(a) / np.argmax(b >= a.max()), "positions"),
        (lambda s, a, b: 2.0, "not the ratio"),
    ],
)
def test_speedup(answer, remark):
    assert remark in judge("11.2", answer)


Q = np.array([[-1.0364], [0.0], [1.0364]])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda w, b: b + abs(w) * Q, "goes into the sigmoid"),
        (lambda w, b: sigmoid(b + w * Q), "negative γ"),
        (lambda w, b: sigmoid(b + w**2 * Q), "not the variance"),
        (lambda w, b: sigmoid(b + abs(w) * np.sign(Q)), "84th percentile"),
        (lambda w, b: sigmoid(abs(w) * Q) + b, "before the sigmoid"),
        (lambda w, b: sigmoid(b + abs(w) * Q)[::-1], "the order is"),
        (lambda w, b: sigmoid(b + abs(w) * Q).T, "shape"),
        (lambda w, b: sigmoid(b + 0 * Q * w), "largest error"),
    ],
)
def test_bands(answer, remark):
    assert remark in judge("11.3", answer)
