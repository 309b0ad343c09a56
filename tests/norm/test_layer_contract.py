"""What a user holds: constructor, attributes, states, copies, files, hooks, parametrizations."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import math
import pickle

import pytest
import torch
from layers import STRICT_EPS, on_gpu, shuffled
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from twins import FLOATS, agree, each, modes, nightly, outcome, pair, same_step, step

from bnutils import fast

pytestmark = pytest.mark.usefixtures("strict")
HAS_BIAS = "bias" in inspect.signature(nn.BatchNorm1d).parameters


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
@pytest.mark.parametrize(
    "when", [pytest.param("before the first batch", marks=nightly), "after a few"]
)
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
