"""The checkers of chapter 4: right answers pass, typical mistakes get their remark."""

from __future__ import annotations

import pytest
import torch
from solutions import judge
from torch import nn

from bnutils import exercises
from bnutils.norm import BatchNorm1d


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda k, a, r, s: s + a**k * (r - s), "weight of the new batch"),
        (lambda k, a, r, s: s * (1 - (1 - a) ** k), "did not start at 0"),
        (lambda k, a, r, s: s + (1 - a) ** (k - 1) * (r - s), "after 0 batches"),
        (lambda k, a, r, s: s + (1 - a) ** (k + 1) * (r - s), "after 2 batches"),
        (lambda k, a, r, s: r + k * a * (s - r), "k=4"),
        (lambda k, a, r, s: None, "not answered yet"),
    ],
)
def test_running_after_names_the_mistake(answer, remark):
    assert remark in judge("04.1", answer)


def test_running_after_accepts_a_loop():
    def loop(k, momentum, start, batch_mean):
        for _ in range(k):
            start = (1 - momentum) * start + momentum * batch_mean
        return start

    assert exercises.check("04.1", loop)


def update(dims=None, old=0.8, var=None, detach=True):
    """An update with one thing wrong."""

    def answer(running_mean, running_var, x, momentum):
        keep = {0.8: 1 - momentum, 0.2: momentum}[old]
        x = x.detach() if detach else x
        axes = dims or (0, *range(2, x.dim()))
        new_var = var(x) if var else x.var(axes)
        running_mean = keep * running_mean + (1 - keep) * x.mean(axes)
        return running_mean, keep * running_var + (1 - keep) * new_var

    return answer


def biased(x):
    return x.var((0, *range(2, x.dim())), correction=0)


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (update(old=0.2), "momentum weighs the new batch"),
        (update(dims=(1,)), "raised RuntimeError"),
        (update(dims=(0,)), "(6, 3, 3): one value per channel"),
        (update(var=biased), "(6, 3): that variance normalises"),
        (update(var=lambda x: biased(x) * len(x) / (len(x) - 1)), "Bessel's m counts"),
        (update(var=lambda x: biased(x).sqrt()), "the running variance is off by"),
        (update(detach=False), "belong to the graph"),
        (lambda mean, var, x, a: (2 * mean, var), "the running mean is off by"),
        (lambda mean, var, x, a: ..., "not answered yet"),
    ],
)
def test_update_names_the_mistake(answer, remark):
    assert remark in judge("04.2", answer)


def mean_over(batches, start=0):
    return torch.stack([x.mean(0) for x in batches]).sum(0) / (len(batches) + start)


def variances(batches, correction=1):
    return torch.stack([x.var(0, correction=correction) for x in batches]).mean(0)


def fixed_momentum(batches):
    bn = nn.BatchNorm1d(2)
    for x in batches:
        bn(x)
    return bn.running_mean, bn.running_var


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda b: (torch.cat(b).mean(0), torch.cat(b).var(0)), "larger batches weigh"),
        (fixed_momentum, "a fixed momentum of 0.1"),
        (lambda b: (mean_over(b, 1), variances(b)), "start value still has a weight"),
        (lambda b: (mean_over(b) + 1, variances(b)), "the running mean is off by 1"),
        (lambda b: (mean_over(b), variances(b, 0)), "the unbiased one"),
        (
            lambda b: (mean_over(b), torch.cat(b).var(0)),
            "never sees the batches joined",
        ),
        (lambda b: (mean_over(b), 2 * variances(b)), "the variance is off by"),
        (lambda b: None, "not answered yet"),
    ],
)
def test_averaged_names_the_mistake(answer, remark):
    assert remark in judge("04.3", answer)


class Unchanged(BatchNorm1d):
    pass


class NoCheck(BatchNorm1d):
    def _check_input(self, x):
        pass


class OnlyDimensions(BatchNorm1d):
    def _check_input(self, x):
        if x.dim() != 4:
            raise ValueError


class AlmostAllChecks(BatchNorm1d):
    def _check_input(self, x):
        if x.dim() != 4:
            raise ValueError
        self._check_channels(x)


class OverExamplesOnly(BatchNorm1d):
    def forward(self, x):
        return ((x - x.mean(0)) / x.std(0)) if self.training else x


class Flattened(BatchNorm1d):
    def forward(self, x):
        return super().forward(x.flatten(2))


class TwoMethods(BatchNorm1d):
    def forward(self, x):
        if x.dim() != 4:
            raise ValueError
        return self.back(super().forward(x.flatten(2)), x)

    def back(self, y, x):
        return y.view_as(x)


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (Unchanged, "expected 2D or 3D input"),
        (NoCheck, "four-dimensional"),
        (OnlyDimensions, "one channel for a layer of three"),
        (AlmostAllChecks, "one value per channel"),
        (OverExamplesOnly, "statistics over N, H and W?"),
        (Flattened, "became (4, 3, 10)"),
        (TwoMethods, "more than one method"),
        (nn.BatchNorm2d, "inherit"),
        (BatchNorm1d(3), "the class itself"),
        (..., "not answered yet"),
    ],
)
def test_batch_norm_2d_names_the_mistake(answer, remark):
    assert remark in judge("04.4", answer)


def masked(x, mask, m=None, square=None, correction=0):
    """Masked statistics with one thing wrong."""
    real, count = mask[:, None], mask.sum()
    mean = torch.where(real, x, 0).sum((0, 2), keepdim=True) / (m or count)
    squares = square(x, mean, real) if square else torch.where(real, x - mean, 0) ** 2
    return mean.flatten(), squares.sum((0, 2)) / (count - correction)


def mean_by_sequence(x, mask):
    real = torch.where(mask[:, None], x, 0)
    return (real.sum(2) / mask.sum(1)[:, None]).mean(0), torch.ones(2)


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (lambda x, k: (x.mean((0, 2)), x.var((0, 2))), "all 24 positions; 12 are real"),
        (lambda x, k: masked(x + 1e-2 * k[:, None], k, 24), "the mean is off by"),
        (lambda x, k: masked(torch.where(k[:, None], x, 0), k, 24), "divide by the 12"),
        (mean_by_sequence, "every sequence does"),
        (lambda x, k: masked(x, k, correction=1), "the unbiased one"),
        (lambda x, k: masked(x, k, correction=-12), "divides by all positions"),
        (
            lambda x, k: masked(x, k, square=lambda x, mean, r: (x * r - mean) ** 2),
            "which deviations",
        ),
        (lambda x, k: tuple(s[:, None] for s in masked(x, k)), "two channels are two"),
        (lambda x, k: None, "not answered yet"),
    ],
)
def test_masked_stats_names_the_mistake(answer, remark):
    assert remark in judge("04.5", answer)


def test_masked_stats_notices_padding_that_matters():
    def zeros_assumed(x, mask):
        return masked(x, mask)[0] * 0 + x.sum((0, 2)) / mask.sum(), masked(x, mask)[1]

    assert "the mean is off by" in judge("04.5", zeros_assumed)
