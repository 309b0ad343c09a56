"""The relatives against PyTorch's layers, or, where it has none, against their definition."""

import copy
import inspect
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnutils import norm, relatives

FLAT, LONG, IMAGE = (6, 8), (6, 8, 5), (6, 8, 4, 3)
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


def make_input(shape, dtype=torch.float64, seed=0):
    """Channels of different mean and spread, so that no axis can stand for another."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g, dtype=torch.float64)
    axis = max(len(shape) - 3, 0) if len(shape) == 2 and shape[0] == 8 else 1
    c = torch.arange(shape[axis], dtype=torch.float64)
    c = c.view(-1, *(1,) * (len(shape) - 1 - axis))
    n = torch.arange(shape[0], dtype=torch.float64).view(-1, *(1,) * (len(shape) - 1))
    return ((1 + c / 4) * x + c / 2 - n / 3).to(dtype)


def pair(name, args, options, dtype):
    """Our layer and PyTorch's, with the same random weight and bias."""
    torch.manual_seed(1)
    ours = getattr(relatives, name)(*args, **options).to(dtype)
    theirs = getattr(nn, name)(*args, **options).to(dtype)
    for p in theirs.parameters():
        nn.init.normal_(p, mean=1.5)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def derivatives(layer, x):
    """Output, gradients of input and parameters, and a second derivative."""
    x = x.clone().requires_grad_()
    g = torch.Generator().manual_seed(7)
    dy = torch.randn(x.shape, generator=g, dtype=torch.float64).to(x.dtype)
    y = layer(x)
    leaves = (x, *layer.parameters())
    first = torch.autograd.grad((y * dy).sum(), leaves, create_graph=True)
    second = [torch.zeros_like(x)]  # of a map that is affine in x
    if first[0].requires_grad:
        options = {"allow_unused": True, "materialize_grads": True}
        second = torch.autograd.grad(first[0].square().sum(), x, **options)
    return [t.detach() for t in (y, *first, *second)]


def assert_close(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        scale = 1 + b.abs().max().item()
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * scale)


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


def error_of(layer, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((ValueError, RuntimeError)) as caught:
            layer(x)
    return caught.value


@pytest.mark.parametrize(
    ("name", "args", "options", "x", "says"),
    [
        ("BatchNorm2d", (5,), {}, torch.ones(3, 5, 2), "(N, C, H, W)"),
        ("BatchNorm2d", (5,), {}, torch.ones(1, 5, 1, 1), "more than 1 value"),
        ("BatchNorm2d", (5,), {}, torch.ones(3, 4, 2, 2), "4 elements not 5"),
        ("BatchNorm2d", (5,), {}, torch.ones(3, 5, 2, 2).double(), "mixed dtype"),
        ("LayerNorm", (5,), {}, torch.ones(3, 4), "transpose or use GroupNorm"),
        ("LayerNorm", ((),), {}, torch.ones(3, 4), "normalized_shape=[]"),
        ("LayerNorm", (5,), {}, torch.ones(3, 5).double(), "mixed dtype"),
        ("RMSNorm", (5,), {}, torch.ones(3, 4), "[*, 5]"),
        ("GroupNorm", (2, 6), {}, torch.ones(3, 4), "made for 6"),
        ("GroupNorm", (2, 6), {}, torch.ones(6), "at least 2 dimensions"),
        ("GroupNorm", (6, 6), {}, torch.ones(1, 6), "fewer groups"),
        ("GroupNorm", (2, 6), {}, torch.ones(3, 6).double(), "mixed dtype"),
        ("InstanceNorm1d", (5,), {}, torch.ones(3, 5, 2, 2), "2D or 3D"),
        ("InstanceNorm1d", (5,), {"affine": True}, torch.ones(3, 4, 2), "channels"),
        ("InstanceNorm1d", (5,), {}, torch.ones(3, 5, 1), "its own mean"),
    ],
)
def test_wrong_inputs_raise_what_pytorch_raises_and_say_more(
    name, args, options, x, says
):
    ours, theirs = (getattr(m, name)(*args, **options) for m in (relatives, nn))
    error = error_of(ours, x)
    assert type(error) is type(error_of(theirs, x))
    assert says in str(error)


@pytest.mark.parametrize("groups", [0, -2, 4])
def test_channels_must_divide_into_groups(groups):
    with pytest.raises(ValueError, match=r"num_channels \(6\)"):
        relatives.GroupNorm(groups, 6)


@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm", "GroupNorm"])
def test_integers_are_refused(name):
    args = (2, 6) if name == "GroupNorm" else (6,)
    x = torch.ones(3, 6, dtype=torch.long)
    with pytest.raises((NotImplementedError, RuntimeError), match="int64"):
        getattr(relatives, name)(*args)(x)


def test_instance_norm_without_parameters_warns_about_channels_as_pytorch_does():
    for module in (relatives, nn):
        with pytest.warns(UserWarning, match="num_features"):
            module.InstanceNorm1d(5)(torch.randn(3, 4, 6))


def test_moments_are_numpys_biased_ones():
    x = make_input(LONG)
    for dims in ((0,), (1,), (2,), (0, 2), (1, 2), (-1,)):
        mean, var = relatives.moments(x, dims)
        axes = {"axis": dims, "keepdims": True}
        np.testing.assert_allclose(mean, np.mean(x.numpy(), **axes), atol=1e-13)
        np.testing.assert_allclose(var, np.var(x.numpy(), **axes), atol=1e-12)


def test_strides_do_not_matter():
    x = make_input((6, 4, 3, 8)).permute(0, 3, 1, 2)  # (6, 8, 4, 3), channels last
    assert not x.is_contiguous()
    for name, args in (("BatchNorm2d", (8,)), ("GroupNorm", (4, 8))):
        ours, theirs = pair(name, args, {}, torch.float64)
        assert_close([ours(x)], [theirs(x)], 1e-12)
    x = make_input((6, 5, 8)).transpose(1, 2)
    ours, theirs = pair("InstanceNorm1d", (8,), {}, torch.float64)
    assert_close([ours(x)], [theirs(x)], 1e-12)


def batch_norms(kind, **options):
    """A relative and PyTorch's BatchNorm1d, C = 8, with the same parameters, in float64."""
    torch.manual_seed(2)
    theirs = nn.BatchNorm1d(8).double()
    for p in theirs.parameters():
        nn.init.normal_(p, mean=1.5)
    ours = getattr(relatives, kind)(8, **options).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("shape", [FLAT, LONG])
@pytest.mark.parametrize("ghost_size", [6, 7, 100])
def test_a_ghost_batch_as_large_as_the_batch_is_batch_norm(shape, ghost_size):
    ours, theirs = batch_norms("GhostBatchNorm1d", ghost_size=ghost_size)
    x = make_input(shape)
    assert_close(*(derivatives(layer, x) for layer in (ours, theirs)), 1e-12)
    assert_close(ours.state_dict().values(), theirs.state_dict().values(), 1e-12)


@pytest.mark.parametrize("shape", [FLAT, LONG])
@pytest.mark.parametrize("ghost_size", [2, 3, 4])
def test_ghost_batches_are_batches_of_their_own(shape, ghost_size):
    ours, theirs = batch_norms("GhostBatchNorm1d", ghost_size=ghost_size)
    x = make_input(shape)
    y = ours(x)
    parts = [theirs(x[i : i + ghost_size]) for i in range(0, 6, ghost_size)]
    assert_close([y], [torch.cat(parts)], 1e-12)
    state = ours.state_dict()  # one step of the running statistics per ghost batch
    assert_close(state.values(), theirs.state_dict().values(), 1e-12)
    assert state["num_batches_tracked"] == len(parts)
    x = make_input(shape, seed=5)
    assert_close([ours.eval()(x)], [theirs.eval()(x)], 1e-12)


def test_ghost_batches_do_not_share_gradients():
    ours, _ = batch_norms("GhostBatchNorm1d", ghost_size=3)
    x = make_input(FLAT).requires_grad_()
    (dx,) = torch.autograd.grad(ours(x)[:3].square().sum(), x)
    assert dx[:3].abs().min() > 0
    assert dx[3:].abs().max() == 0


def test_ghost_size_one_on_sequences_is_instance_norm():
    ours = relatives.GhostBatchNorm1d(8, ghost_size=1, affine=False).double()
    x = make_input(LONG)
    assert_close([ours(x)], [nn.InstanceNorm1d(8).double()(x)], 1e-12)


def test_a_last_ghost_batch_of_one_value_is_refused_before_anything_changes():
    layer = relatives.GhostBatchNorm1d(8, ghost_size=5).double()
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(make_input(FLAT))
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]), name
    layer(make_input(LONG))  # five values per channel are enough


@pytest.mark.parametrize("ghost_size", [0, -1, 2.0, True, None, "2"])
def test_ghost_size_must_be_a_positive_integer(ghost_size):
    with pytest.raises(ValueError, match="ghost_size"):
        relatives.GhostBatchNorm1d(8, ghost_size=ghost_size)


def test_untracked_ghost_norm_uses_ghost_batches_in_both_modes():
    options = {"ghost_size": 3, "track_running_stats": False}
    layer = relatives.GhostBatchNorm1d(8, **options).double()
    x = make_input(FLAT)
    assert torch.equal(layer(x), layer.eval()(x))


@pytest.mark.parametrize("shape", [FLAT, LONG])
def test_renorm_with_limits_one_and_zero_is_batch_norm(shape):
    ours, theirs = batch_norms("BatchRenorm1d", r_max=1, d_max=0)
    for seed in range(3):
        x = make_input(shape, seed=seed)
        assert_close(*(derivatives(layer, x) for layer in (ours, theirs)), 1e-12)
    assert_close(ours.state_dict().values(), theirs.state_dict().values(), 1e-12)
    assert_close([ours.eval()(x)], [theirs.eval()(x)], 1e-12)


@pytest.mark.parametrize("shape", [FLAT, LONG])
def test_unlimited_renorm_trains_on_what_evaluation_will_see(shape):
    infinite = float("inf")
    ours, theirs = batch_norms("BatchRenorm1d", r_max=infinite, d_max=infinite)
    for seed in range(4):
        theirs(make_input(shape, seed=seed))
    ours.load_state_dict(theirs.state_dict())
    x = make_input(shape, seed=8)
    assert_close([ours(x)], [theirs.eval()(x)], 1e-12)


def limits_reached(x, state, r_max, d_max, eps=1e-5):
    """r and d by NumPy, from the definition."""
    axes = (0, 2) if x.ndim == 3 else 0
    sigma = np.sqrt(state["running_var"].numpy() + eps)
    r = np.sqrt(x.var(axes) + eps) / sigma
    d = (x.mean(axes) - state["running_mean"].numpy()) / sigma
    return np.clip(r, 1 / r_max, r_max), np.clip(d, -d_max, d_max)


@pytest.mark.parametrize("shape", [FLAT, LONG])
def test_renorm_is_its_definition_and_r_and_d_carry_no_gradient(shape):
    r_max, d_max = 1.3, 0.5
    ours, _ = batch_norms("BatchRenorm1d", r_max=r_max, d_max=d_max)
    x = make_input(shape)
    mean, var = norm.batch_stats(x)
    ours.running_var.copy_(var * torch.linspace(0.3, 3, 8))
    ours.running_mean.copy_(mean + var.sqrt() * torch.linspace(-1, 2, 8))
    r, d = limits_reached(x.numpy(), ours.state_dict(), r_max, d_max)
    assert min(r) == 1 / r_max and max(r) == r_max  # both limits are at work
    assert min(d) == -d_max and max(d) == d_max
    assert ((r > 1 / r_max) & (r < r_max)).any()
    r, d = torch.from_numpy(r), torch.from_numpy(d)
    weight, bias = (p.detach().clone().requires_grad_() for p in ours.parameters())

    class Reference(nn.Module):
        def parameters(self):
            return iter((weight, bias))

        def forward(self, z):  # r and d inside weight and bias, as constants
            options = {"training": True, "eps": 1e-5}
            return F.batch_norm(z, None, None, weight * r, bias + weight * d, **options)

    assert_close(derivatives(ours, x), derivatives(Reference(), x), 1e-11)


def test_renorm_updates_its_statistics_as_batch_norm_does():
    ours, theirs = batch_norms("BatchRenorm1d")
    for seed in range(3):
        for layer in (ours, theirs):
            layer(make_input(LONG, seed=seed))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert_close(ours.state_dict().values(), theirs.state_dict().values(), 1e-12)
    x = make_input((1, 8), seed=5)
    assert_close([ours.eval()(x)], [theirs.eval()(x)], 1e-12)


def test_renorm_limits_can_follow_a_schedule():
    ours, theirs = batch_norms("BatchRenorm1d", r_max=1, d_max=0)
    x = make_input(FLAT)
    before = copy.deepcopy(ours)
    before.r_max, before.d_max = 3, 5
    assert torch.allclose(ours(x), theirs(x))
    assert not torch.allclose(before(x), theirs(x))


def test_renorm_without_parameters_and_in_half_precision():
    x = make_input(FLAT)
    layer = relatives.BatchRenorm1d(8, affine=False, r_max=1, d_max=0).double()
    assert_close([layer(x)], [F.batch_norm(x, None, None, training=True)], 1e-12)
    layer = relatives.BatchRenorm1d(8)
    assert layer(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "options",
    [
        {"r_max": 0.5},
        {"r_max": float("nan")},
        {"d_max": -1},
        {"track_running_stats": False},
    ],
)
def test_renorm_refuses_limits_that_make_no_sense(options):
    with pytest.raises(ValueError, match=r"r_max must|track_running_stats=True"):
        relatives.BatchRenorm1d(8, **options)


def test_renorm_refuses_a_limit_that_was_changed_to_nonsense():
    layer = relatives.BatchRenorm1d(8)
    layer.r_max = 0
    with pytest.raises(ValueError, match="r_max must"):
        layer(torch.randn(4, 8))


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
