"""Checkers of chapter 13: folding batch norm."""

from __future__ import annotations

import numpy as np
from torch import nn

from bnutils.exercises import exercise, find_remark, is_tuple_of


@exercise("13.1")
def folded_bias(answer):
    """Bias of a layer that has taken in a batch norm: gamma (b - mean) / std + beta."""
    rng = np.random.default_rng(0)
    b, gamma, beta, mean = rng.normal(size=(4, 5))
    var, eps = rng.uniform(0.5, 2, 5), 0.1
    value = answer(b.copy(), gamma.copy(), beta.copy(), mean.copy(), var.copy(), eps)
    std = np.sqrt(var + eps)
    scale, centred = gamma / std, b - mean
    right = scale * centred + beta
    mistakes = {
        "the layer's own bias goes through the batch norm too": b - scale * mean + beta,
        "the layer has a bias of its own": beta - scale * mean,
        "the running mean is missing": scale * b + beta,
        "the running mean is subtracted": scale * (b + mean) + beta,
        "β is missing": scale * centred,
        "β is added after the scaling": scale * (centred + beta),
        "γ is missing": centred / std + beta,
        "ε stands inside the root": gamma * centred / (np.sqrt(var) + eps) + beta,
        "divide by the standard deviation": gamma * centred / (var + eps) + beta,
        "ε is missing": gamma * centred / np.sqrt(var) + beta,
    }
    return find_remark(value, right, mistakes, name="the bias")


@exercise("13.2")
def fold_forward(answer):
    """Linear after an affine map: weight * scale, bias + weight @ shift."""
    rng = np.random.default_rng(0)
    for out in (4, 3):  # square first: a wrong axis does not raise there
        weight, bias = rng.normal(size=(out, 4)), rng.normal(size=out)
        scale, shift = rng.normal(size=(2, 4))
        result = answer(weight.copy(), bias.copy(), scale.copy(), shift.copy())
        if not is_tuple_of(2, result):
            return "return two arrays: weight and bias"
        is_square = out == 4
        mistakes = {}
        if is_square:
            rows = "the weight's rows are outputs; the scale belongs to the inputs here"
            mistakes[rows] = scale[:, None] * weight
        remark = find_remark(result[0], weight * scale, mistakes, name="the weight")
        if remark:
            return remark
        right = bias + weight @ shift
        mistakes = {
            "the shift passes through the Linear and arrives in the bias": bias,
            "the shift is added after the scaling": bias + (weight * scale) @ shift,
            "the Linear's own bias is missing": weight @ shift,
        }
        if is_square:
            mistakes["the shift is multiplied by the weight on its way"] = bias + shift
        remark = find_remark(result[1], right, mistakes, name="the bias")
        if remark:
            return remark
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
