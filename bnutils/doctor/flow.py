"""What stands around a batch norm: the layer before, dropout, axes, other calls of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bnutils.doctor.codes import CouldNot, Found, NotApplicable, finding

if TYPE_CHECKING:
    from bnutils._modules import Norm
    from bnutils.doctor.case import Case
    from bnutils.doctor.observe import Seen

__all__: list[str] = []  # the table knows the checks

_HARMLESS = 1.15  # variance in training over that in evaluation: 7 % in scale
_ALIKE = 0.5  # standard deviations between calls


@finding(
    "redundant-bias",
    "note",
    what="a bias that the batch norm takes out; tested by changing it, if there are data",
    means="the batch mean takes the bias out again: parameters that do nothing",
    remedy="bias=False in the layer before",
)
def redundant_bias(case: Case, path: str, norm: Norm) -> Found | None:
    layer = case.useless_biases.get(path)
    if layer is None:
        raise NotApplicable("no bias comes right before it")
    n = case.model.get_submodule(layer).bias.numel()
    return Found(f"{n} parameters without effect", n, path=layer)


@finding(
    "dropout-before-norm",
    "warning",
    what="dropout, no normalisation between; with data, if it adds 15 % of variance",
    means="the variance is larger in training than in evaluation, and that one is stored",
    remedy="dropout after the last batch norm, or recalibrate with dropout off",
)
def dropout_before_norm(case: Case, path: str, norm: Norm) -> Found | None:
    dropout = case.graph.dropouts.get(path)
    noisy, calm = case.as_training.seen.get(path), case.norms_only.seen.get(path)
    if dropout is None and noisy is not None and not case.graph.whole:
        dropout = noisy.dropout
    if dropout is None:
        return None
    where, rate = dropout
    text = f"p = {rate:g} in '{where}'"
    if noisy is None or calm is None or noisy is calm:
        return Found(text, rate)
    noisy, calm = noisy.moments.var, calm.moments.var
    alive = calm > 1e-12
    ratio = (noisy[alive] / calm[alive]).log().mean().exp().item()
    if ratio > _HARMLESS:
        text += f"; variance in training {ratio:.2f} of that in evaluation"
        return Found(text, ratio)


@finding(
    "shared-norm",
    "warning",
    what="called several times in one forward, with different distributions",
    means="one set of running statistics mixes all its places; none fits in evaluation",
    remedy="one batch norm per place (weights around it may stay shared)",
)
def shared_norm(case: Case, path: str, norm: Norm) -> Found | None:
    """Two views of one batch, or ghost batches, are alike: nothing is said of them."""
    one = case.as_training.seen.get(path)
    calls = case.graph.calls[path] if one is None else one.calls
    if calls < 2:
        return None
    text = f"called {calls} times per forward"
    if one is None:
        return Found(text, calls, severity="note")  # alike or not: only data tell
    apart = _apart(one)
    if apart > _ALIKE:
        return Found(f"{text}, up to {apart:.2g} standard deviations apart", calls)


def _apart(one: Seen) -> float:
    """How far the calls of a norm are apart: means, or standard deviations if further.

    In units of the standard deviation over all calls; a tenth of the channels is further.
    """
    both = one.moments.means, one.moments.variances
    if len(both[0]) % one.calls:
        return float("inf")  # not as many in every batch
    means, variances = (
        torch.stack(
            [torch.stack(part[i :: one.calls]).mean(0) for i in range(one.calls)]
        )
        for part in both
    )
    sigma = (variances.mean(0) + means.var(0, correction=0)).sqrt().clamp(min=1e-12)
    gaps = [
        (part.max(0).values - part.min(0).values) / sigma
        for part in (means, variances.clamp(min=0).sqrt())
    ]
    return torch.maximum(*gaps).quantile(0.9).item()


@finding(
    "recomputed",
    "warning",
    what="called again in the backward pass (checkpointing)",
    means="checkpointing runs it twice per step: its statistics move twice as fast",
    remedy="momentum 1 - sqrt(1 - a), or keep batch norm outside the checkpointed part",
)
def recomputed(case: Case, path: str, norm: Norm) -> Found | None:
    if path not in case.backward:
        raise CouldNot("no backward pass was run through it")
    forward, backward = case.backward[path]
    if backward:
        text = f"{forward} call in the forward, {backward} more in the backward"
        return Found(text, forward + backward)


@finding(
    "wrong-axis",
    "error",
    what="(N, L, C): by the module before, or, if L = C, by the data",
    means="positions are normalised as if they were channels, without an error",
    remedy="channels belong in dimension 1: x.transpose(1, 2) before and after",
)
def wrong_axis(case: Case, path: str, norm: Norm) -> Found | None:
    """The channels seem to be in the last axis, where batch norm has positions.

    Known where a module made the input that keeps its channels last (Linear, Embedding,
    recurrent, attention). Otherwise the data decide: the means of channels differ more
    than those of positions. Where dimension 1 varies at least twice as much as
    dimension 2, it holds the channels and nothing is said.
    """
    one = case.received(path)
    if len(one.shape) != 3 or min(one.shape[1:]) < 2:
        raise NotApplicable("its input is no sequence")
    by_channel, by_position = one.spread
    square = one.shape[1] == one.shape[2]
    if one.axis == "first" or (
        not one.axis and (not square or by_channel > 2 * by_position)
    ):
        return None
    if square:
        text = f"input {one.shape}: length = channels = {one.shape[1]}"
        severity = "error" if one.axis == "last" else "warning"
    else:
        text = f"input {one.shape}: the layer before has its features in the last axis"
        # A layer over time, and batch norm over channels, is no mistake.
        severity = "note"
    text += (
        f"; means along dimension 1 vary by {by_channel:.2g} of the variance, along "
        f"dimension 2 by {by_position:.2g}"
    )
    return Found(text, one.shape[1], severity=severity)
