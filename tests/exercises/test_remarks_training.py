"""Answers to the exercises of chapters 7 to 12: each typical mistake gets its remark.

A row is an answer and words of the remark on it, or "right".
"""

from __future__ import annotations

import copy
import math
from types import MethodType

import numpy as np
import pytest
import torch
from solutions import changed, ids, verdict_words
from torch import nn
from torch.nn import functional as F

ROWS: dict[str, list] = {}


# Chapter 7


BatchNorm = nn.modules.batchnorm._BatchNorm


def steps(momentum, share):
    return math.log(share) / math.log(1 - momentum)


def chain(power):
    return lambda layers, loss: max(
        2,
        math.ceil(1 / (1 - (1 - loss) ** (1 / power(layers) if power(layers) else 99))),
    )


def norms(model):
    return [m for m in model.modules() if isinstance(m, BatchNorm)]


def only_requires_grad(model):
    for m in norms(model):
        m.requires_grad_(False)
    return model


def until_train(model):
    for m in norms(only_requires_grad(model)):
        m.eval()
    return model


def lasting(model, only=BatchNorm, gradients=False):
    for m in model.modules():
        if isinstance(m, only):
            m.requires_grad_(gradients).eval()
            m.train = lambda mode=True, m=m: m
    return model


class ByClass(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = only_requires_grad(model)
        self.train()

    def train(self, mode=True):
        super().train(mode)
        until_train(self.model)
        return self

    def forward(self, x):
        return self.model(x)


def kept_by_the_original(model):
    """Puts into evaluation mode the layers of the first model, not of a copy."""
    layers = norms(only_requires_grad(model))

    class Forgetful(ByClass):
        def train(self, mode=True):
            nn.Module.train(self, mode)
            for m in layers:
                m.eval()
            return self

    return Forgetful(model)


def by_a_bound_function(model):
    def train(self, mode=True):
        nn.Module.train(self, mode)
        return until_train(self)

    until_train(model).train = MethodType(train, model)
    return model


def on_a_copy(model):
    return ByClass(copy.deepcopy(model))


def returning_nothing(model):
    class Forgetful(ByClass):
        def train(self, mode=True):
            super().train(mode)

    return Forgetful(model)


def linear_too(model):
    model.requires_grad_(False)
    return ByClass(model)


def everything(model):
    model.requires_grad_(False).eval()
    model.train = lambda mode=True: model
    return model


ROWS["07.1"] = [
    (lambda a, p: math.ceil(math.log(p) / math.log(a)), "keeps the share 1 - momentum"),
    (lambda a, p: math.ceil(math.log(1 - p) / math.log(1 - a)), "has lost the share"),
    (steps, "whole"),
    (lambda a, p: math.floor(steps(a, p)), "off by one"),
    (lambda a, p: 7, "leave"),
    (lambda a, p: math.ceil(steps(a, p) - 1e-9), "right"),
    (lambda a, p: math.ceil(steps(a, p) + 1e-9), "right"),
    (lambda a, p: float(math.ceil(steps(a, p))), "right"),
]

ROWS["07.2"] = [
    (chain(lambda d: d / 2), "first layer is right"),
    (chain(lambda d: d - 1), "loss of variance"),
    (lambda layers, loss: 500.5, "whole number"),
    (lambda layers, loss: math.inf, "whole number"),
    (lambda layers, loss: 1, "no variance"),
    (lambda layers, loss: 10**6, "fewer values are enough"),
    (lambda layers, loss: 3, "the std loses 0.978761: more values are needed"),
    (changed("07.2", lambda m, *given: max(2, m - 1)), "one more value is needed"),
    (changed("07.2", lambda m, layers, _: m + (layers == 1)), "with 1 layer, a loss"),
    (changed("07.2", lambda m, *given: float(m)), "right"),
    (changed("07.2", lambda m, *given: np.int64(m)), "right"),
    (changed("07.2", lambda m, layers, loss: 10 if layers == 3 else m), "right"),
    (changed("07.2", lambda m, layers, loss: 11 if layers == 3 else m), "right"),
    (changed("07.2", lambda m, layers, loss: 12 if layers == 3 else m), "fewer"),
    (changed("07.2", lambda m, layers, loss: 9 if layers == 3 else m), "one more"),
]

ROWS["07.3"] = [
    (only_requires_grad, "right after freezing"),
    (until_train, "after model.train()"),
    (lambda model: lasting(model, gradients=True), "optimiser could still change"),
    (everything, "the Linear layers should go on learning"),
    (linear_too, "the Linear layers should go on learning"),
    (on_a_copy, "the Linear layers are copies"),
    (returning_nothing, "train() should return the model itself"),
    (ByClass, "right"),
    (lambda model: lasting(model, only=(BatchNorm, nn.Dropout)), "other modules"),
    (lambda model: bool(lasting(model)), "return a model"),
    (lasting, "after convert_sync_batchnorm"),
    (kept_by_the_original, "in a copy"),
    (by_a_bound_function, "cannot be pickled"),
    (lambda model: ByClass(nn.Sequential(model, nn.Tanh())), "compute what"),
]


# Chapter 8


def count(per_hidden, last=1):
    def parameters(sizes):
        weights = sum(a * b for a, b in zip(sizes, sizes[1:]))
        return weights + per_hidden * sum(sizes[1:-1]) + last * sizes[-1]

    return parameters


def gain(a, b):
    return np.subtract(a, b)


def table(net, x, y, mode=False, restore=True, swap=False):
    before = net.training
    net.train(mode)
    with torch.no_grad():
        guess = (
            torch.nn.functional.batch_norm(net[0](x), None, None, training=True)
            if mode == "batch"
            else net(x)
        ).argmax(1)
    if restore:
        net.train(before)
    pair = 10 * guess + y if swap else 10 * y + guess
    return torch.bincount(pair, minlength=100).view(10, 10)


def by_batch(net, x, y):
    with torch.no_grad():
        z = torch.nn.functional.batch_norm(net[0](x), None, None, training=True)
    return torch.bincount(10 * y + z.argmax(1), minlength=100).view(10, 10)


def leaves_in_training(net, x, y):
    result = table(net, x, y)
    net.train()
    return result


ROWS["08.1"] = [
    (count(3), "has no bias here"),
    (count(4), "not trained"),
    (count(1), "scale and a shift"),
    (count(2, last=0), "last Linear has a bias"),
    (count(2, last=2), "no batch norm after the last"),
    (count(2, last=3), "no batch norm after the last"),
    (count(0), "each hidden width adds γ and β"),
    (lambda sizes: 0, "counted wrong"),
]

ROWS["08.2"] = [
    (lambda a, b: (gain(b, a).mean(), 0), "a minus b"),
    (lambda a, b: (gain(a, b).sum(), 0), "mean of the differences"),
    (lambda a, b: (gain(a, b).mean(), gain(a, b).std(ddof=1)), "single differences"),
    (lambda a, b: (gain(a, b).mean(), gain(a, b).std() / 2), "which ddof"),
    (lambda a, b: (gain(a, b).mean(), gain(a, b).std()), "ddof is 0"),
    (lambda a, b: (gain(a, b).mean(), gain(a, b).var(ddof=1) / 4), "variance"),
    (
        lambda a, b: (
            gain(a, b).mean(),
            np.hypot(np.std(a, ddof=1), np.std(b, ddof=1)) / 2,
        ),
        "seed by seed",
    ),
    (lambda a, b: (gain(a, b).mean(), 7), "not the standard error"),
    (lambda a, b: gain(a, b).mean(), "return two numbers"),
    (lambda a, b: gain(a, b), "return two numbers"),
    (changed("08.2", lambda y, *given: np.array(y)), "right"),
]

ROWS["08.3"] = [
    (lambda net, x, y: table(net, x, y, mode=True), "running statistics have changed"),
    (lambda net, x, y: table(net, x, y, restore=False), "should leave in it"),
    (leaves_in_training, "came in evaluation mode"),
    (lambda net, x, y: table(net, x, y, swap=True), "rows are the true"),
    (by_batch, "statistics of the batch"),
    (lambda net, x, y: table(net, x, y) + 1, "some counts are wrong"),
    (lambda net, x, y: table(net, x, y).flatten(), "the table has shape (100,)"),
    (lambda net, x, y: table(net, x, y).float(), "of type torch.float32: make it an"),
    (lambda net, x, y: table(net, x, y).double().numpy(), "of type float64"),
    (lambda net, x, y: table(net, x, y).numpy(), "right"),
    (lambda net, x, y: table(net, x, y).tolist(), "right"),
]


# Chapter 9


def held_out(values, read_here=False):
    found = []
    for i in range(len(values)):
        rest = np.delete(values, i, axis=0).mean(0)
        found.append(rest.max() if read_here else values[i, rest.argmax()])
    return np.mean(found)


ROWS["09.1"] = [
    (lambda lr, a: a * lr, "both count"),
    (lambda lr, a: lr / a, "larger or smaller"),
    (lambda lr, a: lr / a**2, "larger or smaller"),
    (lambda lr, a: lr, "hardly move"),
    (lambda lr, a: 7.0, "not the matching rate"),
]

ROWS["09.2"] = [
    (lambda v: v.mean(0).max() - held_out(v), "not the reverse"),
    (held_out, "subtract"),
    (lambda v: 0.0, "without the seed"),
    (lambda v: held_out(v, read_here=True) - v.mean(0).max(), "left out"),
    (lambda v: v.max(1).mean() - v.mean(0).max(), "the other seeds"),
    (lambda v: 5.0, "is not the flattery"),
]

ROWS["09.3"] = [
    (lambda: 6.0, "variances"),
    (lambda: 2**0.5, "uniform"),
    (lambda: 6**-0.5, "He's into PyTorch's"),
    (lambda: (2 / 3) ** 0.5, "which way"),
    (lambda: 1.0, "not He's"),
]


# Chapter 10


ROWS["10.1"] = [
    (lambda m: (m - 1) / math.sqrt(m), "unbiased"),
    (lambda m: m - 1, "not by the variance"),
    (lambda m: math.sqrt(m), "moves the mean"),
    (lambda m: 1.0, "not the largest"),
]

ROWS["10.2"] = [
    (lambda a, old, new: (1 - a) ** (new / old), "share that is kept"),
    (lambda a, old, new: 1 - (1 - a) ** (old / new), "fewer steps"),
    (lambda a, old, new: a ** (new / old), "not momentum"),
    (lambda a, old, new: a * new / old, "small α only"),
    (lambda a, old, new: a, "another memory"),
]

ROWS["10.3"] = [
    (lambda mean, var: (mean.mean(0), var.mean(0)), "differs between"),
    (lambda mean, var: (mean.mean(0), mean.var(0)), "within a batch"),
    (lambda mean, var: (mean.mean(0), var.mean(0) + mean.var(0, ddof=1)), "by K"),
    (lambda mean, var: (mean.mean(0), var.mean(0) + mean.std(0)), "not a standard"),
    (lambda mean, var: (mean.mean(0), var.mean(0) * 2), "variance is off"),
    (lambda mean, var: (mean.mean(), var.mean(0)), "mean is off"),
    (lambda mean, var: mean.mean(0), "two arrays"),
    (changed("10.3", lambda y, *given: (*y, 0)), "return two arrays"),
]


# Chapter 11


def undo(x, mean, std):
    return x * std + mean


def first(steps, reached):
    return steps[np.argmax(reached)]


Q = np.array([[-1.0364], [0.0], [1.0364]])


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


ROWS["11.1"] = [
    (lambda x, mean, std: (x > 0.5).float(), "not of x"),
    (lambda x, mean, std: (x > 0).float(), "mean of all pixels"),
    (lambda x, mean, std: undo(x, mean, std) > 0.5, "booleans"),
    (lambda x, mean, std: (undo(x, mean, std) > 0.5).long(), "int64"),
    (lambda x, mean, std: (undo(x, mean, std) <= 0.5).float(), "swapped"),
    (lambda x, mean, std: undo(x, mean, std), "wrong side"),
    (lambda x, mean, std: (undo(x, mean, std) > 0.5).numpy(), "ndarray"),
]

ROWS["11.2"] = [
    (lambda s, a, b: s[np.argmax(a)] / first(s, b >= a.max()), "may never reach"),
    (lambda s, a, b: first(s, b >= a.max()) / s[np.argmax(a)], "turn the fraction"),
    (lambda s, a, b: s[-1] / first(s, b >= a.max()), "before its last look"),
    (lambda s, a, b: s[np.argmax(a)] / first(s, b > a.max()), "equal counts"),
    (lambda s, a, b: s[np.argmax(a)] / s[np.argmax(b)], "own best"),
    (lambda s, a, b: np.argmax(a) / np.argmax(b >= a.max()), "positions"),
    (lambda s, a, b: 2.0, "not the ratio"),
]

ROWS["11.3"] = [
    (lambda w, b: b + abs(w) * Q, "goes into the sigmoid"),
    (lambda w, b: sigmoid(b + w * Q), "negative γ"),
    (lambda w, b: sigmoid(b + w**2 * Q), "not the variance"),
    (lambda w, b: sigmoid(b + abs(w) * np.sign(Q)), "84th percentile"),
    (lambda w, b: sigmoid(abs(w) * Q) + b, "before the sigmoid"),
    (lambda w, b: sigmoid(b + abs(w) * Q)[::-1], "the order is"),
    (lambda w, b: sigmoid(b + abs(w) * Q).T, "shape"),
    (lambda w, b: sigmoid(b + 0 * Q * w), "largest error"),
]


# Chapter 12


def norm(g):
    return np.sqrt((g**2).sum())


def cosine(g, h):
    return (g * h).sum() / (norm(g) * norm(h))


def balance(lr, decay, unit):
    return (lr * unit**2 / (2 * decay)) ** 0.25


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


def exact_balance(lr, d, g):
    return (lr * g**2 / (2 * d - lr * d * d)) ** 0.25


ROWS["12.1"] = [
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
]

ROWS["12.2"] = [
    (lambda lr, d, g: (lr / (2 * d)) ** 0.5 * g, "shrinks"),
    (lambda lr, d, g: balance(lr, d, g) ** 4, "roots are still"),
    (lambda lr, d, g: balance(lr, d / 2, g), "where is the 2"),
    (lambda lr, d, g: 1 / balance(lr, d, g), "more decay"),
    (lambda lr, d, g: balance(1, d, g), "larger steps"),
    (lambda lr, d, g: (lr * g / (2 * d)) ** 0.25, "enters squared"),
    (lambda lr, d, g: 3.0, "do not cancel"),
    (exact_balance, "right"),
]

ROWS["12.3"] = [
    (lambda kind, a, lr, decay: lr * a, "two numbers"),
    (by_kind(lambda a: (a**-2, a**2), right_adamw), "larger weights need"),
    (by_kind(lambda a: (a, 1 / a), right_adamw), "gradient is not the same"),
    (by_kind(lambda a: (3, 1), right_adamw), "another training"),
    (by_kind(lambda a: (a**2, 1), right_adamw), "η has changed"),
    (by_kind(lambda a: (a**2, a**2), right_adamw), "which way"),
    (by_kind(lambda a: (a**2, 7), right_adamw), "does not keep"),
    (by_kind(right_sgd, right_sgd), "Adam step"),
    (by_kind(right_sgd, lambda a: (a, 1)), "η has changed"),
    (
        changed(
            "12.3",
            lambda y, kind, a, lr, decay: (y[0] * (3 if kind == "adamw" else 1), y[1]),
        ),
        "gives another training",
    ),
]


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [(number, *row) for number, rows in ROWS.items() for row in rows],
    ids=ids(ROWS),
)
def test_an_answer_gets_its_remark(number, answer, words):
    assert words in verdict_words(number, answer, right=words == "right")


def test_at_the_balanced_norm_a_step_does_not_change_the_norm():
    lr, decay, unit = 0.1, 5e-4, 2.0
    w = np.array([balance(lr, decay, unit), 0.0])
    g = np.array([0.0, unit / norm(w)])  # perpendicular, and smaller for larger w
    after = w - lr * (g + decay * w)
    assert norm(after) == pytest.approx(norm(w), rel=1e-8)


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
