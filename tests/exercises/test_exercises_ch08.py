"""Typical mistakes in the exercises of chapter 8 get the remark that names them."""

import numpy as np
import pytest
import torch

from bnutils import exercises


def count(per_hidden, last=1):
    def parameters(sizes):
        weights = sum(a * b for a, b in zip(sizes, sizes[1:]))
        return weights + per_hidden * sum(sizes[1:-1]) + last * sizes[-1]

    return parameters


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (count(3), "has no bias here"),
        (count(4), "not trained"),
        (count(1), "scale and a shift"),
        (count(2, last=0), "last Linear has a bias"),
        (count(2, last=2), "no batch norm after the last"),
        (count(2, last=3), "no batch norm after the last"),
        (lambda sizes: 0, "counted wrong"),
    ],
)
def test_parameters(answer, remark):
    assert remark in exercises.check("08.1", answer).remark


def gain(a, b):
    return np.subtract(a, b)


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda a, b: (gain(b, a).mean(), 0), "a minus b"),
        (lambda a, b: (gain(a, b).sum(), 0), "mean of the differences"),
        (
            lambda a, b: (gain(a, b).mean(), gain(a, b).std(ddof=1)),
            "single differences",
        ),
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
    ],
)
def test_paired(answer, remark):
    assert remark in exercises.check("08.2", answer).remark


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


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (
            lambda net, x, y: table(net, x, y, mode=True),
            "running statistics have changed",
        ),
        (lambda net, x, y: table(net, x, y, restore=False), "should leave in it"),
        (leaves_in_training, "came in evaluation mode"),
        (lambda net, x, y: table(net, x, y, swap=True), "rows are the true"),
        (by_batch, "statistics of the batch"),
        (lambda net, x, y: table(net, x, y) + 1, "some counts are wrong"),
    ],
)
def test_confusion(answer, remark):
    assert remark in exercises.check("08.3", answer).remark
