"""Shifted images, the loop with and without them, and the recipes."""

import hashlib
import inspect
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnutils import data, models, train


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    full = data.load("digits")
    part = data.Split(full.train.x[:512], full.train.y[:512])
    return replace(full, train=part)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("BNUTILS_DEVICE", "cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitted(digits, norm=nn.BatchNorm1d, **options):
    """The history of a short run from a fixed start, and a digest of the weights."""
    torch.manual_seed(0)
    net = models.mlp((784, 32, 10), norm=norm)
    h = train.fit(net, digits, batch_size=64, seed=5, threads=1, **options)
    digest = hashlib.sha256()
    for value in net.state_dict().values():
        digest.update(value.numpy().tobytes())
    return h, digest.hexdigest()


# Shifts


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
    found = {tuple(row.tolist()) for row in train.shift(x, generator(), pixels)}
    steps = range(-pixels, pixels + 1)
    expected = {
        tuple(moved(image, d, r).flatten().tolist()) for d in steps for r in steps
    }
    assert found == expected and len(found) == (2 * pixels + 1) ** 2


def test_moves_are_equally_likely():
    x = torch.zeros(9000, 49)
    x[:, 24] = 1.0  # one dot in the middle of 7x7
    counts = train.shift(x, generator()).sum(0)
    assert counts.sum() == 9000
    hit = counts[counts > 0]
    assert len(hit) == 9 and (hit - 1000).abs().max() < 5 * 30


def test_images_move_each_on_its_own_and_the_batch_stays():
    x = torch.rand(50, 16)
    before = x.clone()
    out = train.shift(x, generator())
    assert torch.equal(x, before) and out.data_ptr() != x.data_ptr()
    assert {torch.equal(a, b) for a, b in zip(out, x)} == {True, False}
    assert torch.equal(train.shift(x, generator(), pixels=0), x)


def test_the_generator_decides():
    x = torch.rand(20, 16)
    a, b, c = (train.shift(x, generator(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("shape", [(4, 15), (4, 0), (16,), (2, 4, 4)])
def test_what_is_no_flat_square_is_refused(shape):
    with pytest.raises(ValueError, match=r"flat square images .* got shape"):
        train.shift(torch.zeros(shape), generator())


def test_negative_pixels_are_refused():
    with pytest.raises(ValueError, match="pixels=-1"):
        train.shift(torch.zeros(2, 16), generator(), -1)


# The loop


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, None])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loop_has_the_bits_of_a_plain_one(digits, norm, smoothing):
    h, digest = fitted(
        digits, norm, epochs=2, schedule="constant", label_smoothing=smoothing
    )
    torch.manual_seed(0)
    net = models.mlp((784, 32, 10), norm=norm)
    sgd = torch.optim.SGD(
        net.parameters(), lr=0.1, momentum=0.9, nesterov=True, fused=True
    )
    before, losses, g = torch.get_num_threads(), [], generator(5)
    torch.set_num_threads(1)
    for _ in range(2):
        for c in torch.randperm(512, generator=g).split(64):
            logits = net(digits.train.x[c])
            loss = F.cross_entropy(logits, digits.train.y[c], label_smoothing=smoothing)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses.append(loss.item())
    torch.set_num_threads(before)
    assert h.loss == losses
    expected = hashlib.sha256()
    for value in net.state_dict().values():
        expected.update(value.numpy().tobytes())
    assert digest == expected.hexdigest()


def test_augmenting_leaves_the_order_of_the_images(digits):
    plain, digest = fitted(digits)
    same, same_digest = fitted(digits, augment=lambda x, g: x)
    drawing = fitted(digits, augment=lambda x, g: (torch.rand(3, generator=g), x)[1])
    assert plain.loss == same.loss == drawing[0].loss
    assert digest == same_digest == drawing[1]


def test_shifts_change_the_run_and_follow_the_seed(digits):
    state = torch.get_rng_state()
    (a, da), (b, db) = (fitted(digits, augment=train.shift) for _ in range(2))
    plain, _ = fitted(digits)
    assert a.loss == b.loss and da == db and a.loss != plain.loss
    torch.set_rng_state(state)


def test_only_training_images_are_augmented(digits):
    seen = []

    def spy(x, g):
        seen.append(len(x))
        return x

    h, _ = fitted(digits, epochs=1, augment=spy)
    assert seen == [64] * 8 and len(h.valid_accuracy) == 1


def test_draws_differ_from_those_of_the_order(digits):
    drawn = []

    def spy(x, g):
        drawn.append(torch.randint(2**31, (4,), generator=g))
        return x

    fitted(digits, epochs=1, augment=spy)
    assert not torch.equal(drawn[0], torch.randint(2**31, (4,), generator=generator(5)))


# The recipes


@pytest.mark.parametrize("arm", ["with BN", "without BN"])
def test_recipes_are_arguments_of_fit_and_learn(arm):
    recipe = train.RECIPES[arm]
    assert set(recipe) <= set(inspect.signature(train.fit).parameters)
    assert recipe["epochs"] == 10 and recipe["augment"] is train.shift
    torch.manual_seed(1)
    net = models.mlp(norm=nn.BatchNorm1d if arm == "with BN" else None)
    h = train.fit(net, data.load("digits"), **recipe, threads=1)
    assert h.valid_accuracy[-1] > 0.85


def test_recipes_differ_in_the_rate_only():
    a, b = train.RECIPES.values()
    assert {k for k in a if a[k] != b[k]} == {"lr"}
