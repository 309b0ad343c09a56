"""Which models, loaders and batches are taken, and what is said of others."""

from __future__ import annotations

import pytest
import torch
from patients import (
    batches,
    loader,
    net,
)
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from bnutils import doctor
from bnutils._modules import norms_of
from bnutils.doctor.batches import take
from bnutils.doctor.copies import unwrap


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


def sized(*sizes):
    return [torch.full((n, 2), float(i)) for i, n in enumerate(sizes)]


def taken(source):
    """First values of the batches taken, usual size, size of the last, and how many."""
    batches = take(source, torch.device("cpu"))
    firsts = [int(x.flatten()[0]) for x in batches.inputs]
    return firsts, batches.size, batches.last, batches.total


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (sized(*[4] * 20), ([0, 2, 5, 7, 10, 12, 15, 17], 4, 4, 20)),
        (sized(*[4] * 9), ([0, 1, 2, 3, 4, 5, 6, 7], 4, 4, 9)),
        (sized(4, 4, 4, 2), ([0, 1, 2], 4, 2, 4)),
        (sized(3, 4, 3, 4, 4), ([1, 3, 4], 4, 4, 5)),
        (iter(sized(*[4] * 20)), ([0, 1, 2, 3, 4, 5, 6, 7], 4, None, None)),
        (iter(sized(4, 1, 4, 1, 4)), ([0, 2, 4], 4, None, None)),
        (iter(sized(1, 1, 4)), ([0, 1, 2], 1, None, None)),
        (iter(sized(4, 1)), ([0], 4, None, None)),
        (iter(sized(2, 1, 2)), ([0, 2], 2, None, None)),
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
        (DataLoader(items(21), 2), ([0, 2, 4, 6, 10, 12, 14, 16], 2, 1, 11)),
        (DataLoader(items(6), 2), ([0, 2, 4], 2, 2, 3)),
        (DataLoader(items(7), 2, drop_last=True), ([0, 2, 4], 2, 2, 3)),
        (DataLoader(Plain(), 10, collate_fn=stack), ([0, 10], 10, 1, 3)),
    ],
)
def test_a_data_loader_is_sampled_evenly_without_running_it(source, expected):
    assert taken(source) == expected


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (
            torch.zeros(0, 3),
            ValueError,
            r"shape \(0, 3\): expected \(N, ...\) with N > 0",
        ),
        (iter([]), ValueError, "gave no batch"),
        ({"x": torch.zeros(2, 2)}, TypeError, "but got dict"),
        ([()], TypeError, "but got tuple: wrap"),
        ([(1, 2)], TypeError, "but got tuple that starts with int: wrap"),
        ([1], TypeError, "but got int: wrap"),
        ((), ValueError, "gave no batch"),
    ],
)
def test_what_is_no_batch_is_refused_by_name(bad, error, words):
    with pytest.raises(error, match=words):
        take(bad, torch.device("cpu"))


def test_a_tuple_of_one_tensor_is_one_batch_and_goes_where_the_model_is():
    (x,) = take((torch.zeros(3, 2),), torch.device("meta")).inputs
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
