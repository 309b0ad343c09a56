"""Outputs, derivatives and running statistics in every mode and dtype, for values that are hard."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from layers import mixed, on_gpu
from twins import FLOATS, agree, each, modes, nightly, outcome, pair, same_step, step

pytestmark = pytest.mark.usefixtures("strict")
CONTEXTS = {
    "grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


# Derivatives and trajectories


@each
@modes
@pytest.mark.parametrize("shape", [(4, 3), (3, 3, 2)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"track_running_stats": False}], ids=str
)
def test_first_and_second_derivatives(cls, shape, training, options):
    layers = pair(cls, training=training, **options)
    x, v = torch.randn(2, *shape, dtype=torch.float64)
    found = []
    for layer in layers:
        inputs = [x.clone().requires_grad_(), *layer.parameters()]
        first = torch.autograd.grad(
            (layer(inputs[0]).sin() * v).sum(), inputs, create_graph=True
        )
        scalar = sum((g.cos() * (1 + i)).sum() for i, g in enumerate(first))
        second = torch.autograd.grad(scalar, inputs, allow_unused=True)
        found.append(([g.detach() for g in first], list(second)))
    agree(*found, rtol=1e-8, atol=1e-9)


@each
@modes
@pytest.mark.parametrize("options", [{}, {"affine": False}], ids=str)
def test_gradients_of_some_of_the_inputs_only(cls, training, options):
    layers = pair(cls, training=training, **options)
    x = torch.randn(5, 3).double()
    found = []
    for layer in layers:
        z = x.clone().requires_grad_()
        for wanted in (z, *layer.parameters()):
            found.append(torch.autograd.grad(layer(z).pow(3).sum(), wanted))
    half = len(found) // 2
    agree(found[:half], found[half:])


MOVES = list(itertools.product((True, False), CONTEXTS))


@each
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("length", [2, pytest.param(3, marks=nightly)])
def test_trajectories_under_every_mix_of_modes_and_contexts(cls, length, momentum):
    for sequence in itertools.product(MOVES, repeat=length):
        layers = pair(cls, momentum=momentum)
        for training, context in sequence:
            x = torch.randn(5, 3).double() * 2 + 1
            for layer in layers:
                layer.train(training)
            with CONTEXTS[context]():
                same_step(layers, x)
                buffers = list(layers[0].buffers())
                assert not any(b.requires_grad for b in buffers)
        assert layers[0].num_batches_tracked == sum(mode for mode, _ in sequence)


@each
def test_a_layer_made_in_inference_mode(cls):
    with torch.inference_mode():
        layers = pair(cls)
        x = torch.randn(5, 3).double()
        for _ in range(2):
            same_step(layers, x)
    for layer in layers:
        layer.train()
    found = [outcome(layer, torch.randn(5, 3).double()) for layer in layers]
    assert isinstance(found[0], RuntimeError) == isinstance(found[1], RuntimeError)


@each
def test_calls_of_one_layer_within_one_graph(cls):
    layers = pair(cls)
    x = torch.randn(6, 3).double()
    found = []
    for layer in layers:
        z = x.clone().requires_grad_()
        y = layer(layer(z) * 2 + layer(z[:3]).sum(0))
        (grad,) = torch.autograd.grad(y.pow(3).sum(), z)
        found.append((y.detach(), grad, dict(layer.state_dict())))
    agree(*found)


# Dtypes


@each
@modes
@pytest.mark.parametrize("of_x", FLOATS, ids=str)
def test_every_mix_of_three_dtypes(cls, of_x, training):
    for of_parameters, of_statistics in itertools.product(FLOATS, FLOATS):
        layers = pair(cls, dtype=of_parameters, training=training)
        for layer in layers:
            layer.running_mean = layer.running_mean.to(of_statistics)
            layer.running_var = layer.running_var.to(of_statistics)
        kinds = {of_x, of_parameters, of_statistics}
        if on_gpu() and mixed(of_x, of_parameters, of_statistics):
            # PyTorch takes more there than on the CPU; the book's layers do not
            found = outcome(step, layers[0], torch.randn(8, 3).to(of_x))
            assert isinstance(found, RuntimeError) and "mixed dtype" in str(found)
            continue
        loose = min(kinds, key=lambda t: t.itemsize * 100 - torch.finfo(t).eps)
        allowed = {2: 0.06, 4: 1e-4, 8: 1e-9}[loose.itemsize]
        for shape in ((8, 3), (4, 3, 5)):
            x = torch.randn(shape).to(of_x)
            same_step(layers, x, rtol=allowed, atol=allowed)


@each
@modes
@pytest.mark.parametrize("dtype", FLOATS[:2], ids=str)
def test_a_layer_in_half_precision_rounds_once(cls, dtype, training):
    """Output and statistics lie no further from the exact ones than the type demands."""
    layer, _ = pair(cls, dtype=dtype, training=training)
    exact = copy.deepcopy(layer).double()
    x = 2 * torch.randn(200, 3).to(dtype) - 1
    found = [
        [m(z), m.running_mean, m.running_var]
        for m, z in ((layer, x), (exact, x.double()))
    ]
    for ours, true in zip(*found):
        half_a_step = true.abs() * torch.finfo(dtype).eps / 2
        assert ours.dtype == dtype
        assert ((ours.double() - true).abs() <= 1.01 * half_a_step + 2e-6).all()


@each
@modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast(cls, dtype, training):
    layers = pair(cls, dtype=torch.float32, training=training)
    x = torch.randn(8, 3).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same_step(layers, x, rtol=0.02, atol=0.02)
        assert layers[0](x).dtype is layers[1](x).dtype


# Values


def planted(value):
    x = torch.randn(6, 3, 2)
    x[1, 1, 0] = value
    return x


VALUES = {
    "NaN": lambda: planted(math.nan),
    "zero": lambda: torch.zeros(6, 3),
    "zero variance": lambda: torch.tensor([0.0, 1.0, -7.0]).expand(6, 3),
    "one quiet channel": lambda: torch.randn(6, 3) * torch.tensor([1, 3e-3, 1]),
    "near eps": lambda: torch.randn(6, 3) * math.sqrt(1e-5),
    "tiny": lambda: torch.randn(6, 3) * 1e-30,
    "subnormal": lambda: torch.randn(6, 3) * 1e-40,
    "large": lambda: torch.randn(6, 3) * 1e15,
    "beyond the square's range": lambda: torch.randn(6, 3) * 1e25,
    "two values": lambda: torch.tensor([[0.0, 1, -1], [0.0, -1, 5]]),
    "nearly all equal": lambda: planted(3.0) * 0 + planted(1.0),
}


@each
@modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", VALUES)
def test_values_that_are_hard(cls, value, dtype, training):
    layers = pair(cls, dtype=dtype, training=training)
    x = VALUES[value]().to(dtype)
    ours, theirs = (layer(x) for layer in layers)
    loose = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {}
    if on_gpu() and training and "beyond" in value and dtype is torch.float32:
        assert theirs.isnan().all()  # inf times the zero values of an idle thread
        agree(ours, layers[0].bias.expand_as(x))
        return
    agree(ours, theirs, **loose)
    agree(*(dict(layer.state_dict()) for layer in layers), **loose)


@each
@modes
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_in_its_channel(cls, bad, training):
    layers = pair(cls, training=training)
    x = planted(bad).double()
    ours, theirs = (layer(x) for layer in layers)
    agree(ours, theirs)
    found = [
        [v.isfinite() for v in layer.state_dict().values()] for layer in layers
    ]  # of an infinity PyTorch's running mean is infinite, the book's NaN
    agree(*found)


@each
@modes
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["input", "gradient"])
def test_gradients_next_to_what_is_not_finite(cls, where, bad, training):
    """Above all in evaluation, where a bad input has no say in its own gradient."""
    good = torch.randn(2, 6, 3, 2).double()
    x, dy = (planted(bad).double(), good[0]) if where == "input" else good
    if where == "gradient":
        dy = planted(bad).double()
    found = []
    for layer in pair(cls, training=training):
        z = x.clone().requires_grad_()
        grads = torch.autograd.grad(layer(z), (z, *layer.parameters()), dy)
        found.append([torch.where(g.isfinite(), g, math.nan) for g in grads])
    agree(*found)
