"""The arithmetic of the figure "walk" against PyTorch, in a browser, in double precision."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from provenance import NOTEBOOKS

from bnutils import norm

SCRIPTS = ("math", "walk-model")  # what `js` runs beside
CLOSE = {"rtol": 1e-6, "atol": 1e-9}
RUN = """([preset, given, t]) => {
  const { initial, numbers, words, pulls } = bnPlay.models.walk;
  const state = { ...initial(preset), ...given, t: t ?? 0 }, found = numbers(state);
  return { ...found, words: words(state, found), pulls: pulls(state.batches), state };
}"""
GIVEN = [
    {},
    {"lr": 1.6, "length": 0.5},
    {"lr": 0.4, "angle": -75, "length": 2.0},
    {"lr": 0.1, "decay": 0.04},
    {"lr": 0.4, "decay": 0.04, "batches": "differ"},
    {"lr": 0.1, "decay": 0.16, "batches": "differ", "length": 4.0, "angle": 175},
]
EPS = 1e-30  # PyTorch wants one; the figure has none


def whitened():
    """Sixteen points of mean 0 whose covariance is the identity."""
    turns = 2 * math.pi * torch.arange(16, dtype=torch.float64) / 16
    x = 2**0.5 * torch.stack([turns.cos(), turns.sin()], 1)
    torch.testing.assert_close(x.T @ x / 16, torch.eye(2, dtype=torch.float64))
    return x


def loss_of(w, pull):
    """Half the mean squared error of a neuron with batch norm."""
    x = whitened()
    y = F.batch_norm((x @ w)[:, None], None, None, training=True, eps=EPS)[:, 0]
    target = x @ torch.tensor([math.cos(pull), math.sin(pull)], dtype=torch.float64)
    return (y - target).square().mean() / 2


def start(state):
    angle = math.radians(state["angle"])
    length = state["length"]
    return torch.tensor(
        [length * math.cos(angle), length * math.sin(angle)],
        dtype=torch.float64,
        requires_grad=True,
    )


@pytest.mark.parametrize("given", GIVEN)
def test_the_walk_is_pytorchs_sgd(js, given):
    got = js(RUN, ["", given])
    state = got["state"]
    w = start(state)
    optimizer = torch.optim.SGD([w], lr=state["lr"], weight_decay=state["decay"])
    for step in range(201):
        v = w.detach().clone()
        size = v.norm().item()
        np.testing.assert_allclose(got["w"][step], v, **CLOSE)
        assert got["length"][step] == pytest.approx(size, rel=1e-6)
        assert got["rate"][step] == pytest.approx(state["lr"] / size**2, rel=1e-6)
        with torch.no_grad():
            want = loss_of(v, 0.0).item()
        assert got["loss"][step] == pytest.approx(want, rel=1e-6, abs=1e-9)
        if step == 200:
            break
        optimizer.zero_grad()
        loss_of(w, got["pulls"][step]).backward()
        turn = state["lr"] * w.grad.norm().item() / size
        assert got["turn"][step] == pytest.approx(turn, rel=1e-6, abs=1e-9)
        optimizer.step()


def test_the_gradient_is_that_of_bnutils(js):
    """Through the closed form of chapter 3."""
    x = whitened().numpy()
    for w, pull in (([0.3, -1.2], 0.4), ([-2.0, 0.1], 0.0)):
        z = (x @ w)[:, None]
        target = x @ [math.cos(pull), math.sin(pull)]
        y = norm.batch_norm_forward(z, np.ones(1), np.zeros(1), EPS)
        dy = (y[:, 0] - target)[:, None] / len(x)
        dz, _, _ = norm.batch_norm_backward(dy, z, np.ones(1), EPS)
        got = js("([w, pull]) => bnPlay.models.walk.gradient(w, pull)", [w, pull])
        np.testing.assert_allclose(got, x.T @ dz[:, 0], **CLOSE)
        assert np.dot(got, w) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("given", [g for g in GIVEN if not g.get("decay")])
def test_without_decay_the_length_grows_by_pythagoras(js, given):
    got = js(RUN, ["", given])
    length, turn = np.array(got["length"]), np.array(got["turn"])
    steps = turn * length[:-1]
    np.testing.assert_allclose(length[1:] ** 2, length[:-1] ** 2 + steps**2, 1e-12)
    assert np.diff(length).min() > -1e-12
    assert got["balance"] is None


def test_a_longer_start_with_its_rate_is_the_same_walk(js):
    for factor in (0.5, 2.0):
        for decay in (0, 0.04):
            one = {"lr": 0.2, "decay": decay, "batches": "differ"}
            two = {
                **one,
                "lr": 0.2 * factor**2,
                "length": factor,
                "decay": decay / factor**2,
            }
            one, two = js(RUN, ["", one]), js(RUN, ["", two])
            for name in ("angle", "loss", "rate", "turn"):
                np.testing.assert_allclose(one[name], two[name], 1e-9, 1e-12)
            np.testing.assert_allclose(
                np.array(two["length"]), factor * np.array(one["length"]), 1e-9
            )


@pytest.mark.parametrize("length", [0.25, 1.0, 4.0])
def test_with_decay_the_turn_finds_its_balance(js, length):
    got = js(RUN, ["decay", {"length": length}, 200])
    recent = np.sqrt(np.mean(np.square(got["turn"][-50:])))
    assert recent == pytest.approx(got["balance"], rel=0.1)
    assert got["balance"] == pytest.approx((2 * 0.4 * 0.04) ** 0.5)
    assert f"the last 50 steps was {float(f'{recent:.2g}')}" in got["words"]


def test_batches_pull_to_both_sides_about_equally_often(js):
    got = js(RUN, ["decay", {}])
    assert {round(math.degrees(p)) for p in got["pulls"]} == {-30, 30}
    assert abs(sum(p > 0 for p in got["pulls"]) - 100) < 20
    assert set(js(RUN, ["free", {}])["pulls"]) == {0}


def text_of(chapter):
    (path,) = NOTEBOOKS.glob(f"{chapter}_*.ipynb")
    cells = json.loads(path.read_text("utf8"))["cells"]
    (text,) = (t for c in cells if "{playground} walk" in (t := "".join(c["source"])))
    return text


def test_chapter_9_says_what_the_figure_shows(js):
    text = text_of("09")
    plain = js(RUN, ["free", {}])
    assert f"{plain['angle'][25]:.0f}° are left" in text
    large = js(RUN, ["free", {"lr": 3.2}])
    assert "three times as long" in text and round(large["length"][1]) == 3
    assert "by almost nine" in text and 8.5 < large["rate"][0] / large["rate"][1] < 9
    lost = js(RUN, ["free", {"lr": 3.2, "length": 0.25}])
    assert f"|w| is {lost['length'][1]:.0f}" in text
    assert f"from {lost['rate'][0]:.0f} to {lost['rate'][1]:.3f}" in text
    assert f"after 100 steps {lost['angle'][100]:.1f}° are left" in text


def test_chapter_12_says_what_the_figure_shows(js):
    text = text_of("12")
    ends = [js(RUN, ["decay", {"length": v}, 200]) for v in (1.0, 4.0, 0.25)]
    for got in ends:
        assert round(np.mean(got["length"][-50:]), 1) == 1.1
        recent = np.sqrt(np.mean(np.square(got["turn"][-50:])))
        assert f"it was {recent:.2f}" in text
        assert f"√(2ηλ) is {got['balance']:.2f}" in text
    assert "about 1.1" in text
    other = js(RUN, ["decay", {"lr": 0.8, "decay": 0.02}])
    assert other["length"][200] / ends[0]["length"][200] == pytest.approx(2**0.5, 1e-3)


def test_the_words_hold_the_numbers(js):
    got = js(RUN, ["free", {}, 25.4])
    assert got["words"].startswith("After 25 steps: |w| = ")
    length, angle = re.search(r"= ([\d.]+), ([\d.]+)°", got["words"]).groups()
    assert float(length) == pytest.approx(got["length"][25], abs=5e-4)
    assert float(angle) == pytest.approx(got["angle"][25], rel=0.05)
    assert "balance" not in got["words"]


def test_an_action_gives_a_new_state_and_knows_its_bounds(js):
    got = js(
        """() => {
          const { initial, act } = bnPlay.models.walk;
          const first = Object.freeze(initial());
          let refused = 0;
          for (const [type, to] of [["lr", 0.3], ["decay", 1], ["batches", "none"], ["w", 1]])
            try { act(first, { type, to }); } catch { refused += 1; }
          const to = (type, v) => act(first, { type, to: v })[type];
          return [to("angle", 118.4), to("angle", -999), to("length", 1.9), to("length", 99),
            to("t", 300), act(first, { type: "angle", to: 121 }) === first, refused];
        }"""
    )
    assert got == [120, -180, 2, 4, 200, True, 4]
