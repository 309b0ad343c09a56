"""Shifted images, trainings with and without them, and the recipes of the benchmark."""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from bnutils import data, models, train

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from recipe import RECIPES, augmented, shift


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """One image moved by padding with its own edge and cutting out."""
    p = max(abs(down), abs(right))
    wide = F.pad(image[None, None], [p] * 4, mode="replicate")[0, 0]
    n = len(image)
    return wide[p - down : p - down + n, p - right : p - right + n]


@pytest.mark.parametrize("pixels", [1, 2])
def test_every_image_is_moved_by_one_of_all_moves(pixels):
    image = torch.rand(5, 5)
    x = image.flatten().repeat(4000, 1)
    found = {tuple(row.tolist()) for row in shift(x, generator(), pixels)}
    steps = range(-pixels, pixels + 1)
    expected = {
        tuple(moved(image, d, r).flatten().tolist()) for d in steps for r in steps
    }
    assert found == expected and len(found) == (2 * pixels + 1) ** 2


def test_moves_are_equally_likely():
    x = torch.zeros(9000, 49)
    x[:, 24] = 1.0  # one dot in the middle of 7x7
    counts = shift(x, generator()).sum(0)
    assert counts.sum() == 9000
    hit = counts[counts > 0]
    assert len(hit) == 9 and (hit - 1000).abs().max() < 5 * 30


def test_images_move_each_on_its_own_and_the_batch_stays():
    x = torch.rand(50, 16)
    before = x.clone()
    out = shift(x, generator())
    assert torch.equal(x, before) and out.data_ptr() != x.data_ptr()
    assert {torch.equal(a, b) for a, b in zip(out, x)} == {True, False}
    assert torch.equal(shift(x, generator(), pixels=0), x)


def test_the_generator_decides():
    x = torch.rand(20, 16)
    a, b, c = (shift(x, generator(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("shape", [(4, 15), (4, 0), (16,), (2, 4, 4)])
def test_what_is_no_flat_square_is_refused(shape):
    with pytest.raises(ValueError, match=r"flat square images .* got shape"):
        shift(torch.zeros(shape), generator())


def test_negative_pixels_are_refused():
    with pytest.raises(ValueError, match="pixels=-1"):
        shift(torch.zeros(2, 16), generator(), -1)


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    full = data.load("digits")
    return replace(full, train=data.Split(full.train.x[:512], full.train.y[:512]))


def losses(digits: data.Dataset, augment=None) -> list[float]:
    torch.manual_seed(0)
    net = models.mlp((784, 32, 10))
    if augment is not None:
        digits = augmented(digits, augment, seed=5)
    return train.fit(net, digits, batch_size=64, seed=5, threads=1, device="cpu").loss


def test_augmenting_leaves_the_order_of_the_images_and_follows_the_seed(digits):
    plain, first, second = losses(digits), losses(digits, shift), losses(digits, shift)
    assert first == second != plain
    assert losses(digits, lambda x, g: (torch.rand(3, generator=g), x)[1]) == plain


def test_only_training_images_are_augmented(digits):
    seen = []
    losses(digits, lambda x, g: (seen.append(len(x)), x)[1])
    assert seen == [64] * 16


def test_draws_differ_from_those_of_the_order(digits):
    drawn = []
    losses(digits, lambda x, g: (drawn.append(torch.rand(4, generator=g)), x)[1])
    assert not torch.equal(drawn[0], torch.rand(4, generator=generator(5)))


def test_recipes_are_arguments_of_fit_and_differ_in_the_rate_only():
    a, b = RECIPES.values()
    assert set(a) <= set(inspect.signature(train.fit).parameters)
    assert {k for k in a if a[k] != b[k]} == {"lr"}
