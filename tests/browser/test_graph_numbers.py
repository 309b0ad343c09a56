"""The arithmetic of the figure "graph" against PyTorch, in a browser, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bnutils import norm

SCRIPTS = ("math", "graph-model")  # what `js` runs beside
CLOSE = {"rtol": 1e-6, "atol": 1e-9}
TARGETS = torch.tensor([-8, -1, 2, 3, 4], dtype=torch.float64)  # of chapter 3
EPS = 1e-5
GIVEN = {"x": [1, 3, 4, 5, 7], "weight": 6, "bias": 1}
RUN = """([given, arrives, road, step]) => {
  const model = bnPlay.models.graph;
  let state = { ...model.initial(), ...given };
  for (const [type, to] of [["arrives", arrives], ["road", road], ["time", step]])
    state = model.act(state, { type, to });
  return { ...model.numbers(state), words: model.words(state), state };
}"""
END = 999


@pytest.fixture(params=["chapter", "random", "constant"])
def given(request):
    if request.param == "chapter":
        return GIVEN
    rng = np.random.default_rng(3)
    x = rng.normal(2, 3, size=5) if request.param == "random" else np.full(5, 2.5)
    return {"x": [*x], "weight": -0.7, "bias": 0.3}


def lines(given, road="all"):
    """The forward pass; what is not on the road is cut off from the gradient."""
    x, weight, bias = (
        torch.tensor(given[k], dtype=torch.float64, requires_grad=True)
        for k in ("x", "weight", "bias")
    )
    mean = x.mean()
    centred = (x.detach() if road == "mean" else x) - (
        mean if road in ("all", "mean") else mean.detach()
    )
    square = centred**2
    var = square.mean()
    std = (var + EPS) ** 0.5
    x_hat = (centred.detach() if road == "std" else centred) / (
        std if road in ("all", "std") else std.detach()
    )
    scaled = weight * x_hat
    y = scaled + bias
    return {
        "x": x,
        "weight": weight,
        "bias": bias,
        "mean": mean,
        "centred": centred,
        "square": square,
        "var": var,
        "std": std,
        "x_hat": x_hat,
        "scaled": scaled,
        "y": y,
    }


def arriving(name, values, row=0):
    y = values["y"].detach()
    return {
        "error": y - TARGETS,
        "row": torch.eye(5, dtype=torch.float64)[row],
        "ones": torch.ones_like(y),
        "x_hat": values["x_hat"].detach(),
    }[name]


ARRIVES = ["error", "row", "ones", "x_hat"]


@pytest.mark.parametrize("arrives", ARRIVES)
def test_every_value_and_every_gradient_is_pytorchs(js, given, arrives):
    got = js(RUN, [given, arrives, "all", END])
    values = lines(given)
    top = arriving(arrives, values)
    grads = torch.autograd.grad(values["y"], list(values.values()), top)
    assert set(got["values"]) == set(got["grads"]) == set(values)
    for (name, value), grad in zip(values.items(), grads, strict=True):
        np.testing.assert_allclose(got["values"][name], value.detach(), **CLOSE)
        scale = max(1.0, grad.abs().max().item())
        np.testing.assert_allclose(got["grads"][name], grad, 1e-6, 1e-9 * scale)


@pytest.mark.parametrize("arrives", ARRIVES)
@pytest.mark.parametrize("road", ["direct", "mean", "std"])
def test_a_road_alone_is_the_graph_cut_to_it(js, given, arrives, road):
    got = js(RUN, [given, arrives, road, END])
    values = lines(given, road)
    top = arriving(arrives, values)
    (want,) = torch.autograd.grad(values["y"], values["x"], top)
    scale = max(1.0, want.abs().max().item())
    np.testing.assert_allclose(got["dx"], want, 1e-6, 1e-9 * scale)
    assert list(got["terms"]) == [road]
    assert got["terms"][road] == got["dx"]


@pytest.mark.parametrize("arrives", ARRIVES)
def test_the_three_roads_add_up_to_the_backward_pass_of_bnutils(js, given, arrives):
    got = js(RUN, [given, arrives, "all", END])
    top = arriving(arrives, lines(given)).numpy()[:, None]
    x, weight = np.array(given["x"])[:, None], np.array([given["weight"]])
    want, dweight, dbias = norm.batch_norm_backward(top, x, weight, EPS)
    scale = max(1.0, np.abs(top).max() / (x.var() + EPS) ** 0.5)
    total = np.sum([got["terms"][road] for road in ("direct", "mean", "std")], 0)
    np.testing.assert_allclose(total, want[:, 0], 1e-6, 1e-9 * scale)
    np.testing.assert_allclose(got["dx"], total, 1e-12, 1e-12 * scale)
    np.testing.assert_allclose(got["grads"]["weight"], dweight[0], **CLOSE)
    np.testing.assert_allclose(got["grads"]["bias"], dbias[0], **CLOSE)
    assert abs(sum(got["dx"])) < 1e-12 * scale


def test_the_chapters_numbers_by_hand(js):
    got = js(RUN, [GIVEN, "error", "all", END])
    by_hand = {"mean": -15, "std": -30, "var": -7.5, "bias": 5, "weight": 10}
    by_hand |= {"x": [6, -3, -6, -3, 6], "centred": [9, 0, -3, 0, 9]}
    by_hand |= {"x_hat": [0, -6, -6, 6, 36], "square": [-1.5] * 5}
    for name, want in by_hand.items():
        np.testing.assert_allclose(got["grads"][name], want, atol=3e-4)  # up to ε
    assert got["loss"] == pytest.approx(19.5, abs=1e-4)
    want = {
        "direct": [0, -3, -3, 3, 18],
        "mean": [-3] * 5,
        "std": [9, 3, 0, -3, -9],
    }
    for road, term in want.items():
        np.testing.assert_allclose(got["terms"][road], term, atol=1e-4)


@pytest.mark.parametrize(
    ("road", "count"), [("all", 21), ("direct", 13), ("mean", 14), ("std", 16)]
)
def test_each_step_makes_known_what_it_says(js, road, count):
    """A step adds a value or sends along one edge, and its sentence names the numbers."""
    before, steps = js(RUN, [GIVEN, "error", road, 0]), 0
    assert set(before["values"]) == {"x", "weight", "bias"}
    assert before["grads"] == before["terms"] == {}
    for step in range(1, 22):
        got = js(RUN, [GIVEN, "error", road, step])
        new = set(got["values"]) - set(before["values"])
        changed = {k for k, g in got["grads"].items() if before["grads"].get(k) != g}
        if "not on the chosen road" in got["words"]:
            assert not new | changed
            continue
        steps += 1
        assert len(new) + len(changed) == 1
        name = (new | changed).pop()
        shown = got["sent"] if got["sent"] is not None else got["grads"].get(name)
        shown = got["values"][name] if shown is None else shown
        for number in np.atleast_1d(shown):
            text = f"{number:.2f}".rstrip("0").rstrip(".").replace("-", "−")
            assert text.replace("−0", "0") in got["words"].replace("−0,", "0,")
        before = got
    assert steps == count
    assert got["dx"] is not None


@pytest.mark.parametrize(
    ("road", "known"),
    [
        ("all", {14: ["direct"], 18: ["direct", "std"], 21: ["direct", "mean", "std"]}),
        ("direct", {18: [], 19: ["direct"], 21: ["direct"]}),
        ("mean", {20: [], 21: ["mean"]}),
        ("std", {18: [], 19: ["std"]}),
    ],
)
def test_a_roads_share_is_shown_when_it_has_come_back(js, road, known):
    for step, terms in known.items():
        got = js(RUN, [GIVEN, "error", road, step])
        assert sorted(got["terms"]) == terms


def test_between_two_steps_nothing_is_known_early(js):
    for step in (3, 14):
        whole = js(RUN, [GIVEN, "error", "all", step])
        part = js(RUN, [GIVEN, "error", "all", step + 0.9])
        for name in ("values", "grads", "terms", "words"):
            assert part[name] == whole[name]


def test_an_action_gives_a_new_state_and_knows_its_bounds(js):
    got = js(
        """() => {
          const { initial, act } = bnPlay.models.graph;
          const first = Object.freeze(initial());
          Object.freeze(first.x);
          const row = act(first, { type: "row", to: 2 });
          let refused = 0;
          for (const [type, to] of [["row", 5], ["road", "back"], ["jump", 1]])
            try { act(first, { type, to }); } catch { refused += 1; }
          const back = act(first, { type: "time", to: -3 });
          return [first.x, act(row, { type: "x", to: 99 }).x, back.t, refused];
        }"""
    )
    assert got == [[1, 3, 4, 5, 7], [1, 3, 9, 5, 7], 0, 3]
