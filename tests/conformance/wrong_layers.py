"""Batch norms with one mistake each, as people make them."""

from __future__ import annotations

from unittest.mock import patch

import torch
from layers import mutant
from torch import nn

from bnutils import norm

right_stats, right_normalize = norm.batch_stats, norm.normalize


# Statistics


def dims_of(x):
    return (0, *range(2, x.dim()))


def unbiased(x):
    return x.mean(dims_of(x)), x.var(dims_of(x))


def detached(x):
    mean, var = right_stats(x)
    return mean.detach(), var.detach()


def one_pass(x):
    mean = x.mean(dims_of(x))
    return mean, x.square().mean(dims_of(x)) - mean**2


def first_axis_only(x):
    mean, var = right_stats(x)
    return (
        (mean, var)
        if x.dim() == 2
        else (x.mean((0, 2)), x.mean(2).var(0, correction=0))
    )


def one_axis_for_positions(x):
    """Averages over the positions only after the first example."""
    return right_stats(x if x.dim() == 2 else x[:, :, 0])


def without_gradients(x):
    with torch.no_grad():
        return right_stats(x)


class PerPosition(norm.BatchNorm1d):
    """Averages over N alone, as if each position were a channel of its own."""

    def forward(self, x):
        if x.dim() == 2:
            return super().forward(x)
        mean, var = x.mean(0), x.var(0, correction=0)
        return self.weight[:, None] * (x - mean) / (var + self.eps).sqrt()


class PerExample(norm.BatchNorm1d):
    def forward(self, x):
        if x.dim() == 2:
            return super().forward(x)
        return nn.functional.instance_norm(x, weight=self.weight, bias=self.bias)


# The place of eps


def eps_outside(x, mean, var, weight=None, bias=None, eps=0.0):
    return right_normalize(x, mean, (var.sqrt() + eps).square(), weight, bias, 0.0)


def eps_added_twice(x, mean, var, weight=None, bias=None, eps=0.0):
    return right_normalize(x, mean, var, weight, bias, 2 * eps)


def eps_forgotten(x, mean, var, weight=None, bias=None, eps=0.0):
    return right_normalize(x, mean, var, weight, bias, 0.0)


def eps_as_floor(x, mean, var, weight=None, bias=None, eps=0.0):
    return right_normalize(x, mean, var.clamp_min(eps), weight, bias, 0.0)


def eps_as_floor_of_the_root(x, mean, var, weight=None, bias=None, eps=0.0):
    return right_normalize(x, mean, var.clamp_min(eps**2), weight, bias, 0.0)


def eps_of_another_library(x, mean, var, weight=None, bias=None, eps=0.0):
    return right_normalize(x, mean, var, weight, bias, 1e-3)


# The backward pass


def with_backward(along_one, along_x_hat):
    """The book's layer with a backward pass by hand that may lack a term."""

    class Whiten(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, mean, std):
            x_hat = (x - mean) / std
            ctx.save_for_backward(x_hat, std)
            return x_hat

        @staticmethod
        def backward(ctx, dy):
            x_hat, std = ctx.saved_tensors
            dims = dims_of(x_hat)
            dx = dy - along_one * dy.mean(dims, keepdim=True)
            dx = dx - along_x_hat * x_hat * (dy * x_hat).mean(dims, keepdim=True)
            return dx / std, None, None

    def normalize(x, mean, var, weight=None, bias=None, eps=1e-5):
        shape = (1, -1, *(1,) * (x.dim() - 2))
        mean, std = mean.detach().view(shape), (var.detach() + eps).sqrt().view(shape)
        y = Whiten.apply(x, mean, std)
        y = y if weight is None else y * weight.view(shape)
        return y if bias is None else y + bias.view(shape)

    return mutant("normalize", normalize)


# What is remembered, and when


class BiasedRunningVariance(norm.BatchNorm1d):
    def _update_running_stats(self, mean, var, m):
        super()._update_running_stats(mean, var * (m - 1) / max(m, 1), m)


class MomentumReversed(norm.BatchNorm1d):
    def _update_running_stats(self, mean, var, m):
        kept, self.momentum = self.momentum, self.momentum and 1 - self.momentum
        super()._update_running_stats(mean, var, m)
        self.momentum = kept


class GradientsDecide(norm.BatchNorm1d):
    def forward(self, x):
        mode, self.training = self.training, torch.is_grad_enabled()
        try:
            return super().forward(x)
        finally:
            self.training = mode


class PlainTensors(norm.BatchNorm1d):
    def register_buffer(self, name, tensor, persistent=True):
        setattr(self, name, tensor)


class PlainAttributes(norm.BatchNorm1d):
    """Statistics that a checkpoint does not hold."""

    def register_buffer(self, name, tensor, persistent=True):
        super().register_buffer(name, tensor, persistent=False)


class NeverCounts(norm.BatchNorm1d):
    def forward(self, x):
        count, self.num_batches_tracked = self.num_batches_tracked, None
        try:
            return super().forward(x)
        finally:
            self.num_batches_tracked = count


class CountsFromOne(norm.BatchNorm1d):
    def reset_running_stats(self):
        super().reset_running_stats()
        if self.track_running_stats:
            self.num_batches_tracked.fill_(1)


class CountsTooLate(norm.BatchNorm1d):
    def _update_running_stats(self, mean, var, m):
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        super()._update_running_stats(mean, var, m)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.sub_(1)


class CountsInEvaluation(norm.BatchNorm1d):
    def forward(self, x):
        if not self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return super().forward(x)


class LearnsInEvaluation(norm.BatchNorm1d):
    def forward(self, x):
        if not self.training and self.running_mean is not None:
            self._update_running_stats(*norm.batch_stats(x), x.numel() // x.size(1))
        return super().forward(x)


class RunningInTraining(norm.BatchNorm1d):
    def forward(self, x):
        y = super().forward(x)
        if self.training and self.running_mean is not None:
            shape = (1, -1, *(1,) * (x.dim() - 2))
            rest = (self.running_var + self.eps).rsqrt().view(shape)
            y = (x - self.running_mean.view(shape)) * rest * self.weight.view(shape)
        return y


class BatchInEvaluation(norm.BatchNorm1d):
    def forward(self, x):
        if self.training:
            return super().forward(x)
        return norm.normalize(x, *norm.batch_stats(x), self.weight, self.bias, self.eps)


class UpdatesWithoutGradOnly(norm.BatchNorm1d):
    def _update_running_stats(self, mean, var, m):
        if torch.is_grad_enabled():
            super()._update_running_stats(mean, var, m)


class StatisticsWithGradient(norm.BatchNorm1d):
    """``no_grad`` forgotten: the in-place update writes into the graph."""

    def _update_running_stats(self, mean, var, m):
        for running, new in ((self.running_mean, mean), (self.running_var, var)):
            if running is not None:
                with torch.enable_grad():
                    running.mul_(0.9).add_(new * (m / (m - 1)), alpha=0.1)


class KeepsGraph(norm.BatchNorm1d):
    def _update_running_stats(self, mean, var, m):
        if self.running_mean is not None:
            factor = self.momentum
            if factor is None:
                factor = 1 / float(self.num_batches_tracked)
            self.running_mean = (1 - factor) * self.running_mean + factor * mean
            self.running_var = (1 - factor) * self.running_var + factor * var * (
                m / (m - 1)
            )


class DeviationKept(norm.BatchNorm1d):
    def _update_running_stats(self, mean, var, m):
        super()._update_running_stats(mean, var.sqrt(), m)


class BesselByExamples(norm.BatchNorm1d):
    """N - 1 where N L - 1 is meant."""

    def forward(self, x):
        self.examples = len(x)
        return super().forward(x)

    def _update_running_stats(self, mean, var, m):
        n = self.examples
        super()._update_running_stats(mean, var * (m - 1) / m * n / max(n - 1, 1), m)


class NeverMoves(norm.BatchNorm1d):
    def _update_running_stats(self, mean, var, m):
        pass


class MovesSlowly(norm.BatchNorm1d):
    def _update_running_stats(self, mean, var, m):
        with patch.object(self, "momentum", 0.025):
            super()._update_running_stats(mean, var, m)


# Arguments, types, transforms


class AcceptsAnything(norm.BatchNorm1d):
    def _check_input(self, x):
        pass


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


class AllInHalf(norm.BatchNorm1d):
    """Statistics and output in the input's own precision."""

    def forward(self, x):
        if x.dtype not in (torch.float16, torch.bfloat16):
            return super().forward(x)
        mean, var = norm.batch_stats(x)
        values = (v.to(x.dtype) for v in (self.weight, self.bias))
        return norm.normalize(x, mean, var, *values, self.eps)


class KerasDefaults(norm.BatchNorm1d):
    """Keras's defaults and its momentum, which is the weight of the old value."""

    def __init__(self, num_features, eps=1e-3, momentum=0.99, **options):
        super().__init__(num_features, eps, 1 - momentum, **options)


class OtherDefaultMomentum(norm.BatchNorm1d):
    def __init__(self, num_features, eps=1e-5, momentum=0.01, *args, **options):
        super().__init__(num_features, eps, momentum, *args, **options)


class FirstDraft(nn.Module):
    """What most people write first; chapter 5 compares it."""

    def __init__(self, num_features):
        super().__init__()
        self.weight = torch.ones(num_features)
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.running_mean = torch.zeros(num_features)

    def forward(self, x):
        mean, var = x.mean(0), x.var(0, correction=0)
        return self.weight * (x - mean) / torch.sqrt(var + 1e-5) + self.bias
