"""What the relatives do when nothing is said, held against the written-out call."""

import copy
import inspect
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnutils import norm, relatives

X = torch.linspace(-2, 3, 96, dtype=torch.float64).view(4, 6, 4).sin() * 1e-2


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x: relatives.layer_norm(x, (4,)), lambda x: F.layer_norm(x, (4,))),
        (lambda x: relatives.group_norm(x, 2), lambda x: F.group_norm(x, 2)),
        (relatives.instance_norm, F.instance_norm),
        (lambda x: relatives.rms_norm(x, (4,)), lambda x: F.rms_norm(x, (4,))),
    ],
    ids=["layer", "group", "instance", "rms"],
)
def test_functions_have_pytorchs_default_eps(ours, theirs):
    torch.testing.assert_close(ours(X), theirs(X), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("GhostBatchNorm1d", {"ghost_size": 32}),
        ("BatchRenorm1d", {"r_max": 3.0, "d_max": 5.0}),
    ],
)
def test_defaults_are_those_of_the_docstring(name, defaults):
    layer = getattr(relatives, name)(6)
    assert {key: getattr(layer, key) for key in defaults} == defaults
    known = inspect.signature(getattr(relatives, name)).parameters
    assert {key: known[key].default for key in defaults} == defaults


LAYERS = {
    "LayerNorm": (6,),
    "RMSNorm": (6,),
    "GroupNorm": (2, 6),
    "BatchNorm2d": (6,),
    "GhostBatchNorm1d": (6,),
    "BatchRenorm1d": (6,),
}
each = pytest.mark.parametrize(("name", "args"), LAYERS.items(), ids=LAYERS)


@each
def test_parameters_start_at_one_and_zero_where_and_as_asked(name, args):
    kind = getattr(relatives, name)
    layer = kind(*args, dtype=torch.float64)
    for key, parameter in layer.named_parameters():
        want = torch.full((6,), float(key == "weight"), dtype=torch.float64)
        torch.testing.assert_close(parameter.data, want, rtol=0, atol=0)
    assert {p.device.type for p in kind(*args, device="meta").parameters()} == {"meta"}


@pytest.mark.parametrize("name", ["GhostBatchNorm1d", "BatchRenorm1d"])
def test_arguments_of_batch_norm_are_taken_by_position(name):
    layer = getattr(relatives, name)(6, 0.1, 0.3, False)
    assert (layer.eps, layer.momentum, layer.weight) == (0.1, 0.3, None)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("GhostBatchNorm1d", "6, eps=1e-05, .*, ghost_size=32"),
        ("BatchRenorm1d", "6, eps=1e-05, .*, r_max=3.0, d_max=5.0"),
    ],
)
def test_repr_shows_the_arguments(name, shown):
    assert re.fullmatch(rf"{name}\({shown}\)", repr(getattr(relatives, name)(6)))


@pytest.mark.parametrize("name", ["GhostBatchNorm1d", "BatchRenorm1d"])
@pytest.mark.parametrize("shape", [(), (6,), (2, 6, 3, 3)])
def test_wrong_rank_is_named_before_anything_else(name, shape):
    with pytest.raises(ValueError, match=f"got {len(shape)}D input"):
        getattr(relatives, name)(6)(torch.ones(shape))


def test_renorm_of_one_channel_stores_the_unbiased_variance():
    layer = relatives.BatchRenorm1d(1, momentum=1.0)
    layer(x := 1000 * X.reshape(-1, 1).float())
    torch.testing.assert_close(layer.running_var, x.var(0))


def test_renorm_uses_its_eps():
    layer = relatives.BatchRenorm1d(6, eps=0.1, r_max=1.0, d_max=0.0).double()
    want = F.batch_norm(X, None, None, training=True, eps=0.1)
    torch.testing.assert_close(layer(X), want)


@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_one_position_is_refused_when_pytorch_refuses_it(training, track):
    errors = []
    for package in (relatives, nn):
        layer = package.InstanceNorm1d(6, track_running_stats=track).train(training)
        try:
            errors.append(layer(torch.ones(3, 6, 1)).shape)
        except ValueError:
            errors.append("ValueError")
    assert errors[0] == errors[1]


@pytest.mark.parametrize(
    ("name", "args", "options"),
    [
        ("LayerNorm", (4,), {}),
        ("GroupNorm", (2, 6), {}),
        ("InstanceNorm1d", (6,), {"affine": True}),
    ],
)
@pytest.mark.parametrize("parameter", ["weight", "bias"])
def test_a_parameter_of_another_dtype_is_refused(name, args, options, parameter):
    layer = getattr(relatives, name)(*args, **options)
    setattr(layer, parameter, nn.Parameter(getattr(layer, parameter).double()))
    with pytest.raises(RuntimeError, match="dtype"):
        layer(X.float())


@pytest.mark.parametrize("seed", range(5))
def test_mean_is_as_exact_as_float32_can_hold(seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4096, 3, generator=g) + 1e6
    mean, _ = relatives.moments(x, (0,))
    exact = x.double().mean(0, keepdim=True)
    assert (mean - exact).abs().max() <= 2**-5  # half the spacing at 1e6


def test_instance_norm_passes_its_options_on():
    layer = relatives.InstanceNorm1d(6, affine=True, dtype=torch.float64, bias=False)
    assert (layer.weight.dtype, layer.bias) == (torch.float64, None)
    layer = relatives.InstanceNorm1d(6, affine=True, device="meta")
    assert layer.weight.device.type == "meta"


def test_instance_norm_in_evaluation_uses_its_parameters_and_eps():
    options = {"eps": 0.1, "affine": True, "track_running_stats": True}
    ours, theirs = (
        p.InstanceNorm1d(6, **options, dtype=X.dtype).eval() for p in (relatives, nn)
    )
    for layer in (ours, theirs):
        layer.weight.data = torch.linspace(1, 2, 6, dtype=X.dtype)
        layer.bias.data = torch.linspace(-3, 3, 6, dtype=X.dtype)
    torch.testing.assert_close(ours(X), theirs(X))


def test_everything_public_is_listed():
    ours = {
        name
        for name, value in vars(relatives).items()
        if getattr(value, "__module__", "").startswith(("bnutils.rel", "bnutils._rel"))
        and not name.startswith("_")
    }
    assert {"LayerNorm", "rms_norm", "moments"} <= set(relatives.__all__) <= ours


SHAPES = {
    "LayerNorm": (5,),
    "GroupNorm": (2, 6),
    "InstanceNorm1d": (6,),
    "BatchNorm1d": (6,),
    "BatchNorm2d": (6,),
}


@pytest.mark.parametrize(("name", "args"), SHAPES.items(), ids=SHAPES)
@pytest.mark.parametrize("length", [(), (3,)], ids=["sequences", "images"])
def test_memory_is_laid_out_as_by_pytorch(name, args, length):
    """What follows a norm may rely on it: view() of a transposed input's output."""
    if (name.endswith("1d") and length) or (name == "BatchNorm2d" and not length):
        pytest.skip("not an input of this layer")
    x = torch.randn(4, 5, *length, 6)
    x = x.movedim(-1, 1) if length else x.transpose(1, 2)  # (4, 6, 5, ...)
    ours, theirs = (getattr(kind, name, None) for kind in (relatives, nn))
    turned = x.transpose(2, -1)  # images: neither rows nor channels last
    for z in (x, x.contiguous(), turned):
        args = (z.size(-1),) if name == "LayerNorm" else args
        y = (ours or norm.BatchNorm1d)(*args)(z)
        assert y.stride() == theirs(*args)(z).stride()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["InstanceNorm1d", "BatchRenorm1d"])
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_in_half_precision_rounds_once(name, dtype, training):
    """The output lies no further from the exact one than the type demands."""
    torch.manual_seed(0)
    options = {"track_running_stats": True} if name == "InstanceNorm1d" else {}
    layer = getattr(relatives, name)(3, dtype=dtype, **options).train(training)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    x = 2 * torch.randn(20, 3, 9, dtype=torch.float64).to(dtype) - 1
    true = copy.deepcopy(layer).double()(x.double())
    error = (layer(x).double() - true).abs()
    assert (error <= 0.51 * torch.finfo(dtype).eps * true.abs() + 2e-6).all()


@pytest.mark.parametrize("name", ["GhostBatchNorm1d", "BatchRenorm1d", "RMSNorm"])
def test_variants_lay_memory_out_by_rows(name):
    x = torch.randn(4, 6, 6).transpose(1, 2)
    layer = getattr(relatives, name)(6)
    for training in (True, False):
        assert layer.train(training)(x).is_contiguous()
