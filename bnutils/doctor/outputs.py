"""The model from end to end: whether it runs, and what its outputs depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnutils._words import first_line
from bnutils.doctor.codes import CouldNot, Found, NotApplicable, finding

if TYPE_CHECKING:
    from bnutils.doctor.case import Case
    from bnutils.doctor.compare import Comparison

__all__: list[str] = []  # the table knows the checks


@finding(
    "forward-fails",
    "error",
    what="the model does not run on the batches",
    means="only what needs no data was examined",
    remedy="compare the batch's shape and dtype with what the model expects",
    whole=True,
    unless=("batch-of-one",),
)
def forward_fails(case: Case) -> Found | None:
    if case.not_run:
        raise CouldNot(case.not_run)
    error = case.failure
    if error is None:
        return None
    words, remedy = str(error), None
    if (isinstance(error, TypeError) and "argument" in words) or "give call=" in words:
        remedy = (
            "tell how it is called: examine(..., call=lambda model, batch: model(...))"
        )
    elif "dtype" in words or "scalar type" in words or "same type" in words:
        remedy = "give batch and model, all its parts, the same dtype"
    elif isinstance(error, AttributeError | KeyError | NameError):
        remedy = "the error is in the model's own code: run model(batch) by itself"
    elif "device" in words:
        remedy = "put all of the model on one device; the batches are moved to it"
    return Found(f"input {case.explain_call()}: {first_line(error)}", 1, remedy=remedy)


@finding(
    "evaluation-differs",
    "warning",
    what="evaluation answers otherwise than training mode, beyond noise",
    means="the model was trained to give the answers of training mode",
    remedy="recalibrate on training data: deploy.recalibrate",
    whole=True,
    unless=(  # they say themselves why evaluation differs
        "nonfinite-statistics",
        "never-updated",
        "stale-statistics",
        "momentum-zero",
        "shared-norm",
        "batches-differ",
    ),
)
def evaluation_differs(case: Case) -> Found | None:
    """Labels, or outputs if there are none; noise of other batches is subtracted.

    A twentieth of the labels, and three standard deviations of such a count, or accuracy
    that falls by a fiftieth; without labels a quarter of the outputs' spread, and twice
    the noise. Twice that is an error.
    """
    found = case.comparison
    if found is None:
        raise CouldNot(case.not_run or "the outputs of the modes were not compared")
    if case.fresh:
        raise NotApplicable("the model is fresh: no batch norm was trained")
    size = _size_of_gap(found)
    if size < 1:
        return None
    severity = "error" if size >= 2 else "warning"
    excess, left = found.excess()
    text = found.sentence()
    if left < excess / 2:
        remedy = f"recalibrate on training data: deploy.recalibrate{found.tried()}"
        if found.carriers:
            text += "; most by " + ", ".join(path for path, _ in found.carriers[:3])
    else:
        remedy = (
            "recalibrating on a copy did not help: examples need the company of their "
            "batch, or one norm serves several distributions; larger batches, a norm for "
            "each, or no batch norm"
        )
    return Found(text, found.distance["evaluation"], severity=severity, remedy=remedy)


def _size_of_gap(found: Comparison) -> float:
    """How large a difference is, in units of the smallest that is a finding."""
    excess, _ = found.excess()
    if not found.labels:
        noise = found.distance.get("other batches", 0.0)
        return excess / 0.25 if found.distance["evaluation"] > 2 * noise else 0.0
    changed, noise = found.labels["evaluation"], found.labels.get("other batches", 0.0)
    chance = ((changed + noise) / max(found.images, 1)) ** 0.5
    if excess <= 3 * chance:
        return 0.0
    if not found.accuracy:
        return excess / 0.05
    fall = max(found.accuracy["training"], found.accuracy["recalibrated"])
    return (fall - found.accuracy["evaluation"]) / 0.02


@finding(
    "batch-dependent",
    "warning",
    what="in evaluation mode an example's output depends on the others in its batch",
    means="predictions change with the company of an example",
    remedy="use the running statistics in evaluation: training=self.training; nothing, if "
    "examples are meant to be compared with each other",
    whole=True,
    unless=("no-running-stats",),
)
def batch_dependent(case: Case) -> Found | None:
    if case.comparison is None:
        raise CouldNot(case.not_run or "the outputs of the modes were not compared")
    company = case.comparison.company
    if company is None and case.comparison.distance["evaluation"] == float("inf"):
        raise CouldNot("evaluation gives values that are not finite")
    if company is None:
        raise CouldNot("no two batches of a size, or random numbers in evaluation")
    if company > 1e-3:
        text = f"outputs move by {company:.1%} of their spread"
        return Found(f"{text} when two batches are mixed", company)
