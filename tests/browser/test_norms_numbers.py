"""The figure of the four norms: its numbers against PyTorch and `bnutils`, in a browser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from bnutils import norm, relatives

SCRIPTS = ("math", "norms-model")  # what `js` runs beside
CLOSE = {"rtol": 1e-6, "atol": 1e-9}
KINDS = ("batch", "layer", "group", "instance")
DIGITS = {"3": 3, "1": 1, "0": 0, "4": 4, "7": 7}  # their places in load_digits()


def numbers(js, **state):
    return js(
        """(given) => {
          const model = bnPlay.models.norms;
          const actions = Object.entries(given).map(([key, value]) => ({ [key]: value }));
          return model.numbers(actions.reduce(model.act, model.initial("")));
        }""",
        state,
    )


def tensor(values):
    """64 numbers of the model as (N, C, H, W)."""
    return torch.tensor(values, dtype=torch.float64).reshape(4, 4, 2, 2)


def layers(kind, gamma, beta):
    """PyTorch's layer and the book's, with the same weight and bias."""
    made = {
        "batch": (nn.BatchNorm2d(4), relatives.BatchNorm2d(4)),
        "layer": (nn.GroupNorm(1, 4), relatives.GroupNorm(1, 4)),
        "group": (nn.GroupNorm(2, 4), relatives.GroupNorm(2, 4)),
        "instance": (
            nn.InstanceNorm2d(4, affine=True),
            relatives.GroupNorm(4, 4),
        ),
    }[kind]
    for layer in made:
        layer.double()
        layer.weight.data = torch.tensor(gamma, dtype=torch.float64)
        layer.bias.data = torch.tensor(beta, dtype=torch.float64)
    return made


def test_the_images_are_scikit_learns(js):
    images = js("() => bnPlay.models.norms.IMAGES")
    given, labels = load_digits(return_X_y=True)
    for name, place in DIGITS.items():
        assert [ord(c) - 65 for c in images[name]] == given[place].tolist()
        assert labels[place] == int(name)
    assert set(images) == {*DIGITS, "blank"}


def test_the_numbers_are_a_convolutions(js):
    x = tensor(numbers(js)["x"])
    given = load_digits().data
    images = np.stack([given[DIGITS[name]] for name in ("3", "1", "0", "4")])
    conv = nn.Conv2d(1, 4, 4, stride=4).double()
    ink = torch.ones(4, 4, dtype=torch.float64)
    left, top = ink.clone(), ink.clone()
    left[:, 2:], top[2:] = -1, -1
    conv.weight.data = torch.stack([ink, left, top, left * top])[:, None] / 2
    conv.bias.data = torch.tensor([0, 0, 1, -1.5], dtype=torch.float64)
    want = conv(torch.from_numpy(images).reshape(4, 1, 8, 8) / 16)
    torch.testing.assert_close(x, want.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("last", ["4", "7", "blank"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_norm_is_pytorchs_and_bnutils(js, kind, last):
    got = numbers(js, kind=kind, last=last)
    gamma, beta = js("() => [bnPlay.models.norms.GAMMA, bnPlay.models.norms.BETA]")
    for layer in layers(kind, gamma, beta):
        want = layer(tensor(got["x"])).detach()
        np.testing.assert_allclose(got["y"], want.flatten(), **CLOSE)
    if kind == "batch":
        parts = norm.batch_norm_forward(
            tensor(got["x"]).flatten(2).numpy(), np.array(gamma), np.array(beta)
        )
        np.testing.assert_allclose(got["y"], parts.ravel(), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_and_steps_belong_to_the_sets(js, kind):
    got = numbers(js, kind=kind)
    x, owners = np.array(got["x"]), np.array(got["owners"])
    assert sorted(set(owners)) == list(range(got["sets"]))
    for s in range(got["sets"]):
        own = x[owners == s]
        assert got["mean"][s] == pytest.approx(own.mean(), rel=1e-12)
        assert got["var"][s] == pytest.approx(own.var(), rel=1e-12)
        np.testing.assert_allclose(
            np.array(got["centred"])[owners == s], own - own.mean(), **CLOSE
        )
        assert np.mean(np.array(got["xHat"])[owners == s]) == pytest.approx(0, abs=1e-9)


def test_only_batch_norm_lets_the_last_image_change_the_others(js):
    for kind in KINDS:
        moved = numbers(js, kind=kind, last="blank")["moved"]
        assert moved == (48 if kind == "batch" else 0), kind
        assert numbers(js, kind=kind)["moved"] == 0


def test_cells_go_from_step_to_step(js):
    got = js(
        """() => {
          const model = bnPlay.models.norms, given = model.numbers(model.initial(""));
          const at = (t) => model.shown(given, t);
          return { at: [0, 1, 2, 3, 4].map(at), half: at(2.5), given };
        }"""
    )
    given = got["given"]
    for step, key in enumerate(("x", "x", "centred", "xHat", "y")):
        assert got["at"][step] == given[key]
    half = (np.array(given["centred"]) + np.array(given["xHat"])) / 2
    np.testing.assert_allclose(got["half"], half, rtol=1e-12)


def test_nothing_changes_without_an_action_that_changes_something(js):
    same = js(
        """() => {
          const { initial, act } = bnPlay.models.norms, first = initial("group");
          const before = JSON.stringify(first), next = act(first, { time: 3 });
          const kept = JSON.stringify(first) === before;
          return [first.kind, act(first, { kind: "group" }) === first, next.time, kept];
        }"""
    )
    assert same == ["group", True, 3, True]
