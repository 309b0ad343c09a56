"""Batches seen are compared with steps taken."""

from __future__ import annotations

import pytest
import torch
from patients import Called, batches, codes, net, standard, stepped, trained, used
from torch import nn

from bnutils import doctor


@pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.AdamW])
def test_accumulation_counts_several_batches_per_step(optimiser):
    model = net()
    optimizer = optimiser(model.parameters(), weight_decay=0.0)
    for step in range(42):
        model(batches(1)[0]).sum().backward()
        if step % 4 == 3:
            optimizer.step()
    (one,) = doctor.examine(model, None, optimizer)["several-forwards"]
    assert "42 batches seen in 10 optimiser steps: 4 per step" in one.evidence


def test_two_calls_in_one_forward_are_no_accumulation_as_well():
    bn = nn.BatchNorm1d(6)
    model = Called(
        lambda m, x: m.bn(m.fc(m.bn(x))), bn=bn, fc=nn.Linear(6, 6, bias=False)
    )
    model, optimizer = trained(model)
    assert int(bn.num_batches_tracked) == 128  # in 64 steps
    assert codes(model, batches(), optimizer) == ["shared-norm"]


@pytest.mark.parametrize(
    ("count", "k"),
    [
        (20, 2),
        (22, 2),  # within k of k times the steps
        (18, 2),
        (23, None),
        (17, None),
        (10, None),
        (0, None),
        (320, 32),
        (330, None),
    ],
)
def test_several_forwards_are_a_multiple_of_the_steps(count, k):
    model = nn.Sequential(used(), used(affine=False))
    for bn in model:
        bn.num_batches_tracked.fill_(count)
    found = doctor.examine(model, None, stepped(model, 10))["several-forwards"]
    assert [(f.path, f.value) for f in found] == ([("0", k), ("1", k)] if k else [])
    for one in found:
        words = f"{count} batches seen in 10 optimiser steps: {k} per step"
        assert one.evidence == words


def test_several_forwards_are_the_same_in_every_norm_that_trains():
    model = nn.Sequential(used(), used())
    model[0].num_batches_tracked.fill_(20)
    model[1].num_batches_tracked.fill_(40)
    assert not doctor.examine(model, None, stepped(model, 10))["several-forwards"]
    model[1].eval()
    optimizer = stepped(model, 10)
    (one,) = doctor.examine(model, None, optimizer)["several-forwards"]
    assert one.path == "0"
    model[1].train()
    own = [(p, 20) for p in model[1].parameters()]  # its own steps count
    optimizer = stepped(model, 10, own)
    assert len(doctor.examine(model, None, optimizer)["several-forwards"]) == 2


@pytest.mark.parametrize(
    ("count", "steps", "found"),
    [
        (89, 100, True),
        (91, 100, False),
        (1, 100, True),
        (0, 100, False),
        (1, 20, True),
        (1, 19, False),
    ],
)
def test_fewer_batches_than_steps_tell_of_evaluation_mode(count, steps, found):
    bn = nn.BatchNorm1d(4)
    bn.num_batches_tracked.fill_(count)
    bn.running_mean += 1.0
    adam = stepped(bn, steps)
    data = list(standard(256, 4).split(32))
    (*notes,) = doctor.examine(bn, None, adam)["fewer-forwards"]
    assert [f.severity for f in notes] == ["note"] * found  # recalibrated, perhaps
    (*warned,) = doctor.examine(bn, data, adam)["fewer-forwards"]
    assert [f.severity for f in warned] == ["warning"] * found
    bn.running_mean.zero_()  # recalibrated: the statistics fit
    assert not doctor.examine(bn, data, adam)["fewer-forwards"]
