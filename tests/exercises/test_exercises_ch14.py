"""Typical mistakes in the exercises of chapter 14 get the remark that names them."""

import numpy as np
import pytest

from bnutils import exercises


def size(batch="n*l", layer="c*l", instance="l", group="c//g*l"):
    """An answer to 14.1 from four formulas."""
    formulas = {"batch": batch, "layer": layer, "instance": instance, "group": group}

    def answer(kind, n, c, length, g):
        return eval(formulas[kind], {"n": n, "c": c, "l": length, "g": g})

    return answer


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (size(batch="n"), "positions"),
        (size(layer="n*c*l"), "with the others"),
        (size(group="g*l"), "as many channels as there are groups"),
        (size(batch="c"), "number of means"),
        (size(instance="l+1"), "not the number of values"),
    ],
)
def test_shared(answer, remark):
    assert remark in exercises.check("14.1", answer).remark


def ghost(shape=None, ddof=0, inside=True, swap=False):
    def answer(x, size, eps):
        parts = x.reshape(shape or (-1, size, x.shape[1]))
        parts = parts.swapaxes(0, 1) if swap else parts
        var = parts.var(1, keepdims=True, ddof=ddof)
        std = np.sqrt(var + eps) if inside else np.sqrt(var) + eps
        y = (parts - parts.mean(1, keepdims=True)) / std
        return (y.swapaxes(0, 1) if swap else y).reshape(x.shape)

    return answer


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (ghost((1, 12, 5)), "whole batch"),
        (ghost(ddof=1), "which variance"),
        (ghost(inside=False), "eps belong"),
        (ghost((4, -1, 5), swap=True), "neighbours"),
        (ghost((4, -1, 5)), "not that size"),
        (lambda x, size, eps: ghost()(x, size, eps).T, "shape"),
        (lambda x, size, eps: 2 * ghost()(x, size, eps), "off by"),
    ],
)
def test_ghost(answer, remark):
    assert remark in exercises.check("14.2", answer).remark


def backward(formula, with_eps=True):
    def answer(dy, x, r, eps):
        std = np.sqrt(x.var(0) + eps * with_eps)
        h = (x - x.mean(0)) / np.sqrt(x.var(0) + eps)
        names = {"dy": dy, "r": r, "std": std, "m": dy.mean(0)}
        return eval(formula, names | {"v": h * (dy * h).mean(0)})

    return answer


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (backward("(dy - m - v) / std"), "r is missing"),
        (backward("(dy - m - v) / std / r"), "multiplies the gradient"),
        (backward("r / std * dy"), "r and d do not"),
        (backward("r / std * (dy - m)"), "variance depends"),
        (backward("r / std * (dy - v)"), "mean depends"),
        (backward("r / std * (dy - m - v)", with_eps=False), "eps is missing"),
        (backward("r * r / std * (dy - m - v)"), "off by"),
    ],
)
def test_renorm_backward(answer, remark):
    assert remark in exercises.check("14.3", answer).remark
