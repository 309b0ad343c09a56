"""The doctor finds what is wrong, blames nothing healthy, and leaves everything as it was."""

from __future__ import annotations

import copy
import random
import sys
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from bnutils import deploy, doctor, models, norm
from bnutils.data.vision import import_mnist


def codes(*args):
    report = doctor.examine(*args)
    assert not report.notes, report.notes
    return report.codes


def net(*, bias=False, bn=nn.BatchNorm1d, width=8, **options):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, width, bias=bias),
        bn(width, **options),
        nn.ReLU(),
        nn.Linear(width, 3),
    )


def batches(n=8, size=32, shift=0.0, shape=(6,)):
    torch.manual_seed(1)
    return [shift + torch.randn(size, *shape) for _ in range(n)]


def trained(model=None, data=None, optimizer=None, passes=8):
    """A model after some steps, and its optimiser."""
    model = net() if model is None else model
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=1e-3)
    for x in (data or batches()) * passes:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return model, optimizer


class Called(nn.Module):
    """A model whose forward is a function; not traceable with ``opaque``."""

    def __init__(self, function, *, opaque=False, **modules):
        super().__init__()
        self.function, self.opaque = function, opaque
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        if self.opaque and float(x.sum()) == 12345.0:  # a branch on data
            return x
        return self.function(self, x)


both = pytest.mark.parametrize("opaque", [False, True])


class Convolutional(nn.Sequential):
    def __init__(self, dimensions):
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
        bn = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1]
        torch.manual_seed(0)
        super().__init__(conv(2, 4, 3, bias=False), bn(4), nn.ReLU(), nn.Flatten())


# ---------------------------------------------------------------- healthy models


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


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_trained_convolutional_models_are_healthy(dimensions):
    data = batches(shape=(2, *[5] * dimensions), size=16)
    model, optimizer = trained(Convolutional(dimensions), data)
    assert codes(model, data, optimizer) == []
    assert codes(model.eval(), data, optimizer) == []


@pytest.mark.parametrize("bn", [nn.BatchNorm1d, norm.BatchNorm1d])
@pytest.mark.parametrize("momentum", [0.03, 0.1, 0.3, None])
def test_trained_models_are_healthy(bn, momentum):
    model, optimizer = trained(net(bn=bn, momentum=momentum), passes=20)
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


@pytest.mark.parametrize("options", [{}, {"zero_init_residual": True}])
def test_resnet18_is_healthy(resnet, options):
    torch.manual_seed(0)
    model = resnet(**options)
    for one in (model, model.eval()):
        assert codes(one) == []
        assert codes(one, torch.randn(4, 3, 64, 64)) == []


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


# ---------------------------------------------------------------- each finding, and its absence


@both
def test_bias_before_batch_norm_is_redundant(opaque):
    model = Called(
        lambda m, x: m.out(F.relu(m.bn(m.fc(x)))),
        opaque=opaque,
        fc=nn.Linear(6, 8),
        bn=nn.BatchNorm1d(8),
        out=nn.Linear(8, 2),
    )
    assert [f.path for f in doctor.examine(model, batches())["redundant-bias"]] == [
        "fc"
    ]
    assert ("redundant-bias" in codes(model)) is not opaque


def test_findings_of_a_kind_come_in_the_order_of_the_model():
    model = models.mlp((6, 8, 8, 8, 8, 8, 8, 3))
    paths = [f.path for f in doctor.examine(model)]
    assert paths == [f"linear{i}" for i in range(1, 7)]


@both
@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.bn(F.relu(m.fc(x))),  # a nonlinearity between
        lambda m, x: m.bn(h := m.fc(x)) + h,  # a skip connection sees the bias
        lambda m, x: m.bn(m.act(m.fc(x))),  # a module between
    ],
)
def test_bias_that_has_an_effect_is_not_redundant(forward, opaque):
    modules = {
        "fc": nn.Linear(6, 8),
        "bn": nn.BatchNorm1d(8),
        "act": nn.ReLU(inplace=True),
    }
    model = Called(forward, opaque=opaque, **modules)
    assert codes(model) == codes(model, batches()) == []


def test_bias_of_the_last_axis_is_not_redundant_for_channels_in_axis_1():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(5))
    assert codes(model, batches(shape=(5, 6))) == []


def test_bias_before_a_frozen_batch_norm_is_not_redundant():
    model, _ = trained(net(bias=True))
    model[1].eval().requires_grad_(False)
    assert "redundant-bias" not in codes(model, batches())


@both
def test_dropout_before_batch_norm(opaque):
    model = Called(
        lambda m, x: m.bn(m.fc(m.drop(x))),
        opaque=opaque,
        drop=nn.Dropout(0.5),
        fc=nn.Linear(6, 8, bias=False),
        bn=nn.BatchNorm1d(8),
    )
    (one,) = doctor.examine(model, batches())["dropout-before-norm"]
    assert one.path == "bn"
    assert (
        1.5 < one.value < 2.5
    )  # inputs of mean 0: the variance is 1/(1 - p) times as large


def test_functional_dropout_is_found_in_either_mode():
    model = Called(
        lambda m, x: m.bn(F.dropout(x, 0.5, m.training)), bn=nn.BatchNorm1d(6)
    )
    assert codes(model) == codes(model.eval(), batches()) == ["dropout-before-norm"]


@pytest.mark.parametrize(
    "layers",
    [
        [nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)],
        [nn.Dropout(0.0), nn.BatchNorm1d(6)],
        [nn.Dropout(0.5), nn.LayerNorm(6), nn.BatchNorm1d(6)],
    ],
)
def test_dropout_elsewhere_is_fine(layers):
    assert (
        codes(nn.Sequential(*layers)) == codes(nn.Sequential(*layers), batches()) == []
    )


def test_statistics_never_updated():
    model = net().eval()
    model, optimizer = trained(model)
    (one,) = doctor.examine(model, None, optimizer)
    assert one.code == "never-updated"
    assert "64 optimiser steps" in one.evidence
    assert codes(model, batches(shift=2), optimizer) == [
        "never-updated"
    ]  # not stale too
    assert "never-updated" in codes(model)  # beta tells, without the optimiser
    deploy.recalibrate(model, batches())
    assert codes(model, batches(), optimizer) == []


def test_stale_statistics_name_the_worst_channel_and_its_errors():
    model, _ = trained(net())
    model[1].running_mean[3] += 100
    (one,) = doctor.examine(model, batches())["stale-statistics"]
    assert "1 of 8 channels; channel 3" in one.evidence
    assert one.value > 100


@pytest.mark.parametrize("change", [lambda x: x + 2, lambda x: 3 * x])
def test_statistics_of_other_data_are_stale(change):
    model, _ = trained()
    assert codes(model, batches()) == []
    assert codes(model.eval(), [change(x) for x in batches()]) == ["stale-statistics"]


def test_unfinished_statistics_say_how_much_of_the_start_is_left():
    model = nn.Sequential(nn.BatchNorm1d(6, momentum=0.01))
    for x in batches(shift=3):
        model(x)
    (one,) = doctor.examine(model, batches(shift=3))["stale-statistics"]
    assert "start value still counts 92%" in one.evidence


def test_few_images_prove_nothing():
    model, _ = trained()
    assert "stale-statistics" not in codes(model, 2 + torch.randn(8, 6))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_statistics_that_are_no_statistics(value):
    model, _ = trained()
    model[1].running_var[2] = value
    assert "nonfinite-statistics" in codes(model)


def loader(n, size, **options):
    torch.manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(n, 6), torch.zeros(n)), size, **options)


def test_last_batch_of_one():
    model = net()
    (one,) = doctor.examine(model, loader(129, 32))
    assert (one.code, one.path) == ("batch-of-one", "1")
    assert "last of 5 batches" in one.evidence
    assert codes(model, [*batches(), torch.randn(1, 6)]) == ["batch-of-one"]


def test_no_batch_of_one():
    model = net()
    assert codes(model, loader(129, 32, drop_last=True)) == []
    assert codes(model, loader(128, 32)) == []
    assert codes(model.eval(), loader(129, 32)) == []  # harmless in evaluation
    images = torch.randn(9, 2, 5)
    assert codes(Convolutional(1), DataLoader(images, 8)) == []  # 3 positions


def test_every_batch_of_one():
    assert codes(net(), loader(10, 1)) == ["batch-of-one"]
    assert codes(net(), torch.randn(1, 6)) == ["batch-of-one"]


def test_a_batch_of_one_that_only_running_shows():
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(2))
    assert codes(pooled, torch.randn(1, 2, 5, 5)) == ["forward-fails"]
    assert codes(pooled, [torch.randn(8, 2, 5, 5), torch.randn(1, 2, 5, 5)]) == [
        "batch-of-one"
    ]


def test_dropout_is_named_when_only_evaluation_runs():
    def forward(m, x):
        if m.training:
            raise ValueError("targets are missing")
        return m.inner(x)

    model = Called(forward, inner=nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(6)))
    report = doctor.examine(model, batches())
    assert report.codes == ["dropout-before-norm"]
    assert "targets are missing" in report.notes[0]


def test_left_in_training_mode():
    model, _ = trained(nn.Sequential(net(), nn.ReLU(), nn.BatchNorm1d(3)))
    model.eval()
    assert codes(model) == []
    model[2].train()
    assert [f.path for f in doctor.examine(model)["train-mode-in-eval"]] == ["2"]


def test_frozen_by_requires_grad_only():
    model, _ = trained()
    model[1].requires_grad_(False)
    assert codes(model) == ["frozen-by-requires-grad"]
    model[1].eval()
    assert codes(model, batches(shift=5)) == []  # frozen for good: its own choice
    model.eval()
    assert codes(model) == []


@pytest.mark.parametrize(
    ("momentum", "code"),
    [(0, "momentum-zero"), (1.0, "momentum-one"), (1.5, "momentum-range")],
)
def test_momentum(momentum, code):
    assert code in codes(net(momentum=momentum))
    assert code not in codes(net(momentum=0.5))
    assert code not in codes(net(momentum=momentum, track_running_stats=False))


@pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.AdamW])
def test_accumulation_counts_several_batches_per_step(optimiser):
    model = net()
    optimizer = optimiser(model.parameters(), weight_decay=0.0)
    for step in range(42):
        model(batches(1)[0]).sum().backward()
        if step % 4 == 3:
            optimizer.step()
    (one,) = doctor.examine(model, None, optimizer)["several-forwards"]
    assert "42 batches seen in 10 optimiser steps: 4 per step" in one.evidence


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


def test_checkpointing_runs_the_norm_twice():
    inner = net()
    model = Called(
        lambda m, x: checkpoint(m.inner, x, use_reentrant=False), inner=inner
    )
    (one,) = doctor.examine(model, batches())["recomputed"]
    assert (one.path, one.value) == ("inner.1", 2)
    assert "recomputed" not in codes(inner, batches())


def test_two_calls_in_one_forward_are_no_accumulation_as_well():
    bn = nn.BatchNorm1d(6)
    model = Called(
        lambda m, x: m.bn(m.fc(m.bn(x))), bn=bn, fc=nn.Linear(6, 6, bias=False)
    )
    model, optimizer = trained(model)
    assert int(bn.num_batches_tracked) == 128  # in 64 steps
    assert codes(model, batches(), optimizer) == ["shared-norm"]


@both
def test_one_norm_at_two_places(opaque):
    modules = {"fc": nn.Linear(6, 6, bias=False), "bn": nn.BatchNorm1d(6)}
    model = Called(lambda m, x: m.bn(m.fc(F.relu(m.bn(x)))), opaque=opaque, **modules)
    (one,) = doctor.examine(model, batches())["shared-norm"]
    assert one.value == 2
    assert ("shared-norm" in codes(model)) is not opaque


def test_an_alias_is_not_a_second_place():
    model = net()
    model.alias = nn.ModuleList([model[1]])
    wrapped = Called(lambda m, x: m.net[:4](x), net=model)
    assert codes(wrapped) == codes(wrapped, batches()) == []


def test_weight_decay_on_gamma():
    model = net()
    everything = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.01)
    (one,) = doctor.examine(model, None, everything)
    assert (one.code, one.severity, one.value) == ("decayed-norm", "note", 0.01)
    own = list(model[1].parameters())
    rest = [*model[0].parameters(), *model[3].parameters()]
    groups = [
        {"params": rest, "weight_decay": 0.01},
        {"params": own, "weight_decay": 0},
    ]
    assert codes(model, None, torch.optim.SGD(groups, 0.1)) == []


def test_dead_channels():
    model, _ = trained()
    model[1].weight.data[[2, 5]] = 1e-9
    (one,) = doctor.examine(model)["dead-channels"]
    assert (one.value, one.severity) == (2, "note")
    model[1].weight.data.zero_()
    (one,) = doctor.examine(model)["dead-channels"]
    assert (one.value, one.severity) == (8, "warning")
    model[1].weight.data.fill_(-0.02)  # small, but all alike, is no reason
    assert codes(model) == []


def sequences(positions=8):
    """(N, L, C): every channel has its own mean and spread, positions are alike."""
    torch.manual_seed(0)
    c = torch.arange(8.0)
    return [c + (1 + c) * torch.randn(16, positions, 8) for _ in range(4)]


def test_channels_in_the_last_axis():
    (one,) = doctor.examine(nn.Sequential(nn.BatchNorm1d(8)), sequences())
    assert (one.code, one.severity, one.value) == ("wrong-axis", "warning", 8)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8))
    (one,) = doctor.examine(model, sequences())
    assert (one.code, one.severity) == ("wrong-axis", "error")


def test_channels_in_axis_one():
    right = [x.transpose(1, 2) for x in sequences()]
    assert codes(nn.Sequential(nn.BatchNorm1d(8)), right) == []
    turned = Called(
        lambda m, x: m.bn(m.fc(x).transpose(1, 2)),
        fc=nn.Linear(8, 8, bias=False),
        bn=nn.BatchNorm1d(8),
    )
    assert "wrong-axis" not in codes(turned, sequences())
    conv = nn.Sequential(nn.Conv1d(8, 8, 3, padding=1, bias=False), nn.BatchNorm1d(8))
    assert codes(conv, sequences()) == []
    functional = Called(lambda m, x: m.bn(F.relu(m.conv(x))), conv=conv[0], bn=conv[1])
    assert codes(functional, sequences()) == []


def test_length_other_than_channels_fails_and_is_said():
    report = doctor.examine(nn.Sequential(nn.BatchNorm1d(8)), sequences(positions=5))
    assert report.codes == ["forward-fails"]
    assert "(16, 5, 8)" in report.findings[0].evidence


def test_no_running_statistics():
    assert codes(net(track_running_stats=False)) == ["no-running-stats"]
    model, _ = trained()
    model[1].track_running_stats = False
    assert codes(model) == ["tracking-off"]


def test_tiny_batches_for_the_momentum():
    assert codes(net(), batches(size=4)) == ["tiny-batch"]
    assert codes(net(), batches(size=8)) == []
    assert codes(net(momentum=0.5), batches(size=8)) == ["tiny-batch"]
    assert codes(net(momentum=0.01), batches(size=8)) == []
    small = batches(size=2, shape=(2, 9, 9))
    assert codes(Convolutional(2), small) == []  # 98 values per channel


def test_sync_batch_norm_without_a_process_group():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(net())
    assert doctor.examine(model).codes == ["sync-without-group"]
    with mock.patch("torch.distributed.is_initialized", return_value=True):
        assert doctor.examine(model).codes == []


def test_batches_sorted_by_class():
    torch.manual_seed(0)
    centres = 3 * torch.randn(10, 6)
    y = torch.arange(640) % 10
    x = centres[y] + torch.randn(640, 6)
    order = y.argsort()
    by_class = TensorDataset(x[order], y[order])
    assert codes(net(), DataLoader(by_class, 32)) == ["batches-differ"]
    assert codes(net(), DataLoader(by_class, 32, shuffle=True)) == []


def test_several_findings_come_worst_first():
    model, optimizer = trained(net(bias=True))
    model[1].running_var[0] = float("nan")
    report = doctor.examine(model, batches(), optimizer)
    assert report.codes == ["nonfinite-statistics", "redundant-bias"]


# ---------------------------------------------------------------- everything stays as it was


def everything(model, data, optimizer):
    """All that must not change, as comparable values; tensors by identity and content."""
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    state = {
        "tensors": [(id(t), t._version, t.detach().clone()) for t in tensors],
        "modes": [m.training for m in model.modules()],
        "needs": [p.requires_grad for p in model.parameters()],
        "hooks": [dict(getattr(m, h)) for m in model.modules() for h in hooks],
        "keys": [sorted(vars(m)) for m in model.modules()],
        "forwards": [type(m) for m in model.modules()],
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1:3],
        "torch": torch.get_rng_state(),
        "grad": torch.is_grad_enabled(),
    }
    for name in ("generator", "_iterator"):
        value = getattr(data, name, None)
        state[name] = (
            value.get_state() if isinstance(value, torch.Generator) else id(value)
        )
    return state


def same(a, b):
    if isinstance(a, torch.Tensor | np.ndarray):
        return bool(torch.equal(torch.as_tensor(a), torch.as_tensor(b)))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


class Noisy(TensorDataset):
    """Draws from every generator there is, its own too."""

    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.rng, self.g = np.random.default_rng(0), torch.Generator().manual_seed(3)

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        noise = np.random.rand() + random.random() + self.rng.random()
        return x + noise + torch.rand(1) + torch.rand(1, generator=self.g), y


class Stumbles(nn.Module):
    def forward(self, x):
        random.random(), np.random.rand(), torch.rand(3)
        raise RuntimeError("stumbled")


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_everything_stays_as_it_was(mode, fails, shuffle):
    torch.manual_seed(0)
    inner = checkpointed = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), norm.BatchNorm1d(8)
    )
    model = Called(
        lambda m, x: m.end(checkpoint(m.inner, x, use_reentrant=False)),
        inner=inner,
        end=nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3)),
    )
    data = Noisy(torch.randn(100, 6), torch.zeros(100))
    g = torch.Generator().manual_seed(5)
    source = DataLoader(data, 16, shuffle=shuffle, generator=g)
    model, optimizer = trained(model, passes=1)
    if fails:
        checkpointed.append(Stumbles())
    model.train(mode)
    inner[3].eval()
    inner[1].weight.requires_grad_(False)
    seen = []
    inner[1].register_forward_hook(lambda *args: seen.append(args))
    inner.register_forward_pre_hook(lambda *args: seen.append(args))
    before = everything(model, source, optimizer)
    own = data.rng.bit_generator.state, data.g.get_state()
    report = doctor.examine(model, source, optimizer)
    assert report
    assert ("forward-fails" in report.codes) is fails
    after = everything(model, source, optimizer)
    for key, value in before.items():
        assert same(value, after[key]), key
    assert same(own, (data.rng.bit_generator.state, data.g.get_state()))
    assert seen == []


def test_lazy_layers_stay_lazy():
    model = nn.Sequential(nn.LazyLinear(8, bias=False), nn.LazyBatchNorm1d())
    assert codes(model, batches()) == []
    assert isinstance(model[1], nn.LazyBatchNorm1d)
    assert model[1].has_uninitialized_params()
    assert model(batches()[0]).shape == (32, 8)


def test_generator_inside_the_model_stays_where_it_was():
    class Jitter(nn.Module):
        def __init__(self):
            super().__init__()
            self.g = torch.Generator().manual_seed(7)

        def forward(self, x):
            return x + 0.01 * torch.randn(x.shape, generator=self.g)

    model = nn.Sequential(Jitter(), net())
    before = model[0].g.get_state()
    assert codes(model, batches()) == []
    assert torch.equal(model[0].g.get_state(), before)


def test_two_examinations_say_the_same():
    model, optimizer = trained(nn.Sequential(nn.Dropout(0.5), net(bias=True)))
    first, second = (str(doctor.examine(model, batches(), optimizer)) for _ in range(2))
    assert first == second


def test_old_style_weight_norm_and_non_leaf_tensors_can_be_copied():
    model = net()
    model[3].note = model[3].weight * 2  # not a leaf: deepcopy alone refuses
    assert codes(model, batches()) == []


def test_model_that_cannot_be_copied_is_examined_without_running_it():
    class Stubborn(nn.BatchNorm1d):
        def __deepcopy__(self, memo):
            raise RuntimeError("one of a kind")

    model = nn.Sequential(Stubborn(6, momentum=0.0))
    report = doctor.examine(model, batches())
    assert report.codes == ["momentum-zero"]
    assert "one of a kind" in report.notes[0]


# ---------------------------------------------------------------- loaders


class Stream(IterableDataset):
    def __iter__(self):
        return iter(torch.cat(batches()))


class Endless(torch.utils.data.Sampler):
    def __iter__(self):
        while True:
            yield torch.randint(64, (32,)).tolist()


def endless():
    data = TensorDataset(torch.randn(64, 6), torch.zeros(64))
    return DataLoader(data, batch_sampler=Endless())


@pytest.mark.parametrize(
    ("source", "used"),
    [
        (endless, 8),
        (lambda: torch.randn(64, 6), 1),
        (lambda: (torch.randn(64, 6), torch.zeros(64)), 1),
        (lambda: batches(20), 8),
        (lambda: torch.cat(batches(4)).split(32), 4),
        (lambda: [(x, 0) for x in batches(3)], 3),
        (lambda: (x for x in batches(20)), 8),
        (lambda: loader(640, 32), 8),
        (lambda: loader(64, 32, num_workers=2), 2),
        (lambda: DataLoader(Stream(), 32), 8),
    ],
)
def test_loaders_of_many_kinds(source, used):
    report = doctor.examine(net(), source())
    assert report.findings == []
    assert report.batches == used


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        (5, TypeError, "int"),
        ("text", TypeError, "str"),
        ([{"x": 1}], TypeError, "dict"),
        ([("a", "b")], TypeError, "starts with str"),
        ([], ValueError, "no batch"),
        ([torch.tensor(1.0)], ValueError, "shape ()"),
    ],
)
def test_other_loaders_are_refused(source, error, words):
    with pytest.raises(error) as raised:
        doctor.examine(net(), source)
    assert words in str(raised.value)


def test_a_class_is_no_model_and_parameters_are_no_optimiser():
    with pytest.raises(TypeError, match="not its class"):
        doctor.examine(nn.BatchNorm1d)
    with pytest.raises(ValueError, match="meta device"):
        doctor.examine(nn.BatchNorm1d(3, device="meta"))
    with pytest.raises(TypeError, match="optimizer"):
        doctor.examine(net(), None, list(net().parameters()))


def test_wrapped_models_are_examined_inside():
    report = doctor.examine(nn.DataParallel(net(momentum=0.0)))
    assert [f.path for f in report] == ["module.1"]


# ---------------------------------------------------------------- the report


def test_report_as_text_table_and_data():
    model, optimizer = trained(net(bias=True))
    model[1].running_mean += 50
    report = doctor.examine(model, batches(), optimizer)
    text, table = str(report), report._repr_html_()
    assert text == repr(report)
    assert text.splitlines()[0] == "1 error, 1 note (1 batch norm, 8 batches examined)"
    assert max(map(len, text.splitlines())) <= 88
    assert [f.severity for f in report] == ["error", "note"]
    assert len(report) == 2
    assert report["dead-channels"] == []
    assert table.count("<tr>") == 3
    for one in report:
        assert one.code in text
        assert one.code in table
        assert one.code in doctor.CODES
        assert one.consequence
        assert one.remedy
        assert isinstance(one.value, float)
    with pytest.raises(KeyError, match="stale-statistics"):
        report["stale"]


def test_healthy_report_is_false_and_says_so():
    report = doctor.examine(net())
    assert not report
    assert str(report) == "no finding (1 batch norm, 0 batches examined)"
    assert "<table" not in report._repr_html_()


def test_many_modules_of_one_finding_share_a_row():
    model = nn.Sequential(*(nn.BatchNorm1d(6, momentum=0.0) for _ in range(9)))
    report = doctor.examine(model)
    assert len(report) == 9
    assert "0, 1, 2, and 6 more" in str(report)
    assert report._repr_html_().count("<tr>") == 2


def test_report_escapes_names():
    model = nn.Sequential()
    model.add_module("<script>", nn.BatchNorm1d(3, momentum=0.0))
    table = doctor.examine(model)._repr_html_()
    assert "<script>" not in table
    assert "&lt;script&gt;" in table
