"""Recalibration replaces running statistics and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from bnutils import deploy, norm


@pytest.fixture
def batches():
    torch.manual_seed(0)
    return [3 + 2 * torch.randn(8, 4, dtype=torch.float64) for _ in range(5)]


def small(kind=nn.BatchNorm1d):
    torch.manual_seed(1)
    inner = nn.Sequential(nn.Linear(4, 3), kind(3))
    return nn.Sequential(kind(4), nn.Dropout(0.5), inner, nn.ReLU()).double()


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, norm.BatchNorm1d])
def test_first_layer_gets_the_average_over_the_batches(kind, batches):
    model = small(kind)
    assert deploy.recalibrate(model, batches) == 2
    mean = torch.stack([b.mean(0) for b in batches]).mean(0)
    var = torch.stack([b.var(0) for b in batches]).mean(0)  # unbiased
    torch.testing.assert_close(model[0].running_mean, mean)
    torch.testing.assert_close(model[0].running_var, var)
    assert model[0].num_batches_tracked == 5


def test_agrees_with_pytorchs_update_bn(batches):
    model = small()
    model[1].p = 0.0  # update_bn leaves dropout on
    theirs = copy.deepcopy(model)
    deploy.recalibrate(model, batches)
    update_bn(batches, theirs)
    torch.testing.assert_close(model.state_dict(), theirs.state_dict())


def test_dropout_stays_off(batches):
    first, second = small(), small()
    deploy.recalibrate(first, batches)
    deploy.recalibrate(second, batches)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_statistics_of_images_are_over_positions_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3))
    x = torch.randn(6, 3, 5, 5) + 2
    deploy.recalibrate(model, [x])
    torch.testing.assert_close(model[0].running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(model[0].running_var, x.var((0, 2, 3)))


def test_everything_else_stays_as_it_was(batches):
    model = small()
    model.train()
    model[2].eval()
    model[0].momentum, model[2][1].momentum = 0.3, None
    modes = [m.training for m in model.modules()]
    weights = copy.deepcopy(dict(model.named_parameters()))
    deploy.recalibrate(model, batches)
    assert [m.training for m in model.modules()] == modes
    assert (model[0].momentum, model[2][1].momentum) == (0.3, None)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name])
        assert parameter.grad is None
        assert parameter.requires_grad


def test_stale_statistics_count_for_nothing_unless_asked(batches):
    fresh, stale = small(), small()
    for batch in batches:
        stale.train()(50 + 9 * batch)
    deploy.recalibrate(fresh, batches)
    deploy.recalibrate(stale, batches)
    torch.testing.assert_close(stale.state_dict(), fresh.state_dict())


def test_reset_false_continues_the_average(batches):
    whole, parts = small(), small()
    deploy.recalibrate(whole, batches)
    deploy.recalibrate(parts, batches[:2])
    deploy.recalibrate(parts, batches[2:], reset=False)
    torch.testing.assert_close(parts[0].running_mean, whole[0].running_mean)
    torch.testing.assert_close(parts[0].running_var, whole[0].running_var)
    assert parts[0].num_batches_tracked == 5


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(4, 2),
        nn.BatchNorm1d(4, track_running_stats=False),
        nn.InstanceNorm1d(4, track_running_stats=True),
    ],
)
def test_model_without_running_statistics_is_refused(model):
    with pytest.raises(ValueError, match="nothing to recalibrate"):
        deploy.recalibrate(model, [torch.randn(8, 4)])


def test_no_batch_is_refused_and_changes_nothing(batches):
    model = small()
    model(batches[0])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="no batch"):
        deploy.recalibrate(model, iter([]))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_gradients_and_frozen_weights_stay_as_they_were(batches):
    model = small()
    model[2][0].requires_grad_(False)
    model(batches[0]).sum().backward()
    grads = {n: copy.deepcopy(p.grad) for n, p in model.named_parameters()}
    needed = [p.requires_grad for p in model.parameters()]
    outputs = []
    handle = model.register_forward_hook(lambda *args: outputs.append(args[-1]))
    deploy.recalibrate(model, batches)
    handle.remove()
    assert [p.requires_grad for p in model.parameters()] == needed
    assert grads["0.weight"] is not None
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=0, atol=0)
    assert not any(y.requires_grad for y in outputs)


def test_inner_layer_sees_what_training_shows_it(batches):
    model = small()
    model[1].p = 0.0
    inner = []
    for batch in batches:
        z = batch - batch.mean(0)
        z = z / (batch.var(0, unbiased=False) + model[0].eps).sqrt()
        inner.append(z @ model[2][0].weight.T + model[2][0].bias)
    deploy.recalibrate(model, batches)
    mean = torch.stack([z.mean(0) for z in inner]).mean(0)
    var = torch.stack([z.var(0) for z in inner]).mean(0)
    torch.testing.assert_close(model[2][1].running_mean, mean)
    torch.testing.assert_close(model[2][1].running_var, var)


def test_instance_norm_beside_batch_norm_is_left_alone():
    torch.manual_seed(0)
    beside = nn.InstanceNorm1d(3, track_running_stats=True)
    before = copy.deepcopy(beside.state_dict())
    model = nn.Sequential(beside, nn.BatchNorm1d(3))
    assert deploy.recalibrate(model, [torch.randn(4, 3, 5) + 2]) == 1
    torch.testing.assert_close(beside.state_dict(), before, rtol=0, atol=0)
    assert model[1].num_batches_tracked == 1


def test_layer_without_running_statistics_beside_one_with_is_left_alone(batches):
    free = nn.BatchNorm1d(4, track_running_stats=False)
    model = nn.Sequential(nn.BatchNorm1d(4), free).double()
    assert deploy.recalibrate(model, batches) == 1
    assert (free.training, free.momentum, free.running_mean) == (True, 0.1, None)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_on_the_way_restores_statistics_and_modes(batches, error):
    def broken():
        yield batches[0]
        raise error

    model = small()
    model(batches[1])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error):
        deploy.recalibrate(model, broken())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training
    assert model[0].momentum == 0.1
