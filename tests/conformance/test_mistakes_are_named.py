"""A wrong layer fails the checks of what is wrong, and the report says what the mistake is."""

from __future__ import annotations

import pytest
import wrong_layers as wrong
from layers import mutant
from torch import nn

from bnutils import conformance

# The mistake, checks that must fail, and words of the cause (None: none that is known fits).
MISTAKES = {
    "unbiased variance in the output": (
        mutant("batch_stats", wrong.unbiased),
        {"training output (N, C)", "gradients", "float64"},
        "normalises with the unbiased variance",
    ),
    "statistics detached": (
        mutant("batch_stats", wrong.detached),
        {"gradients", "second derivative", "torch.func"},
        "constants for the gradient",
    ),
    "statistics without gradients": (
        mutant("batch_stats", wrong.without_gradients),
        {"gradients", "second derivative"},
        "constants for the gradient",
    ),
    "variance in one pass": (
        mutant("batch_stats", wrong.one_pass),
        {"large offset"},
        None,
    ),
    "variance of the means": (
        mutant("batch_stats", wrong.first_axis_only),
        {"training output (N, C, L)", "running variance"},
        None,
    ),
    "first position only": (
        mutant("batch_stats", wrong.one_axis_for_positions),
        {"training output (N, C, L)", "gradients"},
        None,
    ),
    "per position": (
        wrong.PerPosition,
        {"training output (N, C, L)", "gradients"},
        "per channel and position",
    ),
    "per example": (
        wrong.PerExample,
        {"training output (N, C, L)", "gradients"},
        "instance norm",
    ),
    "eps outside the root": (
        mutant("normalize", wrong.eps_outside),
        {"quiet channels", "float64"},
        "eps is added to the standard deviation (1e-05",
    ),
    "eps twice": (
        mutant("normalize", wrong.eps_added_twice),
        {"quiet channels"},
        "eps 2e-05 instead of 1e-05",
    ),
    "eps forgotten": (
        mutant("normalize", wrong.eps_forgotten),
        {"quiet channels"},
        "no eps in the root",
    ),
    "eps as a floor": (
        mutant("normalize", wrong.eps_as_floor),
        {"quiet channels"},
        None,
    ),
    "eps as a floor of the root": (
        mutant("normalize", wrong.eps_as_floor_of_the_root),
        {"quiet channels"},
        "no eps in the root",
    ),
    "eps of another library": (
        mutant("normalize", wrong.eps_of_another_library),
        {"quiet channels", "training output (N, C)"},
        "eps 1e-03 instead of 1e-05",
    ),
    "no mean in the gradient": (wrong.with_backward(0, 1), {"gradients"}, None),
    "no x_hat in the gradient": (wrong.with_backward(1, 0), {"gradients"}, None),
    "neither in the gradient": (
        wrong.with_backward(0, 0),
        {"gradients", "second derivative"},
        "constants for the gradient",
    ),
    "biased variance stored": (
        wrong.BiasedRunningVariance,
        {"running variance"},
        "the biased variance is stored",
    ),
    "momentum the wrong way round": (
        wrong.MomentumReversed,
        {"running mean", "running variance", "evaluation output"},
        "momentum counts the old value",
    ),
    "statistics never move": (
        wrong.NeverMoves,
        {"running mean", "evaluation output"},
        "do not move in training",
    ),
    "statistics move slowly": (
        wrong.MovesSlowly,
        {"running mean", "evaluation output"},
        "moves the running mean by 0.025 of the way instead of 0.1",
    ),
    "another default momentum": (
        wrong.OtherDefaultMomentum,
        {"constructor", "running mean"},
        "momentum 0.01 by default instead of 0.1",
    ),
    "Keras's defaults": (
        wrong.KerasDefaults,
        {"constructor", "running mean", "quiet channels"},
        "momentum counts the old value",
    ),
    "gradients decide the mode": (
        wrong.GradientsDecide,
        {"mode decides, not gradients"},
        "no_grad is taken for evaluation",
    ),
    "updates without no_grad only": (
        wrong.UpdatesWithoutGradOnly,
        {"mode decides, not gradients"},
        None,
    ),
    "plain tensors": (
        wrong.PlainTensors,
        {"state_dict", "checkpoints both ways"},
        "no buffer: running_mean, running_var, num_batches_tracked",
    ),
    "buffers not saved": (
        wrong.PlainAttributes,
        {"state_dict", "checkpoints both ways"},
        "with persistent=False",
    ),
    "never counts": (
        wrong.NeverCounts,
        {"num_batches_tracked", "momentum=None"},
        "num_batches_tracked is 0 after 3 batches",
    ),
    "counts from one": (
        wrong.CountsFromOne,
        {"state_dict", "num_batches_tracked", "momentum=None"},
        "num_batches_tracked is 4 after 3 batches",
    ),
    "counts too late": (wrong.CountsTooLate, {"momentum=None"}, None),
    "counts in evaluation": (
        wrong.CountsInEvaluation,
        {"evaluation changes nothing"},
        "evaluation changes the running statistics",
    ),
    "learns in evaluation": (
        wrong.LearnsInEvaluation,
        {"evaluation changes nothing"},
        "evaluation changes the running statistics",
    ),
    "running statistics in training": (
        wrong.RunningInTraining,
        {"training output (N, C)", "gradients"},
        "training normalises with the running statistics",
    ),
    "batch statistics in evaluation": (
        wrong.BatchInEvaluation,
        {"evaluation output", "mode decides, not gradients"},
        "evaluation normalises with the batch",
    ),
    "statistics in the graph": (
        wrong.StatisticsWithGradient,
        {"copy"},
        "keep the autograd graph",
    ),
    "statistics with a graph": (wrong.KeepsGraph, {"copy"}, "keep the autograd graph"),
    "deviation stored": (
        wrong.DeviationKept,
        {"running variance", "evaluation output"},
        "the standard deviation is stored",
    ),
    "N - 1 for N L - 1": (wrong.BesselByExamples, {"running variance"}, None),
    "accepts anything": (wrong.AcceptsAnything, {"errors"}, None),
    "keeps its parameters": (wrong.KeepsItsParameters, {"torch.func"}, "do not move"),
    "NumPy inside": (wrong.AsNumPy, {"torch.func"}, None),
    "a function without transforms": (wrong.AsFunction, {"torch.func"}, None),
    "all in half precision": (wrong.AllInHalf, {"half precision"}, None),
    "a first draft": (
        wrong.FirstDraft,
        {"constructor", "state_dict", "evaluation output"},
        "the constructor does not take eps, momentum",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_typical_mistakes_are_named(mistake):
    cls, checks, cause = MISTAKES[mistake]
    report = conformance.compare(cls)
    failed = {check.name for check in report.failures}
    assert checks <= failed, str(report)
    if "constructor" not in checks:
        assert not failed & {"constructor", "repr"}
    if cause is None:
        assert not report.causes
    else:
        assert any(cause in words for words in report.causes), str(report)


@pytest.mark.parametrize(
    "mistake", ["statistics detached", "accepts anything", "never counts"]
)
def test_checks_that_a_mistake_does_not_touch_still_agree(mistake):
    failed = {c.name for c in conformance.compare(MISTAKES[mistake][0]).failures}
    assert not failed & {"training output (N, C)", "running mean", "evaluation output"}


def test_a_misplaced_eps_hides_on_loud_channels():
    """Why there is a check of its own: most others do not see the mistake."""
    report = conformance.compare(mutant("normalize", wrong.eps_outside))
    failures = {c.name for c in report.failures}
    assert failures == {"quiet channels", "float64"}


SUBTLE = [
    "eps outside the root",
    "eps twice",
    "eps as a floor",
    "all in half precision",
]


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("mistake", [*SUBTLE, "variance in one pass"])
def test_small_mistakes_show_on_other_seeds_too(mistake, seed):
    cls, checks, _ = MISTAKES[mistake]
    report = conformance.compare(cls, seed=seed)
    assert checks <= {check.name for check in report.failures}, str(report)


def test_causes_come_in_the_order_of_repair():
    causes = conformance.compare(wrong.FirstDraft).causes
    beginnings = [
        "the constructor does not take",
        "a batch of shape (N, C, L) does not go through",
        "weight is a plain tensor",
        "it has no running_var, num_batches_tracked",
        "no buffer: running_mean",
    ]
    for cause, beginning in zip(causes, beginnings):
        assert cause.startswith(beginning)


def test_a_layer_that_cannot_be_made_is_the_only_cause():
    class Broken(nn.Module):
        def __init__(self, num_features):
            raise RuntimeError("first line\nsecond line")

    report = conformance.compare(Broken)
    assert not report.passed
    assert report["gradients"].detail == "raised RuntimeError: first line"
    (cause,) = report.causes
    assert cause.endswith(
        "cannot be made from its number of channels: RuntimeError: first line"
    )
