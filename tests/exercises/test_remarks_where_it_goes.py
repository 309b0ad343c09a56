"""Answers to the exercises of chapter 18: each typical mistake gets its remark.

A row is an answer and words of the remark on it, or "right".
"""

from __future__ import annotations

import math

import pytest
import torch
from solutions import ids, verdict_words
from torch import nn

from bnutils.exercises.ch18 import between, floor

ROWS: dict[str, list] = {}


def kinds(*kept):
    """An answer by name: the bias is harmless behind these layers alone."""
    return lambda layer: not isinstance(layer, kept)


POOLS = (nn.MaxPool1d, nn.AvgPool1d, nn.Sequential)

ROWS["18.1"] = [
    (lambda layer: 3, "return True or False"),
    (lambda layer: True, "with nothing between, the bias moves"),
    (lambda layer: False, "with a ReLU between, the bias changes"),
    (kinds(nn.Identity), "with max pooling between, the bias moves"),
    (kinds(nn.Identity, *POOLS), "the zeros at the edge"),
    (
        lambda layer: (
            not isinstance(layer, (nn.Identity, nn.Dropout, *POOLS))
            or getattr(layer, "padding", 0) == (1,)
        ),
        "its bias goes too",
    ),
]


def ratio(formula):
    return lambda p, mean, var: eval(
        formula, {"p": p, "m": mean, "v": var, "s": (var + mean**2) / (1 - p)}
    )


ROWS["18.2"] = [
    (ratio("v / (s - m * m)"), "other way round"),
    (ratio("s - m * m"), "divide by that of evaluation"),
    (ratio("((1 - p) * (v + m * m) - ((1 - p) * m) ** 2) / v"), "divided by 1 - p"),
    (ratio("((v + m * m) / p - m * m) / v"), "not the one that is kept"),
    (ratio("1 / (1 - p)"), "mean 0 only"),
    (ratio("s / v"), "second moment"),
    (ratio("(s - (m / (1 - p)) ** 2) / v"), "stays as it is"),
    (ratio("7.0"), "is not the ratio"),
]

ROWS["18.3"] = [
    (lambda k, g: floor(k, 1.0), "γ multiplies"),
    (lambda k, g: floor(k, g, math.sqrt(k - 1)), "is not 0"),
    (lambda k, g: math.exp(-floor(k, g)), "probability of the right class"),
    (lambda k, g: math.log1p(math.exp(-g * k / math.sqrt(k - 1))), "count the wrong"),
    (lambda k, g: floor(k, g, 2.0), "not 1/2"),
    (lambda k, g: -floor(k, g), "not negative"),
    (lambda k, g: 5.0, "off by"),
]


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [(number, *row) for number, rows in ROWS.items() for row in rows],
    ids=ids(ROWS),
)
def test_an_answer_gets_its_remark(number, answer, words):
    assert words in verdict_words(number, answer, right=words == "right")


@pytest.mark.parametrize(("name", "layer", "matters"), between())
def test_pytorch_agrees_on_which_bias_matters(name, layer, matters):
    torch.manual_seed(0)
    z, bias = torch.randn(200, 3, 12).double(), torch.tensor([[0.3], [-2.0], [1.0]])
    norm, found = nn.BatchNorm1d(3).double(), []
    for shift in (0, bias):
        torch.manual_seed(1)
        found.append(norm(layer(z + shift)))
    assert torch.allclose(*found, rtol=0, atol=1e-9) != matters, name


def test_the_variance_under_dropout_is_the_formula():
    torch.manual_seed(0)
    z = 0.4 + 0.6 * torch.randn(1_000_000, dtype=torch.float64)
    seen = nn.functional.dropout(z, 0.3).var() / z.var()
    formula = ((z.var() + z.mean() ** 2) / 0.7 - z.mean() ** 2) / z.var()
    assert seen.item() == pytest.approx(formula.item(), rel=0.01)


@pytest.mark.parametrize(("classes", "gamma"), [(2, 1.0), (10, 1.0), (5, 2.0)])
def test_no_logits_behind_batch_norm_have_a_lower_loss(classes, gamma):
    torch.manual_seed(0)
    y = torch.arange(classes).repeat_interleave(8)
    free = torch.randn(len(y), classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=0.1)
    for _ in range(300):
        z = nn.functional.batch_norm(free, None, None, training=True, eps=1e-12)
        loss = nn.functional.cross_entropy(gamma * z, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert floor(classes, gamma) - 1e-12 <= loss.item() < floor(classes, gamma) + 1e-3
