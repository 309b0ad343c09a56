"""The conformance report: passes what is right, and names what is wrong."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from layers import mutant
from torch import nn

from bnutils import conformance, norm


@pytest.mark.parametrize("cls", [nn.BatchNorm1d, norm.BatchNorm1d])
def test_right_classes_pass_every_check(cls):
    report = conformance.compare(cls)
    assert report.passed, str(report)
    assert len(report) >= 20


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_verdict_does_not_hang_on_the_seed(seed):
    report = conformance.compare(norm.BatchNorm1d, seed=seed)
    assert report.passed, str(report)


def dims_of(x):
    return (0, *range(2, x.dim()))


def unbiased(x):
    return x.mean(dims_of(x)), x.var(dims_of(x))


def detached(x):
    mean, var = unpatched(x)
    return mean.detach(), var.detach()


def one_pass(x):
    mean = x.mean(dims_of(x))
    return mean, x.square().mean(dims_of(x)) - mean**2


def first_axis_only(x):
    mean, var = unpatched(x)
    return (
        (mean, var)
        if x.dim() == 2
        else (x.mean((0, 2)), x.mean(2).var(0, correction=0))
    )


unpatched = norm.batch_stats


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


class NeverCounts(norm.BatchNorm1d):
    def forward(self, x):
        count, self.num_batches_tracked = self.num_batches_tracked, None
        try:
            return super().forward(x)
        finally:
            self.num_batches_tracked = count


class EpsOutside(norm.BatchNorm1d):
    def forward(self, x):
        def outside(x, mean, var, weight=None, bias=None, eps=0.0):
            return original(x, mean, (var.sqrt() + 100 * eps) ** 2, weight, bias, 0.0)

        original = norm.normalize
        with patch.object(norm, "normalize", outside):
            return super().forward(x)


class AcceptsAnything(norm.BatchNorm1d):
    def _check_input(self, x):
        pass


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


def eps_beside_the_root(x, mean, var, weight=None, bias=None, eps=1e-5):
    shape = (1, -1, *(1,) * (x.dim() - 2))
    y = (x - mean.view(shape)) / (var.view(shape).sqrt() + eps)
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


def with_backward(along_one, along_x_hat):
    """The book's layer with a backward pass by hand that may lack a term."""

    class Whiten(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, mean, std):
            ctx.save_for_backward(x_hat := (x - mean) / std, std)
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


def one_axis_for_positions(x):
    """Averages over the positions only after the first example."""
    return unpatched(x if x.dim() == 2 else x[:, :, 0])


def without_gradients(x):
    with torch.no_grad():
        return unpatched(x)


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


class PlainAttributes(norm.BatchNorm1d):
    """Statistics that a checkpoint does not hold."""

    def register_buffer(self, name, tensor, persistent=True):
        super().register_buffer(name, tensor, persistent=False)


@pytest.mark.parametrize(
    ("mutant", "named"),
    [
        (BiasedRunningVariance, {"running variance"}),
        (MomentumReversed, {"running mean", "running variance", "evaluation output"}),
        (
            mutant("batch_stats", unbiased),
            {"training output (N, C)", "gradients", "float64"},
        ),
        (mutant("batch_stats", detached), {"gradients", "second derivative"}),
        (mutant("batch_stats", one_pass), {"large offset"}),
        (
            mutant("batch_stats", first_axis_only),
            {"training output (N, C, L)", "running variance"},
        ),
        (GradientsDecide, {"mode decides, not gradients"}),
        (PlainTensors, {"state_dict", "checkpoints both ways"}),
        (NeverCounts, {"num_batches_tracked", "momentum=None"}),
        (EpsOutside, {"training output (N, C)", "evaluation output", "float64"}),
        (AcceptsAnything, {"errors"}),
        (KeepsGraph, {"copy"}),
        (mutant("normalize", eps_beside_the_root), {"quiet channels"}),
        (with_backward(0, 1), {"gradients"}),
        (with_backward(1, 0), {"gradients"}),
        (with_backward(0, 0), {"gradients", "second derivative"}),
        (
            mutant("batch_stats", one_axis_for_positions),
            {"training output (N, C, L)", "gradients"},
        ),
        (mutant("batch_stats", without_gradients), {"gradients", "second derivative"}),
        (CountsFromOne, {"state_dict", "num_batches_tracked", "momentum=None"}),
        (CountsTooLate, {"momentum=None"}),
        (CountsInEvaluation, {"evaluation changes nothing"}),
        (LearnsInEvaluation, {"evaluation changes nothing"}),
        (RunningInTraining, {"training output (N, C)", "gradients"}),
        (BatchInEvaluation, {"evaluation output", "mode decides, not gradients"}),
        (UpdatesWithoutGradOnly, {"mode decides, not gradients"}),
        (StatisticsWithGradient, {"copy"}),
        (DeviationKept, {"running variance", "evaluation output"}),
        (BesselByExamples, {"running variance"}),
        (PlainAttributes, {"state_dict", "checkpoints both ways"}),
    ],
)
def test_typical_mistakes_are_named(mutant, named):
    report = conformance.compare(mutant)
    assert named <= {check.name for check in report.failures}, str(report)
    untouched = {"constructor", "repr"}
    assert not untouched & {check.name for check in report.failures}


@pytest.mark.parametrize(
    ("mutant", "named"),
    [
        (mutant("batch_stats", detached), {"gradients", "second derivative"}),
        (AcceptsAnything, {"errors"}),
        (NeverCounts, {"num_batches_tracked", "momentum=None"}),
    ],
)
def test_checks_that_a_mistake_does_not_touch_still_agree(mutant, named):
    wrong = {check.name for check in conformance.compare(mutant).failures}
    assert not wrong & {"training output (N, C)", "running mean", "evaluation output"}
    assert named <= wrong


def test_a_check_that_raises_is_a_failed_check():
    class Broken(nn.Module):
        def __init__(self, num_features):
            raise RuntimeError("first line\nsecond line")

    report = conformance.compare(Broken)
    assert not report.passed
    assert report["gradients"].detail == "raised RuntimeError: first line"


def test_a_half_finished_class_is_credited_with_what_it_can():
    class Half(nn.Module):
        def __init__(self, num_features):
            super().__init__()

        def forward(self, x):
            return norm.normalize(x, *norm.batch_stats(x))

    report = conformance.compare(Half)
    assert report["training output (N, C)"].passed
    assert report["training output (N, C, L)"].passed
    assert "track_running_stats" in report["constructor"].detail


def test_report_reads_as_text_and_as_table():
    report = conformance.compare(BiasedRunningVariance)
    text, table = str(report), report._repr_html_()
    assert text.splitlines()[0].startswith("BiasedRunningVariance: ")
    assert len(text.splitlines()) == len(report) + 1
    assert "DIFFERS  running variance" in text
    assert table.count("<tr>") == len(report) + 1
    assert "✗ differs</td><td>running variance" in table
    assert [c.name for c in report][:2] == ["constructor", "state_dict"]


def test_report_escapes_what_a_class_says():
    class Rude(norm.BatchNorm1d):
        def forward(self, x):
            raise ValueError("<script>")

    assert "<script>" not in conformance.compare(Rude)._repr_html_()


def test_unknown_check_names_those_there_are():
    with pytest.raises(KeyError, match="gradients"):
        conformance.compare(norm.BatchNorm1d)["grads"]


def test_pytorchs_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    conformance.compare(norm.BatchNorm1d)
    assert torch.equal(torch.rand(1), expected)


def test_two_reports_are_the_same():
    assert str(conformance.compare(EpsOutside)) == str(conformance.compare(EpsOutside))
