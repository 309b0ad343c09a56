"""Which models, loaders and batches are taken, and what is said of others."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from patients import (
    Called,
    batches,
    loader,
    net,
    trained,
)
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from bnutils import doctor
from bnutils._batches import tensors_in
from bnutils._modules import norms_of, unwrap
from bnutils.doctor.batches import take


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
        ([], ValueError, "no batch"),
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
    assert report.checked["momentum-zero"] == {"module.1": "found"}


def sized(*sizes):
    return [torch.full((n, 2), float(i)) for i, n in enumerate(sizes)]


def taken(source):
    """First values of the batches taken, usual size, size of the last, and how many."""
    batches = take(source, torch.device("cpu"))
    firsts = [int(next(tensors_in(batch)).flatten()[0]) for batch in batches.items]
    last = batches.sizes[-1] if batches.complete else None
    total = len(batches.sizes) if batches.complete else None
    return firsts, batches.size, last, total


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (sized(*[9] * 20), ([0, 2, 5, 7, 10, 12, 15, 17], 9, 9, 20)),
        (sized(*[9] * 9), ([0, 1, 2, 3, 4, 5, 6, 7], 9, 9, 9)),
        (sized(4, 4, 4, 2), ([0, 1, 2], 4, 2, 4)),
        (sized(3, 4, 3, 4, 4), ([1, 3, 4], 4, 4, 5)),
        (iter(sized(*[9] * 20)), ([0, 1, 2, 3, 4, 5, 6, 7], 9, None, None)),
        (iter(sized(4, 1, 4, 1, 4)), ([0, 2, 4], 4, 4, 5)),
        (iter(sized(1, 1, 4)), ([0, 1, 2], 1, 4, 3)),
        (iter(sized(4, 1)), ([0], 4, 1, 2)),
        (iter(sized(2, 1, 2)), ([0, 2], 2, 2, 3)),
        (torch.zeros(6, 2), ([0], 6, None, None)),
        ((torch.zeros(6, 2), torch.zeros(6)), ([0], 6, None, None)),
        ((torch.zeros(6, 2), torch.zeros(6, 2, dtype=torch.int)), ([0], 6, None, None)),
        ((torch.zeros(6), torch.zeros(6)), ([0], 6, None, None)),
        ((torch.zeros(6, 2), "label"), ([0], 6, None, None)),
        (tuple(sized(6, 6, 6)), ([0, 1, 2], 6, 6, 3)),
        (tuple(sized(6, 6, 1)), ([0, 1], 6, 1, 3)),
        ([(x, 0) for x in sized(5, 5)], ([0, 1], 5, 5, 2)),
        ([[x, 0] for x in sized(5, 5)], ([0, 1], 5, 5, 2)),
    ],
)
def test_batches_are_spread_and_sizes_known_where_possible(source, expected):
    assert taken(source) == expected


def items(n):
    return TensorDataset(torch.arange(float(n))[:, None].expand(n, 2), torch.zeros(n))


class Plain(torch.utils.data.Dataset):
    """Without ``__getitems__``; gives integers for the collate function."""

    def __len__(self):
        return 21

    def __getitem__(self, i):
        return float(i)


def stack(values):
    return torch.tensor(values)[:, None].expand(-1, 2)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (DataLoader(items(81), 8), ([0, 8, 16, 24, 40, 48, 56, 64], 8, 1, 11)),
        (DataLoader(items(6), 2), ([0, 2, 4], 2, 2, 3)),
        (DataLoader(items(7), 2, drop_last=True), ([0, 2, 4], 2, 2, 3)),
        (DataLoader(Plain(), 10, collate_fn=stack), ([0, 10], 10, 1, 3)),
    ],
)
def test_a_data_loader_is_sampled_evenly_without_running_it(source, expected):
    assert taken(source) == expected


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.zeros(0, 3), "1 x no rows"),
        ([torch.tensor(1.0)], "1 x no rows"),
        ([{"x": 1}], "1 x dict without a tensor"),
        ([("a", "b")] * 2, "2 x tuple without a tensor"),
        ([1], "1 x int without a tensor"),
        ([()], "1 x tuple without a tensor"),
    ],
)
def test_what_cannot_be_run_is_said_and_the_rest_examined(bad, words):
    model = nn.BatchNorm1d(3, momentum=0.0)
    report = doctor.examine(model, bad)
    assert report.codes == ["momentum-zero"]
    assert f"passed over: {words}" in report.notes
    assert "not run: no batch can be used" in report.notes
    assert report.checked["stale-statistics"][""] == "could not: no batch can be used"
    good = doctor.examine(model, [torch.randn(8, 3)] * 4 + list(bad))
    assert good.batches == 4


@pytest.mark.parametrize("nothing", [iter([]), (), []])
def test_a_loader_without_a_batch_is_refused(nothing):
    with pytest.raises(ValueError, match="gave no batch"):
        take(nothing, torch.device("cpu"))


def test_batches_that_are_not_finite_are_named_and_not_run():
    data = [torch.randn(8, 3) for _ in range(6)]
    data[2][0, 0], data[4][1, 1] = float("nan"), float("inf")
    report = doctor.examine(nn.BatchNorm1d(3), data)
    (one,) = report["nonfinite-batch"]
    assert (one.value, report.batches) == (2, 4)
    assert one.evidence == "2 of 6 batches hold NaN or infinity, first batch 3"


@pytest.mark.parametrize(
    ("size", "used"), [(32, 8), (4, 16), (3, 22), (2, 32), (1, 64)]
)
def test_small_batches_are_taken_until_they_hold_64_images(size, used):
    data = [torch.zeros(size, 2) for _ in range(100)]
    assert len(take(data, torch.device("cpu")).items) == used
    assert len(take(iter(data), torch.device("cpu")).items) == used


def test_a_tuple_of_one_tensor_is_one_batch_and_goes_where_the_model_is():
    (x,) = take((torch.zeros(3, 2),), torch.device("meta")).items
    assert (x.shape, x.device.type) == ((3, 2), "meta")


def test_what_counts_as_a_batch_norm():
    class Alike(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", None)
            self.register_buffer("running_var", None)

    class Unlike(nn.Module):
        running_mean, running_var = torch.zeros(4), torch.ones(4)

    model = nn.Sequential(Alike(), Unlike(), nn.InstanceNorm1d(4), nn.LazyBatchNorm2d())
    assert list(norms_of(model)) == ["0", "3"]


def test_wrappers_are_taken_off_one_by_one():
    model = nn.BatchNorm1d(4, momentum=0.0)
    wrapped = nn.DataParallel(torch.compile(nn.DataParallel(model)))
    assert unwrap(wrapped) == ("module._orig_mod.module.", model)
    assert unwrap(model) == ("", model)
    assert [f.path for f in doctor.examine(wrapped)] == ["module._orig_mod.module"]


def test_a_batch_norm_under_other_names_is_named_as_not_examined():
    class MyBatchNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("moving_mean", torch.zeros(3))

        def forward(self, x):
            return x - self.moving_mean

    report = doctor.examine(nn.Sequential(MyBatchNorm()))
    assert report.norms == 0
    assert str(report).startswith("nothing to examine (0 batch norms")
    assert "'0' is a MyBatchNorm, but keeps no running_mean" in report.notes[0]


def test_batch_norms_that_are_operations_of_a_graph_are_counted():
    def forward(m, x):
        return nn.functional.batch_norm(x, m.mean, m.var)

    model = Called(forward)
    model.register_buffer("mean", torch.zeros(3))
    model.register_buffer("var", torch.ones(3))
    report = doctor.examine(torch.fx.symbolic_trace(model))
    assert report.notes == ["1 batch norms are operations of a graph: not examined"]


@pytest.mark.parametrize("form", ["pair", "dict", "object", "call"])
def test_batches_of_any_form_are_examined_alike(form):
    """The same numbers for the same data, however they are packed."""
    x, y = batches(), [torch.arange(32) % 3] * 8
    model, _ = trained(net())
    expected = doctor.examine(model, list(zip(x, y)))
    packed = {
        "pair": (list(zip(x, y)), model),
        "dict": ([{"input": a, "label": b} for a, b in zip(x, y)], model),
        "object": (
            [SimpleNamespace(data=a, label=b) for a, b in zip(x, y)],
            model,
        ),
        "call": ([[1, a, b] for a, b in zip(x, y)], model),
    }[form]
    call = {
        "object": lambda m, batch: m(batch.data),
        "call": lambda m, batch: m(batch[1]),
    }.get(form)
    report = doctor.examine(model, packed[0], call=call)
    assert report.batches == 8
    for name, distance in report.comparison.distance.items():
        assert distance == expected.comparison.distance[name]
    unknown = form == "object"  # what is inside, and so how large a batch is
    assert ("other batches" in report.comparison.distance) is not unknown
    assert report.checked["tiny-batch"]["1"].startswith("could not") is unknown
