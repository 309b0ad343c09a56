"""Checkers of chapter 17: the clinic."""

from __future__ import annotations

import torch
from torch import nn

from bnutils.exercises import exercise, find_remark, gap, is_tuple_of


def _patient() -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    return nn.Sequential(inner, nn.Linear(4, 5), nn.BatchNorm1d(5), nn.LayerNorm(5))


@exercise("17.1")
def groups(answer):
    """Two parameter groups: all but batch norm's, and batch norm's without decay."""
    model = _patient()
    result = answer(model, 0.3)
    if not is_tuple_of(2, result):
        return "return a list of two groups, each a dict with params and weight_decay"
    decays = [group.get("weight_decay") for group in result]
    if decays != [0.3, 0]:
        return f"the groups' weight decays are {decays}; expected the one given, then 0"
    first, second = ([id(p) for p in group["params"]] for group in result)
    if len({*first, *second}) < len(first) + len(second):
        return "a parameter is in the groups twice"
    if len({*first, *second}) < len(list(model.parameters())):
        return "a parameter is missing from both groups"
    return _about_spared(model, set(second))


def _about_spared(model: nn.Module, spared: set[int]) -> str | None:
    """What is off about the parameters without decay, by their identities."""
    wanted = {id(p) for m in (model[0][1], model[2]) for p in m.parameters()}
    if spared == wanted:
        return None
    if spared == {id(p) for p in model.parameters() if p.dim() == 1}:
        return "all vectors are spared, biases of other layers too; only batch norm's were asked"
    if {id(p) for p in model[2].parameters()} <= spared < wanted:
        return "a batch norm of another dimension, or deeper inside, still decays"
    return (
        f"the second group holds {len(spared)} parameters; batch norm has {len(wanted)}"
    )


@exercise("17.2")
def momentum_for(answer):
    """Momentum of each of k updates: 1 - (1 - momentum) ** (1 / k)."""
    for momentum, k in ((0.1, 1), (0.1, 2), (0.1, 16), (0.5, 4)):
        value, keep = float(answer(momentum, k)), 1 - momentum
        mistakes = {
            "that is the share that each update keeps": keep ** (1 / k),
            "that is what k updates amount to; turn it around": 1 - keep**k,
            "close for a small momentum; solve it exactly": momentum / k,
            "the old value keeps the share 1 - momentum, not momentum": (
                momentum ** (1 / k)
            ),
        }
        otherwise = f"{value:.4g} leaves another share"
        remark = find_remark(value, 1 - keep ** (1 / k), mistakes, otherwise)
        if remark:
            return f"for momentum {momentum} and k = {k}: {remark}"
    return None


@exercise("17.3")
def distance(answer):
    """Standard errors between a running mean and the mean of x."""
    generator = torch.Generator().manual_seed(0)
    x = 3 + 2 * torch.randn(12, 5, generator=generator, dtype=torch.float64)
    running = 3 + torch.randn(5, generator=generator, dtype=torch.float64)
    momentum = 0.3
    result = answer(running.clone(), x.clone(), momentum)
    gaps, noise = x.mean(0) - running, momentum / (2 - momentum)
    far, var = gaps.abs(), x.var(0) / len(x)
    biased = x.var(0, correction=0) / len(x)
    error = (var * (1 + noise)).sqrt()
    mistakes = {
        "a distance is not negative": gaps / error,
        "σ² without bias divides by N - 1": far / (biased * (1 + noise)).sqrt(),
        "the running mean is uncertain as well": far / var.sqrt(),
        "the mean of x is uncertain as well": far / (var * noise).sqrt(),
        "divide by the error, not by its square": far / error.square(),
        "that counts standard deviations of the data, not errors": far / x.std(0),
        "independent uncertainties add as variances": (
            far / (var.sqrt() * (1 + noise**0.5))
        ),
    }
    off = f"the largest error is {gap(result, far / error):.3g} (shape (C,)?)"
    return find_remark(result, far / error, mistakes, off)
