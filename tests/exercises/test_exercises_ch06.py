"""Typical mistakes in the exercises of chapter 6 get the remark that names them."""

import pytest
import torch

from bnutils import exercises


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda m: m, "newest batch 99%"),
        (lambda m: 1 / m, "overshoot"),
        (lambda m: 0.1, "should keep 0.99, not 0.9"),
        (lambda m: 0.01, "should keep 0.9, not 0.99"),
    ],
)
def test_from_keras(answer, remark):
    assert remark in exercises.check("06.1", answer).remark


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda k: 0.05 ** (1 / k), "weight of the old value"),
        (lambda k: 1 - 0.95 ** (1 / k), "5 %, not 95 %"),
        (
            lambda k: 0.95 ** (1 / k),
            "k = 5: the last k batches have",
        ),
        (lambda k: 3 / k, "approximation"),
        (lambda k: 1 / k, "k = 5: momentum 0.2 puts 67.2%"),
    ],
)
def test_momentum_for(answer, remark):
    assert remark in exercises.check("06.2", answer).remark


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda s: s * (1 / 0.99 - 1), "outside the root"),
        (lambda s: s**2 * (1 / 0.99 - 1), "ratio of stds"),
        (lambda s: s * (1 / 0.99**2 - 1), "added to the variance"),
        (lambda s: s**2 * (1 - 0.99**2), "algebra"),
        (lambda s: 0.0, "positive"),
        (lambda s: 1e-5, "leaves an output std of 0.999500"),
    ],
)
def test_largest_eps(answer, remark):
    assert remark in exercises.check("06.4", answer).remark


def in_place(gamma, beta, weight, bias):
    bias += weight @ beta
    return weight.mul_(gamma), bias


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda g, b, w, c: w * g, "two tensors"),
        (in_place, "were changed"),
        (lambda g, b, w, c: (w, w @ b + c), "where did gamma go"),
        (lambda g, b, w, c: (w * g[:, None], w @ b + c), "column"),
        (lambda g, b, w, c: (w / g, w @ b + c), "divided"),
        (lambda g, b, w, c: (w + g, w @ b + c), "the weight is off"),
        (lambda g, b, w, c: (w @ g, w @ b + c), "the weight should have shape"),
        (lambda g, b, w, c: (w * g, c), "where did beta go"),
        (lambda g, b, w, c: (w * g, w @ b), "is missing"),
        (lambda g, b, w, c: (w * g, (w * g) @ b + c), "not scaled"),
        (lambda g, b, w, c: (w * g, w.mT @ b + c), "transposed"),
        (lambda g, b, w, c: (w * g, b + c), "passes through W"),
        (lambda g, b, w, c: (w * g, w @ b - c), "the bias is off"),
        (lambda g, b, w, c: (w * g, w * b), "the bias should have shape"),
    ],
)
def test_absorb(answer, remark):
    assert remark in exercises.check("06.3", answer).remark


def test_an_answer_of_other_precision_is_right():
    def absorb(gamma, beta, weight, bias):
        w, b = (weight * gamma).float().double(), (weight @ beta + bias).float()
        return w, torch.nn.Parameter(b)

    assert exercises.check("06.3", absorb)
