"""Checkers of chapter 7: two modes, two sets of statistics."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from bnutils.exercises import exercise, find_remark


@exercise("07.1")
def batches_needed(answer):
    """Smallest k with (1 - momentum) ** k <= share."""
    for momentum, share in ((0.1, 0.01), (0.01, 0.05), (0.5, 0.2), (0.25, 0.9)):
        k = answer(momentum, share)
        exact = math.log(share) / math.log(1 - momentum)
        otherwise = f"{k} batches leave {(1 - momentum) ** k:.3g} of the start"
        if abs(k - math.ceil(exact)) == 1:
            otherwise = "off by one; check which way you round"
        mistakes = {
            "the old value keeps the share 1 - momentum, not momentum": (
                math.ceil(math.log(share) / math.log(momentum))
            ),
            "that is when the start has lost the share, not kept it": (
                math.ceil(math.log(1 - share) / math.log(1 - momentum))
            ),
            "a number of batches is whole": exact,
        }
        remark = find_remark(k, math.ceil(exact), mistakes, otherwise)
        if remark:
            return f"at momentum {momentum} and share {share}: {remark}"
    return None


@exercise("07.2")
def smallest_batch(answer):
    """Smallest m with ((m - 1) / m) ** ((layers - 1) / 2) >= 1 - loss."""
    for layers, loss in ((20, 0.01), (2, 0.1), (50, 0.05), (7, 0.3), (1, 0.1)):
        m = answer(layers, loss)
        if not isinstance(m, int):
            return "a batch has a whole number of elements: return an int"
        at = f"with {layers} layers, a loss of {loss} and m = {m}"
        if m < 2:
            return f"{at}: one value per channel has no variance at all"
        lost, one_less = (1 - (1 - 1 / n) ** ((layers - 1) / 2) for n in (m, m - 1))
        if lost <= loss * (1 + 1e-9) and (one_less > loss or m == 2):
            continue
        for power, remark in (
            (layers / 2, "the first layer is right on new data"),
            (layers - 1, "that is the loss of variance, not of the std"),
        ):
            if m == math.ceil(1 / (1 - (1 - loss) ** (1 / power))):
                return f"{at}: {remark}"
        return f"{at} the std loses {lost:.4f}, with one less {one_less:.4f}"
    return None


def _network() -> nn.Sequential:
    parts = (
        nn.Linear(4, 3),
        nn.BatchNorm1d(3),
        nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()),
    )
    return nn.Sequential(*parts, nn.Linear(3, 2))


@exercise("07.3")
def freeze(answer):
    """Batch norm layers stay as they are, also after train()."""
    generator = torch.Generator().manual_seed(0)
    model = _network()
    before = copy.deepcopy(model.state_dict())
    frozen = answer(model)
    if frozen is not model:
        return "return the model itself"
    for mode in (None, True):
        if mode:
            model.train()
        model(5 + torch.randn(16, 4, generator=generator))
        for name in ("1.running_mean", "2.0.running_var", "1.num_batches_tracked"):
            if not torch.equal(model.state_dict()[name], before[name]):
                when = "after model.train()" if mode else "right after freezing"
                return f"a batch still changes {name} {when}"
    if any(
        p.requires_grad for p in (*model[1].parameters(), *model[2][0].parameters())
    ):
        return "the optimiser could still change the weight and bias of a batch norm"
    if not all(
        p.requires_grad for p in (*model[0].parameters(), *model[3].parameters())
    ):
        return "the Linear layers should go on learning"
    if not model[2][1].training:
        return "the other modules, dropout for one, should be in training mode after train()"
    return None
