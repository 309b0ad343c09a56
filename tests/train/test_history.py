"""What a training records, also when it ends early."""

from __future__ import annotations

import gc
import json
import math
import signal

import pytest
import torch
from layers import flat
from torch.nn import functional as F
from toy_data import blobs

from bnutils import data, models, train

pytestmark = pytest.mark.usefixtures("on_the_cpu")


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


@pytest.fixture
def no_collection():
    """Python drops an interrupt that comes while it collects garbage."""
    gc.disable()
    yield
    gc.enable()


def test_ctrl_c_returns_the_history_so_far(net, toy, no_collection, with_ctrl_c):
    def on_step(step, history):
        if step == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.warns(UserWarning, match="training interrupted after step 4 of 15: "):
        h = train.fit(net, toy, epochs=5, batch_size=30, on_step=on_step)
    assert h.interrupted and not h.diverged
    assert len(h.loss) == len(h.accuracy) == len(h.lr) == 4
    assert len(h.valid_loss) == 1
    assert h.note == "interrupted after step 4 of 15" and h.note in repr(h)


def test_ctrl_c_in_the_middle_of_a_record_leaves_whole_steps(net, toy):
    def half_a_record(step, history):
        history.loss.append(0.5)  # the next step's, whose accuracy and rate do not come
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="after step 1 of 6"):
        h = train.fit(net, toy, batch_size=30, on_step=half_a_record)
    assert h.interrupted and len(h.loss) == len(h.accuracy) == len(h.lr) == 1
    assert h.loss != [0.5] and h.note == "interrupted after step 1 of 6"
