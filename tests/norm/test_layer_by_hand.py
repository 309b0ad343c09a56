"""The book's layer itself: numbers by hand, its arguments, and where it is stricter or better.

What it shares with the fast layers is in the files beside this one.
"""

from __future__ import annotations

import copy
import inspect
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from layers import STRICT_EPS, ZERO_EPS_AS_NOW, shuffled
from torch import nn
from twins import FLOATS, outcome, same_step
from twins import pair as twins

from bnutils import norm

pytestmark = pytest.mark.usefixtures("strict")


HAS_BIAS = "bias" in inspect.signature(nn.BatchNorm1d).parameters
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


@pytest.fixture(autouse=True)
def device():
    """On the CPU: what the layers share runs on every device, in the files beside this one."""
    torch.manual_seed(0)


def pair(c=3, **options):
    """The book's layer and PyTorch's, in the same state."""
    return twins(norm.BatchNorm1d, c, **options)


@pytest.mark.parametrize("kwargs", KWARGS, ids=name_of)
def test_every_option_follows_pytorch_through_mixed_steps(kwargs):
    layers = pair(eps=0.01, **kwargs)
    assert layers[0].state_dict().keys() == layers[1].state_dict().keys()
    for step in range(10):
        training = step % 4 != 3
        for layer in layers:
            layer.train(training)
        x = torch.randn((5, 3, 4) if step % 2 else (6, 3)).double() * (1 + step) + step
        same_step(layers, x, rtol=1e-8, atol=1e-8)


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


@pytest.mark.skipif(not STRICT_EPS, reason="this PyTorch does not look at eps")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("eps", [0.0, -1.0])
def test_an_eps_set_later_counts_as_in_pytorch(eps, training):
    if eps == 0 and not (training or ZERO_EPS_AS_NOW):
        pytest.skip("PyTorch 2.11 refuses it in evaluation as well")
    layers = [layer.train(training) for layer in pair()]
    for layer in layers:
        layer.eps = eps
    same_step(layers, torch.randn(5, 3, dtype=torch.float64))


def test_statistics_carry_no_graph():
    layer = norm.BatchNorm1d(3)
    x = torch.randn(5, 3, requires_grad=True)
    buffer = layer.running_mean
    layer(x)
    assert layer.running_mean is buffer  # updated in place
    assert not layer.running_mean.requires_grad
    assert not layer.running_var.requires_grad


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "dtypes", list(itertools.product(FLOATS, repeat=2)), ids=name_of
)
@pytest.mark.parametrize("kwargs", [{"affine": False}, {"track_running_stats": False}])
def test_dtypes_of_what_is_there_decide(dtypes, kwargs, training):
    ours, theirs = pair(dtype=dtypes[1], **kwargs)
    x = torch.randn(5, 3).to(dtypes[0])
    found = [outcome(layer.train(training), x) for layer in (ours, theirs)]
    assert [type(y) for y in found] in ([torch.Tensor] * 2, [RuntimeError] * 2)
    assert getattr(found[0], "dtype", None) == getattr(found[1], "dtype", None)


@pytest.mark.parametrize("shape", [(1, 3), (1, 4), (5, 4), (5,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("eps", [1e-5, 0.0] if STRICT_EPS else [1e-5])
def test_of_several_mistakes_the_one_that_pytorch_names_is_raised(shape, dtype, eps):
    layers = pair(dtype=torch.float32, eps=eps)
    same_step(layers, torch.ones(shape).to(dtype))


def test_empty_batch_of_wrong_width_is_refused_though_pytorch_lets_it_pass():
    with pytest.raises(RuntimeError, match="4 elements not 3"):
        norm.BatchNorm1d(3)(torch.empty(0, 4))


@pytest.mark.parametrize(
    ("eps", "x", "match"),
    [
        (1e-5, torch.randn(5, 3).double(), "weight is torch.float32"),
        (1e-5, torch.ones(5, 3).long(), "torch.int64"),
        (0, torch.randn(5, 3), "eps must be positive"),
    ],
)
def test_messages_name_the_value(eps, x, match):
    with pytest.raises(Exception, match=match):
        norm.BatchNorm1d(3, eps=eps)(x)


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


def test_constant_channel_gives_the_bias():
    layer = shuffled(norm.BatchNorm1d(3))
    y = layer(torch.full((6, 3), 0.1))
    torch.testing.assert_close(y, layer.bias.expand(6, 3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_one_of_two_running_statistics_is_refused_in_both_modes(name, training):
    ours, theirs = (layer.train(training) for layer in pair())
    setattr(ours, name, None)
    setattr(theirs, name, None)
    x = torch.randn(5, 3, dtype=torch.float64)
    if STRICT_EPS or not training:  # before, training took no notice
        assert isinstance(
            outcome(theirs, x), ValueError | RuntimeError
        )  # by mode and version
    with pytest.raises(ValueError, match="both be None or neither"):
        ours(x)


def test_tracking_switched_on_later_stays_with_the_batch():
    layers = pair(track_running_stats=False)
    for layer in layers:
        layer.track_running_stats = True
    same_step(layers, torch.randn(5, 3, dtype=torch.float64))
    for layer in layers:
        layer.eval()
    same_step(layers, torch.randn(5, 3, dtype=torch.float64))


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
def test_meta_device_gives_shapes_without_values(training):
    layer = norm.BatchNorm1d(3, device="meta").train(training)
    assert {v.device.type for v in layer.state_dict().values()} == {"meta"}
    y = layer(torch.empty(5, 3, 4, device="meta"))
    assert (y.device.type, y.shape) == ("meta", (5, 3, 4))
    real = layer.to_empty(device="cpu")
    real.reset_parameters()
    torch.testing.assert_close(real.state_dict(), nn.BatchNorm1d(3).state_dict())
