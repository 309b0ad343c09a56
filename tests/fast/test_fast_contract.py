"""Every gear of the fast layer does what PyTorch's layer does; see also test_same_as_torch."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings

import pytest
import torch
from fast_layers import (
    COMPILE,
    agree,
    both_modes,
    each_gear,
    gradients,
    normal,
    pair,
)
from torch import nn

from bnutils import conformance, fast
from bnutils.fast import lean

SHAPES = [(32, 512), (7, 45), (2, 1), (5, 33, 1), (6, 3, 50), (64, 8, 9)]


@each_gear
def test_conformance(cls):
    report = conformance.compare(cls)
    assert report.passed, report


@each_gear
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gear_itself_runs_and_not_the_plain_layer(cls, dtype, monkeypatch):
    layers = cls(5, dtype=dtype), cls(5, dtype=dtype, bias=False)
    monkeypatch.setattr(
        fast.norm.BatchNorm1d, "forward", lambda *_: pytest.fail("norm")
    )
    for shape in ((4, 5), (4, 5, 3)):
        for layer in layers:
            layer.train()(torch.randn(shape, dtype=dtype))
            layer.eval()(torch.randn(shape, dtype=dtype))


@each_gear
@both_modes
def test_under_a_tracer_the_plain_layer_runs(cls, training):
    layer, x = cls(3).train(training), torch.randn(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and says so
        traced = torch.jit.trace(layer, x, check_trace=False)
    torch.testing.assert_close(traced(x), layer(x))


@COMPILE
@pytest.mark.parametrize(("shape", "fused"), [((4, 3), 0), ((4, 3, 2), 2)], ids=str)
def test_gear_compile_fuses_where_there_are_positions(shape, fused, monkeypatch):
    compiled = []

    def record(function):
        compiled.append(function)
        return function

    monkeypatch.setattr(lean, "compiled", record)
    fast.CompileBatchNorm1d(3)(torch.randn(shape)).sum().backward()
    assert compiled == [lean.forward_whole, lean.backward_whole][:fused]


# Values and first derivatives


@each_gear
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@both_modes
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_values_gradients_and_statistics(cls, shape, training, momentum, affine):
    layers = pair(cls, shape[1], momentum=momentum, affine=affine, training=training)
    for seed in range(2):
        x, dy = normal(2, *shape, seed=seed)
        agree(layers, 3 * x + 5, dy, rtol=1e-9, atol=1e-10)


@each_gear
@pytest.mark.parametrize("gone", ["weight", "bias"])
@both_modes
def test_a_weight_or_a_bias_alone(cls, gone, training):
    layers = pair(cls, 4, training=training)
    for layer in layers:
        setattr(layer, gone, None)
        nn.init.constant_(next(layer.parameters()), 1.5)
    agree(layers, *normal(2, 5, 4))
    agree(layers, *normal(2, 5, 4, 3))
    assert layers[0](normal(4, 4)).requires_grad  # though the input asks for nothing


@each_gear
@pytest.mark.parametrize("counter", [None, torch.tensor(2.0)], ids=str)
def test_a_plain_average_without_a_counter_or_with_another(cls, counter):
    layers = pair(cls, 4, momentum=None)
    for layer in layers:
        layer.num_batches_tracked = copy.deepcopy(counter)
    before = layers[0].running_mean.clone()
    agree(layers, *normal(2, 5, 4))
    assert torch.equal(layers[0].running_mean, before) == (counter is None)


@each_gear
def test_a_nan_reaches_the_statistics_even_at_momentum_zero(cls):
    x, dy = normal(2, 5, 4)
    x[2, 1] = torch.nan
    layers = pair(cls, 4, momentum=0.0)
    agree(layers, x, dy)
    assert layers[0].running_var.isnan().tolist() == [False, True, False, False]


@each_gear
@both_modes
def test_statistics_that_are_no_longer_tracked_stay_as_they_are(cls, training):
    layers = pair(cls, 4, training=training)
    for layer in layers:
        layer.track_running_stats = False
    agree(layers, *normal(2, 5, 4))


@each_gear
@both_modes
def test_input_may_lie_anywhere_in_memory(cls, training):
    layers = pair(cls, 4, training=training)
    for x in (normal(4, 6).t(), normal(6, 3, 4).transpose(1, 2), normal(6, 8)[:, ::2]):
        agree(layers, x, torch.ones_like(x) * x.sin())
        assert copy.deepcopy(layers[0])(x).is_contiguous()


@each_gear
def test_inference_mode(cls):
    layer, theirs = pair(cls, 3)
    with torch.inference_mode():
        x = normal(4, 3)
        torch.testing.assert_close(layer(x), theirs(x))
        torch.testing.assert_close(layer.eval()(x), theirs.eval()(x))


# Derivatives of derivatives, several at once, forwards


@each_gear
@both_modes
def test_second_derivatives(cls, training):
    layer, _ = pair(cls, 3, training=training)
    weight, bias = (p.detach().clone().requires_grad_() for p in layer.parameters())

    def f(x, weight, bias):
        names = {"weight": weight, "bias": bias}
        return torch.func.functional_call(copy.deepcopy(layer), names, x)

    for shape in ((4, 3), (3, 3, 2)):
        x = normal(*shape).requires_grad_()
        assert torch.autograd.gradcheck(f, (x, weight, bias))
        assert torch.autograd.gradgradcheck(f, (x, weight, bias))


@each_gear
@pytest.mark.parametrize("shape", [(9, 4), (5, 4, 3)], ids=str)
@both_modes
def test_gradients_that_can_be_differentiated_know_eps(cls, shape, training):
    x, dy = normal(2, *shape)
    layers = pair(cls, 4, training=training, eps=0.5)
    found = [gradients(m, x, dy, create_graph=True) for m in layers]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@each_gear
@both_modes
def test_many_gradients_at_once(cls, training):
    layer = cls(4, dtype=torch.float64).train(training)
    x, *slopes = normal(4, 5, 4)
    inputs = [x.requires_grad_(), *layer.parameters()]
    y = layer(x)
    grad = functools.partial(torch.autograd.grad, y, inputs, retain_graph=True)
    many = grad(torch.stack(slopes), is_grads_batched=True)
    each = zip(*map(grad, slopes), strict=True)
    torch.testing.assert_close(many, tuple(map(torch.stack, each)))


@each_gear
def test_under_transforms_and_forward_mode(cls):
    layer, theirs = pair(cls, 3, training=False)
    x, tangent = normal(2, 4, 3)
    many = torch.stack([x, 2 * x])
    torch.testing.assert_close(
        torch.func.vmap(layer)(many), torch.func.vmap(theirs)(many)
    )
    results = [torch.func.jvp(m, (x,), (tangent,))[1] for m in (layer, theirs)]
    torch.testing.assert_close(*results)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        assert torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent is not None


# Autograd hears of every change


@each_gear
def test_changing_what_was_saved_is_noticed(cls):
    layer = cls(3)
    x = torch.randn(4, 3, requires_grad=True)
    z = x * 1
    y = layer(z).sum()
    z.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@each_gear
@pytest.mark.parametrize("name", dict(nn.BatchNorm1d(1).named_buffers()))
def test_an_update_of_the_statistics_is_noticed(cls, name):
    layer, w = cls(3), torch.ones((), requires_grad=True)
    loss = (getattr(layer, name) * w).sum()
    layer(torch.randn(4, 3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(("large", "copies"), [(1, 1), (10**9, 2)])
def test_of_a_large_input_nothing_of_its_size_is_kept(large, copies, monkeypatch):
    monkeypatch.setattr(lean, "LARGE", large)
    kept, x = [], torch.randn(8, 3, requires_grad=True)

    def pack(t):
        kept.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        fast.TorchBatchNorm1d(3)(x)
    assert kept.count(x.numel()) == copies  # the input itself, and it less a constant


@each_gear
def test_copies_and_pickles(cls):
    layer = cls(3)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.gear == layer.gear
        torch.testing.assert_close(other(torch.ones(2, 3)), torch.zeros(2, 3))


# State that somebody replaced

STATE = pytest.mark.parametrize("name", list(nn.BatchNorm1d(1).state_dict())[:4])


def replaced(layer, name, value):
    setattr(layer, name, nn.Parameter(value) if name in layer._parameters else value)
    return layer


@each_gear
@STATE
@both_modes
def test_a_state_of_another_dtype_or_length_is_refused(cls, name, training):
    for wrong in (torch.ones(4, dtype=torch.float64), torch.ones(5), torch.ones(3)):
        layer = replaced(cls(4), name, wrong).train(training)
        with pytest.raises(RuntimeError, match="mixed dtype|should contain"):
            layer(torch.randn(5, 4))
        assert (getattr(layer, name) == 1).all()


@each_gear
@both_modes
def test_input_of_other_channels_is_refused(cls, training):
    for shape in ((5, 3), (5, 3, 2)):
        with pytest.raises(RuntimeError, match="should contain 3 elements not 4"):
            cls(4).train(training)(torch.randn(shape))


@each_gear
@STATE
@both_modes
def test_a_state_may_lie_anywhere_in_memory(cls, name, training):
    value, layers = normal(4, 2).abs()[:, 0], pair(cls, 4, training=training)
    replaced(layers[0], name, value)
    replaced(layers[1], name, value.contiguous())  # PyTorch 2.13 needs that
    agree(layers, *normal(2, 5, 4))


@each_gear
@pytest.mark.parametrize("gone", ["running_mean", "running_var"])
@both_modes
def test_one_running_statistic_without_the_other_is_refused(cls, gone, training):
    layer = cls(3).train(training)
    setattr(layer, gone, None)
    with pytest.raises(ValueError, match="both be None or neither"):
        layer(torch.randn(4, 3))


@each_gear
def test_one_value_per_channel_is_refused_where_the_batch_is_all_there_is(cls):
    layer = cls(4, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.ones(1, 4))
