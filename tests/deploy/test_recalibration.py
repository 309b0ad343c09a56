"""Recalibration replaces the running statistics that the batches reach, and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

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
    assert len(deploy.recalibrate(model, batches).changed) == 2
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
    report = deploy.recalibrate(model, [torch.randn(4, 3, 5) + 2])
    assert [norm.norm for norm in report.norms] == ["1"]
    torch.testing.assert_close(beside.state_dict(), before, rtol=0, atol=0)
    assert model[1].num_batches_tracked == 1


def test_layer_without_running_statistics_beside_one_with_is_left_alone(batches):
    free = nn.BatchNorm1d(4, track_running_stats=False)
    model = nn.Sequential(nn.BatchNorm1d(4), free).double()
    assert [n.norm for n in deploy.recalibrate(model, batches).norms] == ["0"]
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


def same_state(model, before):
    torch.testing.assert_close(
        model.state_dict(), before, rtol=0, atol=0, equal_nan=True
    )


class Branches(nn.Module):
    """A second branch that only training takes, as an auxiliary head."""

    def __init__(self):
        super().__init__()
        self.main, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.other(x) if self.training else self.main(x)


def test_a_norm_that_no_batch_reaches_stays_as_it_was(batches):
    model = Branches().double()
    model(batches[0])
    before = copy.deepcopy(model.other.state_dict())
    report = deploy.recalibrate(model, batches)
    same_state(model.other, before)
    assert [n.norm for n in report.changed] == ["main"]
    assert [n.norm for n in report.not_reached] == ["other"]


def in_evaluation(model):
    model.train()[2][1].eval()


def own_train(model):
    model[2][1].train = lambda mode=True: model[2][1]


def without_momentum(model):
    model[2][1].momentum = 0.0


def without_gradients(model):
    model[2][1].requires_grad_(False)


def without_counter(model):
    model[2][1].num_batches_tracked = None


def untracked(model):
    model[2][1].track_running_stats = False


class KeepsItsMode(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(False)


def own_class(model):
    model[2][1].__class__ = KeepsItsMode


@pytest.mark.parametrize(
    ("freeze", "reason"),
    [
        (in_evaluation, "in evaluation mode while other layers are in training mode"),
        (own_train, "it has a train() of its own"),
        (own_class, "it has a train() of its own"),
        (without_momentum, "its momentum is 0"),
        (without_gradients, "its parameters do not require gradients, others do"),
        (without_counter, "it counts no batches, so it cannot average over them"),
        (untracked, "track_running_stats is False"),
    ],
)
def test_frozen_norms_stay_as_they_were_and_the_report_says_why(
    batches, freeze, reason
):
    model = small()
    model(batches[0])
    freeze(model)
    before = copy.deepcopy(model[2].state_dict())
    report = deploy.recalibrate(model, batches)
    same_state(model[2], before)
    assert [n.norm for n in report.changed] == ["0"]
    assert [(n.norm, n.reason) for n in report.frozen] == [("2.1", reason)]


class FrozenBatchNorm(nn.Module):
    """As torchvision's: four buffers, no momentum."""

    def __init__(self):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(4))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x):
        return x


def test_classes_that_never_update_are_frozen(batches):
    model = nn.Sequential(nn.BatchNorm1d(4), FrozenBatchNorm()).double()
    (norm,) = deploy.recalibrate(model, batches).frozen
    assert (norm.kind, norm.reason) == (
        "FrozenBatchNorm",
        "its class has no momentum: it never updates",
    )


class OwnBatchNorm(nn.Module):
    """A reader's own class: it keeps what batch norm keeps, and nothing else."""

    momentum = 0.1

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x):
        if self.training:
            self.num_batches_tracked += 1
            share = self.momentum or 1 / self.num_batches_tracked
            self.running_mean.lerp_(x.mean(0), float(share))
            self.running_var.lerp_(x.var(0), float(share))
        return x


def test_a_batch_norm_of_the_readers_own_is_recalibrated_too(batches):
    ours, theirs = nn.Sequential(OwnBatchNorm()).double(), nn.BatchNorm1d(4).double()
    ours(50 + batches[0])
    (norm,) = deploy.recalibrate(ours, batches).changed
    deploy.recalibrate(theirs, batches)
    assert norm.kind == "OwnBatchNorm"
    torch.testing.assert_close(ours[0].running_mean, theirs.running_mean)
    torch.testing.assert_close(ours[0].running_var, theirs.running_var)


def test_a_model_without_gradients_at_all_is_not_frozen(batches):
    """As it is served: nothing learns, so it says nothing about batch norm."""
    model = small().requires_grad_(False).eval()
    assert len(deploy.recalibrate(model, batches).changed) == 2
    plain = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2)).double()
    assert len(deploy.recalibrate(plain, batches).changed) == 1


def test_the_mode_of_a_wrapper_freezes_nothing(batches):
    wrapped = AveragedModel(small().eval())
    assert wrapped.training
    assert len(deploy.recalibrate(wrapped, batches).changed) == 2


def test_where_all_are_frozen_or_none_is_reached_it_is_refused(batches):
    model = nn.Sequential(nn.BatchNorm1d(4, momentum=0.0)).double()
    with pytest.raises(ValueError, match="every batch norm .*'0': its momentum is 0"):
        deploy.recalibrate(model, batches)
    model = nn.Sequential(nn.BatchNorm1d(4)).double()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="reached by the 5 batches"):
        deploy.recalibrate(model, batches, call=lambda model, x: x)
    same_state(model, before)
    with pytest.raises(ValueError, match="'0' has no size yet"):
        deploy.recalibrate(nn.Sequential(nn.LazyBatchNorm1d()), batches)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_batches_that_are_not_finite_are_refused(batches, bad):
    model = small()
    model(batches[0])
    before = copy.deepcopy(model.state_dict())
    batches[3][2, 1] = bad
    with pytest.raises(ValueError, match="batch 3 holds NaN or infinity"):
        deploy.recalibrate(model, batches)
    same_state(model, before)


def test_numbers_that_overflow_inside_the_model_are_refused():
    layers = nn.Linear(4, 4), nn.BatchNorm1d(4)
    model = nn.Sequential(*layers)
    layers[0].weight.data.fill_(1e38)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="what reaches '1' is not"):
        deploy.recalibrate(model, [100 * torch.randn(8, 4)])
    same_state(model, before)


class Keeps(nn.Module):
    """Notes every call of its train()."""

    calls = 0

    def train(self, mode=True):
        self.calls += 1
        return super().train(mode)

    def forward(self, x):
        return x


def test_the_models_own_train_is_not_called(batches):
    model = nn.Sequential(nn.BatchNorm1d(4), Keeps()).double()
    deploy.recalibrate(model, batches)
    assert model[1].calls == 0
    assert not model[0]._forward_pre_hooks


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(4)

    def forward(self, left, right):
        return self.bn(left + right)


def test_batches_come_in_the_forms_in_which_loaders_give_them(batches):
    expected = small()
    deploy.recalibrate(expected, batches)
    labels = torch.zeros(8)
    for form in ([(x, labels) for x in batches], [[x] for x in batches]):
        model = small()
        deploy.recalibrate(model, form)
        same_state(model, expected.state_dict())
    pairs = [Pair().double() for _ in range(4)]
    deploy.recalibrate(pairs[0], [(x, x) for x in batches])
    deploy.recalibrate(pairs[1], [{"left": x, "right": x} for x in batches])
    deploy.recalibrate(pairs[2], batches, call=lambda model, x: model(x, right=x))
    deploy.recalibrate(pairs[3], [(x, x, labels) for x in batches])
    for model in pairs[1:]:
        same_state(model, pairs[0].state_dict())
    with pytest.raises(TypeError, match="needs 2 inputs"):
        deploy.recalibrate(pairs[0], batches)
    one = nn.Sequential(nn.BatchNorm1d(4)).double()
    assert deploy.recalibrate(one, batches[0]).batches == 1  # a tensor is one batch
    both = {"left": batches[0], "right": batches[0]}
    assert deploy.recalibrate(Pair().double(), both).batches == 1


def test_a_norm_that_is_called_by_keyword_is_reached(batches):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(4)

        def forward(self, x):
            return self.bn(input=x)

    (norm,) = deploy.recalibrate(Named().double(), batches).changed
    assert norm.values == 5 * 8


def test_the_report_reads_well(batches):
    model = nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.BatchNorm1d(2), nn.Flatten(), Branches()
    )
    model.append(nn.BatchNorm1d(4, momentum=0.0))
    report = deploy.recalibrate(model.double(), batches)
    assert [n.values for n in report.norms] == [80, 40, 0, 0]
    assert str(report).splitlines() == [
        "recalibrated 2 of 4 batch norms over 5 batches",
        "  1 (BatchNorm1d): 80 values a channel",
        "  3.main (BatchNorm1d): 40 values a channel",
        "not reached, and as before: 1",
        "  3.other (BatchNorm1d)",
        "frozen, and as before: 1",
        "  4 (BatchNorm1d): its momentum is 0",
    ]
    assert repr(report) == str(report)
    alone = deploy.recalibrate(nn.BatchNorm1d(4).double(), batches[:1])
    assert "over 1 batch\n  the model itself (BatchNorm1d): 8" in str(alone)
