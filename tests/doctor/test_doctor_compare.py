"""Evaluation against training mode, end to end: the numbers, the noise, the finding."""

from __future__ import annotations

import pytest
import torch
from patients import Called
from torch import nn

from bnutils import doctor
from bnutils.doctor.compare import Comparison


def standard(n=512, channels=16, batches=8):
    """Batches that together have mean 0 and variance 1 in each channel, nearly."""
    x = torch.randn(n, channels)
    x = (x - x.mean(0)) / x.std(0)
    return list(x.split(n // batches))


def voter(shift=0.0, channels=16, classes=2, scale=1.0):
    """Classes by the sum of all channels; each stored mean is off by ``shift`` sigma.

    A shift of less than half a standard deviation is no finding at the norm. Together,
    sixteen of them move the sum by 16 * shift, four standard deviations at 1.
    """
    model = nn.Sequential(nn.BatchNorm1d(channels), nn.Linear(channels, classes))
    with torch.no_grad():
        signs = torch.tensor([1.0, -1.0] if classes == 2 else [1.0])
        model[1].weight.copy_(signs[:, None].expand(classes, channels) * scale)
        model[1].bias.zero_()
        model[0].running_mean.fill_(shift)
        model[0].bias[0] = 1e-4  # it was trained
        model[0].num_batches_tracked.fill_(1000)
    return model


def with_targets(batches):
    return [(x, (x.sum(1) < 0).long()) for x in batches]


def test_distances_are_in_units_of_the_spread_between_examples():
    found = doctor.examine(voter(0.25), standard()).comparison
    assert found.images == 512
    assert found.distance["evaluation"] == pytest.approx(16 * 0.25 / 4, rel=0.1)
    assert found.distance["recalibrated"] < 0.2
    assert found.distance["other batches"] < 0.25


def test_labels_change_where_the_sum_changes_its_sign():
    found = doctor.examine(voter(0.25), standard()).comparison
    # A normal sum of standard deviation 4 lies between 0 and 4 in 34 % of the cases.
    assert found.labels["evaluation"] == pytest.approx(0.341, abs=0.06)
    assert found.labels["recalibrated"] < 0.1
    assert found.accuracy == {}


def test_accuracy_is_measured_where_the_batches_hold_classes():
    found = doctor.examine(voter(0.25), with_targets(standard())).comparison
    assert found.accuracy["training"] > 0.9
    assert found.accuracy["recalibrated"] == pytest.approx(1, abs=0.03)
    assert found.accuracy["evaluation"] == pytest.approx(1 - 0.341, abs=0.06)


def test_two_classes_in_one_column_are_told_by_the_sign():
    data = [(x, (x.sum(1) > 0).long()) for x in standard()]
    found = doctor.examine(voter(0.25, classes=1), data).comparison
    assert found.labels["evaluation"] == pytest.approx(0.341, abs=0.06)
    assert not doctor.examine(voter(0.25, classes=1), standard()).comparison.labels


def test_probabilities_are_told_by_a_half():
    data = [(x, (x.sum(1) > 0).long()) for x in standard()]
    model = nn.Sequential(voter(0.25, classes=1), nn.Sigmoid())
    found = doctor.examine(model, data).comparison
    assert found.labels["evaluation"] == pytest.approx(0.341, abs=0.06)


def test_numbers_to_be_met_are_no_labels():
    data = [(x, torch.randn(len(x), 2)) for x in standard()]
    assert not doctor.examine(voter(), data).comparison.labels


@pytest.mark.parametrize(
    ("shift", "severity"),
    [(0.0, None), (0.02, None), (0.06, "warning"), (0.25, "error")],
)
def test_small_differences_that_compound_are_a_finding(shift, severity):
    torch.manual_seed(0)
    report = doctor.examine(voter(shift), standard(4096))
    assert [f.severity for f in report["evaluation-differs"]] == [severity] * bool(
        severity
    )
    for one in report["evaluation-differs"]:
        assert "deploy.recalibrate (recalibrated on a copy" in one.remedy
        assert one.evidence.endswith("; most by 0")
        assert (
            f"{report.comparison.labels['evaluation']:.1%} of the labels"
            in one.evidence
        )
    assert report.codes == ["evaluation-differs"] * bool(severity)


@pytest.mark.parametrize(
    ("shift", "severity"),
    [(0.0, None), (0.04, None), (0.1, "warning"), (0.25, "error")],
)
def test_outputs_without_labels_are_judged_by_their_distance(shift, severity):
    report = doctor.examine(voter(shift, classes=1), standard(4096))
    assert [f.severity for f in report["evaluation-differs"]] == [severity] * bool(
        severity
    )


@pytest.mark.parametrize(
    ("shift", "severity"), [(0.0, None), (0.02, "warning"), (0.25, "error")]
)
def test_accuracy_decides_where_it_is_known(shift, severity):
    report = doctor.examine(voter(shift), with_targets(standard(4096)))
    assert [f.severity for f in report["evaluation-differs"]] == [severity] * bool(
        severity
    )
    blind = [(x, torch.randint(2, (len(x),))) for x in standard(4096)]
    assert not doctor.examine(voter(shift), blind)["evaluation-differs"]


def test_the_noise_of_finite_batches_is_measured_and_no_finding():
    small = doctor.examine(voter(), standard(256, batches=32))  # eight in each
    large = doctor.examine(voter(), standard(2048, batches=8))
    noise = [r.comparison.distance["other batches"] for r in (small, large)]
    assert 3 < noise[0] / noise[1] < 10  # (256 / 8) ** 0.5 = 5.7
    assert not small["evaluation-differs"]
    assert not large["evaluation-differs"]


@pytest.mark.parametrize("training", [True, False])
def test_frozen_norms_are_compared_as_they_are(training):
    model = voter(0.25).train(training)
    model[0].eval()
    report = doctor.examine(model, standard())
    assert bool(report["evaluation-differs"]) is not training


def test_an_example_that_depends_on_its_batch_in_evaluation_is_found():
    class Always(nn.BatchNorm1d):
        def forward(self, x):
            return (x - x.mean(0)) / x.std(0)

    (one,) = doctor.examine(nn.Sequential(Always(16)).eval(), standard())[
        "batch-dependent"
    ]
    assert 0.01 < one.value < 1
    assert not doctor.examine(voter().eval(), standard())["batch-dependent"]
    assert doctor.examine(voter(), standard()).comparison.company == pytest.approx(
        0, abs=1e-6
    )
    assert doctor.examine(voter(), standard()[0]).comparison.company is None
    noisy = Called(lambda m, x: m.net(x + torch.randn_like(x)), net=voter())
    report = doctor.examine(noisy, standard())
    assert report.comparison.company is None
    assert report.checked["batch-dependent"][""].startswith("could not: no two batches")


def chained(first, second):
    """Two batch norms whose stored means are off by so many standard deviations."""
    model = nn.Sequential(
        nn.BatchNorm1d(16), nn.Linear(16, 16, bias=False), *voter(second)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(16))
        model[0].running_mean.fill_(first)
        model[0].bias[0] = 1e-4
        model[0].num_batches_tracked.fill_(1000)
    return model


@pytest.mark.parametrize("named", [False, True])
def test_carriers_are_the_norms_whose_stored_statistics_matter(named):
    data = standard(4096)
    packed = [{"image": x} for x in data] if named else data
    call = (lambda m, batch: m(batch["image"])) if named else None
    report = doctor.examine(chained(0.1, 0.25), packed, call=call)
    (one, far), (other, near) = report.comparison.carriers
    assert (one, other) == ("2", "0")
    assert far == pytest.approx(16 * 0.25 / 4, rel=0.15)  # each by itself
    assert near == pytest.approx(16 * 0.1 / 4, rel=0.15)
    assert report["evaluation-differs"][0].evidence.endswith("; most by 2, 0")
    turned = doctor.examine(chained(0.25, 0.1), packed, call=call).comparison
    assert [path for path, _ in turned.carriers] == ["0", "2"]
    assert doctor.examine(chained(0.0, 0.0), data).comparison.carriers == []


def test_company_is_tried_with_the_call_of_the_reader():
    packed = [(1, x, x) for x in standard()]
    found = doctor.examine(voter(), packed, call=lambda m, batch: m(batch[2]))
    assert found.comparison.company == pytest.approx(0, abs=1e-6)
    assert set(found.comparison.distance) >= {"other batches"}


def test_outputs_of_many_positions_are_thinned_and_compared():
    conv = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1))
    found = doctor.examine(conv, [torch.randn(8, 2, 20, 20)] * 2).comparison
    assert found.images == 16
    assert set(found.labels) == {"evaluation", "recalibrated", "other batches"}


def test_a_model_that_gives_only_a_loss_is_not_compared():
    model = Called(lambda m, x: m.bn(x).square().mean(), bn=nn.BatchNorm1d(16))
    report = doctor.examine(model, standard())
    assert report.comparison is None
    assert "modes not compared: no output has a row for each example" in report.notes
    assert report.checked["evaluation-differs"][""].startswith("could not: the outputs")


def test_the_report_shows_the_comparison_in_words():
    report = doctor.examine(voter(0.25), with_targets(standard()))
    words = " ".join(str(report).split())
    found = report.comparison
    assert f"modes: evaluation changes {found.labels['evaluation']:.1%} of" in words
    assert f"recalibrated {found.labels['recalibrated']:.1%}, other batches" in words
    assert f"accuracy {found.accuracy['training']:.1%} (training)" in words
    assert "modes: evaluation changes" in report._repr_html_()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.4, 0.1, True),
        (0.4, 0.2, True),
        (0.4, 0.21, False),  # it did not help
        (0.011, 0.0, True),
        (0.009, 0.0, False),  # there was nothing to help
    ],
)
def test_what_recalibrating_did_is_said_where_it_helped(before, after, said):
    found = {"evaluation": before, "recalibrated": after}
    words = Comparison(distance=found).tried()
    assert bool(words) is said
    if said:
        assert words == (
            f" (recalibrated on a copy: {after:.1%} difference of outputs from training "
            f"mode, not {before:.1%})"
        )
        labels = Comparison(distance={}, labels=found).tried()
        assert f"{after:.1%} of the labels differ" in labels


def test_scores_of_one_column_that_leave_zero_to_one_are_told_by_the_sign():
    """From 0 upwards, but beyond 1: no probabilities, so all of them mean the class 1."""
    data = [(x, torch.ones(len(x), dtype=torch.long)) for x in standard()]
    model = nn.Sequential(voter(classes=1), nn.Softplus())
    found = doctor.examine(model, data).comparison
    assert found.accuracy["training"] == 1


def test_a_model_that_was_not_trained_is_not_made_to_look_ill():
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8))
    report = doctor.examine(model, [5 + 3 * torch.randn(32, 4) for _ in range(4)])
    words = " ".join(str(report).split())
    assert "as it must before training: no statistics are learned yet" in words
    assert "recalibrated" not in words


def test_lazy_layers_have_no_modes_to_compare():
    model = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Linear(8, 2))
    report = doctor.examine(model, [torch.randn(32, 4) for _ in range(4)])
    assert report.comparison is None
    assert "modes were not compared" in " ".join(str(report).split())


def test_evaluation_that_is_nan_is_not_called_random():
    model = voter()
    model[0].running_var[0] = float("nan")
    report = doctor.examine(model, standard())
    words = " ".join(str(report).split())
    assert "batch-dependent (evaluation gives values that are not finite)" in words


@pytest.mark.parametrize(
    ("scale", "severity"), [(1.0, "error"), (1e-3, "warning"), (1e-5, "note")]
)
def test_stale_statistics_weigh_what_they_do_to_the_answers(scale, severity):
    """The norm with statistics far off adds a little to what decides the label."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(16)
            self.bn.running_mean.fill_(300)
            self.bn.num_batches_tracked.fill_(1000)
            self.bn.bias.data[0] = 1e-4

        def forward(self, x):
            y = x[:, :2].sign() + scale * self.bn(x)[:, :2] * torch.tensor([1, 0.5])
            return y + torch.tensor([0.3, 0.0])

    data = [(x, (x[:, 0].sign() + 0.3 < x[:, 1].sign()).long()) for x in standard()]
    report = doctor.examine(Sum(), data)
    assert {f.severity for f in report["stale-statistics"]} == {severity}
