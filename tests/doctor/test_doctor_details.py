"""The doctor's numbers, limits and words, each by itself."""

from __future__ import annotations

import contextlib
import random
import warnings
from copy import deepcopy
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from bnutils import doctor
from bnutils.doctor import findings as _doctor_findings
from bnutils.doctor.batches import take
from bnutils.doctor.causes import Suspects, dropouts, wrong_axis
from bnutils.doctor.flow import Map
from bnutils.doctor.moments import Moments
from bnutils.doctor.observe import modes, observe, outputs_of, recomputed
from bnutils.doctor.replica import norms_of, random_states_kept, replica, unwrap
from bnutils.doctor.report import finding, ordered
from bnutils.doctor.texts import TEXTS


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def moments_of(*batches):
    moments = Moments()
    for x in batches:
        moments.add(torch.as_tensor(x))
    return moments


class Called(nn.Module):
    """A model whose forward is a function."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


# ---------------------------------------------------------------- moments


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_moments_are_those_of_numpy(dtype):
    rng = np.random.default_rng(0)
    x = 1000 + rng.normal(size=(4, 5, 3, 7)) * (1 + np.arange(5)[:, None, None])
    moments = moments_of(*torch.as_tensor(x, dtype=dtype))
    rtol = 1e-9 if dtype == torch.float64 else 2e-4  # inputs were rounded
    close = {"rtol": rtol, "atol": 0}
    np.testing.assert_allclose(moments.mean, x.mean((0, 1, 3)), **close)
    var = x.var((1, 3), ddof=1)  # of each batch
    np.testing.assert_allclose(moments.var, var.mean(0), **close)
    np.testing.assert_allclose(torch.stack(moments.means), x.mean((1, 3)), **close)
    np.testing.assert_allclose(torch.stack(moments.variances), var, **close)
    assert (moments.images, moments.values, moments.sizes) == (20, 35, [5] * 4)
    images = x.reshape(20, 3, 7)
    squares = (images - images.mean((0, 2))[:, None]) ** 2
    of_mean, of_var = moments.image_variances()
    np.testing.assert_allclose(of_mean, images.mean(2).var(0, ddof=1), **close)
    np.testing.assert_allclose(of_var, squares.mean(2).var(0, ddof=1), **close)


def test_values_are_those_of_the_largest_batch_and_one_value_has_no_variance():
    moments = moments_of(torch.ones(3, 2, 2), torch.ones(1, 2, 2), torch.ones(2, 2, 2))
    assert (moments.images, moments.values, moments.sizes) == (6, 6, [3, 1, 2])
    single = moments_of(torch.tensor([[5.0, 6.0]]))
    assert single.mean.tolist() == [5, 6]
    assert single.var.tolist() == [0, 0]
    assert [v.tolist() for v in single.image_variances()] == [[0, 0], [0, 0]]


def test_two_values_have_an_unbiased_variance():
    moments = moments_of(torch.tensor([[1.0], [-1.0]]))
    assert (moments.mean.item(), moments.var.item()) == (0, 2)
    assert moments.image_variances()[0].item() == 2


@pytest.mark.parametrize("value", [0.3, 0.7, 1.1])
def test_rounding_makes_no_variance_negative(value):
    """The square is rounded to float32, the mean is not."""
    moments = moments_of(torch.zeros(4, 1), torch.full((4, 1), value))
    assert moments.variances[1].item() < 0
    assert moments.var.item() == 0
    assert min(v.item() for v in moments.image_variances()) >= 0


ONE = [[[1.0]], [[-1.0]], [[1.0]], [[-1.0]]]  # four images of one value


@pytest.mark.parametrize(
    ("running", "memory", "expected"),
    [(4 / 3, 0.5, 2 / 7), (4 / 3, 0.0, 1 / 7), (8 / 3, 0.0, 2 / 7), (0.5, 0.0, 1 / 7)],
)
def test_standard_error_of_a_mean_by_hand(running, memory, expected):
    """Eight images, ±1: of variance 8/7, and a quarter of it for a batch's mean."""
    moments = moments_of(ONE, ONE)
    of_mean, of_var = moments.errors(torch.tensor([running]).double(), memory)
    assert of_mean.item() ** 2 == pytest.approx(expected)
    assert of_var.item() == 0  # all squares are alike


@pytest.mark.parametrize(("running", "factor"), [(20 / 3, 1), (40 / 3, 4), (1.0, 1)])
def test_standard_error_of_a_variance_by_hand(running, factor):
    """Squares 1 and 9, mean 5: shares vary by 16 · 8/7, means not at all."""
    batch = [[[1.0, -1.0]], [[3.0, -3.0]]] * 2
    moments = moments_of(batch, batch)
    assert moments.var.item() == pytest.approx(5 * 8 / 7)
    of_mean, of_var = moments.errors(torch.tensor([running]).double(), 0.0)
    size = max(running / (40 / 7), 1) ** 2
    assert of_mean.item() == 0
    assert of_var.item() ** 2 == pytest.approx(16 * 8 / 7 / 4 / 2 * size)


def test_a_calm_channel_has_at_least_the_average_relative_spread():
    """Channel 0 varies by image alone, channel 1 within images alone."""
    batch = [[[s, s], [2.0, -2.0]] for s in (1.0, -1.0, 1.0, -1.0)]
    moments = moments_of(batch, batch)
    assert moments.var.tolist() == pytest.approx([8 / 7, 32 / 7])
    of_mean, _ = moments.errors(torch.zeros(2).double(), 0.0)
    assert of_mean.square().tolist() == pytest.approx([1 / 7, 1 / 2 / 4 / 2 * 32 / 7])


def test_a_constant_channel_has_the_average_relative_spread_of_its_running_variance():
    """Relative spreads 8/7 over 4/3, and none: 3/7 on average, of a variance of 2."""
    batch = torch.cat([torch.tensor(ONE), torch.zeros(4, 1, 1)], 1)
    moments = moments_of(batch, batch)
    of_mean, _ = moments.errors(torch.tensor([1.0, 2.0]).double(), 0.0)
    assert of_mean.square().tolist() == pytest.approx([1 / 7, 3 / 7 * 2 / 4 / 2])


def test_where_batches_scatter_more_than_images_explain_the_scatter_counts():
    shifted = [torch.tensor(ONE) + s for s in (0.0, 30.0, -30.0)]
    of_mean, _ = moments_of(*shifted).errors(torch.ones(1).double(), 1.0)
    images = torch.cat(shifted).var().item() / 4
    assert images < 900  # the variance of the three batch means
    assert of_mean.item() ** 2 == pytest.approx(900 * (1 / 3 + 1))
    two = moments_of(*shifted[1:])
    images = torch.cat(shifted[1:]).double().var().item() / 4
    assert two.errors(torch.ones(1).double(), 0.0)[0].item() ** 2 == pytest.approx(
        images / 2
    )  # two batches tell nothing of their own


def test_scatter_of_batch_means_relative_to_that_of_random_batches():
    shifted = [torch.tensor(ONE).double() + s for s in (0.0, 3.0, -3.0)]
    images = torch.cat(shifted).var().item()
    assert moments_of(*shifted).scatter() == pytest.approx(9 / (images / 4))
    constant = [torch.cat([x, torch.ones(4, 1, 1)], 1) for x in shifted]
    assert moments_of(*constant).scatter() == pytest.approx(9 / (images / 4))
    assert moments_of(*shifted[:2]).scatter() == 1  # too few
    assert moments_of(*shifted, shifted[0][:2]).scatter() == 1  # of unequal size
    assert moments_of(*[torch.ones(4, 1)] * 3).scatter() == 1  # nothing varies


# ---------------------------------------------------------------- limits


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
    assert _doctor_findings.limit(tests, freedom) == pytest.approx(quantile, abs=0.01)


@pytest.mark.parametrize("momentum", [0.05, 0.1, 0.5, 1.0])
def test_memory_is_the_variance_of_an_average_of_independent_batches(momentum):
    weights = momentum * (1 - momentum) ** np.arange(1000)
    bn = nn.BatchNorm1d(1, momentum=momentum)
    assert _doctor_findings.memory(bn) == pytest.approx((weights**2).sum())


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
    bn = nn.BatchNorm1d(1, momentum=momentum)
    bn.num_batches_tracked.fill_(count)
    assert _doctor_findings.memory(bn) == pytest.approx(expected)


def seen(ratio=0.0, batches=8, calls=1):
    moments = SimpleNamespace(sizes=[4] * batches, scatter=lambda: ratio)
    return SimpleNamespace(calls=calls, moments=moments)


@pytest.mark.parametrize(("batches", "quantile"), [(8, 29.88), (5, 23.51), (3, 18.42)])
def test_batches_differ_beyond_the_quantile_of_chi_square(batches, quantile):
    """From a printed table: chi-square at 1e-4, for one degree less than batches."""
    bound = quantile / (batches - 1)
    below, above = seen(0.98 * bound, batches), seen(1.08 * bound, batches)
    assert not list(_doctor_findings.differing({"bn": below}))
    (one,) = _doctor_findings.differing({"bn": above})
    assert (one.path, one.value) == ("bn", above.moments.scatter())
    assert one.evidence.startswith(f"means of {batches} batches vary")


def test_batches_are_judged_at_the_first_norm_that_runs_once():
    differing, found = _doctor_findings.differing, seen(99.0)
    assert not list(differing({"a": seen(99.0, batches=2)}))
    assert not list(differing({"a": seen(1.0), "b": found}))
    (one,) = differing({"a": seen(99.0, calls=2), "b": found, "c": found})
    assert one.path == "b"


def standard(n=4096, channels=10):
    """Data of mean exactly 0 and variance exactly 1 per channel."""
    x = torch.randn(n, channels, generator=torch.Generator().manual_seed(0))
    x = x.double() - x.double().mean(0)
    return (x / x.var(0).sqrt()).float()


def examined(mean=0.0, var=1.0, channels=10, n=4096, **options):
    """Stale statistics of a norm whose channel 0 has another mean and variance."""
    bn = nn.BatchNorm1d(channels, **{"eps": 1e-9, **options})
    bn.num_batches_tracked.fill_(100)
    bn.running_mean[0], bn.running_var[0] = mean, var
    return doctor.examine(bn, standard(n, channels))["stale-statistics"]


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
        (1, 0.0, ""),
        (2, 1.5, ""),
    ],
)
def test_what_is_left_of_the_start_value(count, momentum, words):
    bn = nn.BatchNorm1d(1, momentum=momentum)
    bn.num_batches_tracked.fill_(count)
    assert _doctor_findings._unfinished(bn) == words
    del bn.num_batches_tracked
    assert _doctor_findings._unfinished(bn) == ""


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


# ---------------------------------------------------------------- the flow of data


@pytest.mark.parametrize("first", [True, False])
def test_the_nearest_dropout_is_named(first):
    def forward(m, x):
        parts = m.near(x), m.fc(m.far(x))
        return m.bn(parts[0] + parts[1] if first else parts[1] + parts[0])

    modules = {"fc": nn.Linear(4, 4, bias=False), "bn": nn.BatchNorm1d(4)}
    model = Called(forward, near=nn.Dropout(0.125), far=nn.Dropout(0.25), **modules)
    (one,) = doctor.examine(model)
    assert (one.path, one.evidence) == ("bn", "p = 0.125 in 'near'")


def test_the_shape_of_what_dropout_makes_is_not_its_data():
    parts = {"drop": nn.Dropout(0.5), "bn": nn.BatchNorm1d(4)}
    shape = Called(lambda m, x: m.bn(x.view(m.drop(x).shape)), **parts)
    assert not doctor.examine(shape)
    both = Called(lambda m, x: m.bn(x.view(m.drop(x).shape) + m.drop(x)), **parts)
    assert doctor.examine(both).codes == ["dropout-before-norm"]


def test_branches_that_meet_again_are_searched_once():
    def forward(m, x):
        x = m.drop(x)
        for _ in range(40):  # 2 ** 40 ways from the norm to the dropout
            x = x.relu() + x.tanh()
        return m.bn(x)

    model = Called(forward, drop=nn.Dropout(0.0), bn=nn.BatchNorm1d(4))
    assert not doctor.examine(model)


def test_batches_are_not_counted_where_no_norm_needs_them():
    assert doctor.examine(nn.Linear(3, 2), torch.randn(4, 3)).batches == 0
    assert doctor.examine(nn.BatchNorm1d(3), torch.randn(4, 3)).batches == 1


@pytest.mark.parametrize(
    ("drop", "rate"),
    [
        (lambda x: F.dropout(x), 0.5),
        (lambda x: F.dropout(x, 0.25), 0.25),
        (lambda x: F.dropout(x, p=0.25, training=True), 0.25),
        (lambda x: F.alpha_dropout(x, 0.125, True), 0.125),
        (lambda x: F.dropout(x, 0.5, False), None),
        (lambda x: F.dropout(x, training=False), None),
        (lambda x: F.dropout(x, 0.0), None),
        (lambda x: F.dropout(x, 1.0), None),
        (nn.Dropout(0.25), 0.25),
        (nn.Dropout(0.0), None),
        (nn.Dropout(1.0), None),  # leaves no variance at all
    ],
)
def test_dropout_counts_that_drops_some_but_not_all(drop, rate):
    is_module = isinstance(drop, nn.Module)
    modules = {"drop": drop} if is_module else {}
    modules["bn"] = nn.BatchNorm1d(4)
    model = Called(lambda m, x: m.bn((m.drop if is_module else drop)(x)), **modules)
    found = [(f.code, f.value) for f in doctor.examine(model)]
    assert found == ([("dropout-before-norm", rate)] if rate else [])


# ---------------------------------------------------------------- the report


def report_of(*findings, notes=(), norms=2, batches=1):
    made = [
        finding(code, path, f"{value} seen", value, severity)
        for code, path, value, severity in findings
    ]
    return doctor.Report(made, norms, batches, list(notes))


def dead(n):
    return [("dead-channels", f"n{i}", 1, None) for i in range(n)]


@pytest.mark.parametrize(
    ("findings", "norms", "batches", "headline"),
    [
        ([], 0, 0, "no finding (0 batch norms, 0 batches examined)"),
        ([], 1, 1, "no finding (1 batch norm, 1 batch examined)"),
        (dead(1), 2, 8, "1 note (2 batch norms, 8 batches examined)"),
        (dead(2), 2, 2, "2 notes (2 batch norms, 2 batches examined)"),
        (
            [*dead(1), ("momentum-zero", "", 0, None), ("tiny-batch", "", 4, None)] * 2,
            2,
            1,
            "2 errors, 2 warnings, 2 notes (2 batch norms, 1 batch examined)",
        ),
    ],
)
def test_headline_counts_by_severity(findings, norms, batches, headline):
    report = report_of(*findings, norms=norms, batches=batches)
    assert str(report).splitlines()[0] == headline
    assert headline in report._repr_html_()
    assert (len(report), bool(report)) == (len(findings), bool(findings))


@pytest.mark.parametrize(
    ("n", "names"),
    [
        (1, "n0"),
        (3, "n0, n1, n2"),
        (4, "n0, n1, n2, n3"),
        (5, "n0, n1, n2, and 2 more"),
    ],
)
def test_modules_of_one_finding_share_its_texts(n, names):
    lines = str(report_of(*dead(n))).splitlines()[1:]
    _, consequence, remedy = TEXTS["dead-channels"]
    assert lines == [
        f"NOTE     dead-channels: {names}",
        "  found    1 seen",
        f"  means    {consequence}",
        f"  remedy   {remedy}",
    ]
    assert f"<td>{names}</td><td>1 seen</td>" in report_of(*dead(n))._repr_html_()


def test_the_largest_number_of_a_group_comes_first_and_is_the_evidence():
    values = {"a": 2, "": -7, "b": 3}
    report = report_of(*(("dead-channels", p, v, None) for p, v in values.items()))
    _, first, second, *_ = str(report).splitlines()
    assert first == "NOTE     dead-channels: the model, b, a"
    assert second == "  found    -7 seen (the model)"


def test_severities_of_one_code_are_apart_and_worst_comes_first():
    one = ("dead-channels", "x", 1, None), ("dead-channels", "y", 2, "warning")
    report = report_of(*one, ("momentum-zero", "z", 0, None))
    text = str(doctor.Report(ordered(report.findings), 3, 0, [])).splitlines()
    assert [line for line in text if not line.startswith(" ")][1:] == [
        "ERROR    momentum-zero: z",
        "WARNING  dead-channels: y",
        "NOTE     dead-channels: x",
    ]


def test_lines_of_the_report_end_at_88_columns_and_go_on_under_the_text():
    words = "some-what hyphenated " * 9
    text = str(report_of(("momentum-zero", words, 0, None), notes=[words]))
    lines = text.splitlines()
    assert max(map(len, lines)) in range(80, 89)
    assert lines[2][10] == " " != lines[2][11]
    assert not any(line.endswith("-") for line in lines)
    assert lines[-3].startswith("note: some-what")
    exact = "a " * 40 + "bb"
    assert len(str(report_of(notes=[exact])).splitlines()) == 2  # 88 columns fit
    assert len(str(report_of(notes=[exact + "b"])).splitlines()) == 3


def test_notes_stand_below_the_table_or_the_headline():
    with_it = report_of(*dead(1), notes=["a < b", "c"])._repr_html_()
    assert with_it.endswith("</table><p>note: a &lt; b</p><p>note: c</p>")
    without = report_of(notes=["a < b"])._repr_html_()
    assert without == (
        "<p>no finding (2 batch norms, 1 batch examined)</p><p>note: a &lt; b</p>"
    )


# ---------------------------------------------------------------- settings


def used(channels=4, **options):
    """A batch norm that has seen a batch, so that it is not fresh."""
    bn = nn.BatchNorm1d(channels, **options)
    bn.num_batches_tracked.fill_(1)
    bn.running_mean.fill_(1.0)
    return bn


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
    report = doctor.examine(nn.Sequential(used(), bn))
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


@pytest.mark.parametrize(
    ("momentum", "code"),
    [
        (0, "momentum-zero"),
        (1, "momentum-one"),
        (-0.25, "momentum-range"),
        (1.25, "momentum-range"),
        (0.001, None),
        (0.999, None),
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
        ([0.0] * 4, 4, "warning"),
    ],
)
def test_dead_channels_by_hand(gamma, dead, severity):
    bn = used(len(gamma))
    bn.weight.data = torch.tensor(gamma)
    found = [(f.value, f.severity) for f in doctor.examine(bn)]
    assert found == ([(dead, severity)] if dead else [])
    for one in doctor.examine(bn):
        rms = np.sqrt(np.square(gamma).mean())
        assert one.evidence == (
            f"{dead} of {len(gamma)} channels: |gamma| below 0.001 of the layer's "
            f"{rms:.2g}"
        )


def test_a_fresh_layer_may_start_at_zero_as_a_whole_but_not_in_part():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    model[0].weight.data.zero_()
    assert not doctor.examine(model)
    model[1].weight.data[0] = 0
    assert [(f.path, f.value) for f in doctor.examine(model)] == [("1", 1)]


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


def stepped(model, steps, own=()):
    """An optimiser whose state says how many steps were taken."""
    optimizer = torch.optim.Adam(model.parameters())
    for p in model.parameters():
        optimizer.state[p] = {"step": torch.tensor(float(steps))}
    for p, n in own:
        optimizer.state[p] = {"step": torch.tensor(float(n))}
    return optimizer


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


# ---------------------------------------------------------------- batches


def sized(*sizes):
    return [torch.full((n, 2), float(i)) for i, n in enumerate(sizes)]


def taken(source):
    """First values of the batches taken, usual size, size of the last, and how many."""
    batches = take(source, torch.device("cpu"))
    firsts = [int(x.flatten()[0]) for x in batches.inputs]
    return firsts, batches.size, batches.last, batches.total


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (sized(*[4] * 20), ([0, 2, 5, 7, 10, 12, 15, 17], 4, 4, 20)),
        (sized(*[4] * 9), ([0, 1, 2, 3, 4, 5, 6, 7], 4, 4, 9)),
        (sized(4, 4, 4, 2), ([0, 1, 2], 4, 2, 4)),
        (sized(3, 4, 3, 4, 4), ([1, 3, 4], 4, 4, 5)),
        (iter(sized(*[4] * 20)), ([0, 1, 2, 3, 4, 5, 6, 7], 4, None, None)),
        (iter(sized(4, 1, 4, 1, 4)), ([0, 2, 4], 4, None, None)),
        (iter(sized(1, 1, 4)), ([0, 1, 2], 1, None, None)),
        (iter(sized(4, 1)), ([0], 4, None, None)),
        (iter(sized(2, 1, 2)), ([0, 2], 2, None, None)),
        (torch.zeros(6, 2), ([0], 6, None, None)),
        ((torch.zeros(6, 2), torch.zeros(6)), ([0], 6, None, None)),
        ((torch.zeros(6, 2), torch.zeros(6, 2, dtype=torch.int)), ([0], 6, None, None)),
        ((torch.zeros(6), torch.zeros(6)), ([0], 6, None, None)),
        ((torch.zeros(6, 2), "label"), ([0], 6, None, None)),
        (tuple(sized(6, 6, 6)), ([0, 1, 2], 6, 6, 3)),
        (tuple(sized(6, 6, 1)), ([0, 1], 6, 1, 3)),
        ([(x, 0) for x in sized(5, 5)], ([0, 1], 5, 5, 2)),
        ([[x, 0] for x in sized(5, 5)], ([0, 1], 5, 5, 2)),
    ],
)
def test_batches_are_spread_and_sizes_known_where_possible(source, expected):
    assert taken(source) == expected


def items(n):
    return TensorDataset(torch.arange(float(n))[:, None].expand(n, 2), torch.zeros(n))


class Plain(torch.utils.data.Dataset):
    """Without ``__getitems__``; gives integers for the collate function."""

    def __len__(self):
        return 21

    def __getitem__(self, i):
        return float(i)


def stack(values):
    return torch.tensor(values)[:, None].expand(-1, 2)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (DataLoader(items(21), 2), ([0, 2, 4, 6, 10, 12, 14, 16], 2, 1, 11)),
        (DataLoader(items(6), 2), ([0, 2, 4], 2, 2, 3)),
        (DataLoader(items(7), 2, drop_last=True), ([0, 2, 4], 2, 2, 3)),
        (DataLoader(Plain(), 10, collate_fn=stack), ([0, 10], 10, 1, 3)),
    ],
)
def test_a_data_loader_is_sampled_evenly_without_running_it(source, expected):
    assert taken(source) == expected


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (
            torch.zeros(0, 3),
            ValueError,
            r"shape \(0, 3\): expected \(N, ...\) with N > 0",
        ),
        (iter([]), ValueError, "gave no batch"),
        ({"x": torch.zeros(2, 2)}, TypeError, "but got dict"),
        ([()], TypeError, "but got tuple: wrap"),
        ([(1, 2)], TypeError, "but got tuple that starts with int: wrap"),
        ([1], TypeError, "but got int: wrap"),
        ((), ValueError, "gave no batch"),
    ],
)
def test_what_is_no_batch_is_refused_by_name(bad, error, words):
    with pytest.raises(error, match=words):
        take(bad, torch.device("cpu"))


def test_an_endless_loader_gives_its_first_batches_and_keeps_its_iterator():
    source = DataLoader(Endless(), 4)
    source._iterator = mine = object()
    assert taken(source)[0] == [0] * 8
    assert source._iterator is mine


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(2)


class Counting(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(torch.arange(30.0)[:, None])


def test_a_loader_with_persistent_workers_goes_on_where_it_was():
    source = DataLoader(Counting(), 3, num_workers=1, persistent_workers=True)
    in_use = iter(source)
    next(in_use)
    take(source, torch.device("cpu"))
    assert [batch[0].item() for batch in in_use] == list(range(3, 30, 3))


def test_a_tuple_of_one_tensor_is_one_batch_and_goes_where_the_model_is():
    (x,) = take((torch.zeros(3, 2),), torch.device("meta")).inputs
    assert (x.shape, x.device.type) == ((3, 2), "meta")


# ---------------------------------------------------------------- before a norm


@pytest.mark.parametrize(
    ("axis", "spread", "severity"),
    [
        ("first", (0.0, 1.0), None),
        ("last", (9.0, 1.0), "error"),
        ("", (2.1, 1.0), None),
        ("", (2.0, 1.0), "warning"),
        ("", (1.5, 1.0), "warning"),
        ("", (0.0, 0.0), "warning"),
    ],
)
def test_the_axis_is_wrong_by_the_module_before_or_by_the_data(axis, spread, severity):
    suspects = Suspects()
    suspects.axes["bn"] = axis
    one = SimpleNamespace(shape=(16, 8, 8), spread=spread)
    found = list(wrong_axis(suspects, {"bn": one}))
    assert [(f.severity, f.value) for f in found] == (
        [(severity, 8)] if severity else []
    )
    for f in found:
        assert f.evidence == (
            "input (16, 8, 8): length = channels = 8; means along dimension 1 vary by "
            f"{spread[0]:.2g} of the variance, along dimension 2 by {spread[1]:.2g}"
        )


def test_the_spread_of_positions_and_channels_by_hand():
    channels = torch.tensor([0.0, 2.0, 4.0])[:, None].expand(5, 3, 3)  # (N, C, L)
    whole = 8 / 3 * 45 / 44  # of 0, 2 and 4, each 15 times, unbiased
    seen = observe(nn.BatchNorm1d(3), [channels])[""]
    assert seen.spread == pytest.approx((4 / whole, 0.0))
    seen = observe(nn.BatchNorm1d(3), [channels.transpose(1, 2)])[""]
    assert seen.spread == pytest.approx((0.0, 4 / whole))
    seen = observe(nn.BatchNorm1d(3), [torch.ones(5, 3, 3)])[""]
    assert seen.spread == (0.0, 0.0)


def positions_and_channels(n=64):
    """Positions differ far more than channels: only the module before can tell."""
    return torch.arange(4.0)[:, None] * 5 + torch.randn(n, 4, 4)


KNOWN = [
    ("Linear", "error", lambda m, x: m.bn(m.fc(x))),
    ("Linear and ReLU", "error", lambda m, x: m.bn(m.act(m.drop(m.fc(x))))),
    ("convolution and ReLU", None, lambda m, x: m.bn(m.act(m.conv(x)))),
    ("convolution and a function", None, lambda m, x: m.bn(m.conv(x).relu())),
    ("batch norm", None, lambda m, x: m.bn(m.other(m.conv(x)))),
    ("the last of two", "error", lambda m, x: m.bn(m.fc(m.conv(x)))),
    ("the last of two, turned", None, lambda m, x: m.bn(m.conv(m.fc(x)))),
]


@pytest.mark.parametrize(("_", "severity", "forward"), KNOWN, ids=[k[0] for k in KNOWN])
def test_the_module_that_made_the_input_tells_its_axis(_, severity, forward):
    torch.manual_seed(0)
    model = Called(
        forward,
        bn=nn.BatchNorm1d(4),
        other=nn.BatchNorm1d(4),
        act=nn.ReLU(),
        drop=nn.Dropout(0.0),
        fc=nn.Linear(4, 4, bias=False),
        conv=nn.Conv1d(4, 4, 3, padding=1, bias=False),
    )
    found = doctor.examine(model, positions_and_channels())["wrong-axis"]
    assert [f.severity for f in found] == ([severity] if severity else [])


def test_channels_of_the_data_decide_where_no_module_tells():
    x = positions_and_channels()
    model = Called(lambda m, x: m.bn(m.act(x)), bn=nn.BatchNorm1d(4), act=nn.Softplus())
    assert not doctor.examine(model, x)["wrong-axis"]  # dimension 1 varies most
    (one,) = doctor.examine(model, x.transpose(1, 2))["wrong-axis"]
    assert one.severity == "warning"
    turned = Called(
        lambda m, x: m.bn(m.fc(x).transpose(1, 2) * 1),
        bn=nn.BatchNorm1d(4),
        fc=nn.Linear(4, 4, bias=False),
    )
    assert not doctor.examine(nn.BatchNorm1d(1), torch.randn(64, 1, 1))["wrong-axis"]
    turned.fc.weight.data = torch.eye(4)
    assert not doctor.examine(turned, x.transpose(1, 2))["wrong-axis"]


def with_variance(*values):
    return SimpleNamespace(moments=SimpleNamespace(var=torch.tensor(values).double()))


@pytest.mark.parametrize(
    ("noisy", "calm", "ratio"),
    [
        ((2.0, 8.0), (1.0, 2.0), 8**0.5),  # the geometric mean of 2 and 4
        ((2.0, 8.0, 1.0), (1.0, 2.0, 0.0), 8**0.5),  # but for constant channels
        ((1.021,), (1.0,), 1.021),
        ((1.019,), (1.0,), None),
        ((0.5,), (1.0,), None),
        ((1.0,), (0.0,), None),
    ],
)
def test_dropout_is_harmful_from_two_percent_of_variance(noisy, calm, ratio):
    found = Map()
    found.dropouts["bn"] = ("drop", 0.25)
    seen, calm = {"bn": with_variance(*noisy)}, {"bn": with_variance(*calm)}
    got = list(dropouts(found, Suspects(), seen, calm))
    assert [f.value for f in got] == ([pytest.approx(ratio)] if ratio else [])
    for one in got:
        assert one.evidence == (
            f"p = 0.25 in 'drop'; variance in training {ratio:.2f} "
            "of that in evaluation"
        )
    for data in ((seen, {}), ({}, calm)):  # not measured in both modes
        (one,) = dropouts(found, Suspects(), *data)
        assert (one.evidence, one.value) == ("p = 0.25 in 'drop'", 0.25)


def test_dropout_seen_in_a_run_counts_where_tracing_failed():
    found, suspects = Map(), Suspects()
    suspects.dropouts["bn"] = ("drop", 0.25)
    assert not list(dropouts(found, suspects, {}, {}))
    found.whole = False
    assert [f.path for f in dropouts(found, suspects, {}, {})] == ["bn"]


class Opaque(Called):
    """Cannot be traced: a branch on data."""

    def forward(self, x):
        return x if float(x.sum()) == 12345.0 else self.function(self, x)


@pytest.mark.parametrize(
    ("forward", "paths"),
    [
        (lambda m, x: m.bn(m.drop(x)), ["bn"]),
        (lambda m, x: m.bn(m.fc(m.drop(x))), ["bn"]),
        (lambda m, x: m.bn(m.ln(m.drop(x))), []),
        (lambda m, x: m.bn(m.gn(m.drop(x))), []),
        (lambda m, x: m.bn(m.none(x)), []),
        (lambda m, x: m.bn(m.drop(m.ln(x))), ["bn"]),
        (lambda m, x: m.other(m.bn(m.drop(x))), ["bn"]),
        (lambda m, x: m.other(m.drop(m.bn(x))), ["other"]),
        (lambda m, x: m.drop(m.bn(x)), []),
    ],
)
def test_dropout_before_a_norm_in_what_cannot_be_traced(forward, paths):
    torch.manual_seed(0)
    model = Opaque(
        forward,
        drop=nn.Dropout(0.5),
        none=nn.Dropout(0.0),
        fc=nn.Linear(4, 4, bias=False),
        ln=nn.LayerNorm(4),
        gn=nn.GroupNorm(1, 4),
        bn=nn.BatchNorm1d(4),
        other=nn.BatchNorm1d(4),
    )
    found = doctor.examine(model, torch.randn(256, 4))["dropout-before-norm"]
    assert [f.path for f in found] == paths
    assert all("in 'drop'; variance" in f.evidence for f in found)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [Called, Opaque])
def test_biases_are_redundant_unless_the_norm_is_frozen(training, kind):
    model = kind(
        lambda m, x: m.b(m.fc2(m.a(m.fc1(x)))),
        a=nn.BatchNorm1d(6),
        b=nn.BatchNorm1d(3),
        fc1=nn.Linear(4, 6),
        fc2=nn.Linear(6, 3),
    ).train(training)
    model.a.eval()
    found = doctor.examine(model, torch.randn(64, 4))["redundant-bias"]
    both = [("fc1", 6), ("fc2", 3)]
    assert [(f.path, f.value) for f in found] == (both[1:] if training else both)
    assert found[-1].evidence == "3 parameters without effect"


def test_one_bias_that_matters_does_not_hide_another():
    def forward(m, x):
        z = m.fc1(x)
        return m.b(m.fc2(m.a(z))) + z.mean().detach()  # the mean sees its bias

    parts = {"fc1": nn.Linear(4, 4), "fc2": nn.Linear(4, 4)}
    model = Opaque(forward, a=nn.BatchNorm1d(4), b=nn.BatchNorm1d(4), **parts)
    found = doctor.examine(model, torch.randn(64, 4))["redundant-bias"]
    assert [f.path for f in found] == ["fc2"]


def test_biases_of_a_model_on_whole_numbers_are_tested_too():
    words = nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5)
    x = torch.randint(10, (32, 3), generator=torch.Generator().manual_seed(0))
    assert doctor.examine(nn.Sequential(*words), x).codes == ["redundant-bias"]


# ---------------------------------------------------------------- runs of the copy


def test_what_a_norm_receives_is_noted_over_all_batches_and_calls():
    torch.manual_seed(0)
    model = Called(
        lambda m, x: m.pooled(m.conv(x).mean(2)) + m.bn(m.bn(m.conv(x))).mean(2),
        conv=nn.Conv1d(2, 3, 2),
        bn=nn.BatchNorm1d(3),
        pooled=nn.BatchNorm1d(3),
    )
    data = [torch.randn(4, 2, 6), torch.randn(4, 2, 6), torch.randn(2, 2, 6)]
    seen = observe(model, data)
    assert {path: (s.calls, s.shape, s.per_image) for path, s in seen.items()} == {
        "pooled": (1, (4, 3), 1),
        "bn": (2, (4, 3, 5), 5),
    }
    assert seen["pooled"].moments.sizes == [4, 4, 2]
    assert seen["bn"].moments.sizes == [4, 4, 4, 4, 2, 2]
    means = [model.conv(x).mean((0, 2)) for x in data]
    torch.testing.assert_close(
        seen["pooled"].moments.mean.float(), torch.stack(means).mean(0)
    )


def test_values_per_image_count_rows_made_of_one_image():
    model = Called(lambda m, x: m.bn(x.reshape(-1, 3)), bn=nn.BatchNorm1d(3))
    (one,) = observe(model, [torch.randn(4, 5, 3)]).values()
    assert (one.shape, one.per_image) == ((20, 3), 5)


def test_inputs_survive_a_model_that_writes_into_them():
    x = torch.randn(8, 4)
    before = x.clone()
    model = Called(lambda m, x: m.bn(x.mul_(2)), bn=nn.BatchNorm1d(4))
    doctor.examine(model, [x, x])
    assert torch.equal(x, before)


@pytest.mark.parametrize("norms_only", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_modes_of_the_copy(norms_only, training):
    parts = nn.Dropout(), nn.BatchNorm1d(4), nn.Dropout(), nn.BatchNorm1d(4)
    original = nn.Sequential(*parts).train(training)
    original[2].eval(), original[3].eval()
    copy = nn.Sequential(*map(deepcopy, parts))
    modes(copy, original, norms_only)
    frozen = training  # what is in evaluation mode in a model that trains
    rest = not norms_only
    assert [m.training for m in copy] == [
        rest,
        True,
        rest and not frozen,
        not frozen,
    ]
    assert [m.training for m in original] == [training, training, False, False]


def test_calls_in_the_backward_are_counted_apart():
    model = Called(
        lambda m, x: m.b(checkpoint(m.a, m.b(m.fc(x)), use_reentrant=False)),
        fc=nn.Linear(4, 4),
        a=nn.BatchNorm1d(4),
        b=nn.BatchNorm1d(4),
    )
    assert recomputed(model, torch.randn(8, 4)) == {"a": (1, 1), "b": (2, 0)}
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())
    report = doctor.examine(model, torch.randn(8, 4))
    assert {f.code: (f.path, f.value) for f in report if "bias" not in f.code} == {
        "recomputed": ("a", 2),
        "shared-norm": ("b", 2),
    }
    (one,) = report["recomputed"]
    assert one.evidence == "1 call in the forward, 1 more in the backward"
    (one,) = report["shared-norm"]
    assert one.evidence == "called 2 times per forward"


def test_models_without_a_gradient_have_no_backward():
    assert recomputed(nn.BatchNorm1d(4, affine=False), torch.randn(8, 4)) == {
        "": (1, 0)
    }


def test_outputs_are_all_tensors_of_floats_with_the_same_noise():
    def forward(m, x):
        return {"a": (F.dropout(x), [x.int(), "text"]), "b": torch.rand(3)}

    first, second = (outputs_of(Called(forward), torch.ones(50, 2)) for _ in range(2))
    assert [y.shape for y in first] == [(50, 2), (3,)]
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_pooled_sequences_are_examined_without_a_warning():
    model = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.BatchNorm1d(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not doctor.examine(model, torch.randn(32, 4, 6))
        assert not doctor.examine(nn.BatchNorm1d(1), torch.randn(32, 1, 1))
        assert not doctor.examine(nn.BatchNorm1d(1), torch.randn(32, 1, 5))


# ---------------------------------------------------------------- copies


def test_what_counts_as_a_batch_norm():
    class Alike(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", None)
            self.register_buffer("running_var", None)

    class Unlike(nn.Module):
        running_mean, running_var = torch.zeros(4), torch.ones(4)

    model = nn.Sequential(Alike(), Unlike(), nn.InstanceNorm1d(4), nn.LazyBatchNorm2d())
    assert list(norms_of(model)) == ["0", "3"]


def test_wrappers_are_taken_off_one_by_one():
    model = nn.BatchNorm1d(4, momentum=0.0)
    wrapped = nn.DataParallel(torch.compile(nn.DataParallel(model)))
    assert unwrap(wrapped) == ("module._orig_mod.module.", model)
    assert unwrap(model) == ("", model)
    assert [f.path for f in doctor.examine(wrapped)] == ["module._orig_mod.module"]


def test_a_replica_has_no_hooks_but_pytorchs_own():
    model = nn.Sequential(nn.LazyLinear(4), nn.utils.spectral_norm(nn.Linear(4, 4)))
    for register in ("forward", "forward_pre", "full_backward", "full_backward_pre"):
        getattr(model, f"register_{register}_hook")(lambda *args: None)
        getattr(model[1], f"register_{register}_hook")(lambda *args: None)
    twin = replica(model)
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    kinds += ("_backward_pre_hooks",)
    assert [len(getattr(model, kind)) for kind in kinds] == [1, 1, 1, 1]
    assert [len(getattr(twin, kind)) for kind in kinds] == [0, 0, 0, 0]
    assert [len(getattr(model[1], kind)) for kind in kinds] == [1, 2, 1, 1]
    assert [len(getattr(twin[1], kind)) for kind in kinds] == [0, 1, 0, 0]
    assert len(twin[0]._forward_pre_hooks) == 1  # makes the lazy layer
    assert twin(torch.randn(3, 2)).shape == (3, 4)
    assert model[0].has_uninitialized_params()


def test_a_replica_shares_no_tensor_and_no_generator():
    model = nn.BatchNorm1d(3)
    model.hidden = model.weight * 2  # not a leaf
    model.generator = torch.Generator().manual_seed(5)
    model.register_buffer("derived", model.bias + 1)
    twin = replica(model)
    for name in ("weight", "running_var", "hidden", "derived"):
        ours, theirs = getattr(model, name), getattr(twin, name)
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
        assert theirs.is_leaf
    assert twin.generator is not model.generator
    before = model.generator.get_state()
    assert torch.equal(twin.generator.get_state(), before)
    torch.rand(3, generator=twin.generator)
    assert torch.equal(model.generator.get_state(), before)


class Holder:
    def __init__(self, **parts):
        vars(self).update(parts)


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_random_states_are_kept_whatever_happens(error):
    def draw():
        own = (
            g.normal(),
            old.normal(),
            python.random(),
            torch.rand(1, generator=t).item(),
        )
        return *own, random.random(), np.random.rand(), torch.rand(1).item()

    g, old = np.random.default_rng(1), np.random.RandomState(2)
    python, t = random.Random(3), torch.Generator().manual_seed(4)
    owner = Holder(a=[(g,)], b={"x": Holder(y=old)}, c=Holder(z=python))
    owner.itself = owner
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    with contextlib.suppress(RuntimeError), random_states_kept(owner, None, t):
        first = draw()
        if error:
            raise error
    assert draw() == first
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


# ---------------------------------------------------------------- what does not work


class Fails(nn.Module):
    def __init__(self, words="no\nmore", when=lambda module: True):
        super().__init__()
        self.words, self.when = words, when

    def forward(self, x):
        if isinstance(x, torch.Tensor) and self.when(self):
            raise RuntimeError(self.words)
        return x


def test_a_failing_forward_is_one_finding_with_the_first_line_of_its_error():
    model = nn.Sequential(used(), Fails("w" * 200 + "\nmore"))
    report = doctor.examine(model, torch.randn(20, 4))
    (one,) = report
    assert (one.code, one.path, one.value) == ("forward-fails", "", 2)
    assert one.evidence == "input (20, 4): RuntimeError: " + "w" * 150
    assert (report.batches, report.notes) == (0, [])


def test_an_error_without_words_is_named_by_its_class():
    (one,) = doctor.examine(nn.Sequential(used(), Fails("")), torch.randn(20, 4))
    assert one.evidence == "input (20, 4): RuntimeError: "


def test_where_training_mode_fails_batch_norm_alone_is_in_it():
    model = nn.Sequential(used(), Fails(when=lambda module: module.training))
    report = doctor.examine(model, [10 + torch.randn(32, 4)] * 2)
    assert report.codes == ["stale-statistics"]
    assert report.notes == [
        "training mode failed (RuntimeError: no): only batch norm was in it"
    ]
    assert report.batches == 2


def test_a_backward_that_fails_is_a_note():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no way back")

    model = Called(lambda m, x: Once.apply(m.bn(x)), bn=nn.BatchNorm1d(4))
    report = doctor.examine(model, torch.randn(32, 4))
    assert "backward not run: RuntimeError: no way back" in report.notes


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
    bn = nn.BatchNorm1d(8, momentum=None)
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
    bn = nn.BatchNorm1d(10, eps=1e-9)
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
    assert bool(report["forward-fails"]) is not optimizer


def test_what_cannot_be_read_from_a_graph_is_seen_in_a_run():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4), nn.BatchNorm1d(4))
    failing = {"side_effect": RuntimeError("no graph\nat all")}
    with mock.patch("bnutils.doctor.examination.read", **failing):
        report = doctor.examine(model, torch.randn(256, 4))
    assert report.notes == ["not traced: RuntimeError: no graph"]
    assert report.codes == ["dropout-before-norm", "redundant-bias"]


def test_checkpointing_in_training_alone_is_seen():
    def forward(m, x):
        return checkpoint(m.bn, x, use_reentrant=False) if m.training else m.bn(x)

    model = Called(forward, bn=nn.BatchNorm1d(4))
    assert doctor.examine(model, torch.randn(32, 4)).codes == ["recomputed"]


def test_the_backward_runs_in_the_mode_in_which_the_forward_ran():
    def forward(m, x):
        if m.training:
            raise ValueError("targets are missing")
        return checkpoint(m.bn, x, use_reentrant=False)

    report = doctor.examine(Called(forward, bn=nn.BatchNorm1d(4)), torch.randn(32, 4))
    assert report.codes == ["recomputed"]
    assert len(report.notes) == 1  # of the training mode that failed


def test_a_model_that_runs_in_its_own_precision_alone_is_judged_by_its_graph():
    modules = {"fc": nn.Linear(4, 3), "bn": nn.BatchNorm1d(3)}
    model = Called(lambda m, x: m.bn(m.fc(x)) @ m.table, **modules)
    model.table = torch.ones(3, 2)  # no buffer: stays float32
    report = doctor.examine(model, torch.randn(32, 4))
    assert [(f.code, f.path) for f in report] == [("redundant-bias", "fc")]
    (note,) = report.notes
    assert note.startswith("biases not tested: RuntimeError: ")


ELEMENTWISE = [
    *(nn.Identity(), nn.Dropout(0.0), nn.ReLU(), nn.LeakyReLU(), nn.GELU(), nn.SiLU()),
    *(nn.Tanh(), nn.Sigmoid(), nn.ELU(), nn.Hardswish(), nn.MaxPool1d(1)),
]


@pytest.mark.parametrize("through", ELEMENTWISE, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("wrong", [True, False])
def test_the_axis_of_channels_is_seen_through_elementwise_modules(through, wrong):
    layer = nn.Linear(2, 2, bias=False) if wrong else nn.Conv1d(2, 2, 1, bias=False)
    model = nn.Sequential(layer, through, nn.BatchNorm1d(2))
    x = torch.randn(64, 2, 2, generator=torch.Generator().manual_seed(0))
    other = x[:, 1] if wrong else x[:, :, 1]
    other += 3  # the data alone would say the contrary
    found = doctor.examine(model, x)["wrong-axis"]
    assert [f.severity for f in found] == ["error"] * wrong


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_dropout_that_was_not_measured_counts_by_its_rate(p):
    def forward(m, x):
        if m.training:
            raise ValueError("targets are missing")
        return m.bn(m.drop(x))

    model = Opaque(forward, drop=nn.Dropout(p), bn=nn.BatchNorm1d(4))
    found = doctor.examine(model, torch.randn(32, 4))["dropout-before-norm"]
    assert [f.evidence for f in found] == ["p = 0.5 in 'drop'"] * (p == 0.5)


@pytest.mark.parametrize("bias", [0.0, 1.0, -1.0])
def test_a_bias_of_any_size_is_tested_by_another(bias):
    parts = {"fc": nn.Linear(4, 4), "bn": nn.BatchNorm1d(4)}
    skipped = Opaque(lambda m, x: m.bn(h := m.fc(x)) + h, **parts)
    skipped.fc.bias.data.fill_(bias)
    assert not doctor.examine(skipped, torch.randn(32, 4))["redundant-bias"]


def test_outputs_that_only_grow_with_a_bias_change_too():
    parts = {"fc": nn.Linear(4, 4), "bn": nn.BatchNorm1d(4)}
    model = Opaque(lambda m, x: m.bn(m.fc(x)) + m.fc.bias.square().sum(), **parts)
    model.fc.bias.data.zero_()
    assert not doctor.examine(model, torch.randn(32, 4))["redundant-bias"]


@pytest.mark.parametrize("size", [1e9, -1e9])
def test_what_counts_as_a_change_goes_with_the_size_of_the_outputs(size):
    parts = {"fc": nn.Linear(4, 4), "bn": nn.BatchNorm1d(4)}
    model = Opaque(lambda m, x: (9 + m.bn(m.fc(x))) * size, **parts)
    assert doctor.examine(model, torch.randn(32, 4)).codes == ["redundant-bias"]


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


SEQUENCES = [
    (nn.GRU(4, 4, batch_first=True), "error"),
    (nn.MultiheadAttention(4, 1, batch_first=True), "error"),
    (nn.TransformerEncoderLayer(4, 1, 8, dropout=0.0, batch_first=True), "error"),
    (nn.LayerNorm(4), "error"),
    (nn.GroupNorm(2, 4), None),
    (nn.InstanceNorm1d(4), None),
]


@pytest.mark.parametrize(
    ("layer", "severity"), SEQUENCES, ids=[type(m).__name__ for m, _ in SEQUENCES]
)
def test_the_axis_of_channels_is_known_for_layers_of_sequences(layer, severity):
    def forward(m, x):
        many = isinstance(m.layer, nn.MultiheadAttention)
        y = m.layer(x, x, x) if many else m.layer(x)
        return m.bn(y[0] if isinstance(y, tuple) else y)

    torch.manual_seed(0)
    x = positions_and_channels()  # dimension 1 varies most, as if it held channels
    x = x if severity else x.transpose(1, 2)
    model = Called(forward, layer=layer, bn=nn.BatchNorm1d(4))
    found = doctor.examine(model, x)["wrong-axis"]
    assert [f.severity for f in found] == ([severity] if severity else [])


def test_statistics_that_are_kept_but_not_tracked_are_two():
    bn = used()
    bn.track_running_stats = False
    (one,) = doctor.examine(bn)
    assert (one.code, one.value) == ("tracking-off", 2)


def test_an_optimiser_without_weight_decay_decays_nothing():
    bn = used()
    assert not doctor.examine(bn, None, torch.optim.LBFGS(bn.parameters()))


def test_two_channels_of_two_positions_are_enough_to_tell_the_axis():
    x = torch.randn(64, 2, 2, generator=torch.Generator().manual_seed(0))
    x[:, 1] += 3
    assert not doctor.examine(nn.BatchNorm1d(2), x)
    assert doctor.examine(nn.BatchNorm1d(2), x.transpose(1, 2)).codes == ["wrong-axis"]


class Turn(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2).contiguous()


@pytest.mark.parametrize("turned", [True, False])
def test_a_module_of_somebody_else_may_have_turned_the_axes(turned):
    torch.manual_seed(0)
    conv = nn.Conv1d(4, 4, 1, bias=False)
    conv.weight.data = torch.eye(4)[..., None]
    block = Called(lambda m, x: m.conv(x).abs(), conv=conv)  # has a known layer
    x = positions_and_channels() if turned else positions_and_channels().transpose(1, 2)
    parts = (conv, Turn()) if turned else (block,)
    report = doctor.examine(nn.Sequential(*parts, nn.BatchNorm1d(4)), x)
    assert report.codes == ["wrong-axis"] * turned


@pytest.mark.parametrize("linear_last", [True, False])
def test_the_layer_nearest_before_the_norm_tells_the_axis(linear_last):
    torch.manual_seed(0)
    conv, fc = nn.Conv1d(4, 4, 1, bias=False), nn.Linear(4, 4, bias=False)
    conv.weight.data, fc.weight.data = torch.eye(4)[..., None], torch.eye(4)
    parts = dict(conv=conv, fc=fc) if linear_last else dict(fc=fc, conv=conv)

    def forward(m, x):
        for name in parts:
            x = getattr(m, name)(x)
        return m.bn(x.abs())

    model = Called(forward, **parts, bn=nn.BatchNorm1d(4))
    report = doctor.examine(model, positions_and_channels().transpose(1, 2))
    assert report.codes == ["wrong-axis"] * linear_last


@pytest.mark.parametrize(("ratio", "found"), [(9.60, 0), (9.69, 1)])
def test_the_quantile_is_that_of_wilson_and_hilferty(ratio, found):
    """(1 - 1/9 + 3.719 / 3) ** 3 = 9.644 for two degrees of freedom."""
    assert len(list(_doctor_findings.differing({"bn": seen(ratio, 3)}))) == found


def test_a_replica_shares_the_process_group():
    class ProcessGroupOfTwo:
        def __deepcopy__(self, memo):
            raise TypeError("a process group cannot be copied")

    bn = nn.SyncBatchNorm(4, process_group=ProcessGroupOfTwo())
    assert replica(bn).process_group is bn.process_group


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_replica_of_a_lazy_norm_is_lazy_with_its_dtype_and_device(dtype, device):
    twin = replica(nn.LazyBatchNorm1d(dtype=dtype, device=device))
    for buffer in (twin.running_mean, twin.running_var):
        assert torch.nn.parameter.is_lazy(buffer)
        assert (buffer.dtype, buffer.device.type) == (dtype, device)


def test_a_norm_may_be_called_by_keyword():
    model = Called(lambda m, x: m.bn(input=m.fc(x)), fc=nn.Linear(4, 4), bn=used())
    assert not doctor.examine(model, torch.randn(64, 4)).notes


def test_channels_that_are_constant_in_the_data_do_not_contradict():
    """Pixels at the border, say: the few images looked at leave them white."""
    x = torch.randn(64, 4) * torch.tensor([1.0, 1.0, 0.0, 0.0])
    bn = nn.BatchNorm1d(4)
    bn.num_batches_tracked.fill_(1000)
    assert "stale-statistics" not in doctor.examine(bn, [x] * 4).codes


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_standard_errors_and_scatter_go_with_the_scale_of_the_data(scale):
    batches = torch.randn(4, 32, 3).double()
    one, other = moments_of(*batches), moments_of(*(scale * batches))
    for power, a, b in zip(
        (1, 2), one.errors(one.var, 0.1), other.errors(other.var, 0.1)
    ):
        torch.testing.assert_close(b, scale**power * a, rtol=1e-5, atol=0)
    assert other.scatter() == pytest.approx(one.scatter(), rel=1e-5)


def test_one_channel_of_one_position_has_no_wrong_axis():
    bn = nn.BatchNorm1d(1)
    assert "wrong-axis" not in doctor.examine(bn, torch.randn(64, 1, 1)).codes


def test_what_the_backward_computes_again_is_seen_without_grad_too():
    def forward(m, x):
        return checkpoint(m.bn, x, use_reentrant=False)

    model = Called(forward, bn=nn.BatchNorm1d(4)).train()
    x = torch.randn(64, 4, requires_grad=False)
    with torch.no_grad():
        assert "recomputed" in doctor.examine(model, x).codes


@pytest.mark.parametrize(
    ("arguments", "found"), [((0.3,), 1), ((0.3, False), 0), ((0.0, True), 0)]
)
def test_dropout_by_position_is_read_from_the_graph(arguments, found):
    model = Called(lambda m, x: m.bn(F.dropout(x, *arguments)), bn=used())
    assert len(doctor.examine(model)["dropout-before-norm"]) == found
