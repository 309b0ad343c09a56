"""Healthy models, from fresh to trained: the doctor finds nothing."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
from patients import (
    Called,
    Convolutional,
    batches,
    codes,
    net,
    trained,
    used,
)
from torch import nn

from bnutils import deploy, doctor, models, norm
from bnutils.data.vision import import_mnist


@pytest.mark.parametrize(
    "bn",
    [nn.BatchNorm1d, norm.BatchNorm1d, nn.LazyBatchNorm1d, lambda c: nn.LayerNorm(c)],
)
@pytest.mark.parametrize("mode", [True, False])
def test_fresh_models_are_healthy(bn, mode):
    kind = (lambda c: bn()) if bn is nn.LazyBatchNorm1d else bn
    model = models.mlp((6, 8, 8, 3), norm=kind, bias=False).train(mode)
    assert codes(model) == []
    assert codes(model, batches()) == []
    if bn is not nn.LazyBatchNorm1d:
        assert codes(model, batches(), torch.optim.SGD(model.parameters(), 0.1)) == []


@pytest.mark.parametrize("mode", [True, False])
def test_a_model_that_was_warmed_up_and_not_trained_is_fresh(mode):
    model = net()
    for x in batches(20):
        model(x)
    assert codes(model.train(mode), batches(shift=3.0)) == []
    model[1].bias.data[1] = 1e-3  # one step later
    assert "stale-statistics" in codes(model, batches(shift=3.0))


@pytest.mark.parametrize(
    ("width", "affine", "learns"), [(8, False, True), (8, True, False), (1, True, True)]
)
def test_where_no_beta_can_tell_the_batches_seen_do(width, affine, learns):
    model = net(width=width, affine=affine)
    model[1].requires_grad_(learns)
    assert codes(model.eval(), batches(shift=3.0)) == []
    for x in batches(20):
        model.train()(x)
    assert "stale-statistics" in codes(model.eval(), batches(shift=3.0))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_trained_convolutional_models_are_healthy(dimensions):
    data = batches(shape=(2, *[5] * dimensions), size=16)
    model, optimizer = trained(Convolutional(dimensions), data)
    assert codes(model, data, optimizer) == []
    assert codes(model.eval(), data, optimizer) == []


@pytest.mark.parametrize("bn", [nn.BatchNorm1d, norm.BatchNorm1d])
@pytest.mark.parametrize("momentum", [0.03, 0.1, 0.3, None])
def test_trained_models_are_healthy(bn, momentum):
    model, optimizer = trained(net(bn=bn, momentum=momentum), passes=12)
    assert codes(model, batches(), optimizer) == []
    assert codes(model.eval(), batches(), optimizer) == []


def test_recalibrated_model_is_healthy():
    model, optimizer = trained()
    deploy.recalibrate(model, batches())
    assert codes(model, batches(), optimizer) == []


@pytest.mark.parametrize("seed", range(10))
def test_chance_alone_makes_no_finding(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.BatchNorm1d(200))
    data = [torch.randn(16, 200).exp() for _ in range(80)]  # skewed: log-normal
    for x in data[:60]:
        model(x)
    assert codes(model, data[60:]) == []


@pytest.fixture(scope="module")
def resnet():
    import_mnist()
    return sys.modules["torchvision.models"].resnet18


@pytest.mark.nightly
@pytest.mark.parametrize("options", [{}, {"zero_init_residual": True}])
def test_resnet18_is_healthy(resnet, options):
    torch.manual_seed(0)
    model = resnet(**options)
    for one in (model, model.eval()):
        assert codes(one) == []
        assert codes(one, torch.randn(4, 3, 64, 64)) == []


@pytest.mark.nightly
def test_resnet18_after_some_batches_is_healthy(resnet):
    torch.manual_seed(0)
    model = resnet()
    with torch.no_grad():
        for _ in range(50):
            model(torch.randn(8, 3, 32, 32))
    assert codes(model.eval(), torch.randn(32, 3, 32, 64).split(8)) == []


def test_model_without_batch_norm_has_nothing_to_examine():
    report = doctor.examine(nn.Linear(3, 2), torch.randn(4, 3))
    assert not report
    assert report.norms == 0


def test_instance_norm_is_none_of_its_business():
    assert doctor.examine(nn.InstanceNorm1d(3, track_running_stats=True)).norms == 0


def test_few_images_prove_nothing():
    model, _ = trained()
    assert "stale-statistics" not in codes(model, 2 + torch.randn(8, 6))


@pytest.mark.parametrize("before", [0, 97, 1003, 50_000])
def test_one_batch_per_step_is_fine_after_a_checkpoint_too(before):
    model = net()
    model[1].num_batches_tracked.fill_(before)
    model, optimizer = trained(model, passes=16)
    assert codes(model, None, optimizer) == []


def test_sgd_counts_no_steps():
    model = net()
    _, optimizer = trained(
        model, optimizer=torch.optim.SGD(model.parameters(), 0.01, 0.9)
    )
    assert codes(model, batches(), optimizer) == []


def test_batches_are_not_counted_where_no_norm_needs_them():
    data = [torch.randn(4, 3)] * 5
    assert doctor.examine(nn.Linear(3, 2), data).batches == 1  # for hidden ones
    assert doctor.examine(nn.BatchNorm1d(3), torch.randn(4, 3)).batches == 1


def test_a_fresh_layer_may_start_at_zero_as_a_whole_but_not_in_part():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    model[0].weight.data.zero_()
    assert not doctor.examine(model)
    model[1].weight.data[0] = 0
    assert [(f.path, f.value) for f in doctor.examine(model)] == [("1", 1)]


def test_pooled_sequences_are_examined_without_a_warning():
    model = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.BatchNorm1d(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not doctor.examine(model, torch.randn(32, 4, 6))
        assert not doctor.examine(nn.BatchNorm1d(1), torch.randn(32, 1, 1))
        assert not doctor.examine(nn.BatchNorm1d(1), torch.randn(32, 1, 5))


def test_a_norm_may_be_called_by_keyword():
    model = Called(lambda m, x: m.bn(input=m.fc(x)), fc=nn.Linear(4, 4), bn=used())
    assert not doctor.examine(model, torch.randn(64, 4)).notes


def test_channels_that_are_constant_in_the_data_do_not_contradict():
    """Pixels at the border, say: the few images looked at leave them white."""
    x = torch.randn(64, 4) * torch.tensor([1.0, 1.0, 0.0, 0.0])
    bn = nn.BatchNorm1d(4)
    bn.num_batches_tracked.fill_(1000)
    assert "stale-statistics" not in doctor.examine(bn, [x] * 4).codes


ZOO = [
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "googlenet",
    "efficientnet_b0",
    "densenet121",
    "regnet_y_400mf",
    "mnasnet0_5",
]


@pytest.mark.nightly
@pytest.mark.parametrize("name", ZOO)
def test_fresh_models_of_torchvision_are_healthy(name):
    import_mnist()
    options = {"init_weights": True} if name == "googlenet" else {}
    model = getattr(sys.modules["torchvision.models"], name)(num_classes=10, **options)
    data = [(torch.randn(8, 3, 64, 64), torch.randint(10, (8,))) for _ in range(4)]
    for mode in (True, False):
        report = doctor.examine(model.train(mode), data)
        assert [f for f in report if f.severity != "note"] == [], report
