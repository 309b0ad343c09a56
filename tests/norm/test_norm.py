"""The layer and its functions agree with PyTorch, hand numbers and finite differences."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from layers import STRICT_EPS, ZERO_EPS_AS_NOW, as_here, shuffled
from torch import nn

from bnutils import norm

SHAPES = [(7, 3), (2, 3), (4, 3, 5), (1, 3, 2)]
HAS_BIAS = "bias" in inspect.signature(nn.BatchNorm1d).parameters
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
KWARGS = [
    {"momentum": momentum, "affine": affine, "track_running_stats": track, **bias}
    for momentum, affine, track, bias in itertools.product(
        (0.1, 0.0, 1.0, 0.37, None),
        (True, False),
        (True, False),
        ({}, {"bias": False}) if HAS_BIAS else ({},),
    )
]


def name_of(value):
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "defaults"
    if isinstance(value, tuple):
        return "-".join(str(part).removeprefix("torch.") for part in value)
    return None


def pair(num_features=3, dtype=torch.float64, **kwargs):
    """Our layer and PyTorch's, in the same state."""
    theirs = shuffled(nn.BatchNorm1d(num_features, dtype=dtype, **kwargs))
    ours = norm.BatchNorm1d(num_features, dtype=dtype, **kwargs)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def run(layer, x):
    """Output, gradients and state after one forward and one backward pass."""
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    slope = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    if y.requires_grad:
        (y.sin() * slope).sum().backward()
    grads = {name: p.grad for name, p in layer.named_parameters()}
    layer.zero_grad()
    return y.detach(), x.grad, grads, copy.deepcopy(dict(layer.state_dict()))


def same(layers, x, **tolerance):
    ours, theirs = (run(layer, x) for layer in layers)
    torch.testing.assert_close(ours, theirs, equal_nan=True, **tolerance)


def outcome(layer, x):
    """Type of the exception, or dtype and shape of the output."""
    try:
        y = layer(x)
    except Exception as error:
        return type(error)
    return y.dtype, y.shape


def same_outcome(ours, theirs, x):
    """Compare what is accepted and refused, and what it leaves behind."""
    want = outcome(theirs, x)
    assert outcome(ours, x) == want
    states = [copy.deepcopy(dict(layer.state_dict())) for layer in (ours, theirs)]
    if isinstance(want, type):  # PyTorch has counted the batch before it refuses it
        for state in states:
            state.pop("num_batches_tracked", None)
    torch.testing.assert_close(*states, equal_nan=True)
    return want


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", "Guards may run slower")  # Python 3.13.0
        yield


# The NumPy functions of chapters 2 and 3


def arrays(shape):
    rng = np.random.default_rng(3)
    x, dy = 2 + 3 * rng.standard_normal((2, *shape))
    weight, bias = rng.standard_normal((2, shape[1]))
    return x, dy, weight, bias


def test_numpy_forward_gives_numbers_computed_by_hand():
    x = np.array([[1.0, 10.0], [3.0, 50.0]])  # means 2, 30; variances 1, 400
    y = norm.batch_norm_forward(x, np.array([3.0, 1.0]), np.array([1.0, 0.0]), eps=0)
    np.testing.assert_allclose(y, [[-2, -1], [4, 1]])
    y = norm.batch_norm_forward(x, np.ones(2), np.zeros(2), eps=3)
    np.testing.assert_allclose(y[:, 0], [-0.5, 0.5])  # eps is inside the root


def test_numpy_backward_gives_numbers_computed_by_hand():
    a = math.sqrt(1.5)
    x, dy = np.array([[-a], [0], [a]]), np.array([[1.0], [0], [0]])
    dx, dweight, dbias = norm.batch_norm_backward(dy, x, np.array([2.0]), eps=0)
    np.testing.assert_allclose(dx[:, 0], [1 / 3, -2 / 3, 1 / 3])
    np.testing.assert_allclose((dweight, dbias), ([-a], [1]))


@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_numpy_functions_agree_with_pytorch(shape, eps):
    values = arrays(shape)
    x, dy, weight, bias = map(torch.tensor, values)
    leaves = [v.requires_grad_() for v in (x, weight, bias)]
    y = F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    expected = torch.autograd.grad(y, leaves, dy)
    ours = norm.batch_norm_forward(values[0], *values[2:], eps)
    np.testing.assert_allclose(ours, y.detach(), rtol=1e-10, atol=1e-12)
    grads = norm.batch_norm_backward(values[1], values[0], values[2], eps)
    for got, want in zip(grads, expected):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shape", [(5, 3), (3, 2, 4)])
def test_numpy_gradients_are_the_slopes_of_the_loss(shape):
    x, dy, weight, bias = arrays(shape)
    values = [x, weight, bias]
    grads = norm.batch_norm_backward(dy, x, weight, 0.1)
    for value, grad in zip(values, grads):
        slopes = np.empty_like(value)
        for index in np.ndindex(value.shape):
            old, losses = value[index], []
            for step in (1e-5, -1e-5):
                value[index] = old + step
                losses.append((dy * norm.batch_norm_forward(*values, 0.1)).sum())
            value[index] = old
            slopes[index] = (losses[0] - losses[1]) / 2e-5
        np.testing.assert_allclose(grad, slopes, rtol=1e-6, atol=1e-7)


def test_numpy_functions_leave_their_inputs_alone():
    values = arrays((4, 3, 5))
    before = copy.deepcopy(values)
    norm.batch_norm_forward(values[0], *values[2:])
    norm.batch_norm_backward(values[1], values[0], values[2])
    for now, then in zip(values, before):
        np.testing.assert_array_equal(now, then)


def test_eps_is_1e_minus_5_unless_given():
    x, dy, weight, bias = arrays((4, 3))
    y = norm.batch_norm_forward(x, weight, bias)
    np.testing.assert_array_equal(y, norm.batch_norm_forward(x, weight, bias, 1e-5))
    grads = norm.batch_norm_backward(dy, x, weight)
    for got, want in zip(grads, norm.batch_norm_backward(dy, x, weight, 1e-5)):
        np.testing.assert_array_equal(got, want)
    x, mean = torch.tensor(x), torch.zeros(3)
    y = norm.normalize(x, mean, mean)
    torch.testing.assert_close(y, F.batch_norm(x, mean.double(), mean.double()))


# The PyTorch functions of chapter 4


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_stats_are_mean_and_biased_variance(shape):
    x = torch.randn(shape, dtype=torch.float64) * 3 + 1
    mean, var = norm.batch_stats(x)
    channels = x.transpose(0, 1).reshape(3, -1).numpy()
    np.testing.assert_allclose(mean, np.mean(channels, axis=1))
    np.testing.assert_allclose(var, np.var(channels, axis=1))


def test_batch_stats_of_a_hand_example():
    mean, var = norm.batch_stats(torch.tensor([[[1.0, 2], [0, 0]], [[3, 6], [0, 4]]]))
    assert mean.tolist() == [3, 1]
    assert var.tolist() == [3.5, 3]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", ["both", "weight", "bias", "none"])
def test_normalize_is_pytorchs_evaluation(shape, affine):
    x = torch.randn(shape, dtype=torch.float64)
    mean, weight, bias = torch.randn(3, 3, dtype=torch.float64)
    weight = weight if affine in ("both", "weight") else None
    bias = bias if affine in ("both", "bias") else None
    var = torch.rand(3, dtype=torch.float64)
    y = norm.normalize(x, mean, var, weight, bias, 0.01)
    one, zero = torch.ones(3).double(), torch.zeros(3).double()
    w, b = one if weight is None else weight, zero if bias is None else bias
    torch.testing.assert_close(y, F.batch_norm(x, mean, var, w, b, False, 0, 0.01))


@pytest.mark.parametrize("shape", [(4, 2), (2, 2, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_first_and_second_derivatives_are_right(shape, training):
    layer = shuffled(norm.BatchNorm1d(2, eps=0.1, dtype=torch.float64)).train(training)
    state = copy.deepcopy(layer.state_dict())

    def call(x, weight, bias):
        held = {**copy.deepcopy(state), "weight": weight, "bias": bias}
        return torch.func.functional_call(layer, held, (x,))

    sizes = shape, 2, 2
    args = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in sizes]
    assert torch.autograd.gradcheck(call, args)
    assert torch.autograd.gradgradcheck(call, args)


# The layer, against torch.nn.BatchNorm1d


@pytest.mark.parametrize("kwargs", KWARGS, ids=name_of)
def test_every_option_follows_pytorch_through_mixed_steps(kwargs):
    layers = pair(eps=0.01, **kwargs)
    assert layers[0].state_dict().keys() == layers[1].state_dict().keys()
    for step in range(10):
        training = step % 4 != 3
        for layer in layers:
            layer.train(training)
        x = torch.randn((5, 3, 4) if step % 2 else (6, 3)).double() * (1 + step) + step
        same(layers, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kwargs", KWARGS, ids=name_of)
def test_constructor_sets_the_same_attributes(kwargs):
    ours, theirs = (kind(3, **kwargs) for kind in (norm.BatchNorm1d, nn.BatchNorm1d))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    names = [n for n, _ in theirs.named_parameters()]
    assert [n for n, _ in ours.named_parameters()] == names
    assert [n for n, _ in ours.named_buffers()] == [
        n for n, _ in theirs.named_buffers()
    ]
    for name in ("num_features", "eps", "momentum", "affine", "track_running_stats"):
        assert getattr(ours, name) == getattr(theirs, name)
    if HAS_BIAS:
        assert repr(ours) == repr(theirs)


def test_constructor_takes_arguments_in_pytorchs_order():
    ours = list(inspect.signature(norm.BatchNorm1d).parameters.values())
    theirs = list(inspect.signature(nn.BatchNorm1d).parameters.values())
    positional = [p.name for p in theirs if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in ours][: len(positional)] == positional
    defaults = {p.name: p.default for p in theirs}
    assert all(defaults.get(p.name, p.default) == p.default for p in ours)


def test_bias_false_leaves_the_shift_out():
    layer = shuffled(norm.BatchNorm1d(3, bias=False, dtype=torch.float64))
    assert layer.bias is None
    x = torch.randn(5, 3, dtype=torch.float64)
    y = F.batch_norm(x, None, None, layer.weight, torch.zeros(3).double(), True)
    torch.testing.assert_close(layer(x), y)


def test_running_statistics_are_those_computed_by_hand():
    layer = norm.BatchNorm1d(1, momentum=0.5)
    layer(torch.tensor([[1.0], [3.0]]))  # mean 2, unbiased variance 2
    assert (layer.running_mean.item(), layer.running_var.item()) == (1.0, 1.5)
    layer(torch.tensor([[[0.0, 6.0, 6.0, 0.0]]]))  # mean 3, unbiased variance 12
    assert (layer.running_mean.item(), layer.running_var.item()) == (2.0, 6.75)
    assert layer.num_batches_tracked.item() == 2


def test_momentum_none_is_the_plain_average():
    layer = norm.BatchNorm1d(3, momentum=None, dtype=torch.float64)
    batches = [torch.randn(n, 3, dtype=torch.float64) for n in (4, 9, 2)]
    for x in batches:
        layer(x)
    mean = np.mean([x.numpy().mean(0) for x in batches], axis=0)
    var = np.mean([x.numpy().var(0, ddof=1) for x in batches], axis=0)
    np.testing.assert_allclose(layer.running_mean, mean)
    np.testing.assert_allclose(layer.running_var, var)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_statistics_move_in_training_only_with_or_without_gradients(context, training):
    ours, theirs = pair()
    before = copy.deepcopy(ours.state_dict())
    x = torch.randn(5, 3, dtype=torch.float64)
    with context():
        y = ours.train(training)(x)
        torch.testing.assert_close(y, theirs.train(training)(x))
    assert not y.requires_grad
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert torch.equal(ours.running_mean, before["running_mean"]) is not training
    assert torch.equal(ours.running_var, before["running_var"]) is not training


def test_statistics_carry_no_graph():
    layer = norm.BatchNorm1d(3)
    x = torch.randn(5, 3, requires_grad=True)
    buffer = layer.running_mean
    layer(x)
    assert layer.running_mean is buffer  # updated in place
    assert not layer.running_mean.requires_grad
    assert not layer.running_var.requires_grad


# Dtypes


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "dtypes", list(itertools.product(FLOATS, repeat=3)), ids=name_of
)
def test_dtypes_are_accepted_and_refused_as_by_pytorch(dtypes, training):
    of_x, of_parameters, of_statistics = dtypes
    layers = []
    for layer in pair(dtype=of_parameters):
        layer.running_mean = torch.zeros(3, dtype=of_statistics)
        layer.running_var = torch.ones(3, dtype=of_statistics)
        layers.append(layer.train(training))
    x = torch.randn(5, 3).to(of_x)
    want = outcome(layers[1], x)
    assert outcome(layers[0], x) == want
    fits = of_x == of_parameters == of_statistics
    half = of_x.itemsize == 2 and of_parameters == of_statistics == torch.float32
    assert (want is RuntimeError) is not (fits or half)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "dtypes", list(itertools.product(FLOATS, repeat=2)), ids=name_of
)
@pytest.mark.parametrize("kwargs", [{"affine": False}, {"track_running_stats": False}])
def test_dtypes_of_what_is_there_decide(dtypes, kwargs, training):
    ours, theirs = pair(dtype=dtypes[1], **kwargs)
    x = torch.randn(5, 3).to(dtypes[0])
    want = outcome(theirs.train(training), x)
    assert outcome(ours.train(training), x) == want


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("of_parameters", ["half", torch.float32])
def test_half_precision_is_as_exact_as_its_format(half, of_parameters, training):
    dtype = half if of_parameters == "half" else of_parameters
    layers = pair(dtype=dtype)
    x = torch.randn(16, 3, 9).mul(4).add(3).to(half)
    for layer in layers:
        layer.train(training)
    exact = copy.deepcopy(layers[1]).double()(x.double())
    y = layers[0](x)
    assert y.dtype is half
    ulp = torch.finfo(half).eps
    torch.testing.assert_close(y.double(), exact, rtol=ulp, atol=2 * ulp)
    layers[1](x)
    state = layers[1].state_dict()
    tolerance = {"rtol": 2 * ulp, "atol": 2 * ulp} if of_parameters == "half" else {}
    torch.testing.assert_close(layers[0].state_dict(), state, **tolerance)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.cfloat])
@pytest.mark.parametrize("training", [True, False])
def test_input_that_is_not_floating_point_is_refused(dtype, training):
    x = torch.ones(5, 3).to(dtype)
    ours, theirs = pair(dtype=torch.float32)
    want = outcome(theirs.train(training), x)
    assert isinstance(want, type)
    assert as_here(outcome(ours.train(training), x)) is want


# Inputs of every shape and layout


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "x",
    [
        torch.arange(5.0).view(5, 1).expand(5, 3),
        torch.arange(3.0).view(1, 3, 1).expand(2, 3, 4),
        torch.linspace(-1, 1, 18).view(3, 6).t(),
        torch.linspace(-1, 1, 24).view(2, 4, 3).transpose(1, 2),
        torch.linspace(-1, 1, 48).view(4, 3, 4)[::2, :, 1::2],
    ],
    ids=["expanded", "expanded 3-D", "transposed", "channels last", "strided"],
)
def test_layout_in_memory_does_not_matter(x, training):
    layers = [layer.train(training) for layer in pair()]
    same(layers, x.double(), rtol=1e-6, atol=1e-6)
    ours, theirs = pair()
    y = ours.train(training)(x.double())
    torch.testing.assert_close(y, theirs.train(training)(x.double()))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (4, 3, 0), (0, 3, 0)])
@pytest.mark.parametrize(
    "kwargs", [{}, {"momentum": None}, {"affine": False}], ids=name_of
)
def test_empty_batch_gives_what_pytorch_gives(shape, training, kwargs):
    layers = [layer.train(training) for layer in pair(**kwargs)]
    same(layers, torch.empty(shape, dtype=torch.float64))


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 2), (2, 3, 1)])
def test_batches_of_one_value_per_channel(shape, training, track):
    layers = [layer.train(training) for layer in pair(track_running_stats=track)]
    want = same_outcome(*layers, torch.randn(shape, dtype=torch.float64))
    alone = math.prod(shape) == 3 and (training or not track)
    assert (want is ValueError) == alone


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "shape", [(), (3,), (2, 3, 4, 5), (5, 2), (5, 4), (2, 4, 3), (1, 4), (5, 1)]
)
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"affine": False}, {"affine": False, "track_running_stats": False}],
    ids=name_of,
)
def test_wrong_rank_or_channels_raise_as_pytorch_does(shape, training, kwargs):
    layers = [layer.train(training) for layer in pair(**kwargs)]
    same_outcome(*layers, torch.randn(shape, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(1, 3), (1, 4), (5, 4), (5,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("eps", [1e-5, 0.0] if STRICT_EPS else [1e-5])
def test_of_several_mistakes_the_one_that_pytorch_names_is_raised(shape, dtype, eps):
    layers = pair(dtype=torch.float32, eps=eps)
    same_outcome(*layers, torch.ones(shape).to(dtype))


def test_empty_batch_of_wrong_width_is_refused_though_pytorch_lets_it_pass():
    with pytest.raises(RuntimeError, match="4 elements not 3"):
        norm.BatchNorm1d(3)(torch.empty(0, 4))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4, 5), (5, 2), (1, 3)])
def test_a_refused_batch_leaves_the_running_statistics_alone(shape, training):
    layer = shuffled(norm.BatchNorm1d(3)).train(training)
    before = copy.deepcopy(layer.state_dict())
    if training or shape != (1, 3):
        with pytest.raises((ValueError, RuntimeError)):
            layer(torch.randn(shape))
    else:
        assert layer(torch.randn(shape)).shape == shape
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: norm.BatchNorm1d(3)(torch.randn(3)), "got 1D input"),
        (lambda: norm.BatchNorm1d(3)(torch.randn(1, 3)), "Expected more than 1 value"),
        (lambda: norm.BatchNorm1d(3)(torch.randn(5, 2)), "2 elements not 3"),
        (lambda: norm.BatchNorm1d(3)(torch.randn(5, 3).double()), "running|weight"),
        (lambda: norm.BatchNorm1d(3)(torch.ones(5, 3).long()), "torch.int64"),
        (lambda: norm.BatchNorm1d(3, eps=0)(torch.randn(5, 3)), "eps must be positive"),
    ],
)
def test_messages_name_the_value(make, match):
    with pytest.raises(Exception, match=match):
        make()


# Numbers that are hard


@pytest.mark.parametrize("shape", [(64, 3), (64, 3, 17)])
@pytest.mark.parametrize("offset", [10.0**k for k in range(7)])
def test_large_offsets_cost_no_more_than_in_pytorch(shape, offset):
    x = (torch.randn(shape, dtype=torch.float64) + offset).float()
    exact = F.batch_norm(x.double(), None, None, training=True)
    ours, theirs = (
        (layer(x).double() - exact).abs().max().item()
        for layer in (norm.BatchNorm1d(3), nn.BatchNorm1d(3))
    )
    one_ulp = torch.finfo(torch.float32).eps * max(offset, 4)  # of x, and of the mean
    assert ours <= 2 * theirs + one_ulp


@pytest.mark.parametrize("shape", [(4096, 3), (64, 3, 64)])
@pytest.mark.parametrize("offset", [10.0**k for k in range(1, 7)])
def test_mean_is_as_exact_as_float32_can_hold(offset, shape):
    x = (torch.randn(shape, dtype=torch.float64) + offset).float()
    mean, _ = norm.batch_stats(x)
    exact = x.double().transpose(0, 1).reshape(3, -1).mean(1).numpy()
    assert np.all(abs(mean.numpy() - exact) <= 0.6 * np.spacing(np.float32(exact)))


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_variance_survives_an_offset(offset):
    x = (torch.randn(256, 3, dtype=torch.float64) + offset).float()
    _, var = norm.batch_stats(x)
    np.testing.assert_allclose(var, x.double().numpy().var(0), rtol=0.01)


@pytest.mark.parametrize("shape", [(8, 3), (4, 3, 5)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_stay_in_their_channel(bad, training, shape):
    layers = [layer.train(training) for layer in pair()]
    x = torch.randn(shape, dtype=torch.float64)
    x[1, 1] = bad
    ys = [layer(x) for layer in layers]
    torch.testing.assert_close(ys[0], ys[1], equal_nan=True)
    assert ys[0][:, ::2].isfinite().all()
    assert bool(ys[0][:, 1].isfinite().any()) is not training
    ours, theirs = (dict(layer.state_dict()) for layer in layers)
    if training and math.isinf(bad):  # PyTorch's running mean is infinite, ours NaN
        assert not theirs["running_mean"][1].isfinite()
        assert not ours["running_mean"][1].isfinite()
        ours["running_mean"][1] = theirs["running_mean"][1]
    torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_constant_channel_gives_the_bias():
    layer = shuffled(norm.BatchNorm1d(3))
    y = layer(torch.full((6, 3), 0.1))
    torch.testing.assert_close(y, layer.bias.expand(6, 3), rtol=0, atol=1e-5)


# Changes after construction


CHANGES = {
    "no statistics": {"running_mean": None, "running_var": None},
    "no count": {"num_batches_tracked": None},
    "no count, plain average": {"num_batches_tracked": None, "momentum": None},
    "no weight": {"weight": None},
    "no bias": {"bias": None},
    "momentum": {"momentum": 0.9},
    "plain average": {"momentum": None},
    "eps": {"eps": 0.7},
    **({"eps zero": {"eps": 0.0}, "eps negative": {"eps": -1.0}} if STRICT_EPS else {}),
    "tracking off": {"track_running_stats": False},
    "affine off": {"affine": False},
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_attributes_set_later_count_as_in_pytorch(change, training):
    if change == "eps zero" and not (training or ZERO_EPS_AS_NOW):
        pytest.skip("PyTorch 2.11 refuses it in evaluation as well")
    layers = [layer.train(training) for layer in pair()]
    for layer, (name, value) in itertools.product(layers, CHANGES[change].items()):
        setattr(layer, name, value)
    x = torch.randn(5, 3, dtype=torch.float64)
    if not isinstance(same_outcome(*layers, x), type):
        same(layers, x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_one_of_two_running_statistics_is_refused_in_both_modes(name, training):
    ours, theirs = (layer.train(training) for layer in pair())
    setattr(ours, name, None)
    setattr(theirs, name, None)
    x = torch.randn(5, 3, dtype=torch.float64)
    if STRICT_EPS or not training:  # before, training took no notice
        assert outcome(theirs, x) in (ValueError, RuntimeError)  # by mode and version
    with pytest.raises(ValueError, match="both be None or neither"):
        ours(x)


def test_tracking_switched_on_later_stays_with_the_batch():
    layers = pair(track_running_stats=False)
    for layer in layers:
        layer.track_running_stats = True
    same(layers, torch.randn(5, 3, dtype=torch.float64))
    for layer in layers:
        layer.eval()
    same(layers, torch.randn(5, 3, dtype=torch.float64))


def test_resets_bring_back_the_start():
    layer = norm.BatchNorm1d(3)
    fresh = copy.deepcopy(layer.state_dict())
    shuffled(layer)(torch.randn(5, 3))
    weight = layer.weight.clone()
    layer.reset_running_stats()
    assert torch.equal(layer.weight, weight)
    assert layer.num_batches_tracked == 0
    layer.reset_parameters()
    torch.testing.assert_close(layer.state_dict(), fresh, rtol=0, atol=0)


# States, copies, devices


def test_states_load_both_ways():
    ours, theirs = pair()
    ours(torch.randn(5, 3, dtype=torch.float64))
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs.state_dict(), ours.state_dict(), rtol=0, atol=0)


def test_state_without_a_count_loads_when_old_only():
    for layer in pair():
        layer.num_batches_tracked.fill_(7)
        state = copy.deepcopy(layer.state_dict())
        del state["num_batches_tracked"]
        state["running_mean"].fill_(5)
        with pytest.raises(RuntimeError, match="num_batches_tracked"):
            layer.load_state_dict(state)  # metadata says version 2
        layer.load_state_dict(dict(state))  # no metadata: an old file
        assert layer.running_mean.tolist() == [5, 5, 5]
        assert layer.num_batches_tracked == 7


def test_state_without_a_version_keeps_its_count():
    state = dict(nn.BatchNorm1d(3).state_dict())
    state["num_batches_tracked"] = torch.tensor(9)
    layer = norm.BatchNorm1d(3)
    layer.load_state_dict(state)
    assert layer.num_batches_tracked == 9


def test_state_without_a_version_or_statistics_loads():
    for layer in pair(track_running_stats=False):
        state = {"weight": torch.full((3,), 2.0), "bias": torch.full((3,), 7.0)}
        layer.load_state_dict(state)
        assert (layer.weight.tolist(), layer.bias.tolist()) == ([2.0] * 3, [7.0] * 3)


def test_loading_does_not_change_the_callers_state():
    state = dict(nn.BatchNorm1d(3).state_dict())
    del state["num_batches_tracked"]
    keys = list(state)
    norm.BatchNorm1d(3).load_state_dict(state)
    assert list(state) == keys


def test_a_state_says_which_version_it_is():
    ours, theirs = (
        k(3).state_dict()._metadata[""] for k in (norm.BatchNorm1d, nn.BatchNorm1d)
    )
    assert ours["version"] == theirs["version"]


@pytest.mark.parametrize("training", [True, False])
def test_output_lies_in_memory_as_pytorchs(training):
    x = torch.randn(4, 5, 3).transpose(1, 2)
    ours, theirs = (k(3).train(training)(x) for k in (norm.BatchNorm1d, nn.BatchNorm1d))
    assert ours.stride() == theirs.stride()


def test_deep_copies_share_nothing():
    layer = shuffled(norm.BatchNorm1d(3))
    other = copy.deepcopy(layer)
    before = copy.deepcopy(layer.state_dict())
    other(torch.randn(5, 3))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert other.num_batches_tracked == 1


def test_saved_state_loads_with_weights_only():
    layer = shuffled(norm.BatchNorm1d(3, momentum=None))
    layer(torch.randn(5, 3))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = nn.BatchNorm1d(3, momentum=None)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(5, 3)
    torch.testing.assert_close(other.eval()(x), layer.eval()(x))


@pytest.mark.parametrize("move", ["half", "double", "bfloat16", "float"])
def test_moves_convert_all_but_the_count(move):
    ours, theirs = (getattr(layer, move)() for layer in pair(dtype=torch.float32))
    types = {name: value.dtype for name, value in theirs.state_dict().items()}
    assert {n: v.dtype for n, v in ours.state_dict().items()} == types
    assert types["num_batches_tracked"] is torch.int64
    x = torch.randn(5, 3).to(types["weight"])
    assert ours(x).dtype is x.dtype


@pytest.mark.parametrize("training", [True, False])
def test_meta_device_gives_shapes_without_values(training):
    layer = norm.BatchNorm1d(3, device="meta").train(training)
    assert {v.device.type for v in layer.state_dict().values()} == {"meta"}
    y = layer(torch.empty(5, 3, 4, device="meta"))
    assert (y.device.type, y.shape) == ("meta", (5, 3, 4))
    real = layer.to_empty(device="cpu")
    real.reset_parameters()
    torch.testing.assert_close(real.state_dict(), nn.BatchNorm1d(3).state_dict())


# torch.func and torch.compile


@pytest.mark.parametrize("training", [True, False])
def test_functional_call_and_grad_take_parameters_from_outside(training):
    layers = [layer.train(training) for layer in pair()]
    x = torch.randn(5, 3, dtype=torch.float64)
    answers = []
    for layer in layers:
        parameters = {k: 2 * v.detach() for k, v in layer.named_parameters()}
        buffers = {k: v.clone() for k, v in layer.named_buffers()}

        def loss(parameters, buffers, layer=layer):
            buffers = dict(buffers)
            y = torch.func.functional_call(layer, (parameters, buffers), (x,))
            return y.sin().sum(), buffers

        answers.append(torch.func.grad(loss, has_aux=True)(parameters, buffers))
        assert layer.num_batches_tracked == 0
    torch.testing.assert_close(*answers)


def test_vmap_over_batches_in_evaluation():
    ours, theirs = (layer.eval() for layer in pair())
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    want = torch.stack([theirs(batch) for batch in x])
    torch.testing.assert_close(torch.func.vmap(ours)(x), want)


@pytest.mark.parametrize("training", [True, False])
def test_compiles_in_one_graph(training):
    torch._dynamo.reset()
    ours, theirs = (layer.train(training) for layer in pair())
    x = torch.randn(5, 3, dtype=torch.float64)
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
