"""Small promises of the C++ kernel: every length, several threads, what the fused step learns."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from layers import flat
from torch import nn

from bnutils import fast, models
from bnutils.train import steps as _steps

pytestmark = pytest.mark.skipif(
    bool(fast.available("kernel")), reason="no compiler for the kernel"
)
PYTORCH, KERNEL = nn.BatchNorm1d, fast.KernelBatchNorm1d
NORMS = pytest.mark.parametrize("norm", [PYTORCH, None])
STATE = pytest.mark.parametrize("name", list(PYTORCH(1).state_dict())[:4])
MODES = pytest.mark.parametrize("training", [True, False])


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def normal(*shape, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=dtype)


def pair(c, training=True, dtype=torch.float64, **options):
    return [m(c, dtype=dtype, **options).train(training) for m in (KERNEL, PYTORCH)]


def agree(layers, x, dy, **close):
    """Same output, gradients of input and parameters, and state afterwards."""
    found = []
    for layer in layers:
        inputs = [x.clone().requires_grad_(), *layer.parameters()]
        y = layer(inputs[0])
        found.append([y, *torch.autograd.grad(y, inputs, dy), *layer.buffers()])
    torch.testing.assert_close(*found, equal_nan=True, **close)


X, Y = normal(20, 6), torch.arange(20) % 3

# The layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rows_of_every_length(dtype):
    """A row is read in steps of 16 or 32 values; the rest must not be forgotten."""
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    for length in range(2, 70):
        x, dy = normal(2, 3, 2, length, dtype=dtype, seed=length)
        agree(pair(2, dtype=dtype), 1 + 3 * x, dy, **close)


@pytest.mark.parametrize("shape", [(64, 3), (4, 3, 50)], ids=str)
def test_channels_far_apart_lose_no_digit(shape):
    x = normal(*shape).float()
    x[:, 1:] += 1e6
    exact = PYTORCH(3).double()(x.double())
    torch.testing.assert_close(KERNEL(3)(x).double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 32768), (65536, 3)], ids=str)
def test_long_sums_are_made_in_double_precision(shape):
    """In float32 the same rounding error, thousands of times, would be seen."""
    x = torch.full(shape, 1.1)
    x[::2] *= -1
    layer, m = KERNEL(3, momentum=1.0), 65536
    layer(x).backward(torch.full(shape, 1.1))
    value = torch.tensor(1.1).item()  # as float32 knows it
    expected = pytest.approx([value**2 * m / (m - 1)] * 3, rel=5e-7)
    assert layer.running_var.tolist() == expected
    assert layer.bias.grad.tolist() == pytest.approx([value * m] * 3, rel=5e-7)


@pytest.mark.parametrize("shape", [(16, 48, 128), (2048, 48), (3, 24000, 2)], ids=str)
@MODES
def test_several_threads_share_channels_and_rows(three_threads, shape, training):
    agree(pair(shape[1], training), *normal(2, *shape))


@pytest.mark.parametrize("counter", [None, torch.tensor(2.0)], ids=str)
def test_a_plain_average_without_a_counter_or_with_another(counter):
    layers = pair(4, momentum=None)
    for layer in layers:
        layer.num_batches_tracked = copy.deepcopy(counter)
    agree(layers, *normal(2, 5, 4))
    assert layers[0].running_mean.any() == (counter is not None)


def test_a_nan_reaches_the_statistics_even_at_momentum_zero():
    x, dy = normal(2, 5, 4)
    x[2, 1] = torch.nan
    layers = pair(4, momentum=0.0)
    agree(layers, x, dy)
    assert layers[0].running_var.isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("gone", ["weight", "bias"])
@MODES
def test_a_weight_or_a_bias_alone(gone, training):
    layers = pair(4, training)
    for layer in layers:
        setattr(layer, gone, None)
        nn.init.constant_(next(layer.parameters()), 1.5)
    agree(layers, *normal(2, 5, 4))
    assert layers[0](X[:4, :4].contiguous()).requires_grad  # the input needs none


def test_an_update_of_the_counter_is_noticed():
    layer, w = KERNEL(3), torch.ones((), requires_grad=True)
    loss = layer.num_batches_tracked * w
    layer(torch.randn(4, 3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def replaced(layer, name, value):
    setattr(layer, name, nn.Parameter(value) if name in layer._parameters else value)
    return layer


@STATE
@MODES
def test_a_state_of_another_dtype_or_length_is_refused(name, training):
    for wrong in (torch.ones(4, dtype=torch.float64), torch.ones(5), torch.ones(3)):
        layer = replaced(KERNEL(4), name, wrong).train(training)
        with pytest.raises(RuntimeError, match="mixed dtype|should contain"):
            layer(torch.randn(5, 4))
        assert (getattr(layer, name) == 1).all()


@STATE
@MODES
def test_a_state_may_lie_anywhere_in_memory(name, training):
    value, (ours, theirs) = normal(4, 2).abs()[:, 0], pair(4, training)
    replaced(ours, name, value)
    replaced(theirs, name, value.contiguous())  # PyTorch 2.13 needs that
    agree([ours, theirs], *normal(2, 5, 4))


def test_one_value_per_channel_is_refused_where_the_batch_is_all_there_is():
    layer = KERNEL(4, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.ones(1, 4))


@MODES
def test_many_gradients_at_once(training):
    layer = KERNEL(4, dtype=torch.float64).train(training)
    x, *slopes = normal(4, 5, 4)
    inputs = [x.requires_grad_(), *layer.parameters()]
    y = layer(x)
    grad = functools.partial(torch.autograd.grad, y, inputs, retain_graph=True)
    many = grad(torch.stack(slopes), is_grads_batched=True)
    each = zip(*map(grad, slopes), strict=True)
    torch.testing.assert_close(many, tuple(map(torch.stack, each)))


# The fused step


def taught(net, x, y, *, smoothing=0.0, decay=0.01, steps=3):
    """Losses and hits of some steps, by each engine, and the two nets afterwards."""
    nets, found = [net, copy.deepcopy(net)], []
    for one, kind in zip(nets, _steps.STEPS.values(), strict=True):
        step = kind(one, "sgd", 0.1, decay, smoothing, 3)
        step.set_rate(1.0)
        found.append([step(x, y) for _ in range(steps)])
    return found, nets


def check(net, x, y, **options):
    found, nets = taught(net, x, y, **options)
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
    states = (dict(n.state_dict()) for n in nets)
    torch.testing.assert_close(*states, rtol=1e-9, atol=1e-11)


def perceptron(*sizes, norm=PYTORCH):
    torch.manual_seed(0)
    return models.mlp(sizes, norm).double()


@NORMS
@pytest.mark.parametrize("width", [1, 6, 9000])  # of weights, a thread's share and more
def test_the_narrowest_and_a_wide_layer_learn(width, norm, three_threads):
    x = X.clone().requires_grad_()  # which changes nothing
    check(perceptron(6, width, 3, norm=norm), x, Y)


@pytest.mark.parametrize("gone", ["weight", "bias"])
def test_a_norms_weight_or_bias_learns_alone(gone):
    net = perceptron(6, 5, 4, 3)
    for layer in (net.norm1, net.norm2):
        setattr(layer, gone, None)
        nn.init.constant_(next(layer.parameters()), 0.7)
    check(net, X, Y)


@NORMS
def test_autograd_is_told_that_each_parameter_changed(norm):
    net = perceptron(6, 5, 3, norm=norm)
    step = _steps.FusedStep(net, "sgd", 0.1, 0.0, 0.0, 3)
    step.lr, before = 0.1, [p._version for p in net.parameters()]
    step(X, Y)
    assert all(p._version > v for p, v in zip(net.parameters(), before, strict=True))


def test_equal_logits_count_as_the_first_class():
    net = perceptron(6, 5, 3)
    for p in net[-1].parameters():
        nn.init.zeros_(p)
    found, _ = taught(net, X, Y, steps=1)
    assert found[0][0][1] == found[1][0][1] == (Y == 0).sum()


@pytest.mark.parametrize(("value", "name"), [(torch.nan, "nan"), (1e308, "inf")])
def test_a_loss_that_is_not_finite_is_that_of_autograd(value, name):
    net = nn.Sequential(nn.Linear(1, 3)).double()
    net[0].weight.data = torch.tensor([[0.0], [1.0], [-1.0]], dtype=torch.float64)
    before = flat(net)
    x = torch.full((4, 1), value, dtype=torch.float64)
    found, nets = taught(net, x, torch.full((4,), 2), smoothing=0.1, steps=1)
    assert str(found[0][0][0]) == str(found[1][0][0]) == name
    assert all(torch.equal(flat(n), before) for n in nets)  # no update then


def test_logits_further_apart_than_the_largest_number_have_a_loss_all_the_same():
    net = nn.Sequential(nn.Linear(1, 3))
    net[0].weight.data = torch.tensor([[3e38], [-3e38], [0.0]])
    found, _ = taught(net, torch.ones(4, 1), torch.zeros(4).long(), steps=1)
    assert found[0][0][0] == found[1][0][0] == 0


def test_relu_lets_nan_through():
    x = X.where(X.max() > X, torch.nan)
    found, _ = taught(perceptron(6, 5, 3, norm=None), x, Y, steps=1)
    assert str(found[0][0][0]) == str(found[1][0][0]) == "nan"


def test_relu_has_slope_zero_at_zero():
    net = perceptron(6, 5, 3, norm=None)
    for p in net.linear1.parameters():
        nn.init.zeros_(p)
    check(net, X, Y)
