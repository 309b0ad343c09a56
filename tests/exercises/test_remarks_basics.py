"""Answers to the exercises of chapters 1 to 6: each typical mistake gets its remark.

A row is an answer and words of the remark on it, or "right".
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solutions import changed, ids, verdict_words
from torch import nn

from bnutils import norm
from bnutils.arrays import batch_norm_forward
from bnutils.exercises import ch05
from bnutils.norm import BatchNorm1d, batch_norm_backward

ROWS: dict[str, list] = {}


# Chapter 1


def eigenvalues(x):
    return np.linalg.eigvalsh(x.T @ x / len(x))


def through(backward):
    return lambda d, differentiate: backward(d) if differentiate else d


def white(x, power=-0.5, n=None):
    centred = x - x.mean(0)
    variances, axes = np.linalg.eigh(centred.T @ centred / (n or len(x)))
    return centred @ axes * variances**power


def noise(x):
    """White, whatever the input was."""
    return white(np.random.default_rng(1).normal(size=x.shape))


def zca(x):
    variances, axes = np.linalg.eigh(np.cov(x, rowvar=False, bias=True))
    return (x - x.mean(0)) @ (axes / variances**0.5) @ axes.T


ROWS["01.1"] = [
    (lambda n: 1 / n, "a variance"),
    (lambda n: (2 / n) ** 0.5, "suits ReLU"),
    (lambda n: (3 / n) ** 0.5, "uniform"),
    (lambda n: n**0.5, "grows with fan_in"),
    (lambda n: 0.1, "the same for every fan_in"),
    (lambda n: 3 / n**0.5, "gain is 3 and 3"),
]

ROWS["01.2"] = [
    (lambda x: 2 / np.linalg.eigvalsh(x.T @ x)[-1], "a factor N"),
    (lambda x: 1 / eigenvalues(x)[-1], "not the largest"),
    (lambda x: 2 / eigenvalues(x)[0], "wrong eigenvalue"),
    (lambda x: 2 / eigenvalues(x)[[0, -1]].sum(), "fastest convergence"),
    (lambda x: 2 / eigenvalues(x - x.mean(0))[-1], "centred the features"),
    (lambda x: 2 / np.linalg.norm(x, 2), "singular value"),
    (lambda x: eigenvalues(x)[-1], "that is the eigenvalue"),
    (lambda x: 2 / eigenvalues(x), "expected one number"),
    (lambda x: 1e3, "above the limit"),
    (lambda x: 1e-9, "below the limit"),
    (lambda x: x[:, 0] @ np.ones(3), "raised ValueError"),
    (
        changed("01.2", lambda y, x: 0.9 * y),
        "that is below the limit, by a factor of 0.9",
    ),
    (
        changed("01.2", lambda y, x: 1.1 * y),
        "that is above the limit, by a factor of 1.1",
    ),
]

ROWS["01.3"] = [
    (lambda d, t: d if t else d - d.mean(0), "swapped"),
    (lambda d, t: d - d.mean(0), "held constant"),
    (through(lambda d: d), "does not yet know"),
    (through(lambda d: d - d.mean(1, keepdims=True)), "averaged over the channels"),
    (through(lambda d: d - d.mean()), "averaged over all values"),
    (through(lambda d: d - d.sum(0)), "one N-th"),
    (through(lambda d: d + d.mean(0)), "sign"),
    (through(lambda d: np.zeros_like(d) - d.mean(0)), "only one of the two roads"),
    (through(lambda d: d * (1 - 1 / len(d))), "mean of every example"),
    (through(lambda d: d - d.mean(0) + 0.25), "largest error is 0.25"),
]

ROWS["01.5"] = [
    (lambda x: white(x).T, "expected shape"),
    (lambda x: white(x) + 1, "mean 0"),
    (lambda x: white(x, n=len(x) - 1), "N - 1"),
    (lambda x: 2 * white(x), "all variances are 4"),
    (lambda x: (x - x.mean(0)) / x.std(0), "still correlated"),
    (lambda x: white(x, power=-1), "which power"),
    (lambda x: white(x, power=0), "variances are not 1"),
    (lambda x: x - x.mean(0), "not the identity"),
    (noise, "not linear in x"),
    (zca, "right"),
]


# Chapter 2


def last(axes, ddof=0, outside=False, fixed=None, affine=True):
    def answer(x, weight, bias, eps=1e-5):
        e = fixed or eps
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True, ddof=ddof)
        x_hat = (x - mean) / (np.sqrt(var) + e if outside else np.sqrt(var + e))
        return weight * x_hat + bias if affine else x_hat

    return answer


def by_reshape(there, back):
    """Channels last through the layer for (N, C, L), with reshape or swapaxes."""

    def answer(x, weight, bias, eps):
        n, length, channels = x.shape
        z = x.reshape(n, channels, length) if there else x.swapaxes(1, 2)
        y = batch_norm_forward(z, weight, bias, eps)
        return y.reshape(x.shape) if back else y.swapaxes(1, 2)

    return answer


def welford(x):
    """One pass, one example at a time, from the first one on."""
    mean, squares = 0 * x[0], 0 * x[0]
    for n, row in enumerate(x - x[0], 1):
        delta = row - mean
        mean = mean + delta / np.float32(n)
        squares = squares + delta * (row - mean)
    return squares / np.float32(len(x))


def axes(x):
    return (0, *range(2, x.ndim))


def squared_distances(x, correction=0.0):
    """The exercise's variance the long way, in float32."""
    mean = np.asarray(x).mean(0)
    return ((np.asarray(x) - mean) ** 2).sum(0) / np.float32(len(x) - correction)


def by_std(x):
    return (x.std(axis=0, dtype=float) ** 2).astype(np.float32)


def by_mean(x):
    distances = np.asarray(x) - x.mean(axis=0, dtype=float)
    return (distances**2).mean(0).astype(np.float32)


ROWS["02.1"] = [
    (lambda s: (s[1], int(np.prod(s)) // s[1]), "m comes first"),
    (lambda s: (s[1], 99), "which axis"),
    (lambda s: (s[0], s[1]), "positions"),
    (lambda s: (1, s[1]), "is wrong"),
    (lambda s: int(np.prod(s)) // s[1], "return two numbers"),
    (lambda s: (s[0], s[1], 1), "return two numbers"),
    (lambda s: np.array([int(np.prod(s)) // s[1], s[1]]), "right"),
]

ROWS["02.2"] = [
    (last((0,)), "positions are averaged"),
    (last((1,)), "one mean per example"),
    (last((2,)), "layer norm"),
    (last((0, 2)), "come last here"),
    (last((0, 1), ddof=1), "unbiased"),
    (last((0, 1), outside=True), "inside the root"),
    (last((0, 1), fixed=1e-5), "not used"),
    (last((0, 1), affine=False), "weight and bias are missing"),
    (lambda x, weight, bias, eps: x[0], "has shape"),
    (lambda x, weight, bias, eps: x, "largest error"),
    (by_reshape(True, True), "reshape does not move an axis"),
    (by_reshape(True, False), "reshape does not move an axis"),
    (by_reshape(False, True), "reshape does not move an axis"),
    (by_reshape(False, False), "right"),
]

ROWS["02.3"] = [
    (lambda x: (x**2).mean(0) - x.mean(0) ** 2, "numbers you square small?"),
    (lambda x: x.var(0), "x itself is averaged"),
    (lambda x: ((x - np.mean(x, 0)) ** 2).mean(0), "x itself is averaged"),
    (lambda x: (x**2).sum(0) / 256 - (x.sum(0) / 256) ** 2, "you square small?"),
    (lambda x: (x - x[0, 0]).var(0), "each channel needs its own number"),
    (lambda x: (x - np.median(x)).var(0), "each channel needs its own number"),
    (lambda x: (x - x.mean(0)).var(0), "averaged"),
    (lambda x: (x - np.sum(x, 0) / np.float32(256)).var(0), "averaged"),
    (lambda x: ((x - sum(x) / 256) ** 2).mean(0), "largest error"),
    (lambda x: (x - x[0]).var(0, ddof=1), "unbiased"),
    (lambda x: (x - x[0]).std(0), "standard deviation"),
    (lambda x: x.astype(np.float64).var(0), "stay in float32"),
    (lambda x: (x - x[0]).var(), "one per channel"),
    (lambda x: ((x - x[0]) ** 2).mean(0), "largest error"),
    (welford, "right"),
    (lambda x: (x - x[7]).var(0), "right"),
    (lambda x: np.var(x - x[:1], axis=0), "right"),
    (changed("02.3", lambda y, x: by_std(x)), "a second pass"),
    (changed("02.3", lambda y, x: by_mean(x)), "a second pass"),
    (
        changed("02.3", lambda y, x: squared_distances(x, 1) * np.float32(1.00003)),
        "unbiased",
    ),
    (
        changed("02.3", lambda y, x: np.sqrt(y) * np.float32(1.0003)),
        "the standard deviation",
    ),
    (changed("02.3", lambda y, x: 1.5 * y), "the largest error is"),
]

ROWS["02.4"] = [
    (lambda x, eps: (x.std(axes(x)), x.mean(axes(x))), "right for eps = 0"),
    (lambda x, eps: (np.sqrt(x.var(axes(x), ddof=1) + eps), x.mean(axes(x))), "biased"),
    (lambda x, eps: (np.sqrt(x.var(axes(x)) + eps), 0 * x.mean(axes(x))), "subtracted"),
    (lambda x, eps: (np.ones(3), x.mean(axes(x))), "divided by"),
    (lambda x, eps: (np.sqrt(x.var(0) + eps), x.mean()), "both should be (3,)"),
    (
        changed(
            "02.4", lambda y, x, eps: (x.std((0, 2)) if x.ndim == 3 else y[0], y[1])
        ),
        "right for eps = 0",
    ),
]


# Chapter 3


def by_reduction(reduce):
    """Both gradients of the affine lines, summed up by ``reduce``."""
    return lambda dy, x_hat: (reduce(dy * x_hat), reduce(dy))


def all_but_channel(v):
    return (0, *range(2, v.ndim))


def in_eval(dx=None, dweight=None, dbias=None):
    """The right answer to 03.2, but for the gradients given."""

    def answer(dy, x, weight, mean, var, eps):
        std = np.sqrt(var + eps)
        x_hat = (x - mean) / std
        right = weight / std * dy, (dy * x_hat).sum(0), dy.sum(0)
        arguments = dy, x, weight, mean, var, eps
        given = (dx, dweight, dbias)
        return [f(*arguments) if f else r for f, r in zip(given, right)]

    return answer


def scaled(combine):
    """An answer to 03.3 from d, x_hat, the mean of their product, and s."""

    def answer(d, x, eps):
        s = np.sqrt((x**2).mean(0) + eps)
        x_hat = x / s
        return combine(d, x_hat, (d * x_hat).mean(0), s)

    return answer


def layer(dx=None, dweight=None, dbias=None):
    """The right answer to 03.4, by autograd, but for the gradients given."""

    def answer(dy, x, weight, eps):
        leaves = [torch.tensor(v, requires_grad=True) for v in (x, weight, np.zeros(4))]
        y = torch.nn.functional.layer_norm(leaves[0], (4,), *leaves[1:], eps)
        right = torch.autograd.grad(y, leaves, torch.tensor(dy))
        std = np.sqrt(x.var(1, keepdims=True) + eps)
        x_hat = (x - x.mean(1, keepdims=True)) / std
        return [
            f(dy, x, x_hat, weight, std, eps) if f else r
            for f, r in zip((dx, dweight, dbias), right)
        ]

    return answer


def along_channels(g, x_hat, std):
    rest = g - g.mean(1, keepdims=True) - x_hat * (g * x_hat).mean(1, keepdims=True)
    return rest / std


ROWS["03.1"] = [
    (by_reduction(lambda v: v.mean(all_but_channel(v))), "dweight: that is the mean"),
    (by_reduction(lambda v: v.sum()), "summed over the channels too"),
    (by_reduction(lambda v: v.sum(1)), "you summed over the channels"),
    (by_reduction(lambda v: v.sum(0)), "for shape (6, 4, 3): dweight: the positions"),
    (by_reduction(lambda v: v), "not summed yet"),
    (by_reduction(lambda v: 2 * v.sum(all_but_channel(v))), "largest error"),
    (by_reduction(lambda v: v.sum(0, keepdims=True)), "has shape (1, 4)"),
    (lambda dy, x_hat: (dy.sum(0), (dy * x_hat).sum(0)), "swapped"),
    (lambda dy, x_hat: ((dy * x_hat).sum(0), dy.mean(0)), "dbias: that is the mean"),
    (lambda dy, x_hat: dy.sum(0), "each of: weight bias"),
    (changed("03.1", lambda y, dy, x_hat: np.stack(y)), "each of: weight bias"),
    (changed("03.1", lambda y, dy, x_hat: (y[1], y[1])), "dweight: the largest error"),
]

ROWS["03.2"] = [
    (in_eval(lambda d, x, w, m, v, e: d / np.sqrt(v + e)), "weight is missing"),
    (
        in_eval(lambda d, x, w, m, v, e: w / np.sqrt(x.var(0) + e) * d),
        "batch's variance",
    ),
    (in_eval(lambda d, x, w, m, v, e: w / (np.sqrt(v) + e) * d), "inside the root"),
    (
        in_eval(lambda d, x, w, m, v, e: w / (v + e) * d),
        "divides by the standard deviation",
    ),
    (lambda d, x, w, m, v, e: batch_norm_backward(d, x, w, e), "in training only"),
    (
        in_eval(lambda d, x, w, m, v, e: w / np.sqrt(v + e) * (d - d.mean(0))),
        "no road leads",
    ),
    (
        in_eval(
            lambda d, x, w, m, v, e: (
                w
                / np.sqrt(v + e)
                * (d - d.mean(0) - (x - m) * (d * (x - m)).mean(0) / (v + e))
            )
        ),
        "in training only",
    ),
    (
        in_eval(lambda d, x, w, m, v, e: w / np.sqrt(v) * d),
        "dx: the argument eps is not used",
    ),
    (
        in_eval(lambda d, x, w, m, v, e: w / np.sqrt(v + 1e-5) * d),
        "dx: another eps",
    ),
    (
        in_eval(
            dweight=lambda d, x, w, m, v, e: (d * (x - m) / np.sqrt(v)).sum(0),
        ),
        "dweight: the argument eps is not used",
    ),
    (in_eval(lambda d, x, w, m, v, e: d * 7), "dx: the largest error"),
    (in_eval(dweight=lambda d, x, *_: (d * x).sum(0)), "dweight uses x"),
    (
        in_eval(
            dweight=lambda d, x, w, m, v, e: (
                d * (x - x.mean(0)) / np.sqrt(x.var(0) + e)
            ).sum(0)
        ),
        "dweight normalises x with the batch's",
    ),
    (
        in_eval(
            dweight=lambda d, x, w, m, v, e: (d * (x - m) / np.sqrt(v + e)).mean(0)
        ),
        "dweight is a mean",
    ),
    (in_eval(dbias=lambda d, *_: d.mean(0)), "dbias is a mean"),
    (in_eval(dbias=lambda d, *_: d), "dbias has shape (7, 4)"),
    (lambda d, *_: d, "each of: x weight bias"),
    (in_eval(), "right"),
]

ROWS["03.3"] = [
    (scaled(lambda d, x_hat, along, s: d / s), "only the direct road"),
    (scaled(lambda d, x_hat, along, s: -x_hat * along / s), "only the road through s"),
    (
        scaled(lambda d, x_hat, along, s: (d - d.mean(0) - x_hat * along) / s),
        "without centring",
    ),
    (lambda d, x, eps: batch_norm_backward(d, x, np.ones(4), eps)[0], "full transform"),
    (scaled(lambda d, x_hat, along, s: (d - x_hat * along * len(d)) / s), "one N-th"),
    (scaled(lambda d, x_hat, along, s: (d + x_hat * along) / s), "the sign"),
    (scaled(lambda d, x_hat, along, s: (d - x_hat * s * along) / s), "a factor s"),
    (scaled(lambda d, x_hat, along, s: (d - 2 * x_hat * along) / s), "a factor 2"),
    (
        lambda d, x, eps: scaled(lambda d, h, along, s: (d - h * along) / s)(d, x, 0),
        "the argument eps is not used",
    ),
    (
        lambda d, x, eps: scaled(lambda d, h, along, s: (d - h * along) / s)(
            d, x, 1e-5
        ),
        "another eps",
    ),
    (scaled(lambda d, x_hat, along, s: (d - x_hat * along) / s), "right"),
    (scaled(lambda d, x_hat, along, s: d.sum(0)), "dx has shape (4,)"),
    (scaled(lambda d, x_hat, along, s: 3 * d), "dx: the largest error"),
]

ROWS["03.4"] = [
    (layer(lambda d, x, h, w, s, e: w * along_channels(d, h, s)), "differs along"),
    (
        layer(lambda d, x, h, w, s, e: along_channels(d, h, s)),
        "weight is missing from dx",
    ),
    (lambda d, x, w, eps: batch_norm_backward(d, x, w, eps), "that is batch norm"),
    (layer(lambda d, x, h, w, s, e: w * d / s), "held constant"),
    (layer(lambda d, x, h, w, s, e: d + 5), "dx: the largest error"),
    (layer(dweight=lambda d, x, h, w, s, e: (d * h).sum(1)), "sum dweight over them"),
    (
        layer(
            dweight=lambda d, x, h, w, s, e: (
                d * (x - x.mean(0)) / np.sqrt(x.var(0) + e)
            ).sum(0)
        ),
        "normalises over the batch",
    ),
    (layer(dweight=lambda d, x, h, w, s, e: (w * d * h).sum(0)), "dweight still has"),
    (layer(dbias=lambda d, *_: d.sum(1)), "sum dbias over them"),
    (layer(dbias=lambda d, x, h, w, *_: (w * d).sum(0)), "dbias still has"),
    (lambda d, x, w, eps: d, "each of: x weight bias"),
    (layer(), "right"),
]


# Chapter 4


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


def mean_over(batches, start=0):
    return torch.stack([x.mean(0) for x in batches]).sum(0) / (len(batches) + start)


def variances(batches, correction=1):
    return torch.stack([x.var(0, correction=correction) for x in batches]).mean(0)


def fixed_momentum(batches):
    bn = nn.BatchNorm1d(2)
    for x in batches:
        bn(x)
    return bn.running_mean, bn.running_var


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


class NoKind(BatchNorm1d):
    def _check_input(self, x):
        if x.dim() != 4:
            raise ValueError
        if self.training and (x.numel() == x.size(1) or self.eps <= 0):
            raise ValueError
        self._check_channels(x)


class NoEps(BatchNorm1d):
    def _check_input(self, x):
        if x.dim() != 4 or (self.training and x.numel() == x.size(1)):
            raise ValueError
        self._check_channels(x)
        self._check_kind(x)


class All(BatchNorm1d):
    def _check_input(self, x):
        if x.dim() != 4:
            raise ValueError
        super()._check_input(x.flatten(2))


class Unfinished(nn.Module):
    """The chapter's layer where its cells on refusals have not been run."""


Unfinished.__name__ = "BatchNorm1d"


class OnUnfinished(Unfinished):
    pass


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


def masked(x, mask, m=None, square=None, correction=0):
    """Masked statistics with one thing wrong."""
    real, count = mask[:, None], mask.sum()
    mean = torch.where(real, x, 0).sum((0, 2), keepdim=True) / (m or count)
    squares = square(x, mean, real) if square else torch.where(real, x - mean, 0) ** 2
    return mean.flatten(), squares.sum((0, 2)) / (count - correction)


def by_multiplying(x, mask):
    real, m = mask[:, None].float(), mask.sum()
    mean = (x * real).sum((0, 2), keepdim=True) / m
    return mean.flatten(), (((x - mean) * real) ** 2).sum((0, 2)) / m


def mean_by_sequence(x, mask):
    real = torch.where(mask[:, None], x, 0)
    return (real.sum(2) / mask.sum(1)[:, None]).mean(0), torch.ones(2)


def loop(k, momentum, start, batch_mean):
    for _ in range(k):
        start = (1 - momentum) * start + momentum * batch_mean
    return start


def zeros_assumed(x, mask):
    return x.sum((0, 2)) / mask.sum(), masked(x, mask)[1]


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


ROWS["04.1"] = [
    (lambda k, a, r, s: s + a**k * (r - s), "weight of the new batch"),
    (lambda k, a, r, s: s * (1 - (1 - a) ** k), "did not start at 0"),
    (lambda k, a, r, s: s + (1 - a) ** (k - 1) * (r - s), "after 0 batches"),
    (lambda k, a, r, s: s + (1 - a) ** (k + 1) * (r - s), "after 2 batches"),
    (lambda k, a, r, s: r + k * a * (s - r), "k=4"),
    (loop, "right"),
]

ROWS["04.2"] = [
    (update(old=0.2), "momentum weighs the new batch"),
    (update(dims=(1,)), "raised RuntimeError"),
    (update(dims=(0,)), "(6, 3, 3): one value per channel"),
    (update(var=biased), "(6, 3): that variance normalises"),
    (update(var=lambda x: biased(x) * len(x) / (len(x) - 1)), "Bessel's m counts"),
    (update(var=lambda x: biased(x).sqrt()), "the running variance is off by"),
    (update(detach=False), "belong to the graph"),
    (lambda mean, var, x, a: (2 * mean, var), "the running mean is off by"),
    (
        changed(
            "04.2",
            lambda y, mean, var, x, momentum: (y[0] + 0 * x.sum(), y[1].detach()),
        ),
        "still belong to the graph",
    ),
    (
        changed("04.2", lambda y, *given: (y[0][None], y[1])),
        "one value per channel is 3 values",
    ),
]

ROWS["04.3"] = [
    (lambda b: (torch.cat(b).mean(0), torch.cat(b).var(0)), "larger batches weigh"),
    (fixed_momentum, "a fixed momentum of 0.1"),
    (lambda b: (mean_over(b, 1), variances(b)), "start value still has a weight"),
    (lambda b: (mean_over(b) + 1, variances(b)), "the running mean is off by 1"),
    (lambda b: (mean_over(b), variances(b, 0)), "the unbiased one"),
    (lambda b: (mean_over(b), torch.cat(b).var(0)), "never sees the batches joined"),
    (lambda b: (mean_over(b), 2 * variances(b)), "the variance is off by"),
    (
        changed(
            "04.3", lambda y, batches: (y[0], torch.cat(batches).var(0, correction=0))
        ),
        "the layer never sees the batches joined",
    ),
]

ROWS["04.4"] = [
    (Unchanged, "expected 2D or 3D input"),
    (NoCheck, "four-dimensional"),
    (OnlyDimensions, "one channel for a layer of three"),
    (AlmostAllChecks, "one value per channel"),
    (NoKind, "a check is gone: float64"),
    (NoEps, "a check is gone: eps = 0"),
    (All, "right"),
    (OnUnfinished, "run the cells under"),
    (OverExamplesOnly, "statistics over N, H and W?"),
    (Flattened, "became (4, 3, 10)"),
    (TwoMethods, "more than one method"),
    (nn.BatchNorm2d, "inherit"),
    (BatchNorm1d(3), "the class itself"),
    (WrongInEvaluation, "in evaluation the output is off"),
    (BiasedMemory, "the running variance differs"),
    (Stranger, "inherit"),
    (5, "the class itself"),
]

ROWS["04.5"] = [
    (by_multiplying, "choose with torch.where, do not multiply"),
    (lambda x, k: [v.tolist() for v in masked(x, k)], "right"),
    (lambda x, k: torch.var_mean(x.mT[k], 0, correction=0)[::-1], "right"),
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
    (zeros_assumed, "the mean is off by"),
    (
        changed("04.5", lambda y, x, mask: (y[0] * mask.sum() / mask.numel(), y[1])),
        "the sum is right; divide by the 12 positions",
    ),
    (
        changed("04.5", lambda y, x, mask: (x.mean((0, 2)), y[1])),
        "the mean over all 24",
    ),
    (
        changed("04.5", lambda y, x, mask: (y[0][:, None], y[1])),
        "two channels are two values",
    ),
    (changed("04.5", lambda y, x, mask: (y[0], 1.5 * y[1])), "which deviations"),
]


# Chapter 5


U = 2.0**-24


def size(x):
    return x.double().abs().sum().item()


class Update(norm.BatchNorm1d):
    """An update assembled from right and wrong parts."""

    @torch.no_grad()
    def _update_running_stats(self, mean, var, m):
        if self.running_mean is None or m == 0:
            return
        factor, var = self.factor(), var * m / (m - self.bessel)
        for name, new in (("running_mean", mean), ("running_var", var)):
            old = getattr(self, name)
            value = ((1 - factor) * old + factor * new).to(old.dtype)
            self.store(name, value)

    bessel = 1

    def factor(self):
        if self.momentum is None:
            return 1 / float(self.num_batches_tracked)
        return self.momentum

    def store(self, name, value):
        getattr(self, name).copy_(value)


class Zero(Update):
    def factor(self):
        return self.momentum or 1 / float(self.num_batches_tracked)


class NoAverage(Update):
    def factor(self):
        return 0.1 if self.momentum is None else self.momentum


class NewTensor(Update):
    def store(self, name, value):
        setattr(self, name, value)


class Biased(Update):
    bessel = 0


class Increment(norm.BatchNorm1d):
    """In place, the difference added: small variances lose their last digits."""

    @torch.no_grad()
    def _update_running_stats(self, mean, var, m):
        if self.running_mean is None or m == 0:
            return
        f = self.momentum
        if f is None:
            f = 1 / float(self.num_batches_tracked)
        self.running_mean += f * (mean - self.running_mean)
        self.running_var += f * (var * m / (m - 1) - self.running_var)


for kind in (Zero, NoAverage, NewTensor, Biased):  # the method is in the class itself
    kind._update_running_stats = Update._update_running_stats


class Elsewhere(norm.BatchNorm1d):
    pass


def momentum_check(
    momentum=0.1, names=("running_mean", "running_var"), train=True, rtol=1e-5
):
    """A check with one thing wrong."""

    def answer(cls):
        layers = cls(50, momentum=momentum), nn.BatchNorm1d(50, momentum=momentum)
        x = 3 + 2 * torch.randn(16, 50)  # so many that some round differently
        for layer in layers:
            layer.train(train)(x)
        pairs = [[getattr(layer, name) for layer in layers] for name in names]
        return all(torch.allclose(a, b, rtol=rtol, atol=rtol) for a, b in pairs)

    return answer


def as_a_tensor(x):
    return (len(x) - 1) * torch.finfo(torch.float32).eps * x.abs().sum()


def untidy(name):
    """A layer that puts a new buffer in the place of one."""

    class Untidy(BatchNorm1d):
        @torch.no_grad()
        def _update_running_stats(self, mean, var, m):
            super()._update_running_stats(mean, var, m)
            setattr(self, name, getattr(self, name).clone())

    return Untidy


ROWS["05.1"] = [
    (lambda x: 1e-5, "the same for every x"),
    (lambda x: (len(x) - 1) * U * abs(x.double().sum().item()), "partial sums"),
    (lambda x: U * size(x), "how many additions"),
    (lambda x: 2 * U * size(x), "how many additions"),
    (lambda x: U * x.abs().max().item(), "how many additions"),
    (lambda x: len(x) ** 0.5 * U * size(x), "'any order' has a worst case"),
    (lambda x: len(x) * 2.0**-53 * size(x), "float64"),
    (lambda x: len(x) / 3 * U * size(x), "too small"),
    (lambda x: len(x) ** 2 * U * size(x), "hides real mistakes"),
    (lambda x: len(x) * U * len(x) * x.abs().max().item(), "hides real mistakes"),
    (lambda x: float("inf"), "finite"),
    (lambda x: -1.0, "negative"),
    (lambda x: 0 * x.sum() + 1e-30 * size(x), "too small"),
    (lambda x: abs(x.sum().item()), "1000 normal values"),
    (lambda x: (len(x) - 1) * U * size(x), "right"),
    (lambda x: (len(x)) * U * size(x), "right"),
    (lambda x: (2 * len(x)) * U * size(x), "right"),
    (lambda x: (3.8 * len(x)) * U * size(x), "right"),
    (as_a_tensor, "right"),
    (
        changed("05.1", lambda y, x: 4.2 * len(x) * U * x.abs().sum()),
        "hides real mistakes",
    ),
]

ROWS["05.2"] = [
    (Zero, "momentum=0 means that nothing moves"),
    (NoAverage, "momentum=None is the plain average"),
    (NewTensor, "who held the buffers"),
    (Biased, "still fails at 'running variance': running_var: off by about"),
    (Increment, "'quiet channels': evaluation: off by about"),
    (Elsewhere, "keep the one method"),
    (nn.BatchNorm1d, "not the repaired class"),
    (norm.BatchNorm1d, "not the repaired class"),
    (Update(3), "the class itself"),
    (Update, "right"),
    (5, "the class itself"),
    (untidy("running_mean"), "held the buffers"),
    (untidy("running_var"), "held the buffers"),
]

ROWS["05.3"] = [
    (momentum_check(momentum=0.5), "reversed momentum passes"),
    (momentum_check(train=False), "reversed momentum passes"),
    (momentum_check(rtol=10.0), "reversed momentum passes"),
    (lambda cls: True, "reversed momentum passes"),
    (lambda cls: False, "PyTorch's own layer"),
    (lambda cls: cls is nn.BatchNorm1d, "this book's layer"),
    (momentum_check(rtol=0.0), "rounds differently"),
    (momentum_check(rtol=1e-7), "two in the last place"),
    (momentum_check(names=["running_var"]), "running mean alone"),
    (momentum_check(names=["running_mean"]), "running variance alone"),
    (lambda cls: 1.0, "return True or False, not a value of type float"),
    (lambda cls: torch.tensor([True, True]), "not an array of shape (2,)"),
    (lambda cls: torch.tensor(1.0), "and type torch.float32"),
    (lambda cls: torch.tensor(momentum_check()(cls)), "right"),
    (lambda cls: np.array(momentum_check()(cls)), "right"),
    (lambda cls: np.bool_(momentum_check()(cls)), "right"),
]


# Chapter 6


def in_place(gamma, beta, weight, bias):
    bias += weight @ beta
    return weight.mul_(gamma), bias


def in_other_precision(gamma, beta, weight, bias):
    w, b = (weight * gamma).float().double(), (weight @ beta + bias).float()
    return w, nn.Parameter(b)


ROWS["06.1"] = [
    (lambda m: m, "newest batch 99%"),
    (lambda m: 1 / m, "overshoot"),
    (lambda m: 0.1, "should keep 0.99, not 0.9"),
    (lambda m: 0.01, "should keep 0.9, not 0.99"),
]

ROWS["06.2"] = [
    (lambda k: 0.01 ** (1 / k), "weight of the old value"),
    (lambda k: 1 - 0.99 ** (1 / k), "1 %, not 99 %"),
    (lambda k: 0.99 ** (1 / k), "k = 5: the last k batches have"),
    (lambda k: 4.6 / k, "approximation"),
    (lambda k: 1 / k, "k = 5: momentum 0.2 puts 67.2%"),
]

ROWS["06.3"] = [
    (lambda g, b, w, c: w * g, "two tensors"),
    (in_place, "were changed"),
    (lambda g, b, w, c: (w, w @ b + c), "where did gamma go"),
    (lambda g, b, w, c: (w * g[:, None], w @ b + c), "column"),
    (lambda g, b, w, c: (w / g, w @ b + c), "divided"),
    (lambda g, b, w, c: (w + g, w @ b + c), "the weight is off"),
    (lambda g, b, w, c: (w @ g, w @ b + c), "the weight should have shape"),
    (lambda g, b, w, c: (w * g, c), "where did beta go"),
    (lambda g, b, w, c: (w * g, w @ b), "is missing"),
    (lambda g, b, w, c: (w * g, (w * g) @ b + c), "not scaled"),
    (lambda g, b, w, c: (w * g, w.mT @ b + c), "transposed"),
    (lambda g, b, w, c: (w * g, b + c), "passes through W"),
    (lambda g, b, w, c: (w * g, w @ b - c), "the bias is off"),
    (lambda g, b, w, c: (w * g, w * b), "the bias should have shape"),
    (in_other_precision, "right"),
    (changed("06.3", lambda y, *given: (*y, 0)), "return two tensors"),
]

ROWS["06.4"] = [
    (lambda s: s * (1 / 0.99 - 1), "outside the root"),
    (lambda s: s**2 * (1 / 0.99 - 1), "ratio of stds"),
    (lambda s: s * (1 / 0.99**2 - 1), "added to the variance"),
    (lambda s: s**2 * (1 - 0.99**2), "algebra"),
    (lambda s: 0.0, "positive"),
    (lambda s: 1e-5, "std of 0.999500: a larger eps would still do"),
    (lambda s: 1.0, "leaves an output std of 0.099504"),
]


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [(number, *row) for number, rows in ROWS.items() for row in rows],
    ids=ids(ROWS),
)
def test_an_answer_gets_its_remark(number, answer, words):
    assert words in verdict_words(number, answer, right=words == "right")


def test_the_worst_case_of_sum_tolerance_happens():
    x = np.full(4096, U, dtype=np.float32)
    x[0] = 1
    in_turn = np.float32(0)
    for value in x:
        in_turn += value
    error = x.astype(float).sum() - in_turn
    assert error == pytest.approx(4095 * U * x.astype(float).sum(), rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (ch05._Reversed, {"running_mean", "running_var"}),
        (ch05._ReversedMean, {"running_mean"}),
        (ch05._ReversedVar, {"running_var"}),
    ],
)
def test_the_mutants_are_wrong_where_they_say(kind, wrong):
    x = 3 + 2 * torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    layer, reversed_, right = (
        kind(3),
        nn.BatchNorm1d(3, momentum=0.9),
        nn.BatchNorm1d(3),
    )
    for each in (layer, reversed_, right):
        each(x)
    for name in ("running_mean", "running_var"):
        expected = reversed_ if name in wrong else right
        torch.testing.assert_close(getattr(layer, name), getattr(expected, name))
