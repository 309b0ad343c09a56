"""Answers to the exercises of chapter 19: each typical mistake gets its remark.

A row is an answer and words of the remark on it, or "right".
"""

from __future__ import annotations

import numpy as np
import pytest
from solutions import changed, ids, verdict_words

ROWS: dict[str, list] = {}


def by_kind(none="2.0**d", branch="1 + d * g**2", after="1.0"):
    """An answer to 19.1 from three formulas."""
    formulas = {"none": none, "branch": branch, "sum": after}
    return lambda kind, d, g: eval(formulas[kind], {"d": d, "g": g})


ROWS["19.1"] = [
    (by_kind(none="1.0 + d"), "doubles what it gets"),
    (by_kind(none="2 ** (d / 2)"), "root of the mean square"),
    (by_kind(none="3.0**d"), "off by"),
    (by_kind(branch="1 + d * g"), "mean is of squares"),
    (by_kind(branch="(1 + g**2) ** d"), "equally large"),
    (by_kind(branch="d * g**2"), "starts at 1"),
    (by_kind(after="1 + d * g**2"), "comes last"),
    (by_kind(after="2.0**d"), "undoes the doubling"),
    (by_kind(), "right"),
]

Z = np.random.default_rng(5).normal(size=400_000)


ROWS["19.2"] = [
    (lambda f: np.mean(f(Z) ** 2) ** -0.5, "leaves the mean out"),
    (lambda f: 1 / np.var(f(Z)), "not the variance"),
    (lambda f: np.std(f(Z)), "turn it around"),
    (lambda f: 3.0, "off by"),
    (lambda f: 1 / np.std(f(np.linspace(-8, 8, 10_001))), "off by"),
    (lambda f: 1 / np.std(f(Z)), "right"),
]


def gradients(dx="dy + a * t", da="(dy * b).sum()", dw="a * dy.T @ h"):
    """An answer to 19.3 from three formulas."""

    def answer(dy, x, scale, w):
        h = np.maximum(x, 0)
        names = {"dy": dy, "x": x, "a": scale, "w": w, "h": h, "b": h @ w.T}
        names["m"] = x > 0
        names["t"] = names["m"] * (dy @ w)
        return tuple(eval(formula, names) for formula in (dx, da, dw))

    return answer


ROWS["19.3"] = [
    (changed("19.3", lambda y, *given: y[0]), "return three things"),
    (gradients(dx="a * t"), "skip path is missing"),
    (gradients(dx="dy + t"), "scale is missing"),
    (gradients(dx="dy + a * (dy @ w)"), "ReLU's mask"),
    (gradients(dx="dy + a * m * (dy @ w.T)"), "transpose are exchanged"),
    (gradients(da="a * (dy * b).sum()"), "branch alone"),
    (gradients(da="(dy * b).sum(1)"), "one number"),
    (gradients(da="(dy * (h @ w)).sum()"), "transpose are exchanged"),
    (gradients(dw="dy.T @ h"), "scale is missing"),
    (gradients(dw="a * h.T @ dy"), "outputs first"),
    (gradients(dw="a * dy.T @ x"), "not x"),
    (gradients(dw="0 * w"), "off by"),
    (gradients(), "right"),
]


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [(number, *row) for number, rows in ROWS.items() for row in rows],
    ids=ids(ROWS),
)
def test_an_answer_gets_its_remark(number, answer, words):
    assert words in verdict_words(number, answer, right=words == "right")
