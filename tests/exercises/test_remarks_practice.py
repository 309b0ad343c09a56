"""Answers to the exercises of chapters 13 to 17: each typical mistake gets its remark.

A row is an answer and words of the remark on it, or "right".
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solutions import changed, ids, solution, verdict_words
from torch import nn

ROWS: dict[str, list] = {}


# Chapter 13


def std(var, eps):
    return np.sqrt(var + eps)


def by_order(model):
    """The mistake that the exercise is about: neighbours in the list of modules."""
    named = [(n, m) for n, m in model.named_modules() if not list(m.children())]
    return [
        (a, b)
        for (a, first), (b, second) in zip(named, named[1:], strict=False)
        if isinstance(first, nn.Linear) and isinstance(second, nn.BatchNorm1d)
    ]


RIGHT = [("first", "norm_c"), ("inner.0", "inner.1")]


ROWS["13.1"] = [
    (lambda b, g, beta, m, v, e: b - g * m / std(v, e) + beta, "own bias goes"),
    (lambda b, g, beta, m, v, e: beta - g * m / std(v, e), "a bias of its own"),
    (lambda b, g, beta, m, v, e: g * b / std(v, e) + beta, "mean is missing"),
    (lambda b, g, beta, m, v, e: g * (b + m) / std(v, e) + beta, "subtracted"),
    (lambda b, g, beta, m, v, e: g * (b - m) / std(v, e), "β is missing"),
    (lambda b, g, beta, m, v, e: g * (b - m + beta) / std(v, e), "after the scaling"),
    (lambda b, g, beta, m, v, e: (b - m) / std(v, e) + beta, "γ is missing"),
    (lambda b, g, beta, m, v, e: g * (b - m) / (v**0.5 + e) + beta, "inside the root"),
    (lambda b, g, beta, m, v, e: g * (b - m) / (v + e) + beta, "standard deviation"),
    (lambda b, g, beta, m, v, e: g * (b - m) / v**0.5 + beta, "ε is missing"),
    (lambda b, g, beta, m, v, e: b, "off by"),
]

ROWS["13.2"] = [
    (lambda w, b, s, t: w * s, "two arrays"),
    (lambda w, b, s, t: (s[:, None] * w, b), "belongs to the inputs"),
    (lambda w, b, s, t: (w, b), "weight is off"),
    (lambda w, b, s, t: (w * s, b), "arrives in the bias"),
    (lambda w, b, s, t: (w * s, b + (w * s) @ t), "after the scaling"),
    (lambda w, b, s, t: (w * s, w @ t), "own bias is missing"),
    (lambda w, b, s, t: (w * s, b + t), "on its way"),
    (lambda w, b, s, t: (w * s, 2 * b), "bias is off"),
    (changed("13.2", lambda y, *given: (*y, 0)), "return two arrays"),
]

ROWS["13.3"] = [
    (by_order, "registered"),
    (lambda model: [*RIGHT, ("third", "norm_b")], "somebody else"),
    (lambda model: [*RIGHT, ("second", "norm_a")], "ReLU between"),
    (lambda model: [pair[::-1] for pair in RIGHT], "layer comes first"),
    (lambda model: RIGHT[1:], "directly follows"),
    (lambda model: RIGHT[:1], "inside containers"),
    (lambda model: [*RIGHT, ("x", "y")], "not such a pair"),
    (lambda model: 3, "list of pairs"),
]


# Chapter 14


def size(batch="n*l", layer="c*l", instance="l", group="c//g*l"):
    """An answer to 14.1 from four formulas."""
    formulas = {"batch": batch, "layer": layer, "instance": instance, "group": group}

    def answer(kind, n, c, length, g):
        return eval(formulas[kind], {"n": n, "c": c, "l": length, "g": g})

    return answer


def ghost(shape=None, ddof=0, inside=True, swap=False):
    def answer(x, size, eps):
        parts = x.reshape(shape or (-1, size, x.shape[1]))
        parts = parts.swapaxes(0, 1) if swap else parts
        var = parts.var(1, keepdims=True, ddof=ddof)
        std = np.sqrt(var + eps) if inside else np.sqrt(var) + eps
        y = (parts - parts.mean(1, keepdims=True)) / std
        return (y.swapaxes(0, 1) if swap else y).reshape(x.shape)

    return answer


def backward(formula, with_eps=True):
    def answer(dy, x, r, eps):
        std = np.sqrt(x.var(0) + eps * with_eps)
        h = (x - x.mean(0)) / np.sqrt(x.var(0) + eps)
        names = {"dy": dy, "r": r, "std": std, "m": dy.mean(0)}
        return eval(formula, names | {"v": h * (dy * h).mean(0)})

    return answer


def every_third(x, size, eps):
    groups = len(x) // size
    y = [solution("14.2")(x[i::groups], size, eps) for i in range(groups)]
    return np.stack(y, 1).reshape(x.shape)


ROWS["14.1"] = [
    (size(batch="n"), "positions"),
    (size(layer="n*c*l"), "with the others"),
    (size(group="g*l"), "as many channels as there are groups"),
    (size(batch="c"), "number of means"),
    (size(instance="l+1"), "not the number of values"),
    (
        changed("14.1", lambda y, kind, n, c, l, g: 1000 if kind == "group" else y),
        "1000 is not the number of values",
    ),
    (
        changed("14.1", lambda y, kind, n, c, l, g: g * l if kind == "layer" else y),
        "is not the number of values",
    ),
]

ROWS["14.2"] = [
    (ghost((1, 12, 5)), "whole batch"),
    (ghost(ddof=1), "which variance"),
    (ghost(inside=False), "eps belong"),
    (ghost((4, -1, 5), swap=True), "neighbours"),
    (ghost((4, -1, 5)), "not that size"),
    (lambda x, size, eps: ghost()(x, size, eps).T, "shape"),
    (lambda x, size, eps: 2 * ghost()(x, size, eps), "off by"),
    (every_third, "ghost batches are neighbours"),
]

ROWS["14.3"] = [
    (backward("(dy - m - v) / std"), "r is missing"),
    (backward("(dy - m - v) / std / r"), "multiplies the gradient"),
    (backward("r / std * dy"), "r and d do not"),
    (backward("r / std * (dy - m)"), "variance depends"),
    (backward("r / std * (dy - v)"), "mean depends"),
    (backward("r / std * (dy - m - v)", with_eps=False), "eps is missing"),
    (backward("r * r / std * (dy - m - v)"), "off by"),
]


# Chapter 15


def merge(a, b, between=1.0, share=None, divide=False, textbook=False):
    m = a[0] + b[0]
    part = (b[0] / m) if share is None else share
    gap = b[1] - a[1]
    squares = a[2] + b[2] + between * a[0] * b[0] / m * gap**2
    mean = a[1] + part * gap
    if textbook:
        squares = sum(s + n * mu**2 for n, mu, s in (a, b)) - m * mean**2
    return m, mean, squares / (m if divide else 1)


def backward_15(
    dy, x_hat, std, weight, count, all_sum, own=True, dx=None, together=True
):
    sums = np.stack([dy.sum(0), (dy * x_hat).sum(0)])
    total = all_sum(sums[0]), all_sum(sums[1])  # two calls do as well
    g, gx = (v / count for v in total) if together else sums / len(dy)
    dbias, dweight = sums if own else total
    full = weight / std * (dy - g - x_hat * gx)
    return (dx(dy, x_hat, std, weight, g, gx) if dx else full), dweight, dbias


def wrong(**options):
    return lambda *args: backward_15(*args, **options)


ROWS["15.1"] = [
    (lambda sizes, r: sizes[r] / sum(sizes), "DDP does what"),
    (lambda sizes, r: len(sizes) / sum(sizes), "a sum, not a mean"),
    (lambda sizes, r: 1, "counts the same"),
    (lambda sizes, r: 7, "sum to"),
    (lambda sizes, r: len(sizes) * sizes[r] / sum(sizes), "right"),
]

ROWS["15.2"] = [
    (merge, "right"),
    (lambda a, b: merge(a, b, share=0.5), "larger part should weigh more"),
    (lambda a, b: merge(a, b, share=0.1), "mean is off"),
    (lambda a, b: merge(a, b, between=0), "between are missing"),
    (lambda a, b: merge(a, b, between=2), "squares are off"),
    (lambda a, b: merge(a, b, divide=True), "not the variance"),
    (lambda a, b: merge(a, b, textbook=True), "large squares"),
    (lambda a, b: merge(a, b)[1:], "three things"),
    (lambda a, b: (1, *merge(a, b)[1:]), "the count is 1"),
    (lambda a, b: (a[0] + b[0], np.nan * a[1], a[2]), "not finite"),
    (
        changed(
            "15.2", lambda y, a, b: (*y[:2], 0 * y[2] if np.max(y[1]) > 1e7 else y[2])
        ),
        "a mean of 1e8 destroys it",
    ),
]

ROWS["15.3"] = [
    (backward_15, "right"),
    (wrong(own=False), "DDP would add them up again"),
    (wrong(together=False), "that is local"),
    (wrong(dx=lambda dy, x, s, w, g, gx: (dy - g - x * gx) / s), "gamma is missing"),
    (
        wrong(dx=lambda dy, x, s, w, g, gx: w / s * (dy - 12 * g - 12 * x * gx)),
        "divide the sums",
    ),
    (wrong(dx=lambda dy, x, s, w, g, gx: w / s * (dy - g)), "one road is missing"),
    (wrong(dx=lambda dy, *rest: dy), "dx is off"),
    (wrong(dx=lambda dy, *rest: dy.T), "shape of dy"),
    (lambda *args: backward_15(*args)[0], "three arrays"),
    (lambda *args: (np.zeros(3),) * 3, "dweight of a rank is off"),
    (changed("15.3", lambda y, *given: y[:2]), "return three arrays"),
]


# Chapter 16


def right_scale(var, weight, eps):
    return weight / (var + eps).sqrt()


def merged_mean(a, b):
    return (a[0] * a[1] + b[0] * b[1]) / (a[0] + b[0])


ROWS["16.1"] = [
    (lambda n, w: 5 * n / w, "how many bytes"),
    (lambda n, w: 8 * n / w, "forward pass alone"),
    (lambda n, w: 12 * n / w, "backward pass alone"),
    (lambda n, w: 16 * n / w, "reads two arrays"),
    (lambda n, w: 32 * n / w, "a second time"),
    (lambda n, w: n / w / 3, "count arrays"),
]

ROWS["16.2"] = [
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
    (changed("16.2", lambda y, *given: (*y, 0)), "return two tensors"),
]

ROWS["16.3"] = [
    (lambda a, b: (a[0], a[1], a[2]), "the count"),
    (lambda a, b: (16, (a[1] + b[1]) / 2, a[2]), "counts by the number"),
    (lambda a, b: (16, a[1], a[2]), "mean is off"),
    (lambda a, b: (16, merged_mean(a, b), a[2] + b[2]), "between the pieces"),
    (lambda a, b: (16, merged_mean(a, b), a[2]), "squares is off"),
    (lambda a, b: a[1], "three values"),
    (changed("16.3", lambda y, a, b: (*y[:2], y[2] / y[0])), "not the variance"),
]


# Chapter 17


def by(choose):
    """An answer that spares the parameters for which a function of the module says so."""

    def answer(model, weight_decay):
        spared = [
            p
            for m in model.modules()
            for p in m.parameters(recurse=False)
            if choose(m, p)
        ]
        ids = {id(p) for p in spared}
        rest = [p for p in model.parameters() if id(p) not in ids]
        return [
            {"params": rest, "weight_decay": weight_decay},
            {"params": spared, "weight_decay": 0},
        ]

    return answer


def is_norm(m, p=None):
    return isinstance(m, nn.modules.batchnorm._BatchNorm)


def overlapping(model, weight_decay):
    first, second = by(is_norm)(model, weight_decay)
    return [first | {"params": list(model.parameters())}, second]


def incomplete(model, weight_decay):
    first, second = by(is_norm)(model, weight_decay)
    return [first | {"params": first["params"][1:]}, second]


def distance(share=lambda a: 1 + a / (2 - a), correction=1, power=0.5, sign=torch.abs):
    def answer(r, x, a):
        var = x.var(0, correction=correction) / len(x)
        return sign(x.mean(0) - r) / (var * share(a)) ** power

    return answer


ROWS["17.1"] = [
    (by(lambda m, p: p.dim() == 1), "all vectors"),
    (by(lambda m, p: isinstance(m, nn.BatchNorm1d)), "another dimension"),
    (by(lambda m, p: isinstance(m, nn.LayerNorm)), "batch norm has 4"),
    (overlapping, "twice"),
    (incomplete, "missing"),
    (lambda model, wd: by(is_norm)(model, wd)[::-1], "weight decays are"),
    (lambda model, wd: {"params": []}, "two groups"),
    (by(is_norm), "right"),
    (
        changed("17.1", lambda y, *given: [*y, {"weight_decay": 0}]),
        "a list of two groups",
    ),
]

ROWS["17.2"] = [
    (lambda a, k: (1 - a) ** (1 / k), "each update keeps"),
    (lambda a, k: 1 - (1 - a) ** k, "turn it around"),
    (lambda a, k: a / k, "close for a small"),
    (lambda a, k: a ** (1 / k), "not momentum"),
    (lambda a, k: a + 1, "another share"),
    (lambda a, k: 1 - (1 - a) ** (1 / k), "right"),
]

ROWS["17.3"] = [
    (distance(sign=lambda gap: gap), "not negative"),
    (distance(correction=0), "N - 1"),
    (distance(share=lambda a: 1), "running mean is uncertain"),
    (distance(share=lambda a: a / (2 - a)), "mean of x is uncertain"),
    (distance(share=lambda a: (1 + (a / (2 - a)) ** 0.5) ** 2), "add as variances"),
    (distance(power=1), "not by its square"),
    (lambda r, x, a: (x.mean(0) - r).abs() / x.std(0), "deviations of the data"),
    (lambda r, x, a: torch.zeros(()), "largest error"),
    (distance(), "right"),
]


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [(number, *row) for number, rows in ROWS.items() for row in rows],
    ids=ids(ROWS),
)
def test_an_answer_gets_its_remark(number, answer, words):
    assert words in verdict_words(number, answer, right=words == "right")
