"""Typical mistakes in the exercises of chapter 9 get the remark that names them."""

import numpy as np
import pytest
from solutions import judge


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda lr, a: a * lr, "both count"),
        (lambda lr, a: lr / a, "larger or smaller"),
        (lambda lr, a: lr / a**2, "larger or smaller"),
        (lambda lr, a: lr, "hardly move"),
        (lambda lr, a: 7.0, "not the matching rate"),
    ],
)
def test_matching_rate(answer, remark):
    assert remark in judge("09.1", answer)


def held_out(values, read_here=False):
    found = []
    for i in range(len(values)):
        rest = np.delete(values, i, axis=0).mean(0)
        found.append(rest.max() if read_here else values[i, rest.argmax()])
    return np.mean(found)


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda v: v.mean(0).max() - held_out(v), "not the reverse"),
        (held_out, "subtract"),
        (lambda v: 0.0, "without the seed"),
        (lambda v: held_out(v, read_here=True) - v.mean(0).max(), "left out"),
        (lambda v: v.max(1).mean() - v.mean(0).max(), "the other seeds"),
        (lambda v: 5.0, "is not the flattery"),
    ],
)
def test_flattery(answer, remark):
    assert remark in judge("09.2", answer)


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda: 6.0, "variances"),
        (lambda: 2**0.5, "uniform"),
        (lambda: 6**-0.5, "He's into PyTorch's"),
        (lambda: (2 / 3) ** 0.5, "which way"),
        (lambda: 1.0, "not He's"),
    ],
)
def test_scale_to_he(answer, remark):
    assert remark in judge("09.3", answer)
