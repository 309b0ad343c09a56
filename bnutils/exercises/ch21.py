"""Checkers of chapter 21: what leaks through the batch."""

from __future__ import annotations

import copy

import torch
from torch import nn

from bnutils.exercises import close, exercise, find_remark


@exercise("21.1")
def leak_alone(answer):
    """One in so many candidates that carry the right signature."""
    for devices, size in ((16, 8), (4, 32)):
        batch = devices * size
        others = batch - size + 1
        for own_device, right in ((True, 1 / size), (False, 1.0)):
            mistakes = {
                "that is guessing among all keys; the signature says which device": 1
                / batch,
                "that is guessing among all candidates": 1 / others,
                "guess among the images of a device, not among the devices": 1
                / devices,
                "then the own key is the only one with this signature": 1 / size,
                "the other keys of the device carry the same signature": 1.0,
                "the query's own key is among the candidates": 1 / (size - 1),
            }
            found = answer(devices, size, own_device)
            remark = find_remark(found, right, mistakes)
            if remark:
                return f"{devices} x {size}, own_device={own_device}: {remark}"
    return None


class _Places(nn.Module):
    """Adds to each row its place in the batch, and keeps what it was given."""

    def forward(self, x):
        self.seen = x.clone()
        return 10 * x + torch.arange(len(x))[:, None]


@exercise("21.2")
def shuffled(answer):
    """Computed in another order, returned in the old one."""
    x, model = torch.arange(15.0).view(5, 3), _Places()
    order = torch.tensor([2, 0, 3, 4, 1])  # not its own inverse
    result = answer(model, x.clone(), order.clone())
    if not hasattr(model, "seen"):
        return "the model was not called"
    if not torch.equal(model.seen, x[order]):
        if torch.equal(model.seen, x[order.argsort()]):
            return "the model got the inverse order; it should get x[order]"
        return "the model should get the whole batch in one call, as x[order]"
    y = 10 * x[order] + torch.arange(5)[:, None]
    mistakes = {
        "row i belongs to x[order[i]] now; undo the order": y,
        "the order was applied twice; its inverse undoes it": y[order],
    }
    return find_remark(result, y[order.argsort()], mistakes)


@exercise("21.3")
def gradient_norms(answer):
    """Lengths of the diagonal blocks of the Jacobian."""
    torch.manual_seed(3)
    x = torch.randn(6, 4)
    for norm in (nn.BatchNorm1d(5), nn.LayerNorm(5)):
        critic = nn.Sequential(nn.Linear(4, 5), norm, nn.Tanh(), nn.Linear(5, 1))
        jacobian = _jacobian(copy.deepcopy(critic), x)  # (6, 6, 4)
        own = jacobian.diagonal().T  # (6, 4)
        mistakes = {
            "that is the usual code: the gradient of the sum of all outputs": (
                jacobian.sum(0).norm(dim=1)
            ),
            "the length, not its square": own.square().sum(1),
            "with the other inputs held fixed: take one row of the gradient": (
                jacobian.flatten(1).norm(dim=1)
            ),
            "that is the gradient itself; its length is asked for": own,
            "of one output: the mean over the batch divides by N": own.norm(dim=1) / 6,
            "the training mode matters here: the critic was in evaluation mode": (
                _jacobian(copy.deepcopy(critic).eval(), x).diagonal().T.norm(dim=1)
            ),
        }
        right = own.norm(dim=1)
        remark = find_remark(answer(critic, x.clone()), right, mistakes, tolerance=1e-5)
        if remark:
            return f"with {type(norm).__name__}: {remark}"
    return None


def _jacobian(critic, x):
    """Gradient of each output with respect to each input: (N, N, C)."""
    x = x.clone().requires_grad_()
    rows = [
        torch.autograd.grad(y, x, retain_graph=True)[0] for y in critic(x).squeeze(1)
    ]
    return torch.stack(rows)


@exercise("21.4")
def federated(answer):
    """Averages of all parameters but those of the batch norms."""
    models = _clients()
    before = [copy.deepcopy(model.state_dict()) for model in models]
    result = answer(models)
    if not isinstance(result, list | tuple) or len(result) != len(models):
        return f"return the list of the {len(models)} models"
    if any(ours is not theirs for ours, theirs in zip(result, models)):
        return "change the models in place, and return the same objects"
    after = [model.state_dict() for model in models]
    for name in before[0]:
        # An average of the counters would not be a whole number.
        values = [state[name].double() for state in before]
        mean = torch.stack(values).mean(0)
        for state, own in zip(after, values):
            remark = _judge(name, state[name], own, mean)
            if remark:
                return f"{name}: {remark}"
    return None


def _clients():
    """Three small networks with different parameters and statistics."""
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        inner = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.LayerNorm(3))
        model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), inner)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        for _ in range(seed + 1):
            model(seed + torch.randn(8, 2))
        models.append(model)
    return models


def _judge(name, found, own, mean):
    """What is off in one tensor of one client's state."""
    of_batch_norm = name.startswith(("1.", "3.1."))
    right = own if of_batch_norm else mean
    if close(found, right, 1e-5):
        return None
    if of_batch_norm:
        return "each client keeps its own batch norms"
    if close(found, own, 1e-5):
        return "was not averaged, and belongs to no batch norm"
    return "is not the average; were all averages taken before the first change?"
