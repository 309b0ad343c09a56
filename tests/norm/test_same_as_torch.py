"""Promise by promise: every layer of the book is torch.nn.BatchNorm1d to whoever uses it.

tests/test_norm.py goes through the book's own layer in detail; here every gear of the fast layer
passes through the same gates, and through PyTorch's own sample inputs.
"""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import math
import pickle
import warnings

import pytest
import torch
from layers import DEVICES, STRICT_EPS, as_here, by_default_on, mixed, on_gpu, shuffled
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from bnutils import fast, norm

HAS_BIAS = "bias" in inspect.signature(nn.BatchNorm1d).parameters
KERNEL = pytest.mark.skipif(
    bool(fast.available("kernel")), reason="no compiler for the kernel"
)
COMPILE = pytest.mark.skipif(
    bool(fast.available("compile")), reason="no compiler for torch.compile"
)
LAYERS = [
    norm.BatchNorm1d,
    fast.TorchBatchNorm1d,
    pytest.param(fast.KernelBatchNorm1d, marks=KERNEL),
]
each = pytest.mark.parametrize("cls", LAYERS)
modes = pytest.mark.parametrize("training", [True, False])
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CONTEXTS = {
    "grad": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}


def pair(cls, c=3, dtype=torch.float64, training=True, **options):
    """A layer of the class and PyTorch's, in the same state and mode."""
    theirs = shuffled(nn.BatchNorm1d(c, dtype=dtype, **options)).train(training)
    ours = cls(c, dtype=dtype, **options).train(training)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def outcome(call, *args, **options):
    """What a call returns, or the exception that it raises."""
    try:
        return call(*args, **options)
    except Exception as error:
        return error


def agree(a, b, **tolerance):
    """Both raise the same type, or return the same values."""
    if isinstance(b, Exception):
        assert as_here(type(a)) is type(b), f"{a!r} instead of {b!r}"
        assert str(a)
        return
    if isinstance(a, Exception):
        raise AssertionError(f"raised {a!r}") from a
    torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


def step(layer, x):
    """Output, gradients and state after a forward and a backward pass."""
    x = x.detach().requires_grad_(x.is_floating_point() and torch.is_grad_enabled())
    y = layer(x)
    grads = []
    if y.requires_grad:
        dy = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
        wanted = [p for p in (x, *layer.parameters()) if p.requires_grad]
        grads = torch.autograd.grad((y.sin() * dy).sum(), wanted, allow_unused=True)
    return y.detach(), list(grads), copy.deepcopy(dict(layer.state_dict()))


def same_step(layers, x, **tolerance):
    """Compare one step; PyTorch counts a batch before it refuses it, so no count then."""
    found = [outcome(step, layer, x) for layer in layers]
    agree(*found, **tolerance)
    if isinstance(found[1], Exception):
        states = [copy.deepcopy(dict(layer.state_dict())) for layer in layers]
        for state in states:
            state.pop("num_batches_tracked", None)
        agree(*states)
    return found[1]


@pytest.fixture(autouse=True, params=DEVICES)
def _start(request):
    torch.manual_seed(0)
    torch._dynamo.reset()
    with by_default_on(request.param), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", "Guards may run slower")  # Python 3.13.0
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


# Constructor


ARGUMENTS = {
    "num_features": (0, 1, True, -1, 2.5, "3", None, (3,), torch.tensor(3)),
    "eps": (1, 0, 0.0, -1.0, math.nan, math.inf, None, "1e-5"),
    "momentum": (1, 0, -0.5, 2.0, math.nan, math.inf, None, "0.1"),
    "affine": (True, False, 1, 0, None),
    "track_running_stats": (True, False, 1, 0, None),
    "device": ("cpu", "meta", torch.device("cpu"), "nowhere", 3.5),
    "dtype": (*FLOATS, torch.int64, torch.cfloat, "float32"),
    **({"bias": (True, False, 1, 0, None)} if HAS_BIAS else {}),
}
CASES = [(name, value) for name, values in ARGUMENTS.items() for value in values]


def made(cls, options):
    layer = cls(**{"num_features": 3, **options})
    if "meta" in options.values():
        return [(n, v.shape, v.dtype) for n, v in layer.state_dict().items()]
    return dict(layer.state_dict())


def made_and_called(cls, options, training):
    layer = cls(**{"num_features": 3, **options}).train(training)
    c = layer.num_features
    return step(layer, torch.linspace(-1, 2, 4 * c).reshape(4, c))


@each
@pytest.mark.parametrize(("name", "value"), CASES, ids=str)
def test_every_constructor_argument_and_its_illegal_values(cls, name, value):
    found = [outcome(made, kind, {name: value}) for kind in (cls, nn.BatchNorm1d)]
    if name == "device" and isinstance(found[1], Exception):
        assert isinstance(found[0], Exception)
    elif value == "meta":
        assert found[0] == found[1]
    else:
        agree(*found)


@each
@modes
@pytest.mark.parametrize(
    ("name", "value"),
    [c for c in CASES if c[0] not in ("device", "dtype") and c[1] not in (0, None)]
    + [("momentum", 0), ("momentum", None), ("affine", None), ("affine", 0)],
    ids=str,
)
def test_what_odd_arguments_do_at_the_first_batch(cls, name, value, training):
    kinds = (cls, nn.BatchNorm1d)
    if name == "eps" and value in (0.0, -1.0) and training:
        return  # PyTorch refuses these since 2.10: tests/test_norm.py
    if name == "eps" and value == -1.0 and not STRICT_EPS:
        pytest.skip("this PyTorch does not look at eps")
    if (name, value, training) == ("momentum", "0.1", False):
        return  # evaluation has no use for it; PyTorch refuses all the same
    agree(*(outcome(made_and_called, kind, {name: value}, training) for kind in kinds))


@each
def test_unknown_arguments_and_too_many_are_refused(cls):
    for args, options in (((3,), {"gamma": 1}), ((), {}), ((3,) * 12, {})):
        agree(*(outcome(kind, *args, **options) for kind in (cls, nn.BatchNorm1d)))


# Attributes changed later


CHANGES = {
    "momentum": [{"momentum": v} for v in (0.9, 0, 1, None, -0.5)],
    "eps": [{"eps": v} for v in (0.7, 1e-30, 1)],
    "tracking": [{"track_running_stats": v} for v in (False, True, 0)],
    "mode as an attribute": [{"training": v} for v in (True, False)],
    "affine, which is only a record": [{"affine": False}],
    "num_features, which is only a record": [{"num_features": 7}],
    "no statistics": [{"running_mean": None, "running_var": None}],
    "no count": [{"num_batches_tracked": None, "momentum": m} for m in (0.1, None)],
    "no weight": [{"weight": None}, {"weight": None, "bias": None}],
    "no bias": [{"bias": None}],
    "weight of another width": [{"weight": nn.Parameter(torch.ones(4).double())}],
    "bias of another width": [{"bias": nn.Parameter(torch.ones(2).double())}],
    "statistics of another width": [
        {"running_mean": torch.zeros(4).double(), "running_var": torch.ones(4).double()}
    ],
    "strided parameters": [
        {"weight": nn.Parameter(torch.arange(6.0).double()[::2])},
        {"bias": nn.Parameter(torch.ones(1).double().expand(3))},
    ],
    "frozen parameters": [
        {"weight": nn.Parameter(torch.ones(3).double(), requires_grad=False)},
        {"bias": nn.Parameter(torch.ones(3).double(), requires_grad=False)},
    ],
    "a count that is a float": [{"num_batches_tracked": torch.tensor(3.0)}],
    "a negative variance": [
        {
            "running_mean": torch.ones(3).double(),
            "running_var": torch.tensor([1.0, -2, 3]).double(),
        }
    ],
}


@each
@modes
@pytest.mark.parametrize("when", ["before the first batch", "after a few"])
@pytest.mark.parametrize("change", CHANGES)
def test_attributes_changed_later(cls, change, when, training):
    for values, track in itertools.product(CHANGES[change], (True, False)):
        if on_gpu() and list(values) == ["weight"] and values["weight"] is None:
            continue  # for a bias alone PyTorch's backward pass fails there
        layers = pair(cls, training=training, track_running_stats=track)
        for _ in range(3 if when == "after a few" else 0):
            same_step(layers, torch.randn(6, 3).double())
        for layer in layers:
            for name, value in values.items():
                value = copy.deepcopy(value) if name != "bias" else value
                setattr(layer, name, value)
            layer.to(torch.get_default_device())
        for shape in ((5, 3), (4, 3, 2), (1, 3)):
            same_step(layers, torch.randn(shape).double())


@each
@modes
def test_statistics_that_are_views_of_a_longer_tensor(cls, training):
    """In evaluation PyTorch's backward pass takes other numbers: held against packed ones."""
    layers = pair(cls, training=training)
    layers[0].running_mean = torch.arange(6.0).double()[::2]
    layers[0].running_var = torch.arange(1.0, 7.0).double().view(3, 2)[:, 1]
    layers[1].running_mean = layers[0].running_mean.clone()
    layers[1].running_var = layers[0].running_var.clone()
    for shape in ((5, 3), (4, 3, 2)):
        same_step(layers, torch.randn(shape).double())


@each
@modes
def test_parameters_that_are_views_of_a_longer_tensor(cls, training):
    """For (N, C) PyTorch's backward pass takes other numbers: held against packed ones."""
    layers = pair(cls, training=training)
    for name in ("weight", "bias"):
        value = torch.arange(1.0, 7.0).double()[::2]
        setattr(layers[0], name, nn.Parameter(value))
        setattr(layers[1], name, nn.Parameter(value.clone()))
        assert getattr(layers[0], name).stride() == (2,)
    for shape in ((5, 3), (4, 3, 2)):
        same_step(layers, torch.randn(shape).double())


@each
@modes
def test_changes_of_mode_and_requires_grad(cls, training):
    layers = pair(cls, training=not training)
    for layer in layers:
        assert layer.train(training) is layer
        assert layer.training is training
        layer.weight.requires_grad_(False)
    same_step(layers, torch.randn(5, 3).double())
    for layer in layers:
        layer.requires_grad_(False)
    same_step(layers, torch.randn(5, 3, 2).double())
    assert not layers[0](torch.randn(5, 3).double()).requires_grad


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
def test_trajectories_under_every_mix_of_modes_and_contexts(cls, momentum):
    for sequence in itertools.product(MOVES, repeat=3):
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


# Dtypes, layouts, values


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
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.cfloat])
def test_input_that_is_not_floating_point(cls, dtype, training):
    layers = pair(cls, dtype=torch.float32, training=training)
    assert isinstance(same_step(layers, torch.ones(5, 3).to(dtype)), Exception)


@each
@modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast(cls, dtype, training):
    layers = pair(cls, dtype=torch.float32, training=training)
    x = torch.randn(8, 3).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same_step(layers, x, rtol=0.02, atol=0.02)
        assert layers[0](x).dtype is layers[1](x).dtype


LAYOUTS = {
    "contiguous": lambda: torch.randn(4, 3, 5),
    "transposed": lambda: torch.randn(3, 4).t(),
    "channels last": lambda: torch.randn(4, 5, 3).transpose(1, 2),
    "batch last": lambda: torch.randn(3, 5, 4).permute(2, 0, 1),
    "expanded batch": lambda: torch.randn(1, 3, 5).expand(4, 3, 5),
    "expanded channels": lambda: torch.randn(4, 1).expand(4, 3),
    "expanded positions": lambda: torch.randn(4, 3, 1).expand(4, 3, 5),
    "one value": lambda: torch.randn(1, 1, 1).expand(4, 3, 5),
    "every second": lambda: torch.randn(8, 6, 10)[::2, ::2, 1::2],
    "offset": lambda: torch.randn(4 * 3 * 5 + 7)[7:].view(4, 3, 5),
    "overlapping": lambda: torch.randn(20).as_strided((4, 3, 5), (3, 2, 1)),
    "one row": lambda: torch.randn(1, 3, 5),
    "one position": lambda: torch.randn(4, 3, 1),
}


@each
@modes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_the_input(cls, layout, training):
    layers = pair(cls, dtype=torch.float32, training=training)
    x = LAYOUTS[layout]()
    before = x.clone()
    ours, theirs = (layer(x) for layer in layers)
    agree(ours, theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before)
    assert ours.data_ptr() != x.data_ptr()
    # so that .view() works where it did; on the GPU PyTorch keeps a transposed layout
    assert ours.stride() == (theirs.contiguous() if on_gpu() else theirs).stride()
    same_step(layers, x, rtol=1e-3, atol=1e-4)


@each
@modes
def test_gradients_that_come_back_expanded_or_strided(cls, training):
    layers = pair(cls, training=training)
    x = torch.randn(4, 3, 5).double()
    slopes = (
        torch.ones(()).double().expand(4, 3, 5),
        torch.randn(5, 3, 4).double().permute(2, 1, 0),
        torch.zeros(4, 3, 5).double(),
        torch.full((4, 3, 5), math.nan).double(),
    )
    for dy in slopes:
        found = []
        for layer in layers:
            z = x.clone().requires_grad_()
            wanted = (z, *layer.parameters())
            found.append(torch.autograd.grad(layer(z), wanted, dy))
        agree(*found)


@each
@modes
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (4, 3, 0), (0, 3, 0)], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}],
    ids=str,
)
def test_empty_batches(cls, shape, training, options):
    layers = pair(cls, training=training, **options)
    same_step(layers, torch.empty(shape).double())


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


# Mistakes


MISTAKES = {
    "no dimension": ((), "0D"),
    "one dimension": ((3,), "1D"),
    "four dimensions": ((2, 3, 4, 5), "4D"),
    "too few channels": ((5, 2), "2 elements not 3"),
    "too many channels": ((5, 4, 6), "4 elements not 3"),
    "one value per channel": ((1, 3), r"\(1, 3\)"),
    "one value per channel, 3-D": ((1, 3, 1), r"\(1, 3, 1\)"),
}


@each
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_raise_the_same_and_name_the_numbers(cls, mistake):
    shape, numbers = MISTAKES[mistake]
    ours, theirs = pair(cls)
    x = torch.randn(shape).double()
    with pytest.raises(Exception, match=numbers) as caught:
        ours(x)
    found = outcome(theirs, x)
    assert caught.type is type(found)
    assert len(str(caught.value)) >= len(str(found).split("\n")[0])


@each
@modes
@pytest.mark.parametrize("x", [None, 3.0, [[1.0, 2.0]]], ids=str)
def test_input_that_is_no_tensor_is_refused(cls, x, training):
    for layer in pair(cls, training=training):
        assert isinstance(outcome(layer, x), (AttributeError, TypeError))


@each
@modes
def test_a_refused_batch_leaves_the_statistics_alone(cls, training):
    unfit = [
        torch.randn(shape, dtype=dtype)
        for shape in ((5,), (5, 2), (5, 3, 1, 1))
        for dtype in FLOATS[2:]
    ]
    for x in (*unfit, torch.randn(5, 3), torch.empty(5, 3, device="meta").double()):
        ours, _ = pair(cls, training=training)
        before = copy.deepcopy(ours.state_dict())
        assert isinstance(outcome(ours, x), Exception)
        agree(dict(ours.state_dict()), dict(before))


@each
@modes
@pytest.mark.parametrize("away", ["running_mean", "running_var", "weight", "bias", "x"])
def test_two_devices_are_refused_by_name(cls, away, training):
    layers = pair(cls, training=training)
    x = torch.randn(5, 3).double()
    for layer in layers:
        if away != "x":
            value = getattr(layer, away).to("meta")
            setattr(layer, away, nn.Parameter(value) if "run" not in away else value)
    z = x.to("meta") if away == "x" else x
    found = [outcome(layer, z) for layer in layers]
    agree(*found)
    named = f"weight is {x.device}" if away == "x" else f"{away} is meta"
    assert f"input is {z.device} but {named}" in str(found[0])


# States, copies, devices


@each
def test_states_go_both_ways(cls):
    for options in ({}, {"affine": False}, {"track_running_stats": False}):
        ours, theirs = pair(cls, **options)
        for source, target in ((ours, nn.BatchNorm1d), (theirs, cls)):
            step(source, torch.randn(5, 3).double())
            other = target(3, dtype=torch.float64, **options)
            result = other.load_state_dict(source.state_dict())
            assert (result.missing_keys, result.unexpected_keys) == ([], [])
            agree(dict(other.state_dict()), dict(source.state_dict()))
            same_step((source.eval(), other.eval()), torch.randn(4, 3).double())


@each
@pytest.mark.parametrize("strict", [True, False])
def test_states_that_do_not_fit(cls, strict):
    def load(kind, broken):
        layer = kind(3)
        result = layer.load_state_dict(broken, strict=strict)
        return [list(result.missing_keys), list(result.unexpected_keys)]

    whole = dict(nn.BatchNorm1d(3).state_dict())
    broken = [{k: v for k, v in whole.items() if k != name} for name in whole]
    broken += [{**whole, "more": torch.ones(1)}, {}]
    broken += [{**whole, name: torch.ones(4)} for name in whole]
    for state in broken:
        found = [outcome(load, kind, dict(state)) for kind in (cls, nn.BatchNorm1d)]
        if isinstance(found[1], Exception):
            assert type(found[0]) is type(found[1])
            mine, right = (str(e).partition(":")[2] for e in found)
            assert mine == right
        else:
            assert found[0] == found[1]


@each
@pytest.mark.parametrize("version", [None, 1, 2])
def test_states_of_every_version_inside_a_model(cls, version):
    found = []
    for kind in (cls, nn.BatchNorm1d):
        net = nn.Sequential(nn.Linear(3, 3), kind(3), nn.Sequential(kind(3)))
        state = shuffled(copy.deepcopy(net)).state_dict()
        for name in list(state):
            if name.endswith("num_batches_tracked"):
                del state[name]
        for meta in state._metadata.values():
            meta.pop("version", None)
            if version is not None:
                meta["version"] = version
        found.append(str(outcome(net.load_state_dict, state)))
        agree({k: net.state_dict()[k] for k in state}, dict(state))
    assert found[0] == found[1]


@each
@pytest.mark.parametrize(
    "again", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_behave_alike(cls, again):
    layers = [again(layer) for layer in pair(cls, momentum=None)]
    for _ in range(3):
        same_step(layers, torch.randn(5, 3).double())
    assert type(layers[0]) is cls
    assert repr(layers[0]) == repr(cls(3, momentum=None))


def through_a_file(thing, **options):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, **options)


@each
def test_files_that_hold_tensors_only(cls):
    layers = [shuffled(kind(3)) for kind in (cls, nn.BatchNorm1d)]
    for source in layers:
        state = through_a_file(source.state_dict(), weights_only=True)
        for target in layers:
            target.load_state_dict(state)
        same_step(layers, torch.randn(4, 3), rtol=1e-4, atol=1e-5)


@each
def test_files_that_hold_the_layer(cls):
    found = [
        outcome(through_a_file, kind(3), weights_only=True)
        for kind in (cls, nn.BatchNorm1d)
    ]
    assert [type(e) for e in found] == [pickle.UnpicklingError] * 2
    layer = shuffled(cls(3))
    other = through_a_file(layer, weights_only=False)
    same_step((other, layer), torch.randn(4, 3))


@each
@pytest.mark.parametrize(
    "move",
    [
        lambda m: m.half(),
        lambda m: m.bfloat16(),
        lambda m: m.double(),
        lambda m: m.float(),
        lambda m: m.to(torch.float64),
        lambda m: m.to("cpu", torch.bfloat16),
        lambda m: m.to(torch.ones(1).half()),
        lambda m: m.type(torch.float64),
        lambda m: m.cpu(),
        lambda m: m.apply(lambda one: one.double()),
        lambda m: m.double().float(),
        lambda m: m.to("meta"),
        lambda m: m.to("meta").to_empty(device="cpu"),
    ],
)
def test_moves_convert_what_pytorch_converts(cls, move):
    layers = [move(layer) for layer in pair(cls, dtype=torch.float32)]
    kinds = [
        {n: (v.dtype, v.device, v.shape) for n, v in layer.state_dict().items()}
        for layer in layers
    ]
    assert kinds[0] == kinds[1]
    dtype = layers[1].weight.dtype
    if layers[1].weight.device.type == "cpu":
        for layer in layers:
            layer.reset_parameters()
        loose = {2: 0.05, 4: 1e-4, 8: 1e-8}[dtype.itemsize]
        same_step(layers, torch.randn(6, 3).to(dtype), rtol=loose, atol=loose)


@each
@modes
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (0, 3)], ids=str)
def test_meta_tensors(cls, shape, training):
    layers = [kind(3, device="meta").train(training) for kind in (cls, nn.BatchNorm1d)]
    x = torch.empty(shape, device="meta")
    ours, theirs = (layer(x) for layer in layers)
    assert (ours.shape, ours.dtype, ours.device) == (
        theirs.shape,
        theirs.dtype,
        theirs.device,
    )


@each
def test_shared_memory(cls):
    layers = [layer.share_memory() for layer in pair(cls)]
    assert all(v.is_shared() for v in layers[0].state_dict().values())
    same_step(layers, torch.randn(5, 3).double())
    assert all(v.is_shared() for v in layers[0].state_dict().values())


# Hooks and parametrizations


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@each
@modes
def test_parametrized_weight(cls, training):
    layers = pair(cls, training=training)
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Doubled())
    for shape in ((5, 3), (4, 3, 2)):
        same_step(layers, torch.randn(shape).double())
    for layer in layers:
        parametrize.remove_parametrizations(layer, "weight")
    same_step(layers, torch.randn(5, 3).double())


@each
@modes
@pytest.mark.parametrize("old", [True, False])
def test_weight_norm(cls, old, training):
    wrap = nn.utils.weight_norm if old else parametrizations.weight_norm
    layers = [wrap(layer, dim=None) for layer in pair(cls, training=training)]
    for shape in ((5, 3), (4, 3, 2)):
        same_step(layers, torch.randn(shape).double())


@each
def test_pruning(cls):
    from torch.nn.utils import prune

    layers = pair(cls)
    for layer in layers:
        prune.l1_unstructured(layer, "weight", amount=1)
    same_step(layers, torch.randn(5, 3).double())


@each
def test_hooks_are_called_once_with_what_pytorch_passes(cls):
    found = []
    x = torch.randn(5, 3).double()
    for layer in pair(cls):
        seen = []
        layer.register_forward_pre_hook(lambda m, args, s=seen: s.append(args[0]))
        layer.register_forward_hook(
            lambda m, args, out, s=seen: (s.append(out.detach()), out * 2)[1]
        )
        layer.register_full_backward_hook(
            lambda m, into, out, s=seen: s.extend([*into, *out])
        )
        z = x.clone().requires_grad_()
        y = layer(z)
        y.pow(2).sum().backward()
        found.append([y.detach(), z.grad, *(v.detach() for v in seen)])
    agree(*found)


@each
def test_saved_tensors_hooks_and_checkpointing(cls):
    layers, x = pair(cls), torch.randn(5, 3).double()
    found = []
    for layer in layers:
        z = x.clone().requires_grad_()
        with torch.autograd.graph.save_on_cpu():
            a = layer(z)
        b = torch.utils.checkpoint.checkpoint(layer, a, use_reentrant=False)
        b.pow(3).sum().backward()
        found.append([b.detach(), z.grad])
    agree(*found)
    if cls is fast.TorchBatchNorm1d:  # which knows that the second pass is a repetition
        assert layers[0].num_batches_tracked == layers[1].num_batches_tracked - 1
    else:
        agree(*(dict(layer.state_dict()) for layer in layers))


# torch.func


@each
@modes
def test_functional_call_and_grad(cls, training):
    x = torch.randn(5, 3).double()
    found = []
    for layer in pair(cls, training=training):
        values = {k: v.clone() for k, v in layer.state_dict().items()}
        parameters = {k: values.pop(k) for k in ("weight", "bias")}

        def loss(parameters, x, layer=layer, values=values):
            state = {**parameters, **{k: v.clone() for k, v in values.items()}}
            return torch.func.functional_call(layer, state, (x,)).sin().sum()

        before = copy.deepcopy(dict(layer.state_dict()))
        found.append(torch.func.grad(loss, argnums=(0, 1))(parameters, x))
        agree(dict(layer.state_dict()), before)
    agree(*found)


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(lambda z: f(z).pow(3).sum())(x),
    "grad of grad": lambda f, x: torch.func.grad(
        lambda z: torch.func.grad(lambda w: f(w).pow(3).sum())(z).pow(2).sum()
    )(x),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "hessian": lambda f, x: torch.func.hessian(lambda z: f(z).pow(3).sum())(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x.cos(),)),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](x.cos()),
    "linearize": lambda f, x: torch.func.linearize(f, x)[1](x.cos()),
    "vmap": lambda f, x: torch.func.vmap(f)(torch.stack([x, x * 2, x + 1])),
    "vmap, other axis": lambda f, x: torch.func.vmap(f, in_dims=2, out_dims=1)(
        torch.stack([x, x.cos()], 2)
    ),
    "vmap of grad": lambda f, x: torch.func.vmap(
        torch.func.grad(lambda z: f(z).pow(3).sum())
    )(torch.stack([x, x * 2])),
    "autograd jacobian": lambda f, x: torch.autograd.functional.jacobian(f, x),
    "batched gradients": lambda f, x: torch.autograd.functional.jacobian(
        f, x, vectorize=True
    ),
    "autograd hessian": lambda f, x: torch.autograd.functional.hessian(
        lambda z: f(z).pow(3).sum(), x
    ),
}


@each
@modes
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms(cls, transform, track, training):
    layers = pair(cls, training=training, track_running_stats=track)
    x = torch.randn(4, 3).double()
    found = [outcome(TRANSFORMS[transform], layer, x) for layer in layers]
    agree(*found, rtol=1e-7, atol=1e-9)


@each
@modes
def test_functionalize_takes_the_state_as_an_input(cls, training):
    found = []
    x = torch.randn(5, 3).double()
    for layer in pair(cls, training=training):
        state = {k: v.detach().clone() for k, v in layer.state_dict().items()}

        def call(state, x, layer=layer):
            return torch.func.functional_call(layer, state, (x,)), state

        found.append(torch.func.functionalize(call)(state, x))
    agree(*found)


@each
@modes
@pytest.mark.parametrize("randomness", ["error", "different", "same"])
@pytest.mark.parametrize("track", [True, False])
def test_vmap_whatever_the_randomness(cls, randomness, track, training):
    layers = pair(cls, training=training, track_running_stats=track)
    x = torch.randn(4, 5, 3).double()
    found = [
        outcome(torch.func.vmap(layer, randomness=randomness), x) for layer in layers
    ]
    agree(*found)
    agree(*(layer.state_dict() for layer in layers))  # a refusal left nothing half-done


@each
@modes
def test_an_ensemble_by_stacked_states(cls, training):
    found = []
    x = torch.randn(2, 5, 3).double()
    for kind in (cls, nn.BatchNorm1d):
        torch.manual_seed(1)
        nets = [shuffled(kind(3, dtype=torch.float64)).train(training) for _ in "ab"]
        parameters, buffers = torch.func.stack_module_state(nets)

        def call(p, b, z, net=nets[0]):
            return torch.func.functional_call(net, (p, b), (z,))

        y = outcome(torch.func.vmap(call), parameters, buffers, x)
        found.append(y if isinstance(y, Exception) else (y.detach(), buffers))
    agree(*found)


# torch.compile, torch.export, torch.jit


def traces_numbers() -> bool:
    """Whether torch.compile takes a number out of a tensor; PyTorch 2.4 does not."""
    divided = torch.compile(lambda n: n / float(n), fullgraph=True, backend="eager")
    return not isinstance(outcome(divided, torch.tensor(2)), Exception)


def two_steps(layer, call, xs):
    """Outputs, gradients and state after two steps."""
    found = []
    for x in xs:
        z = x.clone().requires_grad_()
        y = call(z)
        grads = torch.autograd.grad(y.pow(3).sum(), (z, *layer.parameters()))
        found.append((y.detach(), grads))
    return found, dict(layer.state_dict())


@each
@modes
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("options", [{}, {"momentum": None}], ids=str)
def test_compiles_in_one_graph(cls, backend, options, training):
    """With momentum=None too, which PyTorch 2.13 refuses for its own layer."""
    if options and training and not traces_numbers():
        pytest.skip("this torch.compile breaks the graph at float(tensor)")
    ours, theirs = pair(cls, training=training, **options)
    xs = torch.randn(2, 5, 3).double()
    compiled = torch.compile(ours, fullgraph=True, backend=backend)
    agree(two_steps(ours, compiled, xs), two_steps(theirs, theirs, xs))


@each
@modes
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("any_batch", [True, False])
def test_exports(cls, any_batch, strict, training):
    layers = pair(cls, training=training)
    x = torch.randn(5, 3).double()
    sizes = {0: torch.export.Dim("n", min=2, max=99)} if any_batch else None
    found = []
    for layer in layers:
        program = torch.export.export(
            layer, (x,), dynamic_shapes=(sizes,), strict=strict
        )
        assert set(program.state_dict) == set(layer.state_dict())
        written = set(program.graph_signature.buffers_to_mutate.values())
        run = program.module()
        inputs = [x, x * 2] + ([torch.cat([x, x + 1])] if any_batch else [])
        found.append(([run(z) for z in inputs], written, dict(run.state_dict())))
    (ours, written, state), (theirs, expected_written, expected_state) = found
    agree((ours, state), (theirs, expected_state))
    assert written == expected_written


@each
@modes
def test_traces(cls, training):
    warnings.simplefilter("ignore", torch.jit.TracerWarning)
    layers = pair(cls, training=training)
    x = torch.randn(5, 3).double()
    found = []
    for layer in layers:
        traced = torch.jit.trace(layer, x, check_trace=False)
        found.append((traced(x), traced(2 * x), dict(layer.state_dict())))
    agree(*found)


@each
def test_scripting_is_left_to_pytorchs_layer(cls):
    """TorchScript, which PyTorch gives up, knows a part of Python: the error is its own."""
    warnings.simplefilter("ignore")
    torch.jit.script(nn.BatchNorm1d(3))
    with pytest.raises(RuntimeError):
        torch.jit.script(cls(3))


# The gear that torch.compile fuses, where it does: three dimensions in training


@COMPILE
@pytest.mark.parametrize(
    ("dtype", "options"),
    [(torch.float32, {}), (torch.float64, {"affine": False, "momentum": None})],
    ids=str,
)
def test_the_compile_gear(dtype, options):
    warnings.simplefilter("ignore")  # inductor's own
    layers = pair(fast.CompileBatchNorm1d, dtype=dtype, **options)
    assert layers[0].gear == "compile"
    loose = {"rtol": 1e-4, "atol": 1e-4} if dtype is torch.float32 else {}
    for training in (True, True, False, True):
        for layer in layers:
            layer.train(training)
        for shape in ((4, 3, 5), (6, 3)):
            x = torch.randn(shape, dtype=dtype) * 2 + 1
            same_step(layers, x, **loose)
    for x in (
        LAYOUTS["transposed"](),
        LAYOUTS["channels last"](),
        LAYOUTS["expanded positions"](),
        torch.empty(0, 3, 5),
        planted(math.nan),
    ):
        same_step(layers, x.to(dtype), **loose)
    for shape in ((1, 3, 1), (5, 2, 4), (5,)):
        same_step(layers, torch.randn(shape, dtype=dtype))


@COMPILE
@each
@modes
def test_inductor(cls, training):
    warnings.simplefilter("ignore")
    ours, theirs = pair(cls, training=training)
    xs = torch.randn(2, 5, 3).double()
    compiled = torch.compile(ours, fullgraph=True)
    agree(two_steps(ours, compiled, xs), two_steps(theirs, theirs, xs))
