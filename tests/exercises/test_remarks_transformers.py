"""Answers to the exercises of chapter 20: each typical mistake gets its remark.

A row is an answer and words of the remark on it, or "right".
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from solutions import changed, ids, verdict_words

ROWS: dict[str, list] = {}


def stats(mean, var):
    """An answer of two functions of the mean m, the variance v and the shares r, p."""

    def answer(m, v, p):
        return mean(m, 1 - p, p), var(m, v, 1 - p, p)

    return answer


def right_mean(m, r, p):
    return r * m


ROWS["20.1"] = [
    (lambda m, v, p: m, "return two arrays"),
    (stats(lambda m, r, p: m, lambda m, v, r, p: v), "with value 0"),
    (stats(lambda m, r, p: p * m, lambda m, v, r, p: v), "how many positions are real"),
    (stats(lambda m, r, p: m / r, lambda m, v, r, p: v), "number of positions grows"),
    (stats(lambda m, r, p: m + p, lambda m, v, r, p: v), "the mean is off"),
    (stats(right_mean, lambda m, v, r, p: v), "real positions alone"),
    (stats(right_mean, lambda m, v, r, p: r * v), "zeros lie off"),
    (
        stats(right_mean, lambda m, v, r, p: v * (p == 0) + r * (v + m**2) * (p > 0)),
        "take the square",
    ),
    (stats(right_mean, lambda m, v, r, p: r * (v + m**2) - m**2), "which mean"),
    (stats(right_mean, lambda m, v, r, p: v + p), "variance is off"),
    (stats(right_mean, lambda m, v, r, p: r * (v + m**2) - (r * m) ** 2), "right"),
    (changed("20.1", lambda y, *given: (*y, 0)), "return two arrays"),
]


def by_gradient(weigh, earlier=slice(None), own=False):
    """An answer by gradients, for each position t: of outputs up to t, into what follows."""

    def answer(model, x):
        for t in range(x.size(1) - 1)[earlier]:
            z = x.clone().requires_grad_()
            y = model(z)
            y = y[:1, : t + 1] if own else y[:, : t + 1]
            (dx,) = torch.autograd.grad(weigh(y), z)
            dx = dx[:1] if own else dx
            if dx[:, t + 1 :].abs().max() > 1e-9:
                return True
        return False

    return answer


def at_random(y):
    g = torch.Generator().manual_seed(0)
    return (y * torch.rand(y.shape, generator=g, dtype=y.dtype)).sum()


def other_sequences(model, x):
    """Takes every dependence on another sequence for a leak."""
    z = x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(at_random(model(z)[:1]), z)
    return bool(dx[1:].abs().max() > 1e-9) or by_gradient(at_random)(model, x)


def present_too(model, x):
    z = x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(at_random(model(z)[:, 0]), z)
    return bool(dx.abs().max() > 1e-9)


def past_too(model, x):
    z = x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(at_random(model(z)[:, 1]), z)
    return bool(dx[:, (0, 2, 3)].abs().max() > 1e-9)


ROWS["20.2"] = [
    (lambda model, x: False, "batch norm over (N, L): it looks ahead"),
    (lambda model, x: True, "the present is no future"),
    (lambda model, x: 0.3, "return True or False"),
    (present_too, "the present is no future"),
    (past_too, "the past may count"),
    (by_gradient(at_random, slice(1)), "do you try every position"),
    (other_sequences, "other sequences may count"),
    (by_gradient(at_random, own=True), "another sequence is a future"),
    (by_gradient(torch.sum), "can cancel"),
    (by_gradient(at_random), "right"),
    (changed("20.2", lambda y, *given: torch.tensor(y)), "right"),
    (changed("20.2", lambda y, *given: np.bool_(y)), "right"),
]


def binomial(length):
    return [math.comb(length, k) / 2**length for k in range(length + 1)]


def entropy(length):
    return -sum(p * math.log(p) for p in binomial(length))


def left(length):
    """All that is random, less what the number of heads tells."""
    return length * math.log(2) - entropy(length)


ROWS["20.3"] = [
    (lambda n: math.log(2), "without a leak"),
    (left, "of all coins together"),
    (lambda n: left(n) / n / math.log(2), "not in bits"),
    (lambda n: entropy(n) / n, "what is left"),
    (lambda n: math.log(2) - math.log(n + 1) / n, "as likely"),
    (lambda n: 0.0, "off by"),
    (lambda n: left(n) / n, "right"),
]


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [(number, *row) for number, rows in ROWS.items() for row in rows],
    ids=ids(ROWS),
)
def test_an_answer_gets_its_remark(number, answer, words):
    assert words in verdict_words(number, answer, right=words == "right")
