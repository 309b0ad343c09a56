"""The arithmetic of the figure "deep" against PyTorch, in a browser, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

SCRIPTS = ("math", "deep-model")  # what `js` runs beside
CLOSE = {"rtol": 1e-6, "atol": 0}
EPS = 1e-5
NETWORK = """(seed) => {
  const { weights, x, top } = bnPlay.models.deep.create(seed);
  return { weights: weights.map((w) => [...w]), x: [...x], top: [...top] };
}"""
RUN = "(state) => bnPlay.models.deep.numbers({ ...bnPlay.models.deep.initial(), ...state })"
EVERY = list(range(1, 25))


@pytest.fixture(scope="module")
def network(js):
    """The weights, examples and gradient that the page draws for seed 2."""
    got = {k: np.array(v) for k, v in js(NETWORK, 2).items()}
    weights = torch.from_numpy(got["weights"]).view(24, 64, 64)
    return (
        weights,
        torch.from_numpy(got["x"]).view(64, 64),
        torch.from_numpy(got["top"]).view(64, 64),
    )


def sizes(network, gain, activation, norms):
    """The signals of all layers, and their gradients, by PyTorch."""
    weights, x, top = network
    h, signals = x.clone().requires_grad_(), []
    for layer, w in enumerate(weights, 1):
        z = gain * F.linear(h, w)
        if layer in norms:
            z = F.batch_norm(z, None, None, training=True, eps=EPS)
        h = {"tanh": torch.tanh, "relu": torch.relu}[activation](z)
        h.retain_grad()
        signals.append(h)
    h.backward(top)
    return [h.detach() for h in signals], [h.grad for h in signals]


def rms(v):
    return v.square().mean().sqrt().item()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("norms", [[], [12], [1, 5, 24], EVERY])
@pytest.mark.parametrize("gain", [0.5, 2**0.5, 4])
def test_sizes_and_shares_are_pytorchs(js, network, gain, activation, norms):
    state = {"gain": gain, "activation": activation, "norms": norms, "seed": 2}
    got = js(RUN, state)
    signals, grads = sizes(network, gain, activation, norms)
    np.testing.assert_allclose(got["signal"], [rms(h) for h in signals], **CLOSE)
    np.testing.assert_allclose(got["gradient"], [rms(g) for g in grads], **CLOSE)
    for layer in (0, 11, 23):
        h = signals[layer]
        end = (h.abs() > 0.99) if activation == "tanh" else (h == 0)
        assert got["extreme"][layer] == pytest.approx(end.double().mean().item())
        low, high = (-1, 1) if activation == "tanh" else (0, 4 * rms(h))
        edges = np.linspace(low, high, 33)
        want = np.histogram(h.numpy().clip(low, high), edges)[0] / h.numel()
        # A value on an edge may count on either side of it.
        np.testing.assert_allclose(got["shares"][layer], want, atol=2 / h.numel())
    assert [l for l, s in enumerate(got["spread"], 1) if s is not None] == norms


def test_without_norm_a_relu_network_needs_no_new_pass(js):
    got = js(
        """() => {
          const { create, run, rescale, initial, homogeneous } = bnPlay.models.deep;
          const state = { ...initial(), activation: "relu" }, network = create(1);
          const one = run(network, state);
          const pairs = [0.25, 2 ** (1 / 8), 8].map((gain) =>
            [rescale(one, gain), run(network, { ...state, gain })]);
          const others = [{ ...state, norms: [3] }, initial()];
          return { pairs, yes: homogeneous(state), no: others.map(homogeneous) };
        }"""
    )
    assert got["yes"]
    assert got["no"] == [False, False]
    for quick, slow in got["pairs"]:
        for name in ("signal", "gradient"):
            np.testing.assert_allclose(quick[name], slow[name], rtol=1e-12)
        assert quick["extreme"] == slow["extreme"]
        np.testing.assert_allclose(quick["shares"], slow["shares"], atol=2 / 4096)


def test_one_step_of_the_gain_is_a_factor_of_eight(js):
    gains = np.array(js("() => bnPlay.models.deep.GAINS"))
    np.testing.assert_allclose((gains[1:] / gains[:-1]) ** 24, 8, rtol=1e-12)
    assert (gains[0], gains[-1]) == (0.25, 8)
    assert {0.5, 1, 2, 4} <= set(gains)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_with_norm_in_every_layer_the_gain_cancels(js, activation):
    low, high = (
        js(RUN, {"gain": gain, "activation": activation, "norms": EVERY})
        for gain in (1, 8)
    )
    for name in ("signal", "gradient"):
        np.testing.assert_allclose(low[name], high[name], rtol=1e-3)  # up to ε


def test_before_a_norm_the_gain_is_forgotten_and_after_it_counts_again(js):
    state = {"activation": "relu", "norms": [12]}
    one, two = (js(RUN, {**state, "gain": gain})["signal"] for gain in (1.4142, 2.8284))
    ratio = np.array(two) / np.array(one)
    np.testing.assert_allclose(ratio[:11], 2.0 ** np.arange(1, 12), rtol=1e-3)
    np.testing.assert_allclose(ratio[11:], 2.0 ** np.arange(13), rtol=1e-3)


def test_slices_are_the_whole_run(js):
    same = js(
        """() => {
          const { create, passes, run, initial } = bnPlay.models.deep;
          const state = { ...initial(), norms: [3] }, work = passes(create(1), state);
          let next, slices = 0;
          while (!(next = work.next()).done) slices += 1;
          return [slices, JSON.stringify(next.value) === JSON.stringify(run(create(1), state))];
        }"""
    )
    assert same == [48, True]


def test_the_words_hold_the_numbers(js):
    text, signal, gradient = js(
        """() => {
          const { initial, numbers, words, say } = bnPlay.models.deep;
          const state = { ...initial(), gain: 0.5, norms: [12] }, found = numbers(state);
          return [words(state, found), found.signal[23], found.gradient[0]];
        }"""
    )
    raised = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    plain = text.translate(raised).replace(" · 10", "e")
    assert f"layer 24: {signal:.1e}".replace("e-0", "e-") in plain
    assert f"layer 1: {gradient:.1e}".replace("e-0", "e-") in plain
    assert "smaller than √ε" in text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (0.634, "0.63"), (11.2, "11"), (123.4, "123"), (4.04e-8, "4.0 · 10⁻⁸")],
)
def test_a_size_is_short(js, size, text):
    assert js("(v) => bnPlay.models.deep.say(v)", size) == text


def test_an_action_gives_a_new_state(js):
    got = js(
        """() => {
          const { initial, act } = bnPlay.models.deep;
          const first = Object.freeze(initial());
          Object.freeze(first.norms);
          const some = act(act(first, { type: "norm", to: 12 }), { type: "norm", to: 3 });
          let refused = 0;
          const wrong = { gain: 3, norm: 25, places: "top", activation: "sin" };
          for (const [type, to] of Object.entries(wrong))
            try { act(first, { type, to }); } catch { refused += 1; }
          return [some.norms, act(some, { type: "norm", to: 12 }).norms, first.norms, refused];
        }"""
    )
    assert got == [[3, 12], [3], [], 4]
