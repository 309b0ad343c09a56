"""Checkers of chapter 13: folding batch norm."""

from __future__ import annotations

import numpy as np
from torch import nn

from bnutils.exercises import close, exercise, gap


@exercise("13.1")
def folded_bias(answer):
    """Bias of a layer that has taken in a batch norm: gamma (b - mean) / std + beta."""
    rng = np.random.default_rng(0)
    b, gamma, beta, mean = rng.normal(size=(4, 5))
    var, eps = rng.uniform(0.5, 2, 5), 0.1
    value = answer(b.copy(), gamma.copy(), beta.copy(), mean.copy(), var.copy(), eps)
    scale = gamma / np.sqrt(var + eps)
    if close(value, scale * (b - mean) + beta):
        return None
    for wrong, remark in (
        (
            b - scale * mean + beta,
            "the layer's own bias goes through the batch norm too",
        ),
        (beta - scale * mean, "the layer has a bias of its own"),
        (scale * b + beta, "the running mean is missing"),
        (scale * (b + mean) + beta, "the running mean is subtracted"),
        (scale * (b - mean), "β is missing"),
        (scale * (b - mean + beta), "β is added after the scaling"),
        ((b - mean) / np.sqrt(var + eps) + beta, "γ is missing"),
        (gamma * (b - mean) / (np.sqrt(var) + eps) + beta, "ε stands inside the root"),
        (gamma * (b - mean) / (var + eps) + beta, "divide by the standard deviation"),
        (gamma * (b - mean) / np.sqrt(var) + beta, "ε is missing"),
    ):
        if close(value, wrong):
            return remark
    return f"the bias is off by {gap(value, scale * (b - mean) + beta):.3g}"


@exercise("13.2")
def fold_forward(answer):
    """Linear after an affine map: weight * scale, bias + weight @ shift."""
    rng = np.random.default_rng(0)
    for out in (4, 3):  # square first: a wrong axis does not raise there
        weight, bias = rng.normal(size=(out, 4)), rng.normal(size=out)
        scale, shift = rng.normal(size=(2, 4))
        result = answer(weight.copy(), bias.copy(), scale.copy(), shift.copy())
        if not isinstance(result, tuple | list) or len(result) != 2:
            return "return two arrays: weight and bias"
        if out == 4 and close(result[0], scale[:, None] * weight):
            return "the weight's rows are outputs; the scale belongs to the inputs here"
        if not close(result[0], weight * scale):
            return f"the weight is off by {gap(result[0], weight * scale):.3g}"
        right = bias + weight @ shift
        for wrong, remark in (
            (bias, "the shift passes through the Linear and arrives in the bias"),
            (bias + (weight * scale) @ shift, "the shift is added after the scaling"),
            (weight @ shift, "the Linear's own bias is missing"),
        ):
            if close(result[1], wrong):
                return remark
        if out == 4 and close(result[1], bias + shift):
            return "the shift is multiplied by the weight on its way"
        if not close(result[1], right):
            return f"the bias is off by {gap(result[1], right):.3g}"
    return None


class _Network(nn.Module):
    """Three Linear and four batch norms, registered in a confusing order."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm_a = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.second, self.norm_b = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.third, self.norm_c = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())

    def forward(self, x):
        z = self.norm_c(self.first(x))  # a pair, far apart in the list of modules
        y = self.norm_a(self.second(z).relu())  # not directly
        u = self.third(y)
        return self.inner(self.norm_b(u) + u)  # the Linear has two readers


@exercise("13.3")
def pairs(answer):
    """Pairs of Linear and BatchNorm1d in the flow of data."""
    result = answer(_Network())
    try:
        found = {(str(layer), str(norm)) for layer, norm in result}
    except (TypeError, ValueError):
        return "return a list of pairs of names"
    for pair, remark in (
        (("third", "norm_b"), "somebody else reads the output of 'third' as well"),
        (("second", "norm_a"), "there is a ReLU between 'second' and 'norm_a'"),
        (("first", "norm_a"), "registered one after the other is not called so"),
    ):
        if pair in found:
            return remark
    if ("norm_c", "first") in found:
        return "the layer comes first in each pair, then the batch norm"
    for pair, remark in (
        (("first", "norm_c"), "'norm_c' directly follows a Linear"),
        (("inner.0", "inner.1"), "look inside containers too"),
    ):
        if pair not in found:
            return remark
    extra = found - {("first", "norm_c"), ("inner.0", "inner.1")}
    return f"{min(extra)} is not such a pair" if extra else None
