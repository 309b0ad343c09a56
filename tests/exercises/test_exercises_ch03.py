"""The checkers of chapter 3: right answers pass, typical mistakes get their remark."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solutions import judge

from bnutils import exercises
from bnutils.norm import batch_norm_backward


def by_reduction(reduce):
    """Both gradients of the affine lines, summed up by ``reduce``."""
    return lambda dy, x_hat: (reduce(dy * x_hat), reduce(dy))


def all_but_channel(v):
    return (0, *range(2, v.ndim))


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (
            by_reduction(lambda v: v.mean(all_but_channel(v))),
            "dweight: that is the mean",
        ),
        (by_reduction(lambda v: v.sum()), "summed over the channels too"),
        (by_reduction(lambda v: v.sum(1)), "you summed over the channels"),
        (
            by_reduction(lambda v: v.sum(0)),
            "for shape (6, 4, 3): dweight: the positions",
        ),
        (by_reduction(lambda v: v), "not summed yet"),
        (by_reduction(lambda v: 2 * v.sum(all_but_channel(v))), "largest error"),
        (by_reduction(lambda v: v.sum(0, keepdims=True)), "has shape (1, 4)"),
        (lambda dy, x_hat: (dy.sum(0), (dy * x_hat).sum(0)), "swapped"),
        (
            lambda dy, x_hat: ((dy * x_hat).sum(0), dy.mean(0)),
            "dbias: that is the mean",
        ),
        (lambda dy, x_hat: dy.sum(0), "each of: weight bias"),
        (lambda dy, x_hat: None, "not answered yet"),
    ],
)
def test_affine_gradients_names_the_mistake(answer, remark):
    assert remark in judge("03.1", answer)


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


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
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
    ],
)
def test_eval_backward_names_the_mistake(answer, remark):
    assert remark in judge("03.2", answer)


def scaled(combine):
    """An answer to 03.3 from d, x_hat, the mean of their product, and s."""

    def answer(d, x, eps):
        s = np.sqrt((x**2).mean(0) + eps)
        x_hat = x / s
        return combine(d, x_hat, (d * x_hat).mean(0), s)

    return answer


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (scaled(lambda d, x_hat, along, s: d / s), "only the direct road"),
        (
            scaled(lambda d, x_hat, along, s: -x_hat * along / s),
            "only the road through s",
        ),
        (
            scaled(lambda d, x_hat, along, s: (d - d.mean(0) - x_hat * along) / s),
            "without centring",
        ),
        (
            lambda d, x, eps: batch_norm_backward(d, x, np.ones(4), eps)[0],
            "full transform",
        ),
        (
            scaled(lambda d, x_hat, along, s: (d - x_hat * along * len(d)) / s),
            "one N-th",
        ),
        (scaled(lambda d, x_hat, along, s: (d + x_hat * along) / s), "the sign"),
        (scaled(lambda d, x_hat, along, s: (d - x_hat * s * along) / s), "a factor s"),
        (scaled(lambda d, x_hat, along, s: (d - 2 * x_hat * along) / s), "a factor 2"),
        (scaled(lambda d, x_hat, along, s: d.sum(0)), "dx has shape (4,)"),
        (scaled(lambda d, x_hat, along, s: 3 * d), "dx: the largest error"),
    ],
)
def test_scale_backward_names_the_mistake(answer, remark):
    assert remark in judge("03.3", answer)


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


@pytest.mark.parametrize(
    ("answer", "remark"),
    [
        (layer(lambda d, x, h, w, s, e: w * along_channels(d, h, s)), "differs along"),
        (
            layer(lambda d, x, h, w, s, e: along_channels(d, h, s)),
            "weight is missing from dx",
        ),
        (lambda d, x, w, eps: batch_norm_backward(d, x, w, eps), "that is batch norm"),
        (layer(lambda d, x, h, w, s, e: w * d / s), "held constant"),
        (layer(lambda d, x, h, w, s, e: d + 5), "dx: the largest error"),
        (
            layer(dweight=lambda d, x, h, w, s, e: (d * h).sum(1)),
            "sum dweight over them",
        ),
        (
            layer(
                dweight=lambda d, x, h, w, s, e: (
                    d * (x - x.mean(0)) / np.sqrt(x.var(0) + e)
                ).sum(0)
            ),
            "normalises over the batch",
        ),
        (
            layer(dweight=lambda d, x, h, w, s, e: (w * d * h).sum(0)),
            "dweight still has",
        ),
        (layer(dbias=lambda d, *_: d.sum(1)), "sum dbias over them"),
        (layer(dbias=lambda d, x, h, w, *_: (w * d).sum(0)), "dbias still has"),
        (lambda d, x, w, eps: d, "each of: x weight bias"),
    ],
)
def test_layer_norm_backward_names_the_mistake(answer, remark):
    assert remark in judge("03.4", answer)


def test_autograd_itself_is_a_right_answer_to_layer_norm():
    assert exercises.check("03.4", layer())


def test_right_eval_gradients_pass_as_a_list():
    assert exercises.check("03.2", in_eval())
