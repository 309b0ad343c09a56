"""Statistics that do not fit the data are stale, beyond chance and harm; the cause is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from patients import Called, batches, codes, net, standard, stepped_once, trained, used
from torch import nn

from bnutils import doctor
from bnutils.doctor.buffers import limit, memory
from bnutils.doctor.habits import Habit


def test_stale_statistics_name_the_worst_channel_and_its_errors():
    model, _ = trained(net())
    model[1].running_mean[3] += 100
    (one,) = doctor.examine(model, batches())["stale-statistics"]
    assert "1 of 8 channels; channel 3" in one.evidence
    assert one.value > 100


@pytest.mark.parametrize("change", [lambda x: x + 2, lambda x: 3 * x])
def test_statistics_of_other_data_are_stale(change):
    model, _ = trained()
    assert codes(model, batches()) == []
    assert codes(model.eval(), [change(x) for x in batches()]) == ["stale-statistics"]


def test_unfinished_statistics_say_how_much_of_the_start_is_left():
    model = nn.Sequential(stepped_once(nn.BatchNorm1d(6, momentum=0.01)))
    for x in batches(shift=3) * 3:
        model(x)
    (one,) = doctor.examine(model, batches(shift=3))["stale-statistics"]
    assert "start value still counts 79%" in one.evidence


@pytest.mark.parametrize(
    ("tests", "freedom", "quantile"),
    [
        (1, 60, 2.660),
        (0, 60, 2.660),
        (10, 60, 3.460),
        (1, 120, 2.617),
        (10, 120, 3.373),
    ],
)
def test_limit_is_a_quantile_of_students_t(tests, freedom, quantile):
    """From a printed table: two-sided 1 %, and a tenth of that for ten tests."""
    assert limit(tests, freedom) == pytest.approx(quantile, abs=0.01)


@pytest.mark.parametrize("momentum", [0.05, 0.1, 0.5, 1.0])
def test_memory_is_the_variance_of_an_average_of_independent_batches(momentum):
    weights = momentum * (1 - momentum) ** np.arange(1000)
    assert memory(Habit(True, momentum), 5) == pytest.approx((weights**2).sum())


@pytest.mark.parametrize(
    ("momentum", "count", "expected"),
    [
        (None, 5, 1 / 5),
        (None, 1, 1.0),
        (None, 0, 1.0),
        (0.0, 5, 0.0),
        (1.5, 5, 0.0),
        (-0.5, 5, 0.0),
    ],
)
def test_memory_of_a_plain_average_and_of_no_average(momentum, count, expected):
    assert memory(Habit(True, momentum), count) == pytest.approx(expected)


def examined(mean=0.0, var=1.0, channels=10, n=4096, count=100, **options):
    """Stale statistics of a norm whose channel 0 has another mean and variance."""
    bn = nn.BatchNorm1d(channels, **{"eps": 1e-9, **options})
    bn.num_batches_tracked.fill_(count)
    bn.running_mean[0], bn.running_var[0] = mean, var
    return doctor.examine(stepped_once(bn), standard(n, channels))["stale-statistics"]


@pytest.mark.parametrize(
    ("harmless", "stale"),
    [
        ({"mean": 0.49}, {"mean": 0.51}),
        ({"mean": -0.49}, {"mean": -0.51}),
        ({"mean": 0.69, "var": 1.96}, {"mean": 0.71, "var": 1.96}),  # sigma 1.4
        ({"var": 1.95}, {"var": 2.05}),
        ({"var": 1 / 1.95}, {"var": 1 / 2.05}),
        ({"channels": 11, "mean": 0.51}, {"channels": 10, "mean": 0.51}),
        ({"channels": 20, "mean": 4.9}, {"channels": 20, "mean": 5.1}),
        ({"channels": 20, "var": 1 / 98}, {"channels": 20, "var": 1 / 102}),
        ({"channels": 20, "var": 102.0}, {"channels": 10, "var": 102.0}),
        ({"n": 15, "mean": 99.0}, {"n": 16, "mean": 99.0}),
        ({"eps": 3.0, "mean": 0.98}, {"eps": 3.0, "mean": 1.02}),
        ({"eps": 3.0, "var": 4.9}, {"eps": 3.0, "var": 5.1}),  # 4 to 8
    ],
)
def test_statistics_are_stale_beyond_the_limits_of_harm(harmless, stale):
    assert not examined(**harmless)
    (one,) = examined(**stale)
    assert one.evidence.startswith(f"1 of {stale.get('channels', 10)} channels;")
    assert "channel 0: running mean" in one.evidence


def test_a_harmful_difference_within_the_standard_errors_is_not_stale():
    assert not examined(mean=0.8, n=16)
    assert examined(mean=0.8, n=400)


def test_evidence_of_stale_statistics_by_hand():
    (one,) = examined(mean=4.0, var=2.0, n=101, momentum=None)
    errors = 4 / (2 / 101 * (1 + 1 / 100)) ** 0.5  # one batch, and an average of 100
    assert one.value == pytest.approx(errors, rel=1e-4)
    assert one.evidence.startswith("1 of 10 channels; channel 0: running mean 4, data ")
    assert one.evidence.endswith(f"; variance 2, data 1 ({errors:.0f} standard errors)")


def test_standard_errors_beyond_a_thousand_are_not_counted():
    (one,) = examined(mean=1e9)
    assert "(over 1000 standard errors)" in one.evidence
    assert one.value == 1e6


@pytest.mark.parametrize(
    ("count", "momentum", "words"),
    [
        (43, 0.1, "; the start value still counts 1%"),  # 0.9 ** 43 = 0.0108
        (44, 0.1, ""),
        (1, 0.25, "; the start value still counts 75%"),
        (1, None, ""),
        (1, 1.0, ""),
        (2, 1.5, ""),
    ],
)
def test_what_is_left_of_the_start_value(count, momentum, words):
    (one,) = examined(mean=4.0, momentum=momentum, count=count)
    assert one.evidence.endswith(f" standard errors){words}")


def test_a_frozen_norm_is_not_judged_by_its_statistics():
    model = nn.Sequential(used(), used())
    model[0].eval()
    data = 9 + torch.randn(64, 4)
    found = doctor.examine(model, data)["stale-statistics"]
    assert not [f for f in found if f.path == "0"]
    assert [f.path for f in doctor.examine(model.eval(), data)["stale-statistics"]]


# 49 images make the standard error 1/7; two-sided 1 % over 16 tests is t = 3.66
@pytest.mark.parametrize(("t", "found"), [(3.60, False), (3.71, True)])
def test_the_limit_accounts_for_mean_and_variance_of_each_channel(t, found):
    bn = stepped_once(nn.BatchNorm1d(8, momentum=None))
    bn.num_batches_tracked.fill_(10**6)
    bn.running_mean[0] = t / 7
    stale = doctor.examine(bn, standard(49, 8))["stale-statistics"]
    assert bool(stale) is found


@pytest.mark.parametrize(
    ("mean", "var", "worst"),
    [
        (3.0, 1 / 16, 0),  # 6 halves of sigma against 4 factors of two
        (1.5, 1 / 16, 1),
        (3.0, 1 / 100, 1),
        (1.5, 16.0, 1),
    ],
)
def test_the_worst_channel_is_furthest_in_units_of_the_limits(mean, var, worst):
    bn = stepped_once(nn.BatchNorm1d(10, eps=1e-9))
    bn.num_batches_tracked.fill_(100)
    bn.running_mean[0], bn.running_var[1] = mean, var
    (one,) = doctor.examine(bn, standard())["stale-statistics"]
    assert one.evidence.startswith(f"2 of 10 channels; channel {worst}: ")


def test_standard_errors_are_those_of_the_variance_where_it_is_further():
    (one,) = examined(mean=0.001, var=0.25, n=101, momentum=None)
    x = standard(101).double()
    shares = x.square().var(0)  # of images; the average counts where it is larger
    error = (max(shares[0].item(), shares.mean().item()) / 101 * 1.01) ** 0.5
    assert one.value == pytest.approx(0.75 / error, rel=1e-3)


def stored_as(mean, var, data, dtype=torch.float32, count=1000):
    """What the doctor advises for a norm with these statistics and data."""
    bn = nn.BatchNorm1d(len(mean))
    bn.running_mean, bn.running_var = mean.to(dtype), var.to(dtype)
    bn.num_batches_tracked.fill_(count)
    bn.bias.data[0] = 1e-3  # it was trained
    head = Called(lambda m, x: m.bn(x.to(m.bn.running_mean.dtype).to(x.dtype)), bn=bn)
    (one,) = doctor.examine(head if dtype == torch.float32 else bn, data)[
        "stale-statistics"
    ]
    return one.remedy


LEVELS = torch.tensor([5.0, 7.0, 9.0, 11.0])


WIDTHS = torch.tensor([1.0, 1.5, 2.0, 1.2])


def normal(scale=1.0, shift=0.0, n=256):
    x = torch.randn(n, 4)
    return ((x - x.mean(0)) / x.std(0) * WIDTHS + LEVELS + shift) * scale


@pytest.mark.parametrize(
    ("mean", "var", "data", "words"),
    [
        (WIDTHS**2, LEVELS, normal(), "swapped: running_mean and running_var fit"),
        (LEVELS, WIDTHS**2, normal(255.0), "255 times the scale"),
        (LEVELS, WIDTHS**2, normal(1 / 255), "0.00392 times the scale"),
        (LEVELS, WIDTHS**2, normal(1.0, 9.0), "other data than in training"),
        (LEVELS, WIDTHS.flip(0) * 9, normal(), "other data than in training"),
    ],
)
def test_causes_of_stale_statistics_are_told_apart(mean, var, data, words):
    assert words in stored_as(mean, var, data)


def test_statistics_of_what_an_activation_gives_tell_that_it_is_missing():
    x = torch.randn(4096, 4) * WIDTHS
    after = x.relu()
    remedy = stored_as(after.mean(0), after.var(0), x)
    assert remedy.startswith(
        "they fit this input after a ReLU: put the activation back"
    )


@pytest.mark.parametrize(("count", "found"), [(10, True), (30, False)])
def test_an_average_that_has_not_arrived_is_a_cause(count, found):
    remedy = stored_as(torch.zeros(4), torch.ones(4), normal(), count=count)
    assert remedy.startswith("too few steps for the momentum") is found


def test_recalibrating_is_recommended_with_what_it_did_to_a_copy():
    words = "(recalibrated on a copy: "
    assert words in stored_as(LEVELS, WIDTHS**2, normal(1.0, 9.0))


@pytest.mark.parametrize(("off", "found"), [(2, True), (1, False)])
def test_several_norms_that_are_off_tell_of_other_weights(off, found):
    model = nn.Sequential(*(nn.BatchNorm1d(4) for _ in range(3)))
    for i, bn in enumerate(model):
        bn.num_batches_tracked.fill_(1000)
        bn.bias.data[0] = 1e-3
        if i < off:
            bn.running_mean += torch.tensor([3.0, -2.0, 4.0, -3.0])
    found_first = doctor.examine(model, standard(256, 4))["stale-statistics"][0]
    assert ("weights of another origin" in found_first.remedy) is found


def test_statistics_that_no_output_shows_are_a_note():
    parts = {"a": nn.BatchNorm1d(4), "b": nn.BatchNorm1d(4)}
    model = Called(lambda m, x: m.a(x) + 0 * m.b(x), **parts)
    for bn in parts.values():
        bn.num_batches_tracked.fill_(1000)
        bn.bias.data[0] = 1e-3
    model.b.running_mean += 3
    (one,) = doctor.examine(model, standard(256, 4))["stale-statistics"]
    assert (one.path, one.severity) == ("b", "note")
    model.a.running_mean += 3
    found = doctor.examine(model, standard(256, 4))["stale-statistics"]
    assert {f.severity for f in found} == {"error"}
