"""Answers to the exercises of chapter 21: each typical mistake gets its remark.

A row is an answer and words of the remark on it, or "right".
"""

from __future__ import annotations

import copy

import pytest
import torch
from solutions import changed, ids, solution, verdict_words
from torch import nn

ROWS: dict[str, list] = {}


def own_or_not(own, other):
    """An answer to 21.1 from two formulas of the numbers of devices and images."""
    return lambda d, b, own_device: own(d, b) if own_device else other(d, b)


ROWS["21.1"] = [
    (own_or_not(lambda d, b: 1 / (d * b), lambda d, b: 1.0), "which device"),
    (own_or_not(lambda d, b: 1 / d, lambda d, b: 1.0), "not among the devices"),
    (own_or_not(lambda d, b: 1.0, lambda d, b: 1.0), "carry the same signature"),
    (own_or_not(lambda d, b: 1 / (b - 1), lambda d, b: 1.0), "own key is among"),
    (own_or_not(lambda d, b: 1 / b, lambda d, b: 1 / b), "the only one"),
    (
        own_or_not(lambda d, b: 1 / b, lambda d, b: 1 / (d * b - b + 1)),
        "among all candidates",
    ),
    (own_or_not(lambda d, b: 0.3, lambda d, b: 1.0), "off by"),
    (own_or_not(lambda d, b: 1 / b, lambda d, b: 1), "right"),
]


def by_index(model, x, order):
    """The order undone by writing instead of by the inverse: as good."""
    y = model(x[order])
    result = torch.empty_like(y)
    result[order] = y
    return result


ROWS["21.2"] = [
    (lambda model, x, order: model(x), "as x[order]"),
    (lambda model, x, order: model(x[order]), "undo the order"),
    (lambda model, x, order: model(x[order])[order], "applied twice"),
    (lambda model, x, order: model(x[order.argsort()])[order], "inverse order"),
    (lambda model, x, order: x, "not called"),
    (lambda model, x, order: 2 * by_index(model, x, order), "off by"),
    (by_index, "right"),
]


def usual(critic, x):
    """Lengths of the gradient of the sum of the outputs, as published code has them."""
    x = x.requires_grad_()
    return torch.autograd.grad(critic(x).sum(), x)[0].norm(dim=1)


def of_the_mean(critic, x):
    return solution("21.3")(critic, x) / len(x)


def whole_gradients(critic, x, length=False):
    """The gradient of each output, for all inputs or with its own row alone."""
    x = x.requires_grad_()
    y = critic(x)[:, 0]
    grads = [torch.autograd.grad(v, x, retain_graph=True)[0] for v in y]
    if length:
        return torch.stack([g.norm() for g in grads])
    return torch.stack([g[i] for i, g in enumerate(grads)])


def in_evaluation_mode(critic, x):
    return solution("21.3")(copy.deepcopy(critic).eval(), x)


ROWS["21.3"] = [
    (usual, "usual code"),
    (changed("21.3", lambda y, *given: y**2), "not its square"),
    (lambda critic, x: whole_gradients(critic, x, length=True), "one row"),
    (whole_gradients, "its length is asked for"),
    (of_the_mean, "divides by N"),
    (in_evaluation_mode, "evaluation mode"),
    (changed("21.3", lambda y, *given: y[:-1]), "the shape"),
    (changed("21.3", lambda y, *given: 2 * y), "off by"),
    (lambda critic, x: whole_gradients(critic, x).norm(dim=1), "right"),
]


def average(models, keep=(), names="named_parameters"):
    """Average what has a name, unless its module is of one of the kinds to keep."""
    kept = {n for n, m in models[0].named_modules() if isinstance(m, keep)}
    parts = [dict(getattr(model, names)()) for model in models]
    for name in parts[0]:
        if name.rpartition(".")[0] not in kept:
            mean = torch.stack([p[name].detach() for p in parts]).mean(0)
            for part in parts:
                part[name].data.copy_(mean)
    return models


def one_after_the_other(models):
    """Each model's average includes those that were changed before."""
    for model in models:
        for name, parameter in model.named_parameters():
            if not name.startswith(("1.", "3.1.")):
                others = [dict(m.named_parameters())[name] for m in models]
                parameter.data.copy_(torch.stack([p.detach() for p in others]).mean(0))
    return models


def with_statistics(models):
    average(models, nn.BatchNorm1d)
    for layers in zip(*(m.modules() for m in models), strict=True):
        if isinstance(layers[0], nn.BatchNorm1d):
            mean = torch.stack([bn.running_mean for bn in layers]).mean(0)
            for layer in layers:
                layer.running_mean.copy_(mean)
    return models


ROWS["21.4"] = [
    (average, "keeps its own batch norms"),
    (with_statistics, "keeps its own batch norms"),
    (lambda models: models, "was not averaged"),
    (
        lambda models: average(models, (nn.BatchNorm1d, nn.LayerNorm)),
        "belongs to no batch norm",
    ),
    (one_after_the_other, "before the first change"),
    (lambda models: average(models, nn.BatchNorm1d)[0], "return the list"),
    (
        lambda models: average(copy.deepcopy(models), nn.BatchNorm1d),
        "in place",
    ),
    (lambda models: average(models, nn.BatchNorm1d), "right"),
]


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [(number, *row) for number, rows in ROWS.items() for row in rows],
    ids=ids(ROWS),
)
def test_an_answer_gets_its_remark(number, answer, words):
    assert words in verdict_words(number, answer, right=words == "right")
