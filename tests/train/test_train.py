"""The training loop: what it computes, records, restores and refuses."""

import json
import math
import os
import random
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import tqdm
from layers import flat
from torch import nn
from torch.nn import functional as F

from bnutils import data, models, train
from bnutils.train import optim as _optim


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("BNUTILS_DEVICE", "cpu")
    monkeypatch.delenv("BNUTILS_PROGRESS", raising=False)
    torch.manual_seed(0)


def blobs(n: int, seed: int) -> data.Split:
    """Three Gaussian classes in six dimensions, far apart."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return data.Split(torch.randn(n, 6, generator=g) + 3 * F.one_hot(y, 6), y)


@pytest.fixture
def toy() -> data.Dataset:
    return data.Dataset("toy", "made here", blobs(90, 0), blobs(30, 1), blobs(30, 2))


@pytest.fixture
def net() -> nn.Sequential:
    return models.mlp((6, 8, 3))


# What it computes


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
def test_named_optimisers_are_pytorchs(toy, name, make):
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


# What it records


def test_history_has_an_entry_per_step_and_per_epoch(net, toy):
    h = train.fit(net, toy, epochs=3, batch_size=40)
    assert len(h.loss) == len(h.accuracy) == len(h.lr) == 3 * 2
    assert len(h.seconds) == len(h.train_loss) == len(h.valid_accuracy) == 3
    assert h.train_loss[1] == pytest.approx((h.loss[2] + h.loss[3]) / 2)
    assert h.train_accuracy[2] == pytest.approx((h.accuracy[4] + h.accuracy[5]) / 2)
    assert all(s > 0 for s in h.seconds)
    assert (h.interrupted, h.diverged, h.note) == (False, False, "")
    assert json.loads(json.dumps(vars(h))) == vars(h)  # plain lists and numbers


def test_first_entries_are_those_of_the_untrained_model(toy):
    net = models.mlp((6, 8, 3), norm=None)
    with torch.no_grad():
        logits = net(toy.train.x)
    expected = -logits.log_softmax(1)[torch.arange(90), toy.train.y].mean()
    right = sum(int(a.argmax()) == b for a, b in zip(logits, toy.train.y.tolist()))
    h = train.fit(net, toy, epochs=1, batch_size=90)
    assert h.loss[0] == pytest.approx(expected.item(), rel=1e-5)
    assert h.accuracy[0] == right / 90


def test_last_validation_entry_is_that_of_the_trained_model(net, toy):
    h = train.fit(net, toy, batch_size=30, label_smoothing=0.3)
    net.eval()
    logits = net(toy.valid.x).detach()
    assert h.valid_loss[-1] == pytest.approx(
        F.cross_entropy(logits, toy.valid.y).item()
    )
    accuracy = (logits.argmax(1) == toy.valid.y).double().mean().item()
    assert h.valid_accuracy[-1] == pytest.approx(accuracy) and accuracy > 0.5


def test_repr_is_one_line_without_seconds(net, toy):
    h = train.fit(net, toy, batch_size=30)
    loss, accuracy = f"{h.train_loss[-1]:.3f}", f"{h.valid_accuracy[-1]:.1%}"
    expected = (
        f"6 steps, 2 epochs, training loss {loss}, validation accuracy {accuracy}"
    )
    assert repr(h) == expected


def test_test_split_is_never_looked_at(net, toy):
    class Untouchable:
        def to(self, device):
            return self

        def __getattr__(self, name):
            raise AssertionError("the test split was used")

    untested = data.Dataset("toy", "", toy.train, toy.valid, Untouchable())
    assert len(train.fit(net, untested, batch_size=30).valid_loss) == 2


def test_without_evaluation_the_validation_split_is_not_needed(net, toy):
    bare = data.Dataset("toy", "", toy.train, blobs(0, 0), toy.test)
    h = train.fit(net, bare, batch_size=30, evaluate_each_epoch=False)
    assert h.valid_loss == [] and len(h.train_loss) == 2


def test_on_step_sees_the_history_after_each_update(net, toy):
    seen = []
    before = flat(net)

    def on_step(step, history):
        seen.append((step, len(history.loss), torch.equal(flat(net), before)))

    train.fit(net, toy, epochs=1, batch_size=30, on_step=on_step)
    assert seen == [(1, 1, False), (2, 2, False), (3, 3, False)]


def test_drop_last_false_trains_on_the_rest(net, toy):
    assert len(train.fit(net, toy, epochs=1, batch_size=40).loss) == 2
    assert len(train.fit(net, toy, epochs=1, batch_size=40, drop_last=False).loss) == 3


# When it ends early


def test_infinite_loss_stops_the_run_without_an_update(net, toy):
    def poison(step, history):
        if step == 2:
            with torch.no_grad():
                net.linear2.weight.fill_(math.inf)
            poison.state = flat(net)

    h = train.fit(net, toy, epochs=5, batch_size=30, on_step=poison)
    assert h.diverged and not h.interrupted
    assert len(h.loss) == 3 and not math.isfinite(h.loss[-1])
    assert h.note == f"the loss was {h.loss[-1]} at step 3" and h.note in repr(h)
    assert len(h.valid_accuracy) == 1 and 0 <= h.valid_accuracy[0] <= 1
    weights = len(poison.state) - 17  # the running statistics of 8 channels still moved
    assert flat(net)[:64].equal(poison.state[:64]) and weights > 64


def test_too_high_a_rate_is_marked_as_diverged(toy):
    net = models.mlp((6, 8, 3), norm=None)
    h = train.fit(net, toy, epochs=50, batch_size=30, lr=1e12, schedule="constant")
    assert h.diverged and len(h.loss) < 150


def test_ctrl_c_returns_the_history_so_far(net, toy):
    def on_step(step, history):
        if step == 4:
            signal.raise_signal(signal.SIGINT)

    h = train.fit(net, toy, epochs=5, batch_size=30, on_step=on_step)
    assert h.interrupted and not h.diverged
    assert len(h.loss) == len(h.accuracy) == len(h.lr) == 4
    assert len(h.valid_loss) == 1
    assert h.note == "interrupted after step 4 of 15" and h.note in repr(h)


def test_ctrl_c_in_the_middle_of_a_record_leaves_whole_steps(net, toy, monkeypatch):
    def interrupted(self, loss, accuracy, lr):
        self.history.loss.append(loss)
        raise KeyboardInterrupt

    monkeypatch.setattr(train._Loop, "record", interrupted)
    h = train.fit(net, toy, batch_size=30)
    assert h.interrupted and h.loss == h.accuracy == h.lr == []


# What it leaves as it was


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


# Seeds


def test_seed_decides_the_order_and_nothing_else_does(toy):
    def losses(seed, noise=0):
        torch.manual_seed(0)
        net = models.mlp((6, 8, 3))
        torch.manual_seed(noise)
        return train.fit(net, toy, batch_size=20, seed=seed, threads=1).loss

    assert losses(1) == losses(1) == losses(1, noise=5) != losses(2)


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


# What it refuses


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
        patch.setattr(_optim, "OPTIMIZERS", table)
        made = _optim.make_optimizer("sgd", net, 0.5, 0.0)
    assert refused == [True] and made.defaults["lr"] == 0.5


# Progress


def bar_shown(monkeypatch, capsys, net, toy, tty=False, **options) -> bool:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: tty, raising=False)
    train.fit(net, toy, batch_size=30, **options)
    out, err = capsys.readouterr()
    assert out == ""
    return "6/6" in err or "step/s" in err


def test_bar_shows_in_a_terminal_and_nowhere_else(monkeypatch, capsys, net, toy):
    monkeypatch.delenv("CI", raising=False)
    shown = lambda **options: bar_shown(monkeypatch, capsys, net, toy, **options)  # noqa: E731
    assert shown(tty=True)
    assert not shown(tty=False)
    assert not shown(tty=True, progress=False)
    assert shown(tty=False, progress=True)
    monkeypatch.setenv("BNUTILS_PROGRESS", "0")
    assert not shown(tty=True)
    assert shown(tty=True, progress=True)
    monkeypatch.delenv("BNUTILS_PROGRESS")
    monkeypatch.setenv("CI", "true")
    assert not shown(tty=True)


def test_bar_shows_in_jupyter(monkeypatch, capsys, net, toy):
    monkeypatch.delenv("CI", raising=False)
    assert not bar_shown(monkeypatch, capsys, net, toy)
    kernel = SimpleNamespace(kernel="an object")
    jupyter = SimpleNamespace(get_ipython=lambda: kernel)
    monkeypatch.setitem(sys.modules, "IPython", jupyter)
    tqdm_of_terminals = SimpleNamespace(tqdm=tqdm.std.tqdm)
    monkeypatch.setitem(sys.modules, "tqdm.auto", tqdm_of_terminals)
    assert bar_shown(monkeypatch, capsys, net, toy)


# The article's network


def test_offline_digits_are_learned():
    digits = data.load("digits")
    net = models.mlp()
    h = train.fit(net, digits, epochs=5, batch_size=64, threads=1)
    assert h.valid_accuracy[-1] > 0.9
    assert train.evaluate(net, digits.test).accuracy > 0.9


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
