"""Batches that are too small, sorted or broken are found, and no others."""

from __future__ import annotations

import pytest
import torch
from patients import Called, Convolutional, batches, codes, loader, net
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bnutils import doctor


def test_last_batch_of_one():
    model = net()
    (one,) = doctor.examine(model, loader(129, 32))
    assert (one.code, one.path) == ("batch-of-one", "1")
    assert "last of 5 batches" in one.evidence
    assert codes(model, [*batches(), torch.randn(1, 6)]) == ["batch-of-one"]


def test_no_batch_of_one():
    model = net()
    assert codes(model, loader(129, 32, drop_last=True)) == []
    assert codes(model, loader(128, 32)) == []
    assert codes(model.eval(), loader(129, 32)) == []  # harmless in evaluation
    images = torch.randn(9, 2, 5)
    assert codes(Convolutional(1), DataLoader(images, 8)) == []  # 3 positions


def test_every_batch_of_one():
    assert codes(net(), loader(10, 1)) == ["batch-of-one"]
    assert codes(net(), torch.randn(1, 6)) == ["batch-of-one"]


def test_a_batch_of_one_that_only_running_shows():
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(2))
    assert codes(pooled, torch.randn(1, 2, 5, 5)) == ["batch-of-one"]
    assert codes(pooled.eval(), torch.randn(1, 2, 5, 5)) == []  # evaluation runs
    pooled.train()
    assert codes(pooled, [torch.randn(8, 2, 5, 5), torch.randn(1, 2, 5, 5)]) == [
        "batch-of-one"
    ]


def test_tiny_batches_for_the_momentum():
    assert codes(net(), batches(size=4)) == ["tiny-batch"]
    assert codes(net(), batches(size=8)) == []
    assert codes(net(momentum=0.5), batches(size=8)) == ["tiny-batch"]
    assert codes(net(momentum=0.01), batches(size=8)) == []
    small = batches(size=2, shape=(2, 9, 9))
    assert codes(Convolutional(2), small) == []  # 98 values per channel


def test_batches_sorted_by_class():
    torch.manual_seed(0)
    centres = 3 * torch.randn(10, 6)
    y = torch.arange(640) % 10
    x = centres[y] + torch.randn(640, 6)
    order = y.argsort()
    by_class = TensorDataset(x[order], y[order])
    assert codes(net(), DataLoader(by_class, 32)) == ["batches-differ"]
    assert codes(net(), DataLoader(by_class, 32, shuffle=True)) == []


@pytest.mark.parametrize(("batches", "quantile"), [(8, 29.88), (5, 23.51), (3, 18.42)])
def test_batches_differ_beyond_the_quantile_of_chi_square(batches, quantile):
    """From a printed table: chi-square at 1e-4, for one degree less than batches."""
    bound = quantile / (batches - 1)
    below, above = scattered(0.98 * bound, batches), scattered(1.08 * bound, batches)
    assert not doctor.examine(nn.BatchNorm1d(1), below)["batches-differ"]
    (one,) = doctor.examine(nn.BatchNorm1d(1), above)["batches-differ"]
    assert one.value == pytest.approx(1.08 * bound, rel=1e-4)
    assert one.evidence.startswith(f"means of {batches} batches vary {one.value:.1f} ")


def scattered(ratio, batches, n=64):
    """Batches of ±1 whose means scatter ``ratio`` times as much as random ones."""
    shift = torch.arange(float(batches)) - (batches - 1) / 2
    images = n * batches / (n * batches - 1)  # their variance is unbiased
    between = ratio * images * shift.square().mean()
    scale = (ratio * images / (n * shift.var() - between)).sqrt()
    signs = torch.tensor([1.0, -1.0]).repeat(n // 2)[:, None]
    return [signs + scale * s for s in shift]


def test_batches_are_judged_at_the_first_norm_that_runs_once():
    sorted_, random_ = scattered(30.0, 8), scattered(1.0, 8)
    parts = {"a": nn.BatchNorm1d(1), "b": nn.BatchNorm1d(1)}

    # a levels what tells the batches apart, so that b has nothing left to be judged by
    once = Called(lambda m, x: m.b(m.a(x)), **parts)
    assert [f.path for f in doctor.examine(once, sorted_)["batches-differ"]] == ["a"]
    beside = Called(lambda m, x: m.a(x[:, :1]) + m.b(x[:, 1:]), **parts)
    mixed = [torch.cat(pair, 1) for pair in zip(random_, sorted_)]
    assert not doctor.examine(beside, mixed)["batches-differ"]
    again = Called(lambda m, x: m.a(x) + m.a(x) + m.b(x), **parts)
    found = doctor.examine(again, sorted_)["batches-differ"]
    assert [f.path for f in found] == ["b"]
    assert not doctor.examine(once, sorted_[::7])["batches-differ"]  # two batches


@pytest.mark.parametrize(
    ("size", "momentum", "found"),
    [
        (5, 0.1, True),  # (0.1 / 1.9 / 5) ** 0.5 = 0.103
        (6, 0.1, False),  # 0.094
        (4, None, True),
        (5, None, False),
        (4, 1.0, True),
        (5, 1.0, False),
        (2, 0.01, True),
    ],
)
def test_batches_are_tiny_up_to_four_values_or_by_the_momentum(size, momentum, found):
    bn = nn.BatchNorm1d(3, momentum=momentum)
    data = [torch.randn(size, 3) for _ in range(3)]
    assert [f.value for f in doctor.examine(bn, data)["tiny-batch"]] == [size] * found
    assert not doctor.examine(bn.eval(), data)["tiny-batch"]


def test_evidence_of_tiny_batches_by_hand():
    data = [torch.randn(3, 3, 4) for _ in range(3)]
    (one,) = doctor.examine(nn.BatchNorm1d(3, momentum=0.5), data)["tiny-batch"]
    assert one.evidence == (  # (0.5 / 1.5 / 12) ** 0.5
        "12 values per statistic; running mean uncertain by 0.17 sigma"
    )


def test_batches_of_one_are_named_before_any_run_or_by_it():
    (one,) = doctor.examine(nn.BatchNorm1d(4), torch.randn(1, 4))
    assert (one.code, one.evidence) == (
        "batch-of-one",
        "every batch has 1 value per channel",
    )
    assert one.value == 1
    data = [torch.randn(8, 4)] * 3 + [torch.randn(1, 4)]
    (one,) = doctor.examine(nn.BatchNorm1d(4), data)
    assert one.evidence == "the last of 4 batches has 1 value per channel"
    assert not doctor.examine(nn.BatchNorm1d(4).eval(), data)
    optimizer = torch.optim.SGD(nn.BatchNorm1d(4).parameters(), 0.1)
    frozen = nn.Sequential(nn.BatchNorm1d(4).eval())
    assert not doctor.examine(frozen, data, optimizer)["batch-of-one"]
    free = nn.BatchNorm1d(4, track_running_stats=False).eval()
    assert doctor.examine(free, data)["batch-of-one"]  # evaluation refuses it too


@pytest.mark.parametrize("optimizer", [False, True])
def test_a_batch_of_one_matters_where_the_model_is_going_to_train(optimizer):
    model = nn.Sequential(nn.BatchNorm1d(4)).eval()
    model[0].train()
    adam = torch.optim.Adam(model.parameters()) if optimizer else None
    data = [torch.randn(8, 4), torch.randn(8, 4), torch.randn(1, 4)]
    report = doctor.examine(model, data, adam)
    assert bool(report["batch-of-one"]) is optimizer
    report = doctor.examine(model, torch.randn(1, 4), adam)
    assert bool(report["batch-of-one"]) is optimizer
    assert not report["forward-fails"]


@pytest.mark.parametrize(("ratio", "found"), [(9.60, 0), (9.69, 1)])
def test_the_quantile_is_that_of_wilson_and_hilferty(ratio, found):
    """(1 - 1/9 + 3.719 / 3) ** 3 = 9.644 for two degrees of freedom."""
    report = doctor.examine(nn.BatchNorm1d(1), scattered(ratio, 3))
    assert len(report["batches-differ"]) == found
