"""Typical mistakes in the exercises of chapter 10 get the remark that names them."""

import math

import pytest

from bnutils import exercises


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda m: (m - 1) / math.sqrt(m), "unbiased"),
        (lambda m: m - 1, "not by the variance"),
        (lambda m: math.sqrt(m), "moves the mean"),
        (lambda m: 1.0, "not the largest"),
    ],
)
def test_largest(answer, remark):
    assert remark in exercises.check("10.1", answer).remark


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda a, old, new: (1 - a) ** (new / old), "share that is kept"),
        (lambda a, old, new: 1 - (1 - a) ** (old / new), "fewer steps"),
        (lambda a, old, new: a ** (new / old), "not momentum"),
        (lambda a, old, new: a * new / old, "small α only"),
        (lambda a, old, new: a, "another memory"),
    ],
)
def test_same_memory(answer, remark):
    assert remark in exercises.check("10.2", answer).remark


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda mean, var: (mean.mean(0), var.mean(0)), "differs between"),
        (lambda mean, var: (mean.mean(0), mean.var(0)), "within a batch"),
        (
            lambda mean, var: (mean.mean(0), var.mean(0) + mean.var(0, ddof=1)),
            "by K",
        ),
        (lambda mean, var: (mean.mean(0), var.mean(0) + mean.std(0)), "not a standard"),
        (lambda mean, var: (mean.mean(0), var.mean(0) * 2), "variance is off"),
        (lambda mean, var: (mean.mean(), var.mean(0)), "mean is off"),
        (lambda mean, var: mean.mean(0), "two arrays"),
    ],
)
def test_merge(answer, remark):
    assert remark in exercises.check("10.3", answer).remark
