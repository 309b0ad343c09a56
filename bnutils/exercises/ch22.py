"""Checkers of chapter 22: statistics of data that move, and of averaged weights."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from bnutils.exercises import exercise, find_remark, is_tuple_of


@exercise("22.1")
def mixed(answer):
    """Eq. (22.2): old statistics count as those of prior examples, new ones as len(x)."""
    rng = np.random.default_rng(0)
    for n, prior in ((6, 2), (4, 12), (3, 0)):
        x = 2 + 3 * rng.normal(size=(n, 4))
        mean, var = rng.normal(size=4), 0.5 + rng.random(4)
        result = answer(mean.copy(), var.copy(), x.copy(), prior)
        if not is_tuple_of(2, result):
            return "return two arrays: the mixed mean and the mixed variance"
        old, new = prior / (prior + n), n / (prior + n)
        right = old * mean + new * x.mean(0)
        mistakes = {
            "the old statistics count as N examples, the new ones as n": (
                new * mean + old * x.mean(0)
            ),
            "that is half of each: weigh them with N and n": (mean + x.mean(0)) / 2,
        }
        remark = find_remark(result[0], right, mistakes, name="the mean")
        if remark:
            return f"for N = {prior} and n = {n}: {remark}"
        between = old * new * (mean - x.mean(0)) ** 2
        mistakes = {
            "the batch's variance is biased, as in training": (
                old * var + new * x.var(0, ddof=1)
            ),
            "the equation mixes variances, not standard deviations": (
                (old * var**0.5 + new * x.std(0)) ** 2
            ),
            "that adds the variance between the two means, which the equation leaves out": (
                old * var + new * x.var(0) + between
            ),
        }
        right = old * var + new * x.var(0)
        remark = find_remark(result[1], right, mistakes, name="the variance")
        if remark:
            return f"for N = {prior} and n = {n}: {remark}"
    return None


def _network() -> nn.Module:
    """A small network with batch norms at two depths and dropout."""
    inner = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    return nn.Sequential(inner, nn.Linear(4, 5), nn.BatchNorm1d(5))


def _trained_a_little() -> nn.Module:
    """The network after three batches: every buffer differs from its start."""
    net = _network()
    for _ in range(3):
        net(1 + 2 * torch.randn(16, 3))
    return net


@exercise("22.2")
def follow(answer):
    """One step of an exponential average over parameters and buffers."""
    average, live = _trained_a_little(), _trained_a_little()
    live(torch.randn(16, 3))  # one batch more: its counter differs
    before, now = copy.deepcopy(average.state_dict()), copy.deepcopy(live.state_dict())
    if answer(average, live, 0.75) is not average:
        return "change the average itself, and return it"
    for name, value in live.state_dict().items():
        if not torch.equal(value, now[name]):
            return f"{name} of the live model has changed: only the average may"
    return _about_average(average.state_dict(), before, now)


def _about_average(found: dict, before: dict, now: dict) -> str | None:
    """What is off about the state of the average, at decay 3/4."""
    for name, value in found.items():
        if not value.is_floating_point():
            if value.item() == before[name].item():
                return f"{name} is still the old one: a counter is copied"
            if value.item() != now[name].item():
                return (
                    f"{name} is {value.item()}; the live model's is {now[name].item()}"
                )
            continue
        mistakes = {
            "it is copied, not averaged": now[name],
            "it is as before: parameters() holds no buffers": before[name],
            "decay is the share of the old value": 0.25 * before[name]
            + 0.75 * now[name],
        }
        right = 0.75 * before[name] + 0.25 * now[name]
        remark = find_remark(value, right, mistakes)
        if remark:
            return f"{name}: {remark}"
    return None


@exercise("22.3")
def pooled(answer):
    """Mean and variance of a mixture of equally many images of each kind."""
    rng = np.random.default_rng(1)
    for kinds in (2, 3):
        parts = [rng.normal(3 * k, 1 + k, size=(50, 4)) for k in range(kinds)]
        means = np.array([part.mean(0) for part in parts])
        variances = np.array([part.var(0) for part in parts])
        result = answer(means.copy(), variances.copy())
        if not is_tuple_of(2, result):
            return "return two arrays of shape (C,): the mean and the variance"
        everything = np.concatenate(parts)
        mistakes = {"average over the kinds, axis 0": means.mean(1)}
        remark = find_remark(result[0], everything.mean(0), mistakes, name="the mean")
        if remark:
            return remark
        mistakes = {
            "that is the variance within the kinds; their means differ as well": (
                variances.mean(0)
            ),
            "that is the variance between the means; the kinds vary inside, too": (
                means.var(0)
            ),
            "divide the variance between the means by K, not by K - 1": (
                variances.mean(0) + means.var(0, ddof=1)
            ),
            "variances of a mixture do not add up to a sum: average those within": (
                variances.sum(0) + means.var(0)
            ),
        }
        remark = find_remark(
            result[1], everything.var(0), mistakes, name="the variance"
        )
        if remark:
            return remark
    return None


@exercise("22.4")
def prepare(answer):
    """Ready for Tent: γ and β of the batch norms learn, on statistics of the batch."""
    net = _trained_a_little().eval()
    net[0].requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    if answer(net) is not net:
        return "change the model itself, and return it"
    norms = [net[0][1], net[2]]
    learn = {id(p) for p in net.parameters() if p.requires_grad}
    wanted = {id(p) for norm in norms for p in norm.parameters()}
    if learn - wanted:
        return "a parameter outside the batch norms would learn"
    if wanted - learn:
        return "the weight or bias of a batch norm would not learn"
    if net[0][2].training:
        return "dropout is at work: answers would be random"
    x = 7 + torch.randn(64, 3)
    y = net(x).detach()
    plain = (y - net[2].bias.detach()) / net[2].weight.detach()
    if plain.mean(0).abs().max() > 1e-3:
        return "the batch norms do not normalise with the batch's own statistics"
    for name in ("0.1.running_mean", "0.1.running_var", "2.running_mean"):
        after = net.state_dict().get(name)
        if after is None:
            return f"{name} is gone: there is no way back to the old statistics"
        if not torch.equal(after, before[name]):
            return f"a batch moves {name}; the old statistics must stay"
    return None
