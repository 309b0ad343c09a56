"""An examination leaves the model, the loader and all random numbers as they were."""

from __future__ import annotations

import contextlib
import copy
import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from patients import (
    Called,
    batches,
    codes,
    net,
    trained,
)
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from bnutils import doctor, norm
from bnutils.doctor.batches import take
from bnutils.doctor.copies import random_states_kept, replica, set_modes
from bnutils.doctor.observe import outputs_of


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
    """Draws from every global generator there is."""

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        noise = np.random.rand() + random.random()
        return x + noise + torch.rand(1), y


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
    report = doctor.examine(model, source, optimizer)
    assert any("hooks of yours" in note for note in report.notes) is fails
    after = everything(model, source, optimizer)
    for key, value in before.items():
        assert same(value, after[key]), key
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


def test_an_endless_loader_gives_its_first_batches_and_keeps_its_iterator():
    source = DataLoader(EndlessStream(), 4)
    source._iterator = mine = object()
    assert [int(x.sum()) for x in take(source, torch.device("cpu")).items] == [0] * 16
    assert source._iterator is mine


class EndlessStream(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(2)


class Counting(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(torch.arange(30.0)[:, None])


def test_a_loader_with_persistent_workers_goes_on_where_it_was():
    source = DataLoader(Counting(), 3, num_workers=1, persistent_workers=True)
    in_use = iter(source)
    next(in_use)
    take(source, torch.device("cpu"))
    assert [batch[0].item() for batch in in_use] == list(range(3, 30, 3))


def test_inputs_survive_a_model_that_writes_into_them():
    x = torch.randn(8, 4)
    before = x.clone()
    model = Called(lambda m, x: m.bn(x.mul_(2)), bn=nn.BatchNorm1d(4))
    doctor.examine(model, [x, x])
    assert torch.equal(x, before)


@pytest.mark.parametrize("norms_only", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_modes_of_the_copy(norms_only, training):
    parts = nn.Dropout(), nn.BatchNorm1d(4), nn.Dropout(), nn.BatchNorm1d(4)
    original = nn.Sequential(*parts).train(training)
    original[2].eval(), original[3].eval()
    copy = nn.Sequential(*map(deepcopy, parts))
    set_modes(copy, original, norms_only=norms_only)
    frozen = training  # what is in evaluation mode in a model that trains
    rest = not norms_only
    assert [m.training for m in copy] == [
        rest,
        True,
        rest and not frozen,
        not frozen,
    ]
    assert [m.training for m in original] == [training, training, False, False]


def test_outputs_are_all_tensors_of_floats_with_the_same_noise():
    def forward(m, x):
        return {"a": (F.dropout(x), [x.int(), "text"]), "b": torch.rand(3)}

    first, second = (outputs_of(Called(forward), torch.ones(50, 2)) for _ in range(2))
    assert [y.shape for y in first] == [(50, 2), (3,)]
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_a_replica_has_no_hooks_but_pytorchs_own():
    model = nn.Sequential(nn.LazyLinear(4), nn.utils.spectral_norm(nn.Linear(4, 4)))
    for register in ("forward", "forward_pre", "full_backward", "full_backward_pre"):
        getattr(model, f"register_{register}_hook")(lambda *args: None)
        getattr(model[1], f"register_{register}_hook")(lambda *args: None)
    twin = replica(model)
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    kinds += ("_backward_pre_hooks",)
    assert [len(getattr(model, kind)) for kind in kinds] == [1, 1, 1, 1]
    assert [len(getattr(twin, kind)) for kind in kinds] == [0, 0, 0, 0]
    assert [len(getattr(model[1], kind)) for kind in kinds] == [1, 2, 1, 1]
    assert [len(getattr(twin[1], kind)) for kind in kinds] == [0, 1, 0, 0]
    assert len(twin[0]._forward_pre_hooks) == 1  # makes the lazy layer
    assert twin(torch.randn(3, 2)).shape == (3, 4)
    assert model[0].has_uninitialized_params()


def test_a_replica_shares_no_tensor_and_no_generator():
    model = nn.BatchNorm1d(3)
    model.hidden = model.weight * 2  # not a leaf
    model.generator = torch.Generator().manual_seed(5)
    model.register_buffer("derived", model.bias + 1)
    twin = replica(model)
    for name in ("weight", "running_var", "hidden", "derived"):
        ours, theirs = getattr(model, name), getattr(twin, name)
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
        assert theirs.is_leaf
    assert twin.generator is not model.generator
    before = model.generator.get_state()
    assert torch.equal(twin.generator.get_state(), before)
    torch.rand(3, generator=twin.generator)
    assert torch.equal(model.generator.get_state(), before)


@pytest.mark.parametrize("error", [None, RuntimeError])
@pytest.mark.parametrize("place", ["loader", "sampler", "batch_sampler"])
def test_random_states_are_kept_whatever_happens(error, place):
    g, items = torch.Generator().manual_seed(4), TensorDataset(torch.zeros(8))
    sampler = RandomSampler(items, generator=g)
    own = {
        "loader": {"batch_size": 2, "generator": g},
        "sampler": {"batch_size": 2, "sampler": sampler},
        "batch_sampler": {"batch_sampler": BatchSampler(sampler, 2, False)},
    }
    source = DataLoader(items, **own[place])

    def draw():
        numbers = random.random(), np.random.rand(), torch.rand(1).item()
        return *numbers, torch.rand(1, generator=g).item()

    states = random.getstate(), np.random.get_state()
    with contextlib.suppress(RuntimeError), random_states_kept(source):
        first = draw()
        if error:
            raise error
    assert draw() == first
    random.setstate(states[0])
    np.random.set_state(states[1])


def test_a_replica_shares_the_process_group():
    class ProcessGroupOfTwo:
        def __deepcopy__(self, memo):
            raise TypeError("a process group cannot be copied")

    bn = nn.SyncBatchNorm(4, process_group=ProcessGroupOfTwo())
    assert replica(bn).process_group is bn.process_group


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_replica_of_a_lazy_norm_is_lazy_with_its_dtype_and_device(dtype, device):
    twin = replica(nn.LazyBatchNorm1d(dtype=dtype, device=device))
    for buffer in (twin.running_mean, twin.running_var):
        assert torch.nn.parameter.is_lazy(buffer)
        assert (buffer.dtype, buffer.device.type) == (dtype, device)


def test_a_forward_that_refers_to_the_original_is_not_run():
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    model.forward = lambda x: model[1](model[0](x))  # a copy has the same function
    report = doctor.examine(model, torch.randn(32, 6))
    assert report.batches == 0
    assert "calls batch norms of the original" in report.notes[0]
    assert int(model[1].num_batches_tracked) == 0


def test_the_train_method_of_the_model_is_never_called():
    class Trainer(nn.Sequential):
        def train(self, *args):
            raise RuntimeError("the training was started")

        eval = train

    model = Trainer(nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6))
    report = doctor.examine(model, batches())
    assert (report.codes, report.notes, report.batches) == ([], [], 8)
