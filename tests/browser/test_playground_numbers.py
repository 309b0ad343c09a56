"""The playground's arithmetic against `bnutils`, in a browser, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bnutils import norm

SCRIPTS = ("math", "mlp")  # what `js` runs beside
CLOSE = {"rtol": 1e-6, "atol": 1e-9}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("m", [2, 3, 16])
@pytest.mark.parametrize("eps", [1e-5, 1.0])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_forward_is_bnutils(js, rng, m, eps, offset):
    x = offset + rng.normal(size=m)
    y = js(
        "([x, w, b, e]) => bnPlay.math.forward(x, w, b, e).y", [[*x], 1.5, -0.3, eps]
    )
    want = norm.batch_norm_forward(x[:, None], np.array([1.5]), np.array([-0.3]), eps)
    np.testing.assert_allclose(y, want[:, 0], **CLOSE)


@pytest.mark.parametrize("m", [2, 3, 16])
@pytest.mark.parametrize("eps", [1e-5, 1.0])
def test_backward_is_bnutils(js, rng, m, eps):
    x, dy, weight = rng.normal(size=m), rng.normal(size=m), -0.7
    got = js(
        """([x, dy, w, e]) => {
          const { forward, backward } = bnPlay.math;
          return backward(dy, forward(x, w, 0, e), w);
        }""",
        [[*x], [*dy], weight, eps],
    )
    want = norm.batch_norm_backward(dy[:, None], x[:, None], np.array([weight]), eps)
    for name, value in zip(("dx", "dWeight", "dBias"), want, strict=True):
        np.testing.assert_allclose(got[name], value.squeeze(), **CLOSE)


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_running_statistics_are_bnutils(js, rng, momentum):
    batches = [rng.normal(2, 3, size=m) for m in (2, 8, 5, 64)]
    layer = norm.BatchNorm1d(1, momentum=momentum, dtype=torch.float64)
    for x in batches:
        layer(torch.from_numpy(x)[:, None])
    got = js(
        """([batches, momentum]) => {
          const { start, stats, track } = bnPlay.math;
          return batches.reduce((r, x) => track(r, stats(x), x.length, momentum), start());
        }""",
        [[[*x] for x in batches], momentum],
    )
    assert got["count"] == layer.num_batches_tracked.item() == 4
    np.testing.assert_allclose(got["mean"], layer.running_mean.item(), **CLOSE)
    np.testing.assert_allclose(got["var"], layer.running_var.item(), **CLOSE)
    left = 0 if momentum is None else (1 - momentum) ** 4
    assert got["left"] == pytest.approx(left)


def test_evaluation_mode_is_bnutils(js, rng):
    x = rng.normal(size=7)
    layer = norm.BatchNorm1d(1, dtype=torch.float64).eval()
    layer.running_mean.fill_(0.4)
    layer.running_var.fill_(2.5)
    given = {"mean": 0.4, "var": 2.5}
    y = js("([x, g]) => bnPlay.math.normalize(x, g, 1, 0, 1e-5).y", [[*x], given])
    want = layer(torch.from_numpy(x)[:, None]).detach().squeeze()
    np.testing.assert_allclose(y, want, **CLOSE)


TRAIN = """([norm, x, labels, lr]) => {
  const { create, train, evaluate } = bnPlay.mlp;
  const net = create([5, 4, 3, 2], { norm, scale: 1, seed: 3 });
  const start = net.map((l) => ({ w: [...l.w], b: [...l.b] }));
  const data = Float64Array.from(x.flat());
  const losses = [0, 1, 2].map(() => train(net, data, labels, x.length, lr));
  const seen = evaluate(net, data, labels, x.length);
  return { start, losses, loss: seen.loss, accuracy: seen.accuracy, w: net.map((l) => [...l.w]) };
}"""


@pytest.mark.parametrize("with_norm", [True, False])
def test_training_the_network_is_pytorch_with_bnutils(js, rng, with_norm):
    x, labels = rng.normal(size=(6, 5)), [0, 1, 1, 0, 1, 0]
    got = js(TRAIN, [with_norm, x.tolist(), labels, 0.5])
    linears = [nn.Linear(i, o) for i, o in ((5, 4), (4, 3), (3, 2))]
    for linear, start in zip(linears, got["start"], strict=True):
        weight = torch.tensor(start["w"]).view_as(linear.weight)
        linear.weight.data, linear.bias.data = (
            weight.double(),
            torch.tensor(start["b"]).double(),
        )
    net = nn.Sequential()
    for linear in linears[:-1]:
        net.append(linear)
        if with_norm:
            net.append(norm.BatchNorm1d(linear.out_features))
        net.append(nn.ReLU())
    net = net.append(linears[-1]).double()
    for linear, start in zip(linears, got["start"], strict=True):  # all their digits
        linear.weight.data.copy_(
            torch.from_numpy(np.array(start["w"])).view_as(linear.weight)
        )
    data, target = torch.from_numpy(x), torch.tensor(labels)
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=0.5), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(data), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(got["losses"], losses, **CLOSE)
    for linear, weight in zip(linears, got["w"], strict=True):
        want = linear.weight.detach().flatten()
        np.testing.assert_allclose(weight, want, rtol=1e-6, atol=1e-8)
    scores = net.eval()(data)
    want = nn.functional.cross_entropy(scores, target).item()
    np.testing.assert_allclose(got["loss"], want, **CLOSE)
    assert got["accuracy"] == pytest.approx(
        (scores.argmax(1) == target).double().mean().item()
    )


def test_networks_with_and_without_norm_start_from_the_same_weights(js):
    same = js(
        """() => {
          const [a, b] = [true, false].map((norm) =>
            bnPlay.mlp.create([64, 32, 10], { norm, scale: 1, seed: 1 }));
          return a.every((layer, l) => layer.w.every((v, k) => v === b[l].w[k]));
        }"""
    )
    assert same


def test_initial_weights_have_the_spread_of_he(js):
    spread = js(
        """() => {
          const [layer] = bnPlay.mlp.create([64, 500], { norm: false, scale: 3, seed: 2 });
          return Math.sqrt(bnPlay.math.stats([...layer.w]).var);
        }"""
    )
    assert spread == pytest.approx(3 * (2 / 64) ** 0.5, rel=0.02)


def test_histogram_keeps_what_lies_beyond(js):
    shares = js("() => bnPlay.mlp.histogram([-99, -0.4, 0.3, 0.4, 99], -1, 1, 4)")
    np.testing.assert_allclose(shares, [0.2, 0.2, 0.4, 0.2])
