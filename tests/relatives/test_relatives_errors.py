"""Input and arguments that the relatives refuse, with PyTorch's type of error and more words."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from siblings import FLAT, LONG, X, make_input
from torch import nn

from bnutils import relatives


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


@pytest.mark.parametrize("name", ["GhostBatchNorm1d", "BatchRenorm1d"])
@pytest.mark.parametrize("shape", [(), (6,), (2, 6, 3, 3)])
def test_wrong_rank_is_named_before_anything_else(name, shape):
    with pytest.raises(ValueError, match=f"got {len(shape)}D input"):
        getattr(relatives, name)(6)(torch.ones(shape))


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
