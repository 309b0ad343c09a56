"""Remarks and tolerances that the tests of single chapters leave open."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solutions import judge, solution

from bnutils import exercises
from bnutils.norm import BatchNorm1d

U = 2.0**-24  # unit roundoff of float32


def changed(number, change):
    """The book's answer, its results changed; also handed the arguments."""
    answer = solution(number)

    def wrong(*args, **kwargs):
        return change(answer(*args, **kwargs), *args)

    return wrong


def squared_distances(x, correction=0.0):
    """The exercise's variance the long way, in float32."""
    mean = np.asarray(x).mean(0)
    return ((np.asarray(x) - mean) ** 2).sum(0) / np.float32(len(x) - correction)


def by_std(x):
    return (x.std(axis=0, dtype=float) ** 2).astype(np.float32)


def by_mean(x):
    distances = np.asarray(x) - x.mean(axis=0, dtype=float)
    return (distances**2).mean(0).astype(np.float32)


def untidy(name):
    """A layer that puts a new buffer in the place of one."""

    class Untidy(BatchNorm1d):
        @torch.no_grad()
        def _update_running_stats(self, mean, var, m):
            super()._update_running_stats(mean, var, m)
            setattr(self, name, getattr(self, name).clone())

    return Untidy


class WrongInEvaluation(BatchNorm1d):
    def forward(self, x):
        y = super().forward(x.flatten(2)).view_as(x)
        return y if self.training else y + 1


class BiasedMemory(BatchNorm1d):
    def forward(self, x):
        y = super().forward(x.flatten(2)).view_as(x)
        self.running_var.mul_(0.5)
        return y


class Stranger(torch.nn.BatchNorm2d):
    """Named as the layer it should inherit from."""


Stranger.__name__ = "BatchNorm1d"

REMARKS = [
    ("01.2", lambda y, x: 0.9 * y, "that is below the limit, by a factor of 0.9"),
    ("01.2", lambda y, x: 1.1 * y, "that is above the limit, by a factor of 1.1"),
    ("02.3", lambda y, x: by_std(x), "a second pass"),
    ("02.3", lambda y, x: by_mean(x), "a second pass"),
    ("02.3", lambda y, x: squared_distances(x, 1) * np.float32(1.00003), "unbiased"),
    ("02.3", lambda y, x: np.sqrt(y) * np.float32(1.0003), "the standard deviation"),
    ("02.3", lambda y, x: 1.5 * y, "the largest error is"),
    (
        "02.4",
        lambda y, x, eps: (x.std((0, 2)) if x.ndim == 3 else y[0], y[1]),
        "right for eps = 0",
    ),
    ("03.1", lambda y, dy, x_hat: np.stack(y), "each of: weight bias"),
    ("03.1", lambda y, dy, x_hat: (y[1], y[1]), "dweight: the largest error"),
    (
        "04.2",
        lambda y, mean, var, x, momentum: (y[0] + 0 * x.sum(), y[1].detach()),
        "still belong to the graph",
    ),
    ("04.2", lambda y, *given: (y[0][None], y[1]), "one value per channel is 3 values"),
    (
        "04.3",
        lambda y, batches: (y[0], torch.cat(batches).var(0, correction=0)),
        "the layer never sees the batches joined",
    ),
    (
        "04.5",
        lambda y, x, mask: (y[0] * mask.sum() / mask.numel(), y[1]),
        "the sum is right; divide by the 12 positions",
    ),
    ("04.5", lambda y, x, mask: (x.mean((0, 2)), y[1]), "the mean over all 24"),
    ("04.5", lambda y, x, mask: (y[0][:, None], y[1]), "two channels are two values"),
    ("04.5", lambda y, x, mask: (y[0], 1.5 * y[1]), "which deviations"),
    ("05.1", lambda y, x: 4.2 * len(x) * U * x.abs().sum(), "hides real mistakes"),
    ("06.3", lambda y, *given: (*y, 0), "return two tensors"),
    ("07.2", lambda m, *given: max(2, m - 1), "the std loses"),
    ("10.3", lambda y, *given: (*y, 0), "return two arrays"),
    (
        "12.3",
        lambda y, kind, a, lr, decay: (y[0] * (3 if kind == "adamw" else 1), y[1]),
        "gives another training",
    ),
    ("13.2", lambda y, *given: (*y, 0), "return two arrays"),
    (
        "14.1",
        lambda y, kind, n, c, l, g: 1000 if kind == "group" else y,
        "1000 is not the number of values",
    ),
    (
        "14.1",
        lambda y, kind, n, c, l, g: g * l if kind == "layer" else y,
        "is not the number of values",
    ),
    (
        "15.2",
        lambda y, a, b: (*y[:2], 0 * y[2] if np.max(y[1]) > 1e7 else y[2]),
        "a mean of 1e8 destroys it",
    ),
    ("15.3", lambda y, *given: y[:2], "return three arrays"),
    ("16.2", lambda y, *given: (*y, 0), "return two tensors"),
    ("16.3", lambda y, a, b: (*y[:2], y[2] / y[0]), "not the variance"),
    ("17.1", lambda y, *given: [*y, {"weight_decay": 0}], "a list of two groups"),
]


@pytest.mark.parametrize(("number", "change", "remark"), REMARKS)
def test_remark(number, change, remark):
    assert remark in judge(number, changed(number, change))


@pytest.mark.parametrize(
    ("number", "answer", "remark"),
    [
        ("04.4", WrongInEvaluation, "in evaluation the output is off"),
        ("04.4", BiasedMemory, "the running variance differs"),
        ("04.4", Stranger, "inherit"),
        ("04.4", 5, "the class itself"),
        ("05.2", 5, "the class itself"),
        ("05.2", untidy("running_mean"), "held the buffers"),
        ("05.2", untidy("running_var"), "held the buffers"),
    ],
)
def test_remark_on_a_class(number, answer, remark):
    assert remark in judge(number, answer)


def test_ghost_batches_of_every_third_row_get_the_remark_on_neighbours():
    def every_third(x, size, eps):
        groups = len(x) // size
        y = [ghost(x[i::groups], size, eps) for i in range(groups)]
        return np.stack(y, 1).reshape(x.shape)

    ghost = solution("14.2")
    assert "ghost batches are neighbours" in judge("14.2", every_third)


def test_a_bound_may_be_some_times_too_large():
    assert exercises.check("05.1", lambda x: 3.8 * len(x) * U * x.abs().sum())
