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
    cases = ((0.1, 0.01), (0.01, 0.05), (0.5, 0.2), (0.25, 0.9), (0.1, 0.729))
    for momentum, share in cases:
        k = answer(momentum, share)
        exact = math.log(share) / math.log(1 - momentum)
        # 0.9 ** 3 is 0.729, and rounding decides whether 3 batches or 4 come out.
        if k in (math.ceil(exact - 1e-9), math.ceil(exact + 1e-9)):
            continue
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
    cases = ((20, 0.01), (2, 0.1), (50, 0.05), (7, 0.3), (1, 0.1), (3, 0.1))
    for layers, loss in cases:
        m = answer(layers, loss)
        if float(m) % 1 != 0:  # also infinity and NaN
            return f"a batch has a whole number of elements, not {m}"
        m = int(m)
        chain = "1 layer" if layers == 1 else f"{layers} layers"
        at = f"with {chain}, a loss of {loss} and m = {m}"
        if m < 2:
            return f"{at}: one value per channel has no variance at all"
        lost, one_less = (1 - (1 - 1 / n) ** ((layers - 1) / 2) for n in (m, m - 1))
        # In the last case 10 is exact, and rounding may make it 11.
        if lost <= loss * (1 + 1e-9) and (one_less > loss * (1 - 1e-9) or m == 2):
            continue
        for power, remark in (
            (layers / 2, "the first layer is right on new data"),
            (layers - 1, "that is the loss of variance, not of the std"),
        ):
            if power and m == math.ceil(1 / (1 - (1 - loss) ** (1 / power))):
                return f"{at}: {remark}"
        if lost <= loss:
            return f"{at} the std loses {lost:.2g}: fewer values are enough"
        one_more = 1 - (1 - 1 / (m + 1)) ** ((layers - 1) / 2)
        more = "one more value is" if one_more <= loss else "more values are"
        return f"{at} the std loses {lost:.6f}: {more} needed"
    return None


def _network() -> nn.Sequential:
    parts = (
        nn.Linear(4, 3),
        nn.BatchNorm1d(3),
        nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()),
    )
    return nn.Sequential(*parts, nn.Linear(3, 2))


def _moves(model: nn.Module) -> bool:
    """Whether a batch passing through the model changes any of its buffers."""
    before = [buffer.clone() for buffer in model.buffers()]
    model(5 + torch.randn(16, 4, generator=torch.Generator().manual_seed(0)))
    return not all(map(torch.equal, before, model.buffers()))


@exercise("07.3")
def freeze(answer):
    """Batch norms stay as they are: after train(), in a copy, and converted."""
    model = _network()
    fixed = {id(p) for i in (1, 2) for p in model[i].parameters()}
    free = {id(p) for i in (0, 3) for p in model[i].parameters()}
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    expected = copy.deepcopy(model).eval()(x)
    frozen = answer(model)
    if not isinstance(frozen, nn.Module):
        return "return a model"
    if _moves(frozen):
        return "a batch still changes the running statistics right after freezing"
    returned = frozen.train()
    if _moves(frozen):
        return "a batch still changes the running statistics after model.train()"
    if returned is not frozen:
        return "train() should return the model itself: eval(), which calls it, does so"
    learns = {id(p) for p in frozen.parameters() if p.requires_grad}
    if learns & fixed:
        return "the optimiser could still change the weight and bias of a batch norm"
    if not free <= {id(p) for p in frozen.parameters()}:
        return (
            "the Linear layers are copies: an optimiser made before does not reach them. "
            "Work on the model itself"
        )
    if not free <= learns:
        return "the Linear layers should go on learning"
    if not all(m.training for m in frozen.modules() if isinstance(m, nn.Dropout)):
        return "the other modules, dropout for one, should be in training mode after train()"
    return _freeze_is_fragile(frozen, x, expected)


def _freeze_is_fragile(frozen: nn.Module, x: torch.Tensor, expected) -> str | None:
    """What undoes a freeze that has passed so far, if anything does."""
    twin = copy.deepcopy(frozen)
    twin.train()
    if _moves(twin):
        return "in a copy.deepcopy of the model a batch changes the running statistics"
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(frozen))
    synced.train()
    if _moves(synced):
        return (
            "after convert_sync_batchnorm a batch changes the running statistics again"
        )
    if any("train" in vars(module) for module in frozen.modules()):
        return "a function hung on an object cannot be pickled: override train() in a class"
    frozen.eval()
    if not torch.equal(frozen(x), expected):
        return "in evaluation mode the frozen model should compute what the model did"
    return None
