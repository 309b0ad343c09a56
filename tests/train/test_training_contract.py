"""What training and evaluation leave as it was, where they compute, what they refuse."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from layers import flat
from torch import nn
from toy_data import blobs

from bnutils import data, models, train

pytestmark = pytest.mark.usefixtures("on_the_cpu")


# What they leave as it was


@pytest.mark.parametrize("training", [True, False])
def test_modes_threads_and_random_state_are_restored(net, toy, training):
    net.train(training)
    net.norm1.train(not training)
    state, before = torch.get_rng_state(), torch.get_num_threads()
    seen = []

    def on_step(step, history):
        seen.append((net.training, net.norm1.training, torch.get_num_threads()))

    train.fit(net, toy, epochs=2, batch_size=45, threads=before + 1, on_step=on_step)
    assert seen == [(True, True, before + 1)] * 4
    assert (net.training, net.norm1.training) == (training, not training)
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_modes_and_threads_are_restored_after_an_error(net, toy):
    net.eval()
    before = torch.get_num_threads()

    def on_step(step, history):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train.fit(net, toy, batch_size=45, threads=before + 1, on_step=on_step)
    assert not net.training and torch.get_num_threads() == before


def test_model_returns_to_its_device(net, toy, monkeypatch):
    moves = []
    original = nn.Module.to
    monkeypatch.setattr(
        nn.Module, "to", lambda m, d: (moves.append(str(d)), original(m, "cpu"))[1]
    )
    monkeypatch.setattr(data.Dataset, "to", lambda d, device: d)
    train.fit(net, toy, batch_size=45, device="cuda")
    assert moves == ["cuda", "cpu"]


def test_seed_all_seeds_three_generators_and_sets_threads():
    def draw(seed):
        train.seed_all(seed)
        old = np.random.random()
        return random.random(), old, torch.rand(1).item()

    first, second, other = draw(3), draw(3), draw(4)
    assert first == second
    assert all(a != b for a, b in zip(first, other, strict=True))
    before = torch.get_num_threads()
    train.seed_all(0, threads=before + 1)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


# Evaluation


@pytest.mark.parametrize("batch_size", [7, 30, 2048])
def test_score_is_independent_of_the_batch_size(net, toy, batch_size):
    net.eval()
    logits = net(toy.test.x).detach()
    loss, accuracy = train.evaluate(net, toy.test, batch_size)
    picked = logits.log_softmax(1)[torch.arange(30), toy.test.y]
    assert loss == pytest.approx(-picked.mean().item(), rel=1e-5)
    assert accuracy == (logits.argmax(1) == toy.test.y).sum().item() / 30


def test_evaluation_leaves_modes_statistics_and_gradients(net, toy):
    net.train()
    net.norm1.eval()
    before = flat(net)
    score = train.evaluate(net, toy.test)
    assert (net.training, net.norm1.training, net.act1.training) == (True, False, True)
    assert torch.equal(flat(net), before)
    assert all(p.grad is None for p in net.parameters())
    assert score == train.evaluate(net.eval(), toy.test)


def test_modes_are_restored_when_evaluation_fails(net, toy):
    with pytest.raises(RuntimeError):
        train.evaluate(
            net.train(), data.Split(torch.randn(4, 9), torch.zeros(4).long())
        )
    assert net.training


# What they refuse


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1, but got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, but got 0"),
        ({"batch_size": 91}, "batch_size=91 is larger than the split .90 images"),
        ({"optimizer": "sdg"}, "one of sgd, plain_sgd, adam, adamw or a .*'sdg'"),
        ({"schedule": "cosine"}, "'onecycle', 'constant' or a callable.*'cosine'"),
        ({"batch_size": 1}, r"Expected more than 1 value.*\(1, 6\): raise batch_size"),
        ({"batch_size": 89, "drop_last": False}, "or set drop_last=True"),
    ],
)
def test_senseless_arguments_are_refused(net, toy, options, words):
    with pytest.raises(ValueError, match=words):
        train.fit(net, toy, **{"batch_size": 30, **options})


def test_empty_splits_are_refused(net, toy):
    empty = blobs(0, 0)
    with pytest.raises(ValueError, match="the split is empty"):
        train.fit(net, data.Dataset("toy", "", empty, toy.valid, toy.test))
    with pytest.raises(ValueError, match=r"at least one image .* got 0 images"):
        train.evaluate(net, empty)
    with pytest.raises(ValueError, match="batch_size=0"):
        train.evaluate(net, toy.test, batch_size=0)


def test_wrong_shapes_are_named(toy):
    with pytest.raises(
        RuntimeError, match=r"not accept a batch of shape \(30, 6\): .*mul"
    ):
        train.fit(models.mlp((5, 8, 3)), toy, batch_size=30)
    with pytest.raises(
        ValueError, match=r"made \(30, 2\) of .*expected \(30, 3\): a row"
    ):
        train.fit(models.mlp((6, 8, 2)), toy, batch_size=30)
    with pytest.raises(ValueError, match=r"the model made \(30,\) of a batch of shape"):
        train.evaluate(nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)), toy.test)


def test_errors_of_the_model_itself_come_through(toy):
    class Broken(nn.Module):
        def forward(self, x):
            raise self.error

    for Broken.error in (ValueError("mine"), RuntimeError("mine"), KeyError("mine")):
        with pytest.raises(type(Broken.error)) as caught:
            train.evaluate(Broken(), toy.test)
        assert caught.value is Broken.error


# Devices


def test_default_device_is_the_accelerator_where_there_is_one(monkeypatch):
    monkeypatch.delenv("BNUTILS_DEVICE")
    found = []
    for cuda, mps in ((True, True), (False, True), (False, False)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        found.append(train.default_device().type)
    assert found == ["cuda", "mps", "cpu"]
    monkeypatch.setenv("BNUTILS_DEVICE", "cuda:1")
    assert train.default_device() == torch.device("cuda:1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_run(toy, monkeypatch):
    histories = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        net = models.mlp((6, 8, 3))
        histories.append(train.fit(net, toy, batch_size=30, device=device))
        assert next(net.parameters()).device.type == "cpu"
    np.testing.assert_allclose(histories[0].loss, histories[1].loss, rtol=1e-3)
    score = train.evaluate(net.cuda(), toy.test)
    assert score.accuracy == train.evaluate(net.cpu(), toy.test).accuracy
