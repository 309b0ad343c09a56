"""Checkers of chapter 20: why transformers differ."""

from __future__ import annotations

import math

import numpy as np

from bnutils.exercises import exercise, find_remark, is_tuple_of


@exercise("20.1")
def padded_stats(answer):
    """Mean and biased variance of a channel whose padding holds 0."""
    mean, var = np.array([1.0, -2.0, 0.5]), np.array([1.0, 0.25, 4.0])
    for share in (0.0, 0.4, 0.75):
        found = answer(mean.copy(), var.copy(), share)
        if not is_tuple_of(2, found):
            return "return two arrays, the mean and the variance"
        real = 1 - share
        mistakes = {
            "the padded positions count as well, with value 0": mean,
            "share is that of the padding; how many positions are real?": share * mean,
            "the sum stays, the number of positions grows": mean / real,
        }
        remark = find_remark(found[0], real * mean, mistakes, name="the mean")
        if remark:
            return f"share {share}: {remark}"
        mistakes = {
            "that is the variance of the real positions alone": var,
            "zeros lie off the mean, too: that adds to the variance": real * var,
            "that is the mean square; take the square of the mean off": (
                real * (var + mean**2)
            ),
            "which mean belongs to all positions?": real * (var + mean**2) - mean**2,
        }
        expected = real * (var + share * mean**2)
        remark = find_remark(found[1], expected, mistakes, name="the variance")
        if remark:
            return f"share {share}: {remark}"
    return None


def _cases():
    """Models of (N, L, C), whether they look ahead, and what to think of if one is missed."""
    import torch  # takes seconds, and the other checkers do without
    from torch import nn

    def over_positions(layer):
        return lambda x: layer(x.transpose(1, 2)).transpose(1, 2)

    def per_step(x):
        return (x - x.mean(0)) / x.std(0)

    def earlier_mean(x):
        steps = torch.arange(1, x.size(1) + 1, dtype=x.dtype)
        return x.cumsum(1) / steps[:, None]

    def next_of_another(x):
        return torch.cat([x.roll(1, 0)[:, 1:], x[:, -1:]], 1)

    def last_but_one(x):
        return torch.cat([x[:, :-2], x[:, -2:-1] + x[:, -1:], x[:, -1:]], 1)

    def opposite(x):
        ahead = torch.cat([x[:, 1:], x[:, -1:]], 1)
        return torch.cat([ahead, -ahead], 2)

    batch, frozen = (nn.BatchNorm1d(4).double() for _ in range(2))
    cases = {
        "batch norm over (N, L)": (over_positions(batch), True, ""),
        "a linear layer": (nn.Linear(4, 3).double(), False, "the present is no future"),
        "layer norm over C": (nn.LayerNorm(4).double(), False, ""),
        "a mean over all earlier positions": (
            earlier_mean,
            False,
            "the past may count",
        ),
        "instance norm over L": (over_positions(nn.InstanceNorm1d(4)), True, ""),
        "the last but one position sees the last": (
            last_but_one,
            True,
            "do you try every position?",
        ),
        "batch norm with statistics per position": (
            per_step,
            False,
            "other sequences may count, their future may not",
        ),
        "the next value of another sequence": (
            next_of_another,
            True,
            "the future of another sequence is a future, too",
        ),
        "two outputs, one minus the other": (
            opposite,
            True,
            "in a sum of outputs what they depend on can cancel",
        ),
        "batch norm in evaluation": (over_positions(frozen.eval()), False, ""),
    }
    return cases


@exercise("20.2")
def looks_ahead(answer):
    """Whether an output depends on an input at a later position, of any sequence."""
    import torch

    g = torch.Generator().manual_seed(20)
    for name, (model, expected, hint) in _cases().items():
        x = torch.randn(3, 6, 4, generator=g, dtype=torch.float64)
        found = answer(model, x)
        kind = getattr(found, "dtype", type(found))
        if kind not in (bool, torch.bool, np.dtype(bool)):
            return f"return True or False, not {found!r}"
        if bool(found) != expected:
            verdict = "it looks ahead" if expected else "it does not look ahead"
            return f"{name}: {verdict}" + (f"; {hint}" if hint else "")
    return None


@exercise("20.3")
def leaked_loss(answer):
    """Mean of the logarithm of the binomial coefficient, per coin."""
    for length in (2, 8, 20, 1):
        chances = [math.comb(length, k) / 2**length for k in range(length + 1)]
        logs = [math.log(math.comb(length, k)) for k in range(length + 1)]
        left = sum(p * log for p, log in zip(chances, logs, strict=True))
        told = -sum(p * math.log(p) for p in chances)
        mistakes = {
            "that is the loss without a leak": math.log(2),
            "that is the loss of all coins together; give the mean": left,
            "in nats, not in bits": left / length / math.log(2),
            "that is what the number of heads tells; what is left?": told / length,
            "not every number of heads is as likely as any other": (
                math.log(2) - math.log(length + 1) / length
            ),
        }
        expected = left / length
        remark = find_remark(answer(length), expected, mistakes)
        if remark:
            return f"{length} coins: {remark}"
    return None
