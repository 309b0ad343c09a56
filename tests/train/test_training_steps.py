"""The steps of a training: PyTorch's own loop, its optimisers and its schedule."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from layers import flat
from torch import nn
from torch.nn import functional as F

from bnutils import data, models, train
from bnutils.train import optim

pytestmark = pytest.mark.usefixtures("on_the_cpu")


def by_hand(net, toy, epochs, batch_size, lr, weight_decay=0.0, smoothing=0.0, **sgd):
    """The plainest loop, with PyTorch's own scheduler or a constant rate."""
    optimizer = torch.optim.SGD(
        net.parameters(), lr=lr, weight_decay=weight_decay, fused=False, **sgd
    )
    g, losses = torch.Generator().manual_seed(7), []
    for _ in range(epochs):
        order = torch.randperm(len(toy.train), generator=g)
        for i in range(0, len(order) - batch_size + 1, batch_size):
            index = order[i : i + batch_size]
            loss = F.cross_entropy(
                net(toy.train.x[index]), toy.train.y[index], label_smoothing=smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def fresh() -> nn.Sequential:
    torch.manual_seed(0)
    return models.mlp((6, 8, 3))


@pytest.mark.parametrize(
    ("optimizer", "sgd"),
    [("plain_sgd", {}), ("sgd", {"momentum": 0.9, "nesterov": True})],
)
def test_steps_are_those_of_a_plain_loop(toy, optimizer, sgd):
    torch.manual_seed(0)
    expected_net = models.mlp((6, 8, 3))
    torch.manual_seed(0)
    net = models.mlp((6, 8, 3))
    shared = {"epochs": 2, "batch_size": 20, "lr": 0.05, "weight_decay": 0.01}
    expected = by_hand(expected_net, toy, **shared, smoothing=0.2, **sgd)
    options = {"schedule": "constant", "label_smoothing": 0.2, "seed": 7}
    h = train.fit(net, toy, optimizer=optimizer, **shared, **options)
    assert len(h.loss) == 2 * (90 // 20)
    np.testing.assert_allclose(h.loss, expected, rtol=1e-5)
    torch.testing.assert_close(flat(net), flat(expected_net), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "make"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_namedoptimisers_are_pytorchs(toy, name, make):
    histories = []
    for optimizer in (name, lambda p: make(p, lr=0.01, weight_decay=0.1)):
        torch.manual_seed(0)
        net = models.mlp((6, 8, 3))
        options = {"batch_size": 20, "lr": 0.01, "weight_decay": 0.1}
        histories.append(train.fit(net, toy, optimizer=optimizer, **options))
    np.testing.assert_allclose(histories[0].loss, histories[1].loss, rtol=1e-4)
    assert histories[0].loss[-1] < histories[0].loss[0]


def test_onecycle_has_the_shape_of_pytorchs():
    n = 1_000
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=n)
    expected = []
    for _ in range(n):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    found = [0.1 * train.onecycle(step / n) for step in range(n)]
    np.testing.assert_allclose(found, expected, atol=0.1 * 4 / n)
    assert train.onecycle(0) == pytest.approx(1 / 25)
    assert train.onecycle(0.3) == pytest.approx(1)
    assert train.onecycle(1) == pytest.approx(4e-6)


def test_schedule_scales_the_rate_of_every_parameter_group(net, toy):
    seen = []

    def two_groups(parameters):
        first, *rest = parameters
        groups = [{"params": [first], "lr": 1.0}, {"params": rest, "lr": 0.1}]
        seen.append(torch.optim.SGD(groups))
        return seen[0]

    h = train.fit(
        net,
        toy,
        epochs=1,
        batch_size=30,
        optimizer=two_groups,
        schedule=lambda t: 1 - t,
    )
    np.testing.assert_allclose(h.lr, [1, 2 / 3, 1 / 3])
    np.testing.assert_allclose(
        [g["lr"] for g in seen[0].param_groups], [1 / 3, 0.1 / 3]
    )


def test_frozen_parameters_stay(net, toy):
    net.linear1.weight.requires_grad_(False)
    before = net.linear1.weight.clone()
    train.fit(net, toy, batch_size=30, weight_decay=0.1)
    assert torch.equal(net.linear1.weight, before)


def test_where_no_fused_update_exists_there_is_a_plain_one(net):
    refused = []

    class Picky(torch.optim.SGD):
        def __init__(self, parameters, fused=False, **options):
            if fused:
                refused.append(True)
                raise RuntimeError("`fused=True` requires ...")
            super().__init__(parameters, **options)

    table = {"sgd": (Picky, {"momentum": 0.9})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optim, "OPTIMIZERS", table)
        made = optim.make_optimizer("sgd", net, 0.5, 0.0)
    assert refused == [True] and made.defaults["lr"] == 0.5


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, None])
def test_a_run_has_the_bits_of_a_plain_loop(norm):
    digits = data.load("digits")
    x, y = digits.train.x[:256], digits.train.y[:256]
    part = data.Dataset("part", "", data.Split(x, y), digits.valid, digits.test)
    nets, losses = [], []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(models.mlp((784, 32, 10), norm=norm))
    options = {"epochs": 2, "batch_size": 64, "schedule": "constant", "seed": 5}
    h = train.fit(nets[0], part, label_smoothing=0.1, threads=1, **options)
    sgd = torch.optim.SGD(
        nets[1].parameters(), lr=0.1, momentum=0.9, nesterov=True, fused=True
    )
    before, g = torch.get_num_threads(), torch.Generator().manual_seed(5)
    torch.set_num_threads(1)
    for _ in range(2):
        for chosen in torch.randperm(256, generator=g).split(64):
            loss = F.cross_entropy(nets[1](x[chosen]), y[chosen], label_smoothing=0.1)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses.append(loss.item())
    torch.set_num_threads(before)
    assert h.loss == losses
    assert torch.equal(flat(nets[0]), flat(nets[1]))


def test_seed_decides_the_order_and_nothing_else_does(toy):
    def losses(seed, noise=0):
        torch.manual_seed(0)
        net = models.mlp((6, 8, 3))
        torch.manual_seed(noise)
        return train.fit(net, toy, batch_size=20, seed=seed, threads=1).loss

    assert losses(1) == losses(1) == losses(1, noise=5) != losses(2)


def test_offline_digits_are_learned():
    digits = data.load("digits")
    net = models.mlp()
    h = train.fit(net, digits, epochs=5, batch_size=64, threads=1)
    assert h.valid_accuracy[-1] > 0.9
    assert train.evaluate(net, digits.test).accuracy > 0.9


@pytest.mark.nightly
@pytest.mark.skipif(
    os.environ.get("BNUTILS_DATA", "digits") == "digits",
    reason="BNUTILS_DATA names no folder with MNIST",
)
def test_articles_network_reaches_98_percent_in_two_epochs():
    mnist = data.load()
    for seed in range(3):
        torch.manual_seed(seed)
        net = models.mlp()
        h = train.fit(net, mnist, label_smoothing=0.1, seed=seed, threads=1)
        assert h.valid_accuracy[-1] >= 0.98
        assert train.evaluate(net, mnist.test).accuracy >= 0.98
