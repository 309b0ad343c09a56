"""Answers to the exercises of chapter 22: each typical mistake gets its remark.

A row is an answer and words of the remark on it, or "right".
"""

from __future__ import annotations

import pytest
import torch
from solutions import ids, verdict_words
from torch import nn

ROWS: dict[str, list] = {}


def mixed(
    weights=lambda n, prior: prior / (prior + n), ddof=0, between=0.0, root=False
):
    """An answer to 22.1 with a mistake."""

    def answer(mean, var, x, prior):
        old = weights(len(x), prior)
        new_mean, new_var = x.mean(0), x.var(0, ddof=ddof)
        spread = old * var + (1 - old) * new_var
        if root:
            spread = (old * var**0.5 + (1 - old) * new_var**0.5) ** 2
        spread = spread + between * old * (1 - old) * (mean - new_mean) ** 2
        return old * mean + (1 - old) * new_mean, spread

    return answer


ROWS["22.1"] = [
    (mixed(), "right"),
    (mixed(lambda n, prior: n / (prior + n)), "count as N examples"),
    (mixed(lambda n, prior: 0.5), "half of each"),
    (mixed(ddof=1), "biased"),
    (mixed(root=True), "not standard deviations"),
    (mixed(between=1.0), "between the two means"),
    (lambda mean, var, x, prior: mean, "two arrays"),
    (lambda mean, var, x, prior: (mean, var), "off by"),
]


def follow(decay=lambda d: d, floats="average", counter="copy", touch=False):
    """An answer to 22.2 with a mistake."""

    @torch.no_grad()
    def answer(average, live, d):
        for (name, old), new in zip(
            average.state_dict().items(), live.state_dict().values(), strict=True
        ):
            if not old.is_floating_point():
                if counter == "copy":
                    old.copy_(new)
                elif counter == "average":
                    old.copy_(d * old + (1 - d) * new)
            elif floats == "average" or "running" not in name:
                old.lerp_(new, 1 - decay(d))
            elif floats == "copy buffers":
                old.copy_(new)
        if touch:
            live[2].bias.add_(1)
        return average

    return answer


def wrong_object(average, live, d):
    return live


ROWS["22.2"] = [
    (follow(), "right"),
    (wrong_object, "change the average itself"),
    (follow(decay=lambda d: 1 - d), "share of the old value"),
    (follow(floats="copy buffers"), "copied, not averaged"),
    (follow(floats="leave buffers"), "holds no buffers"),
    (follow(counter="leave"), "a counter is copied"),
    (follow(counter="average"), "a counter is copied"),
    (follow(touch=True), "only the average may"),
]


def pooled(within=lambda v: v.mean(0), ddof=0, between=1):
    """An answer to 22.3 with a mistake."""

    def answer(means, variances):
        spread = within(variances) + between * means.var(0, ddof=ddof)
        return means.mean(0), spread

    return answer


ROWS["22.3"] = [
    (pooled(), "right"),
    (pooled(between=0), "within the kinds"),
    (pooled(within=lambda v: 0), "between the means; the kinds"),
    (pooled(ddof=1), "by K, not by K - 1"),
    (pooled(within=lambda v: v.sum(0)), "average those within"),
    (lambda means, variances: (means.mean(1), variances.mean(1)), "axis 0"),
    (lambda means, variances: means.mean(0), "two arrays"),
]


def prepare(every=False, none=False, whole=False, momentum=0.0, mode=True, gone=False):
    """An answer to 22.4 with a mistake."""

    def answer(model):
        model.eval().requires_grad_(every)
        if whole:
            model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.requires_grad_(not none).train(mode)
                module.momentum = momentum
                if gone:
                    module.running_mean = module.running_var = None
        return model

    return answer


ROWS["22.4"] = [
    (prepare(), "right"),
    (prepare(every=True), "outside the batch norms"),
    (prepare(none=True), "would not learn"),
    (prepare(whole=True), "dropout"),
    (prepare(mode=False), "batch's own statistics"),
    (prepare(momentum=0.1), "old statistics must stay"),
    (prepare(gone=True), "no way back"),
    (lambda model: nn.Identity(), "change the model itself"),
]


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [(number, *row) for number, rows in ROWS.items() for row in rows],
    ids=ids(ROWS),
)
def test_an_answer_gets_its_remark(number, answer, words):
    assert words in verdict_words(number, answer, right=words == "right")
