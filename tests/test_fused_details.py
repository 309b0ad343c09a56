"""Small promises of the C++ kernel: every length, several threads, what the fused step learns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bnutils import _steps, fast, models

pytestmark = pytest.mark.skipif(
    bool(fast.available("kernel")), reason="no compiler for the kernel"
)
FLOATS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def normal(*shape, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=dtype)


def results(layer, x, dy):
    """Output, gradients of the input and the parameters, state afterwards."""
    x = x.clone().requires_grad_()
    y = layer(x)
    grads = torch.autograd.grad(y, (x, *layer.parameters()), dy)
    return [y.detach(), *grads, *layer.buffers()]


def agree(layers, x, dy, **close):
    for a, b in zip(*(results(m, x, dy) for m in layers), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **close)


# The layer


@FLOATS
def test_rows_of_every_length(dtype):
    """A row is read in steps of 16 or 32 values; the rest must not be forgotten."""
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    for length in range(2, 70):
        x, dy = normal(2, 3, 2, length, dtype=dtype, seed=length)
        layers = fast.KernelBatchNorm1d(2, dtype=dtype), nn.BatchNorm1d(2, dtype=dtype)
        agree(layers, 1 + 3 * x, dy, **close)


def test_statistics_of_long_rows_are_summed_in_double_precision():
    x = normal(2, 3, 32 * 1024, dtype=torch.float32) + 5
    layer = fast.KernelBatchNorm1d(3, momentum=1.0)
    layer(x)
    exact = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(
        layer.running_var.double(), exact.var(1), rtol=3e-7, atol=0
    )
    torch.testing.assert_close(
        layer.running_mean.double(), exact.mean(1), rtol=3e-7, atol=0
    )


@pytest.mark.parametrize("shape", [(16, 48, 128), (2048, 48), (3, 24000, 2)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_several_threads_share_the_channels_and_the_rows(
    three_threads, shape, training
):
    layers = [
        m(shape[1], dtype=torch.float64).train(training)
        for m in (fast.KernelBatchNorm1d, nn.BatchNorm1d)
    ]
    agree(layers, *normal(2, *shape))


def test_a_constant_channel_becomes_zero_however_large_it_is():
    """Rounding makes the difference of two squares negative: no root of that."""
    x = 10 ** (8 + 4 * torch.rand(64, generator=torch.Generator().manual_seed(0)))
    assert not fast.KernelBatchNorm1d(64)(x.expand(7, 64).contiguous()).any()


def test_a_plain_average_without_a_counter_stays_where_it_is():
    layers = fast.KernelBatchNorm1d(4, momentum=None), nn.BatchNorm1d(4, momentum=None)
    for layer in layers:
        layer.num_batches_tracked = None
    agree(layers, *normal(2, 5, 4, dtype=torch.float32))
    assert not layers[0].running_mean.any()


def test_a_nan_reaches_the_statistics_even_at_momentum_zero():
    x, dy = normal(2, 5, 4, dtype=torch.float32)
    x[2, 1] = torch.nan
    layers = fast.KernelBatchNorm1d(4, momentum=0.0), nn.BatchNorm1d(4, momentum=0.0)
    agree(layers, x, dy)
    assert layers[0].running_var.isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("gone", ["weight", "bias"])
@pytest.mark.parametrize("training", [True, False])
def test_a_weight_or_a_bias_alone(gone, training):
    layers = fast.KernelBatchNorm1d(4), nn.BatchNorm1d(4)
    for layer in layers:
        setattr(layer.train(training), gone, None)
        nn.init.constant_(next(layer.parameters()), 1.5)
    agree(layers, *normal(2, 5, 4, dtype=torch.float32))


def test_an_update_of_the_counter_is_noticed():
    layer, w = fast.KernelBatchNorm1d(3), torch.ones((), requires_grad=True)
    loss = layer.num_batches_tracked * w
    layer(torch.randn(4, 3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# The fused step


def taught(net, x, y, *, smoothing=0.0, decay=0.01, steps=3):
    """Losses and hits of some steps, by each engine, and the two nets afterwards."""
    nets, found = [net, copy.deepcopy(net)], []
    for one, kind in zip(nets, _steps.STEPS.values(), strict=True):
        step = kind(one, "sgd", 0.1, decay, smoothing, 3)
        step.rate(1.0)
        found.append([step(x, y) for _ in range(steps)])
    return found, nets


def check(net, x, y, **options):
    found, nets = taught(net, x, y, **options)
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
    states = (dict(n.state_dict()) for n in nets)
    torch.testing.assert_close(*states, rtol=1e-9, atol=1e-11)


def perceptron(*sizes, norm=nn.BatchNorm1d):
    torch.manual_seed(0)
    return models.mlp(sizes, norm).double()


X, Y = normal(20, 6), torch.arange(20) % 3


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, None])
def test_a_layer_of_one_unit_learns(norm):
    check(perceptron(6, 1, 1, 3, norm=norm), X, Y)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, None])
def test_several_threads_share_a_long_update(three_threads, norm):
    check(perceptron(6, 9000, 3, norm=norm), X, Y)  # more values than a thread's share


@pytest.mark.parametrize("gone", ["weight", "bias"])
def test_a_norms_weight_or_bias_learns_alone(gone):
    net = perceptron(6, 5, 4, 3)
    for layer in (net.norm1, net.norm2):
        setattr(layer, gone, None)
        nn.init.constant_(next(layer.parameters()), 0.7)
    check(net, X, Y)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, None])
def test_autograd_is_told_that_each_parameter_changed(norm):
    net = perceptron(6, 5, 3, norm=norm)
    before = [p._version for p in net.parameters()]
    step = _steps.FusedStep(net, "sgd", 0.1, 0.0, 0.0, 3)
    step.rate(1.0)
    step(X, Y)
    after = zip(net.parameters(), before, strict=True)
    assert all(p._version > version for p, version in after)


def test_equal_logits_count_as_the_first_class():
    net = perceptron(6, 5, 3)
    for p in net[-1].parameters():
        nn.init.zeros_(p)
    found, _ = taught(net, X, Y, steps=1)
    assert found[0][0][1] == found[1][0][1] == (Y == 0).sum()


@pytest.mark.parametrize(("value", "name"), [(torch.nan, "nan"), (1e308, "inf")])
def test_a_loss_that_is_not_finite_is_the_one_of_autograd(value, name):
    net = nn.Sequential(nn.Linear(1, 3)).double()
    net[0].weight.data = torch.tensor([[0.0], [1.0], [-1.0]], dtype=torch.float64)
    x = torch.full((4, 1), value, dtype=torch.float64)
    found, _ = taught(net, x, torch.full((4,), 2), smoothing=0.1, steps=1)
    assert [str(steps[0][0]) for steps in found] == [name] * 2
