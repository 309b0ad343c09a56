"""What stands around a batch norm: the layer before, dropout, axes, other calls of it."""

from bnutils.doctor.codes import CouldNot, Found, NotApplicable, finding

__all__: list[str] = []  # the table knows the checks

_HARMLESS = 1.02  # variance in training over that in evaluation


@finding(
    "redundant-bias",
    "note",
    what="a bias that the batch norm takes out; tested by changing it, if there are data",
    means="the batch mean takes the bias out again: parameters that do nothing",
    remedy="bias=False in the layer before",
)
def redundant_bias(case, path, norm):
    layer = case.useless_bias(path)
    n = case.model.get_submodule(layer).bias.numel()
    return Found(f"{n} parameters without effect", n, path=layer)


@finding(
    "dropout-before-norm",
    "warning",
    what="dropout, no normalisation between; with data, if it adds 2 % of variance",
    means="the variance is larger in training than in evaluation, and that one is stored",
    remedy="dropout after the last batch norm, or recalibrate with dropout off",
)
def dropout_before_norm(case, path, norm):
    dropout = case.graph.dropouts.get(path)
    noisy, calm = case.as_training.get(path), case.norms_only.get(path)
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
    what="called several times in one forward",
    means="one set of running statistics mixes all its places; none fits in evaluation",
    remedy="one batch norm per place (weights around it may stay shared)",
)
def shared_norm(case, path, norm):
    calls = case.calls(path)
    if calls > 1:
        return Found(f"called {calls} times per forward", calls)


@finding(
    "recomputed",
    "warning",
    what="called again in the backward pass (checkpointing)",
    means="checkpointing runs it twice per step: its statistics move twice as fast",
    remedy="momentum 1 - sqrt(1 - a), or keep batch norm outside the checkpointed part",
)
def recomputed(case, path, norm):
    if path not in case.backward:
        raise CouldNot("no backward pass was run through it")
    forward, backward = case.backward[path]
    if backward:
        text = f"{forward} call in the forward, {backward} more in the backward"
        return Found(text, forward + backward)


@finding(
    "wrong-axis",
    "error",
    what="(N, L, C) with L = C, by the module before, or by the data",
    means="positions are normalised as if they were channels; no error, as both are as many",
    remedy="channels belong in dimension 1: x.transpose(1, 2) before and after",
)
def wrong_axis(case, path, norm):
    """As many positions as channels, and the channels seem to be in the last axis.

    Known where a module made the input that keeps its channels last (Linear, Embedding,
    recurrent, attention). Otherwise the data decide: the means of channels differ more
    than those of positions. Where dimension 1 varies at least twice as much as
    dimension 2, it holds the channels and nothing is said.
    """
    one = case.received(path)
    if not (len(one.shape) == 3 and one.shape[1] == one.shape[2] > 1):
        raise NotApplicable("its input has not as many positions as channels")
    by_channel, by_position = one.spread
    if one.axis == "first" or (not one.axis and by_channel > 2 * by_position):
        return None
    text = (
        f"input {one.shape}: length = channels = {one.shape[1]}; means along dimension 1 "
        f"vary by {by_channel:.2g} of the variance, along dimension 2 by {by_position:.2g}"
    )
    severity = "error" if one.axis == "last" else "warning"
    return Found(text, one.shape[1], severity=severity)
