"""Typical mistakes in the exercises of chapter 16 get the remark that names them."""

import pytest

from bnutils import exercises


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda n, w: 5 * n / w, "how many bytes"),
        (lambda n, w: 8 * n / w, "forward pass alone"),
        (lambda n, w: 12 * n / w, "backward pass alone"),
        (lambda n, w: 16 * n / w, "reads two arrays"),
        (lambda n, w: 32 * n / w, "a second time"),
        (lambda n, w: n / w / 3, "count arrays"),
    ],
)
def test_limit(answer, remark):
    assert remark in exercises.check("16.1", answer).remark


def right_scale(var, weight, eps):
    return weight / (var + eps).sqrt()


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda m, v, w, b, e: (w / v.sqrt(), b), "leaves out eps"),
        (lambda m, v, w, b, e: (w / (v.sqrt() + e), b), "outside the root"),
        (lambda m, v, w, b, e: (1 / (v + e).sqrt(), b), "leaves out the weight"),
        (lambda m, v, w, b, e: (w / (v + e), b), "scale is off"),
        (lambda m, v, w, b, e: (right_scale(v, w, e), b - m), "is scaled, too"),
        (
            lambda m, v, w, b, e: (right_scale(v, w, e), b + m * right_scale(v, w, e)),
            "wrong sign",
        ),
        (lambda m, v, w, b, e: (right_scale(v, w, e), b), "shift is off"),
        (lambda m, v, w, b, e: right_scale(v, w, e), "two tensors"),
    ],
)
def test_affine(answer, remark):
    assert remark in exercises.check("16.2", answer).remark


def merged_mean(a, b):
    return (a[0] * a[1] + b[0] * b[1]) / (a[0] + b[0])


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda a, b: (a[0], a[1], a[2]), "the count"),
        (lambda a, b: (16, (a[1] + b[1]) / 2, a[2]), "counts by the number"),
        (lambda a, b: (16, a[1], a[2]), "mean is off"),
        (lambda a, b: (16, merged_mean(a, b), a[2] + b[2]), "between the pieces"),
        (lambda a, b: (16, merged_mean(a, b), a[2]), "squares is off"),
        (lambda a, b: a[1], "three values"),
    ],
)
def test_combine(answer, remark):
    assert remark in exercises.check("16.3", answer).remark
