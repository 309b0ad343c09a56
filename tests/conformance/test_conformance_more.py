"""The checks of quiet channels, torch.func and half precision; verdicts on every seed."""

from __future__ import annotations

import time
from unittest.mock import patch

import pytest
import torch
from layers import mutant
from torch import nn

from bnutils import conformance, fast, norm
from bnutils.conformance import checks as _checks

right = norm.normalize


def eps_outside(x, mean, var, weight=None, bias=None, eps=0.0):
    return right(x, mean, (var.sqrt() + eps).square(), weight, bias, 0.0)


def eps_added_twice(x, mean, var, weight=None, bias=None, eps=0.0):
    return right(x, mean, var, weight, bias, 2 * eps)


def eps_forgotten(x, mean, var, weight=None, bias=None, eps=0.0):
    return right(x, mean, var, weight, bias, 0.0)


def eps_as_floor(x, mean, var, weight=None, bias=None, eps=0.0):
    return right(x, mean, var.clamp_min(eps), weight, bias, 0.0)


def eps_as_floor_of_the_root(x, mean, var, weight=None, bias=None, eps=0.0):
    return right(x, mean, var.clamp_min(eps**2), weight, bias, 0.0)


def eps_of_another_library(x, mean, var, weight=None, bias=None, eps=0.0):
    return right(x, mean, var, weight, bias, 1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        eps_outside,
        eps_added_twice,
        eps_forgotten,
        eps_as_floor,
        eps_as_floor_of_the_root,
        eps_of_another_library,
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_misplaced_eps_shows_on_quiet_channels(wrong, seed):
    report = conformance.compare(mutant("normalize", wrong), seed=seed)
    assert not report["quiet channels"].passed


def test_a_misplaced_eps_hides_on_loud_channels():
    """Why there is a check of its own: most others do not see the mistake."""
    report = conformance.compare(mutant("normalize", eps_outside))
    failures = {c.name for c in report.failures}
    assert failures == {"quiet channels", "float64"}


class Detached(norm.BatchNorm1d):
    def forward(self, x):
        def stats(x):
            mean, var = original(x)
            return mean.detach(), var.detach()

        original = norm.batch_stats
        with patch.object(norm, "batch_stats", stats):
            return super().forward(x)


class KeepsItsParameters(norm.BatchNorm1d):
    """A layer that no call can lend other parameters."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.held = [self.weight, self.bias]

    def forward(self, x):
        weight, bias = self.held
        y = norm.normalize(x, *norm.batch_stats(x), weight, bias, self.eps)
        return y if self.training else super().forward(x)


class AsNumPy(norm.BatchNorm1d):
    """Right in every number, but a stranger to transforms."""

    def forward(self, x):
        if not self.training:
            x = torch.as_tensor(x.detach().numpy())
        return super().forward(x)


class AsFunction(norm.BatchNorm1d):
    """An autograd function without a rule for vmap or forward mode."""

    class Node(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, dy):
            return dy * 1

    def forward(self, x):
        return self.Node.apply(super().forward(x))


@pytest.mark.parametrize("mutant", [Detached, KeepsItsParameters, AsNumPy, AsFunction])
def test_what_torch_func_cannot_use_is_named(mutant):
    report = conformance.compare(mutant)
    assert not report["torch.func"].passed, str(report)
    assert report["training output (N, C)"].passed


class AllInHalf(norm.BatchNorm1d):
    """Statistics and output in the input's own precision."""

    def forward(self, x):
        if x.dtype not in (torch.float16, torch.bfloat16):
            return super().forward(x)
        mean, var = norm.batch_stats(x)
        values = (v.to(x.dtype) for v in (self.weight, self.bias))
        return norm.normalize(x, mean, var, *values, self.eps)


@pytest.mark.parametrize("seed", range(3))
def test_half_precision_inside_differs(seed):
    assert not conformance.compare(AllInHalf, seed=seed)["half precision"].passed


LAYERS = [nn.BatchNorm1d, norm.BatchNorm1d, fast.TorchBatchNorm1d]
if not fast.available("kernel"):
    LAYERS.append(fast.KernelBatchNorm1d)


@pytest.mark.parametrize("cls", LAYERS)
def test_right_layers_pass_on_every_seed(cls):
    reports = {seed: conformance.compare(cls, seed=seed) for seed in range(60)}
    assert not {s: r.failures for s, r in reports.items() if not r.passed}


@pytest.mark.parametrize("seed", [3, 11])
def test_one_pass_differs_at_a_large_offset(seed):
    def one_pass(x):
        mean = x.mean((0, *range(2, x.dim())))
        square = x.square().mean((0, *range(2, x.dim())))
        return mean, (square - mean**2).clamp_min(0)

    report = conformance.compare(mutant("batch_stats", one_pass), seed=seed)
    assert not report["large offset"].passed


def test_the_report_is_quick_and_in_the_order_of_its_checks():
    conformance.compare(norm.BatchNorm1d)  # the first one imports
    start = time.perf_counter()
    report = conformance.compare(norm.BatchNorm1d)
    assert time.perf_counter() - start < 2
    assert [c.name for c in report] == list(_checks.CHECKS)
    assert {"quiet channels", "torch.func"} <= set(_checks.CHECKS)
