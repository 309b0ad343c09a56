"""Batches that are too small, sorted or broken for batch norm."""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

from torch import nn

from bnutils.doctor.buffers import memory
from bnutils.doctor.codes import CouldNot, Found, NotApplicable, finding
from bnutils.doctor.habits import seen_batches

if TYPE_CHECKING:
    from bnutils._modules import Norm
    from bnutils.doctor.case import Case

__all__: list[str] = []  # the table knows the checks

_NOISE = 0.1  # of sigma: standard error of a running mean


@finding(
    "batches-differ",
    "warning",
    what="means of batches scatter more than those of random batches",
    means="batches are no random samples (sorted?): what tells them apart is normalised away",
    remedy="shuffle the training data",
)
def batches_differ(case: Case, path: str, norm: Norm) -> Found | None:
    """Batches that are no random samples, at the first batch norm that runs once.

    With random batches the ratio is about 1, and with b batches below the quantile of
    chi-square with b - 1 degrees of freedom, over b - 1, even if all channels moved
    together. The limit is that quantile at 1e-4, by Wilson and Hilferty's formula.
    """
    moments = case.received(path).moments
    once = [other for other, one in case.as_training.seen.items() if one.calls == 1]
    if path not in once[:1]:
        raise NotApplicable("it is not the first that runs once")
    if case.linked:
        raise NotApplicable("the nodes of a graph are no random sample")
    freedom = len(moments.sizes) - 1
    if freedom < 2:
        raise CouldNot("three batches are needed")
    z = NormalDist().inv_cdf(1 - 1e-4)
    bound = (1 - 2 / (9 * freedom) + z * (2 / (9 * freedom)) ** 0.5) ** 3
    ratio = moments.scatter()
    if ratio > bound:
        many = len(moments.sizes)
        text = f"means of {many} batches vary {ratio:.1f} times as much as if random"
        return Found(text, ratio)


@finding(
    "tiny-batch",
    "warning",
    what="at most 4 values per statistic, or a running mean uncertain by 0.1 sigma",
    means="the statistics are mostly noise, in training and in what is stored",
    remedy="larger batches, a smaller momentum, or GroupNorm/LayerNorm",
)
def tiny_batch(case: Case, path: str, norm: Norm) -> Found | None:
    one = case.received(path)
    if not norm.training or not case.habit(path).updates:
        raise NotApplicable("its statistics do not move")
    if not case.batches.size:
        raise CouldNot("the size of a batch is not known")
    m = round(case.batches.size * one.per_image)
    noise = (memory(case.habit(path), seen_batches(norm)) / m) ** 0.5
    averages = case.habit(path).momentum not in (None, 1)
    if 1 < m <= 4 or (averages and noise > _NOISE):
        text = f"{m} values per statistic; running mean uncertain by {noise:.2f} sigma"
        return Found(text, m)


@finding(
    "batch-of-one",
    "error",
    what="a batch that leaves one value per channel in training",
    means="training stops with 'Expected more than 1 value per channel'",
    remedy="drop_last=True, or a batch size that leaves another remainder",
    whole=True,
)
def batch_of_one(case: Case) -> Found | None:
    """At the first batch norm that will refuse it; sizes tell, nothing has to be run."""
    if case.batches is None:
        raise CouldNot("no batches were given")
    sizes, usual = case.batches.sizes, case.batches.size
    norms = case.norms if 1 in sizes else {}
    for path, norm in norms.items():
        one = case.as_training.seen.get(path)
        # Not reached: only BatchNorm1d is sure to have one value per image.
        refuses = one.per_image == 1 if one else isinstance(norm, nn.BatchNorm1d)
        by_batch = norm.running_mean is None
        if refuses and (by_batch or (case.trains and norm.training)):
            return Found(f"{_which(case)} has 1 value per channel", 1, path=path)
    if case.one_value and case.trains:  # known from the error alone
        return Found(f"a batch of {usual} has 1 value per channel", 1)
    return None


def _which(case: Case) -> str:
    batches = case.batches
    if batches.size == 1:
        return "every batch"
    at = batches.sizes.index(1) + 1
    last = batches.complete and at == len(batches.sizes)
    return f"the last of {at} batches" if last else f"batch {at}"


@finding(
    "nonfinite-batch",
    "error",
    what="NaN or infinity in a batch of the loader",
    means="in training mode it makes the running statistics NaN, for good",
    remedy="find the example: torch.isfinite on what the data set gives",
    whole=True,
)
def nonfinite_batch(case: Case) -> Found | None:
    if case.batches is None:
        raise CouldNot("no batches were given")
    bad = case.batches.nonfinite
    if bad:
        looked = len(bad) + len(case.batches.items)
        text = f"{len(bad)} of {looked} batches hold NaN or infinity, first batch {bad[0] + 1}"
        return Found(text, len(bad))
