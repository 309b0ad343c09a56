"""A folded model computes what it computed, whatever the layers, and goes on living."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import fusion
from trained import Net, alive, data, gap, keep_attribute, wide_pair

from bnutils import deploy, norm
from bnutils.data.vision import import_mnist

BN = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def layers():
    """One layer of every kind, with the shape of its input."""
    yield "Linear", nn.Linear(6, 8), nn.BatchNorm1d(8), (5, 6)
    yield "Linear, own BN", nn.Linear(6, 8, bias=False), norm.BatchNorm1d(8), (5, 6)
    for d in (1, 2, 3):
        for groups in (1, 2):
            for bias in (True, False):
                for name in ("Conv", "ConvTranspose"):
                    kind = getattr(nn, f"{name}{d}d")
                    layer = kind(4, 6, 3, stride=2, padding=1, groups=groups, bias=bias)
                    label = f"{name}{d}d, groups={groups}, bias={bias}"
                    yield label, layer, BN[d](6), (2, 4, *(7, 6, 5)[:d])
    yield "depthwise", nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), (2, 4, 5, 5)
    reflect = nn.Conv1d(4, 6, 3, padding=1, padding_mode="reflect")
    yield "reflect", reflect, nn.BatchNorm1d(6), (2, 4, 7)
    yield "affine=False", nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False), (5, 6)
    yield "eps", nn.Linear(6, 8), nn.BatchNorm1d(8, eps=0.5), (5, 6)
    yield "SyncBatchNorm", nn.Conv2d(4, 6, 3), nn.SyncBatchNorm(6), (2, 4, 5, 5)


KINDS = list(layers())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", KINDS, ids=lambda case: case[0])
def test_folding_changes_nothing_but_rounding(case, dtype):
    _, layer, bn, shape = case
    model = alive(nn.Sequential(copy.deepcopy(layer), copy.deepcopy(bn)), dtype)
    folded, report = deploy.fold(model)
    assert not [m for m in folded.modules() if hasattr(m, "running_var")]
    assert len(report.folded) == 1
    limit = 1e-6 if dtype == torch.float32 else 1e-12
    assert gap(model, folded, data(*shape, dtype=dtype)) < limit
    assert {p.dtype for p in folded.parameters()} == {dtype}


def test_weights_are_those_of_pytorchs_own_fusion():
    model = alive(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    theirs = fusion.fuse_conv_bn_eval(model[0], model[1])
    ours = deploy.fold(model).model[0]
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_float32_weights_are_those_of_float64_rounded_once():
    model = wide_pair()
    folded = deploy.fold(model).model[0]
    w, b, gamma, beta, mean, var = (
        t.detach().numpy().astype(np.float64)
        for t in (*model[0].parameters(), *model[1].parameters(), *model[1].buffers())
        if t.dim()
    )
    scale = gamma / np.sqrt(var + model[1].eps)
    weight = (w * scale[:, None]).astype(np.float32)
    bias = (beta + (b - mean) * scale).astype(np.float32)
    np.testing.assert_array_equal(folded.weight.detach().numpy(), weight)
    np.testing.assert_allclose(folded.bias.detach().numpy(), bias, rtol=1e-7)


def test_batch_norm_without_bias():
    bn = norm.BatchNorm1d(8, bias=False)
    model = alive(nn.Sequential(nn.Linear(6, 8, bias=False), bn))
    assert gap(model, deploy.fold(model).model, data(5, 6)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half(dtype):
    model = alive(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)), dtype)
    folded = deploy.fold(model).model
    assert folded[0].weight.dtype == dtype
    assert gap(model, folded, data(5, 6, dtype=dtype)) < 0.05


@pytest.mark.parametrize("needed", [True, False])
def test_frozen_weights_stay_frozen(needed):
    folded = deploy.fold(wide_pair().requires_grad_(needed)).model
    assert [p.requires_grad for p in folded.parameters()] == [needed, needed]


def test_a_folded_model_is_in_evaluation_mode_throughout():
    folded = deploy.fold(wide_pair()).model
    assert not any(m.training for m in folded.modules())
    assert str(deploy.fold(folded).report) == "folded 0 of 0 batch norms"


def test_what_stands_for_a_batch_norm_shows_what_may_pass():
    signals = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3)).eval()
    assert repr(deploy.fold(wide_pair()).model[1]) == "PassOn((N, C))"
    assert repr(deploy.fold(signals).model[1]) == "PassOn((N, C, L))"


def test_a_pair_that_is_used_twice_is_folded_once():
    model = alive(Net(lambda m, x: m.bn(m.a(x)) - m.bn(m.a(x * x))))
    folded, report = deploy.fold(model)
    assert len(report.folded) == 1
    assert gap(model, folded, data(5, 4)) < 1e-12


def test_one_module_under_two_names_and_in_a_list_is_folded_everywhere():
    model = Net(lambda m, x: m.steps[1](m.steps[0](x)))
    model.steps, model.alias = [model.a, model.bn], model.bn
    alive(model)
    folded, report = deploy.fold(model)
    assert len(report.folded) == 1
    assert folded.alias is folded.bn is folded.steps[1]
    assert gap(model, folded, data(5, 4)) < 1e-12


def test_the_original_is_not_touched():
    model = alive(
        Net(keep_attribute, tail=nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    )
    before = copy.deepcopy(model.state_dict())
    modules = [(id(m), type(m)) for m in model.modules()]
    folded, _ = deploy.fold(model)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert [(id(m), type(m)) for m in model.modules()] == modules
    assert not hasattr(model, "last")
    assert not hasattr(folded, "last")
    own = {p.data_ptr() for p in model.parameters()}
    assert not own & {p.data_ptr() for p in folded.parameters()}


def test_random_numbers_are_not_used_up():
    model = alive(Net(lambda m, x: m.bn(m.a(x)) + torch.rand(4)))
    state = torch.get_rng_state()
    deploy.fold(model)
    assert torch.equal(torch.get_rng_state(), state)


def test_folded_models_go_on_living():
    """They can be copied, pickled, traced, exported and trained."""
    model = alive(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), torch.float32)
    folded = deploy.fold(model).model
    x = data(5, 4, dtype=torch.float32)
    exported = torch.export.export(folded, (x,)).module()
    for other in (
        pickle.loads(pickle.dumps(folded)),
        torch.fx.symbolic_trace(folded),
        exported,
    ):
        torch.testing.assert_close(other(x), folded(x))
    folded(x).sum().backward()
    assert folded[0].bias.grad is not None


@pytest.fixture(scope="module")
def torchvision():
    try:
        import_mnist()
    except ImportError as error:
        pytest.skip(str(error))
    import torchvision.models

    return torchvision


@pytest.mark.parametrize(
    ("name", "options", "norms", "folded"),
    [
        ("resnet18", {}, 20, 20),
        ("shufflenet_v2_x0_5", {}, 56, 56),
        pytest.param("densenet121", {}, 121, 59, marks=pytest.mark.nightly),
        pytest.param("mnasnet0_5", {}, 52, 52, marks=pytest.mark.nightly),
        pytest.param(
            "googlenet", {"init_weights": False}, 59, 57, marks=pytest.mark.nightly
        ),
    ],
)
def test_models_that_nobody_here_wrote(torchvision, name, options, norms, folded):
    make = getattr(torchvision.models, name)
    model = alive(make(weights=None, **options))
    result, report = deploy.fold(model)
    assert (len(report.folded), len(report.folded) + len(report.kept)) == (
        folded,
        norms,
    )
    assert gap(model, result, data(1, 3, 64, 64)) < 1e-11
