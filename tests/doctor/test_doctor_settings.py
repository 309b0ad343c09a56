"""What needs no data: settings, modes, stored statistics, weight decay."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from patients import batches, codes, net, stepped, trained, used
from torch import nn
from torch.nn import functional as F

from bnutils import deploy, doctor


def test_statistics_never_updated():
    model = net().eval()
    model, optimizer = trained(model)
    (one,) = doctor.examine(model, None, optimizer)
    assert one.code == "never-updated"
    assert "64 optimiser steps" in one.evidence
    assert codes(model, batches(shift=2), optimizer) == [
        "never-updated"
    ]  # not stale too
    assert "never-updated" in codes(model)  # beta tells, without the optimiser
    deploy.recalibrate(model, batches())
    assert codes(model, batches(), optimizer) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_statistics_that_are_no_statistics(value):
    model, _ = trained()
    model[1].running_var[2] = value
    assert "nonfinite-statistics" in codes(model)


def test_left_in_training_mode():
    model, _ = trained(nn.Sequential(net(), nn.ReLU(), nn.BatchNorm1d(3)))
    model.eval()
    assert codes(model) == []
    model[2].train()
    assert [f.path for f in doctor.examine(model)["train-mode-in-eval"]] == ["2"]


def test_frozen_by_requires_grad_only():
    model, _ = trained()
    model[1].requires_grad_(False)
    assert codes(model) == ["frozen-by-requires-grad"]
    model[1].eval()
    assert codes(model, batches(shift=5)) == []  # frozen for good: its own choice
    model.eval()
    assert codes(model) == []


@pytest.mark.parametrize(
    ("momentum", "code"),
    [(0, "momentum-zero"), (1.0, "momentum-one"), (1.5, "momentum-range")],
)
def test_momentum(momentum, code):
    assert code in codes(net(momentum=momentum))
    assert code not in codes(net(momentum=0.5))
    assert code not in codes(net(momentum=momentum, track_running_stats=False))


def test_weight_decay_on_gamma():
    model = net()
    everything = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01)
    (one,) = doctor.examine(model, None, everything)
    assert (one.code, one.severity, one.value) == ("decayed-norm", "note", 0.01)
    own = list(model[1].parameters())
    rest = [*model[0].parameters(), *model[3].parameters()]
    groups = [
        {"params": rest, "weight_decay": 0.01},
        {"params": own, "weight_decay": 0},
    ]
    assert codes(model, None, torch.optim.SGD(groups, 0.1)) == []


def test_dead_channels():
    model, _ = trained()
    model[1].weight.data[[2, 5]] = 1e-9
    (one,) = doctor.examine(model)["dead-channels"]
    assert (one.value, one.severity) == (2, "note")
    model[1].weight.data.zero_()
    (one,) = doctor.examine(model)["dead-channels"]
    assert (one.value, one.severity) == (8, "warning")
    model[1].weight.data.fill_(-0.02)  # small, but all alike, is no reason
    assert codes(model) == []


def test_no_running_statistics():
    assert codes(net(track_running_stats=False)) == ["no-running-stats"]
    model, _ = trained()
    model[1].track_running_stats = False
    assert codes(model) == ["tracking-off"]


def test_sync_batch_norm_without_a_process_group():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(net())
    assert doctor.examine(model).codes == ["sync-without-group"]
    with mock.patch("torch.distributed.is_initialized", return_value=True):
        assert doctor.examine(model).codes == []


def test_statistics_that_are_none_are_counted_by_channel():
    bn = used()
    bn.running_mean[0], bn.running_mean[1] = np.nan, -np.inf
    bn.running_var[:] = torch.tensor([np.nan, 1.0, 0.0, -1e-9])
    (one,) = doctor.examine(bn)
    assert (one.code, one.value) == ("nonfinite-statistics", 3)
    assert one.evidence.startswith("3 of 4 channels: ")


def test_modes_are_counted_over_the_batch_norms():
    model = nn.Sequential(*(nn.BatchNorm1d(4) for _ in range(3))).eval()
    model[1].train()
    (one,) = doctor.examine(model)
    assert (one.path, one.value) == ("1", 1)
    assert one.evidence.startswith("1 of 3 batch norms are in training mode")


def test_frozen_means_that_no_parameter_of_it_requires_a_gradient():
    bn = used()
    bn.weight.requires_grad_(False)
    assert not doctor.examine(bn)
    bn.bias.requires_grad_(False)
    (one,) = doctor.examine(bn)
    assert (one.code, one.value) == ("frozen-by-requires-grad", 8)
    assert "none of its 8 parameters" in one.evidence
    assert not doctor.examine(used(affine=False))


def test_frozen_norms_are_found_after_others_that_are_not():
    model = nn.Sequential(used(), used(), used())
    model[1].requires_grad_(False)
    assert [f.path for f in doctor.examine(model)] == ["1"]


@pytest.mark.parametrize(
    ("mean", "var", "count", "found"),
    [
        (0.0, 1.0, 0, True),
        (0.0, 1.0, None, True),
        (0.0, 1.0, 1, False),
        (0.1, 1.0, 0, False),
        (0.0, 1.1, 0, False),
    ],
)
def test_never_updated_takes_untouched_statistics_in_a_trained_model(
    mean, var, count, found
):
    bn = nn.BatchNorm1d(4)
    bn.running_mean[2], bn.running_var[2] = mean, var
    bn.num_batches_tracked = None if count is None else torch.tensor(count)
    assert not doctor.examine(bn)["never-updated"]  # fresh
    report = doctor.examine(nn.Sequential(used(), bn).eval())
    assert [f.path for f in report["never-updated"]] == ["1"] * found
    for one in report["never-updated"]:
        assert one.evidence.startswith("0 batches seen in a trained model: ")
        assert one.value == 0


def test_a_shift_that_differs_between_channels_tells_of_training():
    bn = nn.BatchNorm1d(4)
    bn.bias.data.fill_(0.5)
    assert not doctor.examine(bn)
    bn.bias.data[3] = 0.25
    assert doctor.examine(bn).codes == ["never-updated"]


@pytest.mark.parametrize("training", [True, False])
def test_a_norm_that_is_new_in_all_is_blamed_in_evaluation_alone(training):
    model = nn.Sequential(used(), nn.BatchNorm1d(4)).train(training)
    found = doctor.examine(model)["never-updated"]
    assert [f.path for f in found] == ([] if training else ["1"])
    for one in found:
        assert one.evidence.endswith("weight and bias are new as well: loaded in part?")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda w: w, False),
        (lambda w: 0.07 * w, True),
        (lambda w: w / w.std() * 0.02, False),
        (lambda w: nn.init.kaiming_normal_(w, mode="fan_out"), False),
        (lambda w: 20 * w, True),
        (lambda w: w * torch.linspace(0.2, 2, len(w))[:, None], True),
        (lambda w: nn.init.kaiming_normal_(w), False),
        (lambda w: nn.init.xavier_uniform_(w), False),
        (lambda w: nn.init.orthogonal_(w), False),
    ],
)
def test_weights_that_no_scheme_makes_tell_that_the_norms_were_lost(change, found):
    """A fused checkpoint, say, loaded with strict=False."""
    model = nn.Sequential(nn.Linear(32, 24, bias=False), nn.BatchNorm1d(24))
    with torch.no_grad():
        model[0].weight.copy_(change(model[0].weight.clone()))
    assert not doctor.examine(model)  # fresh, as far as anybody knows
    assert bool(doctor.examine(model.eval())["never-updated"]) is found


@pytest.mark.parametrize(
    ("momentum", "code"),
    [
        (0, "momentum-zero"),
        (1, "momentum-one"),
        (-0.25, "momentum-range"),
        (1.25, "momentum-range"),
        (0.001, None),
        (0.89, None),
        (0.9, "momentum-one"),
        (0.999, "momentum-one"),
        (None, None),
    ],
)
def test_momentum_outside_of_its_range(momentum, code):
    found = [
        (f.code, f.value) for f in doctor.examine(nn.BatchNorm1d(4, momentum=momentum))
    ]
    assert found == ([(code, momentum)] if code else [])


def test_one_missing_statistic_is_enough():
    bn = used()
    bn.running_var = None
    (one,) = doctor.examine(bn)
    assert (one.code, one.value) == ("no-running-stats", 0)
    assert one.evidence == "0 running statistics kept"


@pytest.mark.parametrize(
    ("gamma", "dead", "severity"),
    [
        ([1.0, 1.0, 1.0, 8.6e-4], 1, "note"),  # rms 0.866
        ([1.0, -1.0, 1.0, -8.6e-4], 1, "note"),
        ([1.0, 1.0, 1.0, 8.7e-4], 0, None),
        ([1.0, 1.0, 0.0, 0.0], 2, "warning"),
        ([1.0, 0.0, 0.0, 0.0], 3, "warning"),
        ([1.0, 1.0, 1.0, 0.0, 0.0], 2, "note"),
        ([1e-6] * 4, 4, "warning"),
        ([1.1e-6] * 4, 0, None),
        ([0.0] * 4, 4, "warning"),  # beta is not
    ],
)
def test_dead_channels_by_hand(gamma, dead, severity):
    bn = used(len(gamma))
    bn.weight.data, bn.bias.data[0] = torch.tensor(gamma), 0.5
    found = [(f.value, f.severity) for f in doctor.examine(bn)]
    assert found == ([(dead, severity)] if dead else [])
    for one in doctor.examine(bn):
        rms = np.sqrt(np.square(gamma).mean())
        assert one.evidence == (
            f"{dead} of {len(gamma)} channels: |gamma| below 0.001 of the layer's "
            f"{rms:.2g}"
        )


def test_weight_decay_counts_by_group():
    model = nn.Sequential(used(), used(), used(affine=False), nn.Linear(4, 4))
    groups = [
        {"params": [model[0].bias], "weight_decay": 0.5},
        {"params": [model[1].weight], "weight_decay": 0.0},
        {"params": list(model[3].parameters()), "weight_decay": 0.25},
    ]
    (one,) = doctor.examine(model, None, torch.optim.SGD(groups, 0.1))
    assert (one.code, one.path, one.value) == ("decayed-norm", "0", 0.5)
    assert one.evidence == "weight_decay = 0.5"


class Bare(nn.Module):
    """A batch norm of somebody else: no affine parameters, no count of batches."""

    num_features, eps, momentum, track_running_stats = 4, 1e-5, 0.1, True

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))

    def forward(self, x):
        stored = self.running_mean, self.running_var
        return F.batch_norm(x, *stored, training=self.training, momentum=0.1)


def test_norms_of_others_are_examined_as_far_as_they_go():
    model = nn.Sequential(nn.Linear(4, 4), Bare())
    adam = stepped(model, 10)
    x = torch.randn(64, 4)
    for args in ((), (x,), (None, adam), (x, adam)):
        report = doctor.examine(model, *args)
        trained = ["never-updated"] if len(args) == 2 else []
        # without a known class the graph names no pair: the bias is tested by running
        tested = ["redundant-bias"] if args and args[0] is not None else []
        assert report.codes == trained + tested
        assert not report.notes


def test_statistics_that_are_kept_but_not_tracked_are_two():
    bn = used()
    bn.track_running_stats = False
    (one,) = doctor.examine(bn)
    assert (one.code, one.value) == ("tracking-off", 2)


def test_an_optimiser_without_weight_decay_decays_nothing():
    bn = used()
    assert not doctor.examine(bn, None, torch.optim.LBFGS(bn.parameters()))
