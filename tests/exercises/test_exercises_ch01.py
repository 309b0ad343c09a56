"""The checkers of chapter 1: right answers pass, typical mistakes get their remark."""

from __future__ import annotations

import numpy as np
import pytest
from solutions import judge

from bnutils import exercises


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda n: 1 / n, "a variance"),
        (lambda n: (2 / n) ** 0.5, "suits ReLU"),
        (lambda n: (3 / n) ** 0.5, "uniform"),
        (lambda n: n**0.5, "grows with fan_in"),
        (lambda n: 0.1, "the same for every fan_in"),
        (lambda n: 3 / n**0.5, "gain is 3 and 3"),
        (lambda n: None, "not answered yet"),
    ],
)
def test_init_std_names_the_mistake(answer, remark):
    assert remark in judge("01.1", answer)


def eigenvalues(x):
    return np.linalg.eigvalsh(x.T @ x / len(x))


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda x: 2 / np.linalg.eigvalsh(x.T @ x)[-1], "a factor N"),
        (lambda x: 1 / eigenvalues(x)[-1], "not the largest"),
        (lambda x: 2 / eigenvalues(x)[0], "wrong eigenvalue"),
        (lambda x: 2 / eigenvalues(x)[[0, -1]].sum(), "fastest convergence"),
        (lambda x: 2 / eigenvalues(x - x.mean(0))[-1], "centred the features"),
        (lambda x: 2 / np.linalg.norm(x, 2), "singular value"),
        (lambda x: eigenvalues(x)[-1], "that is the eigenvalue"),
        (lambda x: 2 / eigenvalues(x), "expected one number"),
        (lambda x: 1e3, "above the limit"),
        (lambda x: 1e-9, "below the limit"),
        (lambda x: x[:, 0] @ np.ones(3), "raised ValueError"),
    ],
)
def test_largest_rate_names_the_mistake(answer, remark):
    assert remark in judge("01.2", answer)


def through(backward):
    return lambda d, differentiate: backward(d) if differentiate else d


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda d, t: d if t else d - d.mean(0), "swapped"),
        (lambda d, t: d - d.mean(0), "held constant"),
        (through(lambda d: d), "does not yet know"),
        (through(lambda d: d - d.mean(1, keepdims=True)), "averaged over the channels"),
        (through(lambda d: d - d.mean()), "averaged over all values"),
        (through(lambda d: d - d.sum(0)), "one N-th"),
        (through(lambda d: d + d.mean(0)), "sign"),
        (through(lambda d: np.zeros_like(d) - d.mean(0)), "only one of the two roads"),
        (through(lambda d: d * (1 - 1 / len(d))), "mean of every example"),
        (through(lambda d: d - d.mean(0) + 0.25), "largest error is 0.25"),
    ],
)
def test_centre_backward_names_the_mistake(answer, remark):
    assert remark in judge("01.3", answer)


def white(x, power=-0.5, n=None):
    centred = x - x.mean(0)
    variances, axes = np.linalg.eigh(centred.T @ centred / (n or len(x)))
    return centred @ axes * variances**power


def noise(x):
    """White, whatever the input was."""
    return white(np.random.default_rng(1).normal(size=x.shape))


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda x: white(x).T, "expected shape"),
        (lambda x: white(x) + 1, "mean 0"),
        (lambda x: white(x, n=len(x) - 1), "N - 1"),
        (lambda x: 2 * white(x), "all variances are 4"),
        (lambda x: (x - x.mean(0)) / x.std(0), "still correlated"),
        (lambda x: white(x, power=-1), "which power"),
        (lambda x: white(x, power=0), "variances are not 1"),
        (lambda x: x - x.mean(0), "not the identity"),
        (noise, "not linear in x"),
    ],
)
def test_whiten_names_the_mistake(answer, remark):
    assert remark in judge("01.5", answer)


def test_any_rotation_of_the_whitened_batch_is_right():
    def zca(x):
        variances, axes = np.linalg.eigh(np.cov(x, rowvar=False, bias=True))
        return (x - x.mean(0)) @ (axes / variances**0.5) @ axes.T

    assert exercises.check("01.5", zca)
