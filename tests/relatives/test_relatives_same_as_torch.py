"""The relatives that PyTorch has: same outputs, derivatives, states, arguments, memory layout."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import torch
from siblings import FLAT, IMAGE, LONG, X, assert_close, derivatives, make_input, pair
from torch import nn
from torch.nn import functional as F

from bnutils import norm, relatives

CASES = [  # name, arguments, shape of the input
    ("BatchNorm2d", (8,), {}, IMAGE),
    ("BatchNorm2d", (8,), {"momentum": None, "eps": 0.1}, IMAGE),
    ("BatchNorm2d", (8,), {"affine": False}, IMAGE),
    ("BatchNorm2d", (8,), {"track_running_stats": False}, IMAGE),
    ("LayerNorm", (8,), {}, FLAT),
    ("LayerNorm", ((8, 5),), {"eps": 0.1}, LONG),
    ("LayerNorm", ([4, 3],), {"bias": False}, IMAGE),
    ("LayerNorm", (5,), {"elementwise_affine": False}, LONG),
    ("RMSNorm", (8,), {}, FLAT),
    ("RMSNorm", ((8, 5),), {"eps": 0.1}, LONG),
    ("RMSNorm", (5,), {"elementwise_affine": False}, LONG),
    ("GroupNorm", (2, 8), {}, FLAT),
    ("GroupNorm", (2, 8), {"eps": 0.1}, LONG),
    ("GroupNorm", (1, 8), {}, IMAGE),
    ("GroupNorm", (8, 8), {"affine": False}, IMAGE),
    ("InstanceNorm1d", (8,), {}, LONG),
    ("InstanceNorm1d", (8,), {"affine": True, "eps": 0.1}, LONG),
    ("InstanceNorm1d", (8,), {"affine": True}, (8, 5)),
    ("InstanceNorm1d", (8,), {"track_running_stats": True}, LONG),
    ("InstanceNorm1d", (8,), {"track_running_stats": True, "momentum": None}, LONG),
]
each = pytest.mark.parametrize(
    ("name", "args", "options", "shape"),
    CASES,
    ids=[f"{n}-{o or 'plain'}-{len(s)}d" for n, _, o, s in CASES],
)
DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-11)]
)


@each
@DTYPES
def test_output_and_derivatives_are_pytorchs(
    name, args, options, shape, dtype, tolerance
):
    layers = pair(name, args, options, dtype)
    x = make_input(shape, dtype)
    assert_close(*(derivatives(layer, x) for layer in layers), tolerance)


@each
@DTYPES
def test_evaluation_and_state_are_pytorchs_after_training(
    name, args, options, shape, dtype, tolerance
):
    layers = pair(name, args, options, dtype)
    for seed in range(3):
        x = make_input(shape, dtype, seed)
        for layer in layers:
            layer(x)
    ours, theirs = (layer.state_dict() for layer in layers)
    assert list(ours) == list(theirs)
    assert_close(ours.values(), theirs.values(), tolerance)
    x = make_input(shape, dtype, seed=9)
    assert_close(*(derivatives(layer.eval(), x) for layer in layers), tolerance)


@each
def test_half_precision_is_computed_in_float32(name, args, options, shape):
    x = make_input(shape).bfloat16()
    ours, _ = pair(name, args, options, torch.float32)
    y = ours(x)
    assert y.dtype == torch.bfloat16
    again, _ = pair(name, args, options, torch.float32)
    assert torch.equal(y, again(x.float()).bfloat16())


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


@pytest.mark.parametrize("name", sorted({case[0] for case in CASES}))
def test_arguments_are_pytorchs(name):
    ours, theirs = (
        {
            n: (p.default, p.kind)
            for n, p in inspect.signature(getattr(m, name)).parameters.items()
        }
        for m in (relatives, nn)
    )
    if "bias" not in theirs:  # PyTorch before 2.13
        ours.pop("bias", None)
    assert ours == theirs


@each
def test_repr_is_pytorchs(name, args, options, shape):
    ours, theirs = (repr(layer) for layer in pair(name, args, options, torch.float32))
    if "bias=" not in theirs:  # PyTorch before 2.13
        ours = ours.replace(", bias=True", "").replace(", bias=False", "")
    assert ours == theirs


PARAMETERS = {
    "LayerNorm": (6,),
    "RMSNorm": (6,),
    "GroupNorm": (2, 6),
    "BatchNorm2d": (6,),
    "GhostBatchNorm1d": (6,),
    "BatchRenorm1d": (6,),
}


@pytest.mark.parametrize(("name", "args"), PARAMETERS.items(), ids=PARAMETERS)
def test_parameters_start_at_one_and_zero_where_and_as_asked(name, args):
    kind = getattr(relatives, name)
    layer = kind(*args, dtype=torch.float64)
    for key, parameter in layer.named_parameters():
        want = torch.full((6,), float(key == "weight"), dtype=torch.float64)
        torch.testing.assert_close(parameter.data, want, rtol=0, atol=0)
    assert {p.device.type for p in kind(*args, device="meta").parameters()} == {"meta"}


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


# The functions


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


def test_moments_are_numpys_biased_ones():
    x = make_input(LONG)
    for dims in ((0,), (1,), (2,), (0, 2), (1, 2), (-1,)):
        mean, var = relatives.moments(x, dims)
        axes = {"axis": dims, "keepdims": True}
        np.testing.assert_allclose(mean, np.mean(x.numpy(), **axes), atol=1e-13)
        np.testing.assert_allclose(var, np.var(x.numpy(), **axes), atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_mean_is_as_exact_as_float32_can_hold(seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4096, 3, generator=g) + 1e6
    mean, _ = relatives.moments(x, (0,))
    exact = x.double().mean(0, keepdim=True)
    assert (mean - exact).abs().max() <= 2**-5  # half the spacing at 1e6


def test_all_relatives_agree_where_their_axes_coincide():
    x = make_input(LONG)
    layer = F.layer_norm(x, (8, 5))
    assert_close([relatives.group_norm(x, 1)], [layer], 1e-12)
    instance = F.instance_norm(x)
    assert_close([relatives.group_norm(x, 8)], [instance], 1e-12)
    assert_close([relatives.layer_norm(x, (5,))], [instance], 1e-12)
    batch = norm.normalize(x, *norm.batch_stats(x))
    assert_close([relatives.standardize(x, (0, 2))], [batch], 1e-12)
    centred = x - x.mean(-1, keepdim=True)
    rms = relatives.rms_norm(centred, (5,), eps=1e-5)
    assert_close([rms], [F.layer_norm(x, (5,))], 1e-12)


# Memory


def test_strides_do_not_matter():
    x = make_input((6, 4, 3, 8)).permute(0, 3, 1, 2)  # (6, 8, 4, 3), channels last
    assert not x.is_contiguous()
    for name, args in (("BatchNorm2d", (8,)), ("GroupNorm", (4, 8))):
        ours, theirs = pair(name, args, {}, torch.float64)
        assert_close([ours(x)], [theirs(x)], 1e-12)
    x = make_input((6, 5, 8)).transpose(1, 2)
    ours, theirs = pair("InstanceNorm1d", (8,), {}, torch.float64)
    assert_close([ours(x)], [theirs(x)], 1e-12)


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


@pytest.mark.parametrize("name", ["GhostBatchNorm1d", "BatchRenorm1d", "RMSNorm"])
def test_variants_lay_memory_out_by_rows(name):
    x = torch.randn(4, 6, 6).transpose(1, 2)
    layer = getattr(relatives, name)(6)
    for training in (True, False):
        assert layer.train(training)(x).is_contiguous()


def test_everything_public_is_listed():
    ours = {
        name
        for name, value in vars(relatives).items()
        if getattr(value, "__module__", "").startswith("bnutils.relatives")
        and not name.startswith("_")
    }
    assert {"LayerNorm", "rms_norm", "moments"} <= set(relatives.__all__) <= ours
