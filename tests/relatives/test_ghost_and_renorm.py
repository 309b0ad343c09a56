"""Ghost batch norm and Batch Renorm, which PyTorch lacks, are what their papers define."""

from __future__ import annotations

import copy
import inspect
import re

import numpy as np
import pytest
import torch
from siblings import FLAT, LONG, X, assert_close, batch_norms, derivatives, make_input
from torch import nn
from torch.nn import functional as F

from bnutils import norm, relatives

both = pytest.mark.parametrize("name", ["GhostBatchNorm1d", "BatchRenorm1d"])


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("GhostBatchNorm1d", {"ghost_size": 32}),
        ("BatchRenorm1d", {"r_max": 3.0, "d_max": 5.0}),
    ],
)
def test_defaults_are_those_of_the_docstring(name, defaults):
    layer = getattr(relatives, name)(6)
    assert {key: getattr(layer, key) for key in defaults} == defaults
    known = inspect.signature(getattr(relatives, name)).parameters
    assert {key: known[key].default for key in defaults} == defaults


@both
def test_arguments_of_batch_norm_are_taken_by_position(name):
    layer = getattr(relatives, name)(6, 0.1, 0.3, False)
    assert (layer.eps, layer.momentum, layer.weight) == (0.1, 0.3, None)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("GhostBatchNorm1d", "6, eps=1e-05, .*, ghost_size=32"),
        ("BatchRenorm1d", "6, eps=1e-05, .*, r_max=3.0, d_max=5.0"),
    ],
)
def test_repr_shows_the_arguments(name, shown):
    assert re.fullmatch(rf"{name}\({shown}\)", repr(getattr(relatives, name)(6)))


# Ghost batches


@pytest.mark.parametrize("shape", [FLAT, LONG])
@pytest.mark.parametrize("ghost_size", [6, 7, 100])
def test_a_ghost_batch_as_large_as_the_batch_is_batch_norm(shape, ghost_size):
    ours, theirs = batch_norms("GhostBatchNorm1d", ghost_size=ghost_size)
    x = make_input(shape)
    assert_close(*(derivatives(layer, x) for layer in (ours, theirs)), 1e-12)
    assert_close(ours.state_dict().values(), theirs.state_dict().values(), 1e-12)


@pytest.mark.parametrize("shape", [FLAT, LONG])
@pytest.mark.parametrize("ghost_size", [2, 3, 4])
def test_ghost_batches_are_batches_of_their_own(shape, ghost_size):
    ours, theirs = batch_norms("GhostBatchNorm1d", ghost_size=ghost_size)
    x = make_input(shape)
    y = ours(x)
    parts = [theirs(x[i : i + ghost_size]) for i in range(0, 6, ghost_size)]
    assert_close([y], [torch.cat(parts)], 1e-12)
    state = ours.state_dict()  # one step of the running statistics per ghost batch
    assert_close(state.values(), theirs.state_dict().values(), 1e-12)
    assert state["num_batches_tracked"] == len(parts)
    x = make_input(shape, seed=5)
    assert_close([ours.eval()(x)], [theirs.eval()(x)], 1e-12)


def test_ghost_batches_do_not_share_gradients():
    ours, _ = batch_norms("GhostBatchNorm1d", ghost_size=3)
    x = make_input(FLAT).requires_grad_()
    (dx,) = torch.autograd.grad(ours(x)[:3].square().sum(), x)
    assert dx[:3].abs().min() > 0
    assert dx[3:].abs().max() == 0


def test_ghost_size_one_on_sequences_is_instance_norm():
    ours = relatives.GhostBatchNorm1d(8, ghost_size=1, affine=False).double()
    x = make_input(LONG)
    assert_close([ours(x)], [nn.InstanceNorm1d(8).double()(x)], 1e-12)


def test_untracked_ghost_norm_uses_ghost_batches_in_both_modes():
    options = {"ghost_size": 3, "track_running_stats": False}
    layer = relatives.GhostBatchNorm1d(8, **options).double()
    x = make_input(FLAT)
    assert torch.equal(layer(x), layer.eval()(x))


# Renormalisation


@pytest.mark.parametrize("shape", [FLAT, LONG])
def test_renorm_with_limits_one_and_zero_is_batch_norm(shape):
    ours, theirs = batch_norms("BatchRenorm1d", r_max=1, d_max=0)
    for seed in range(3):
        x = make_input(shape, seed=seed)
        assert_close(*(derivatives(layer, x) for layer in (ours, theirs)), 1e-12)
    assert_close(ours.state_dict().values(), theirs.state_dict().values(), 1e-12)
    assert_close([ours.eval()(x)], [theirs.eval()(x)], 1e-12)


@pytest.mark.parametrize("shape", [FLAT, LONG])
def test_unlimited_renorm_trains_on_what_evaluation_will_see(shape):
    infinite = float("inf")
    ours, theirs = batch_norms("BatchRenorm1d", r_max=infinite, d_max=infinite)
    for seed in range(4):
        theirs(make_input(shape, seed=seed))
    ours.load_state_dict(theirs.state_dict())
    x = make_input(shape, seed=8)
    assert_close([ours(x)], [theirs.eval()(x)], 1e-12)


def limits_reached(x, state, r_max, d_max, eps=1e-5):
    """r and d by NumPy, from the definition."""
    axes = (0, 2) if x.ndim == 3 else 0
    sigma = np.sqrt(state["running_var"].numpy() + eps)
    r = np.sqrt(x.var(axes) + eps) / sigma
    d = (x.mean(axes) - state["running_mean"].numpy()) / sigma
    return np.clip(r, 1 / r_max, r_max), np.clip(d, -d_max, d_max)


@pytest.mark.parametrize("shape", [FLAT, LONG])
def test_renorm_is_its_definition_and_r_and_d_carry_no_gradient(shape):
    r_max, d_max = 1.3, 0.5
    ours, _ = batch_norms("BatchRenorm1d", r_max=r_max, d_max=d_max)
    x = make_input(shape)
    mean, var = norm.batch_stats(x)
    ours.running_var.copy_(var * torch.linspace(0.3, 3, 8))
    ours.running_mean.copy_(mean + var.sqrt() * torch.linspace(-1, 2, 8))
    r, d = limits_reached(x.numpy(), ours.state_dict(), r_max, d_max)
    assert min(r) == 1 / r_max and max(r) == r_max  # both limits are at work
    assert min(d) == -d_max and max(d) == d_max
    assert ((r > 1 / r_max) & (r < r_max)).any()
    r, d = torch.from_numpy(r), torch.from_numpy(d)
    weight, bias = (p.detach().clone().requires_grad_() for p in ours.parameters())

    class Reference(nn.Module):
        def parameters(self):
            return iter((weight, bias))

        def forward(self, z):  # r and d inside weight and bias, as constants
            options = {"training": True, "eps": 1e-5}
            return F.batch_norm(z, None, None, weight * r, bias + weight * d, **options)

    assert_close(derivatives(ours, x), derivatives(Reference(), x), 1e-11)


def test_renorm_updates_its_statistics_as_batch_norm_does():
    ours, theirs = batch_norms("BatchRenorm1d")
    for seed in range(3):
        for layer in (ours, theirs):
            layer(make_input(LONG, seed=seed))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert_close(ours.state_dict().values(), theirs.state_dict().values(), 1e-12)
    x = make_input((1, 8), seed=5)
    assert_close([ours.eval()(x)], [theirs.eval()(x)], 1e-12)


def test_renorm_of_one_channel_stores_the_unbiased_variance():
    layer = relatives.BatchRenorm1d(1, momentum=1.0)
    x = 1000 * X.reshape(-1, 1).float()
    layer(x)
    torch.testing.assert_close(layer.running_var, x.var(0))


def test_renorm_uses_its_eps():
    layer = relatives.BatchRenorm1d(6, eps=0.1, r_max=1.0, d_max=0.0).double()
    want = F.batch_norm(X, None, None, training=True, eps=0.1)
    torch.testing.assert_close(layer(X), want)


def test_renorm_limits_can_follow_a_schedule():
    ours, theirs = batch_norms("BatchRenorm1d", r_max=1, d_max=0)
    x = make_input(FLAT)
    before = copy.deepcopy(ours)
    before.r_max, before.d_max = 3, 5
    assert torch.allclose(ours(x), theirs(x))
    assert not torch.allclose(before(x), theirs(x))


def test_renorm_without_parameters_and_in_half_precision():
    x = make_input(FLAT)
    layer = relatives.BatchRenorm1d(8, affine=False, r_max=1, d_max=0).double()
    assert_close([layer(x)], [F.batch_norm(x, None, None, training=True)], 1e-12)
    layer = relatives.BatchRenorm1d(8)
    assert layer(x.bfloat16()).dtype == torch.bfloat16
