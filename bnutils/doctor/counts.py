"""Batches seen against steps taken: too many, or too few."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnutils.doctor.buffers import doubles, fits
from bnutils.doctor.codes import CouldNot, Found, finding
from bnutils.doctor.habits import gamma_and_beta, seen_batches

if TYPE_CHECKING:
    from bnutils._modules import Norm
    from bnutils.doctor.case import Case

__all__: list[str] = []  # the table knows the checks


def _counts(case: Case, path: str) -> dict[str, tuple[int, int]]:
    """Batches seen and steps taken, by batch norm; raises if those of `path` are unknown."""
    counts = {}
    for other, norm in case.norms.items():
        steps = case.steps_of(gamma_and_beta(norm)) or case.steps
        if norm.training and steps and seen_batches(norm) is not None:
            counts[other] = (seen_batches(norm), steps)
    if path not in counts and case.optimizer is None:
        raise CouldNot("no optimizer was given")
    if path not in counts:
        kind = type(case.optimizer).__name__
        raise CouldNot(f"{kind} counts no steps, or has taken none")
    return counts


@finding(
    "several-forwards",
    "note",
    what="batches seen are a multiple (2 to 32) of the steps taken",
    means="either statistics are of micro-batches and move several times per step, or "
    "another optimiser trained the model before",
    remedy="count m per micro-batch; momentum 1 - (1 - a)**(1/k) keeps the memory per step",
    unless=("shared-norm", "recomputed"),
)
def several_forwards(case: Case, path: str, norm: Norm) -> Found | None:
    """A count that began with an older checkpoint is a multiple by chance only.

    It is within k of k·steps for some k in about one count in ten at 1,000 steps, and in
    one in a hundred at 10,000; hence also: the same k in every batch norm that trains.
    Two stages of training, with a new optimiser for the second, look the same: a note.
    """
    counts = _counts(case, path)
    n, steps = counts[path]
    k = round(n / steps)
    together = all(
        round(count / taken) == k and abs(count - k * taken) <= k
        for count, taken in counts.values()
    )
    if 2 <= k <= 32 and together:
        return Found(f"{n} batches seen in {steps} optimiser steps: {k} per step", k)


@finding(
    "fewer-forwards",
    "warning",
    what="fewer batches seen than nine tenths of the steps taken",
    means="it was in evaluation mode while its weights trained: what they learned fits the "
    "stored statistics, not those of batches",
    remedy="call train() again after each validation; keep eval() if that was intended",
)
def fewer_forwards(case: Case, path: str, norm: Norm) -> Found | None:
    """Recalibrating counts anew as well, but then the statistics fit the data."""
    n, steps = _counts(case, path)[path]
    if not (steps >= 20 and 0 < n < 0.9 * steps and case.habit(path).updates):
        return None
    text = f"{n} batches seen in {steps} optimiser steps"
    one = case.norms_only.seen.get(path)
    if one is None:
        return Found(f"{text}, if it was not recalibrated", n, severity="note")
    mean, var = doubles(norm)
    if not fits(mean, var, one.moments.mean, one.moments.var):
        return Found(text, n)
