"""Typical mistakes in the exercises of chapter 7 get the remark that names them."""

import math

import pytest
from torch import nn

from bnutils import exercises

BatchNorm = nn.modules.batchnorm._BatchNorm


def steps(momentum, share):
    return math.log(share) / math.log(1 - momentum)


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (
            lambda a, p: math.ceil(math.log(p) / math.log(a)),
            "keeps the share 1 - momentum",
        ),
        (
            lambda a, p: math.ceil(math.log(1 - p) / math.log(1 - a)),
            "has lost the share",
        ),
        (steps, "whole"),
        (lambda a, p: math.floor(steps(a, p)), "off by one"),
        (lambda a, p: 7, "leave"),
    ],
)
def test_batches_needed(answer, remark):
    assert remark in exercises.check("07.1", answer).remark


def chain(power):
    return lambda layers, loss: max(
        2,
        math.ceil(1 / (1 - (1 - loss) ** (1 / power(layers) if power(layers) else 99))),
    )


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (chain(lambda d: d / 2), "first layer is right"),
        (chain(lambda d: d - 1), "loss of variance"),
        (lambda layers, loss: 500.0, "whole number"),
        (lambda layers, loss: 1, "no variance"),
        (lambda layers, loss: 10**6, "with one less"),
        (lambda layers, loss: 3, "loses"),
    ],
)
def test_smallest_batch(answer, remark):
    assert remark in exercises.check("07.2", answer).remark


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


def everything(model):
    model.requires_grad_(False).eval()
    model.train = lambda mode=True: model
    return model


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (only_requires_grad, "right after freezing"),
        (until_train, "after model.train()"),
        (lambda model: lasting(model, gradients=True), "optimiser could still change"),
        (everything, "Linear"),
        (lambda model: lasting(model, only=(BatchNorm, nn.Dropout)), "other modules"),
        (lambda model: bool(lasting(model)), "return the model"),
    ],
)
def test_freeze(answer, remark):
    assert remark in exercises.check("07.3", answer).remark
