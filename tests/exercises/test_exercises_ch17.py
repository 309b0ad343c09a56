"""Typical mistakes in the exercises of chapter 17 get the remark that names them."""

import pytest
import torch
from torch import nn

from bnutils import exercises


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


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (by(lambda m, p: p.dim() == 1), "all vectors"),
        (by(lambda m, p: isinstance(m, nn.BatchNorm1d)), "another dimension"),
        (by(lambda m, p: isinstance(m, nn.LayerNorm)), "batch norm has 4"),
        (overlapping, "twice"),
        (incomplete, "missing"),
        (lambda model, wd: by(is_norm)(model, wd)[::-1], "weight decays are"),
        (lambda model, wd: {"params": []}, "two groups"),
    ],
)
def test_groups(answer, remark):
    assert remark in exercises.check("17.1", answer).remark
    assert exercises.check("17.1", by(is_norm)).right


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda a, k: (1 - a) ** (1 / k), "each update keeps"),
        (lambda a, k: 1 - (1 - a) ** k, "turn it around"),
        (lambda a, k: a / k, "close for a small"),
        (lambda a, k: a ** (1 / k), "not momentum"),
        (lambda a, k: a + 1, "another share"),
    ],
)
def test_momentum_for(answer, remark):
    assert remark in exercises.check("17.2", answer).remark
    assert exercises.check("17.2", lambda a, k: 1 - (1 - a) ** (1 / k)).right


def distance(share=lambda a: 1 + a / (2 - a), correction=1, power=0.5, sign=torch.abs):
    def answer(r, x, a):
        var = x.var(0, correction=correction) / len(x)
        return sign(x.mean(0) - r) / (var * share(a)) ** power

    return answer


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (distance(sign=lambda gap: gap), "not negative"),
        (distance(correction=0), "N - 1"),
        (distance(share=lambda a: 1), "running mean is uncertain"),
        (distance(share=lambda a: a / (2 - a)), "mean of x is uncertain"),
        (distance(share=lambda a: (1 + (a / (2 - a)) ** 0.5) ** 2), "add as variances"),
        (distance(power=1), "not by its square"),
        (lambda r, x, a: (x.mean(0) - r).abs() / x.std(0), "deviations of the data"),
        (lambda r, x, a: torch.zeros(()), "largest error"),
    ],
)
def test_distance(answer, remark):
    assert remark in exercises.check("17.3", answer).remark
    assert exercises.check("17.3", distance()).right
