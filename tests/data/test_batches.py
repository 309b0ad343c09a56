"""Data sets and splits in memory: minibatches, devices, what they print."""

from __future__ import annotations

import pytest
import torch

from bnutils import data


@pytest.fixture
def small() -> data.Dataset:
    split = data.Split(torch.arange(10.0)[:, None].expand(10, 784), torch.arange(10))
    return data.Dataset("small", "made here", split, split, split)


def test_batches_hold_every_image_once_with_its_label(small):
    found = list(small.batches(small.train, 4, generator=torch.Generator()))
    assert [len(y) for _, y in found] == [4, 4, 2]
    assert all(torch.equal(x[:, 0], y.float()) for x, y in found)
    order = torch.cat([y for _, y in found]).tolist()
    assert sorted(order) == list(range(10)) and order != list(range(10))


def test_order_of_batches_comes_from_the_generator(small):
    def order(seed):
        g = torch.Generator().manual_seed(seed)
        return [y.tolist() for _, y in small.batches(small.train, 4, generator=g)]

    assert order(1) == order(1) != order(2)
    g = torch.Generator().manual_seed(1)
    first, second = ([*small.batches(small.train, 10, generator=g)] for _ in range(2))
    assert not torch.equal(first[0][1], second[0][1])


def test_drop_last_leaves_the_incomplete_batch_out(small):
    sizes = [len(y) for _, y in small.batches(small.train, 4, drop_last=True)]
    assert sizes == [4, 4] and data.number_of_batches(small.train, 4, True) == 2
    assert data.number_of_batches(small.train, 4) == 3
    assert data.number_of_batches(small.train, 5) == 2
    assert data.number_of_batches(small.train, 1) == 10


def test_without_shuffling_the_order_is_kept(small):
    found = [y.tolist() for _, y in small.batches(small.train, 6, shuffle=False)]
    assert found == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "words"),
    [(0, False, "at least 1, but got 0"), (11, True, "larger than the split")],
)
def test_senseless_batches_are_refused_at_once(small, batch_size, drop_last, words):
    with pytest.raises(ValueError, match=words):
        small.batches(small.train, batch_size, drop_last=drop_last)


def test_empty_split_is_refused(small):
    with pytest.raises(ValueError, match="the split is empty"):
        small.batches(data.Split(torch.empty(0, 784), torch.empty(0).long()), 4)


def test_data_move_to_a_device(small):
    moved = small.to("meta")
    assert {s.x.device.type for s in (moved.train, moved.valid, moved.test)} == {"meta"}


def split(n=1_234):
    return data.Split(torch.zeros(n, 9), torch.zeros(n, dtype=torch.long))


def test_a_split_says_how_many_images_and_of_which_shape():
    assert repr(split()) == "1,234 images of shape (9,)"


def test_data_that_were_not_scaled_say_so():
    found = data.Dataset("mine", "a list", split(), split(2), split(3))
    assert (found.mean, found.std) == (0.0, 1.0)
