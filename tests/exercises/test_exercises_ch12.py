"""Typical mistakes in the exercises of chapter 12 get the remark that names them."""

import numpy as np
import pytest
import torch
from solutions import judge
from torch import nn
from torch.nn import functional as F

from bnutils import exercises


def norm(g):
    return np.sqrt((g**2).sum())


def cosine(g, h):
    return (g * h).sum() / (norm(g) * norm(h))


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda g, h: norm(g - h), "two numbers"),
        (lambda g, h: (abs(g - h), cosine(g, h)), "one long vector"),
        (lambda g, h: (norm(g - h) ** 2, cosine(g, h)), "squared norm"),
        (lambda g, h: (np.linalg.norm(g - h, 2), cosine(g, h)), "another one"),
        (lambda g, h: (norm(g - h) / np.sqrt(g.size), cosine(g, h)), "not average"),
        (lambda g, h: (norm(g - h) / norm(g), cosine(g, h)), "relative to G"),
        (lambda g, h: (abs(norm(g) - norm(h)), cosine(g, h)), "not of the norms"),
        (lambda g, h: (0.0, cosine(g, h)), "norm is off"),
        (lambda g, h: (norm(g - h), (g * h).sum()), "both norms"),
        (lambda g, h: (norm(g - h), (g * h).sum() / norm(g) ** 2), "one of them"),
        (lambda g, h: (norm(g - h), 1 - cosine(g, h)), "1 minus"),
        (lambda g, h: (norm(g - h), 0.0), "cosine is off"),
    ],
)
def test_covariate_shift(answer, remark):
    assert remark in judge("12.1", answer)


def balance(lr, decay, unit):
    return (lr * unit**2 / (2 * decay)) ** 0.25


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda lr, d, g: (lr / (2 * d)) ** 0.5 * g, "shrinks"),
        (lambda lr, d, g: balance(lr, d, g) ** 4, "roots are still"),
        (lambda lr, d, g: balance(lr, d / 2, g), "where is the 2"),
        (lambda lr, d, g: 1 / balance(lr, d, g), "more decay"),
        (lambda lr, d, g: balance(1, d, g), "larger steps"),
        (lambda lr, d, g: (lr * g / (2 * d)) ** 0.25, "enters squared"),
        (lambda lr, d, g: 3.0, "do not cancel"),
    ],
)
def test_norm_in_balance(answer, remark):
    assert remark in judge("12.2", answer)


def test_the_balance_holds_exactly_too():
    exact = exercises.check(
        "12.2", lambda lr, d, g: (lr * g**2 / (2 * d - lr * d * d)) ** 0.25
    )
    assert exact


def test_at_the_balanced_norm_a_step_does_not_change_the_norm():
    lr, decay, unit = 0.1, 5e-4, 2.0
    w = np.array([balance(lr, decay, unit), 0.0])
    g = np.array([0.0, unit / norm(w)])  # perpendicular, and smaller for larger w
    after = w - lr * (g + decay * w)
    assert norm(after) == pytest.approx(norm(w), rel=1e-8)


def by_kind(sgd, adamw):
    """An answer from the factors (rate, decay) of each optimiser."""

    def answer(kind, a, lr, decay):
        rate, factor = (sgd if kind == "sgd" else adamw)(a)
        return lr * rate, decay * factor

    return answer


def right_sgd(a):
    return a**2, a**-2


def right_adamw(a):
    return a, 1 / a


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda kind, a, lr, decay: lr * a, "two numbers"),
        (by_kind(lambda a: (a**-2, a**2), right_adamw), "larger weights need"),
        (by_kind(lambda a: (a, 1 / a), right_adamw), "gradient is not the same"),
        (by_kind(lambda a: (3, 1), right_adamw), "another training"),
        (by_kind(lambda a: (a**2, 1), right_adamw), "η has changed"),
        (by_kind(lambda a: (a**2, a**2), right_adamw), "which way"),
        (by_kind(lambda a: (a**2, 7), right_adamw), "does not keep"),
        (by_kind(right_sgd, right_sgd), "Adam step"),
        (by_kind(right_sgd, lambda a: (a, 1)), "η has changed"),
    ],
)
def test_matched(answer, remark):
    assert remark in judge("12.3", answer)


@pytest.mark.parametrize(("kind", "power"), [("sgd", 2), ("adamw", 1)])
def test_the_matched_settings_are_the_same_training(kind, power):
    """The formulas that the checker accepts, against PyTorch's own optimisers."""
    found = []
    for a in (1.0, 3.0):
        torch.manual_seed(0)
        linear = nn.Linear(5, 4, bias=False, dtype=torch.float64)
        linear.weight.data.mul_(a)
        x, y = torch.randn(30, 5, dtype=torch.float64), torch.arange(30) % 4
        make = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[kind]
        options = {"eps": 1e-30} if kind == "adamw" else {}
        lr, decay = 0.1 * a**power, 0.05 / a**power
        optimizer = make([linear.weight], lr=lr, weight_decay=decay, **options)
        for _ in range(10):
            z = linear(x)
            z = (z - z.mean(0)) / z.std(0, unbiased=False)
            optimizer.zero_grad()
            F.cross_entropy(z, y).backward()
            optimizer.step()
        found.append(linear.weight.detach() / a)
    torch.testing.assert_close(*found, rtol=0, atol=1e-9)
