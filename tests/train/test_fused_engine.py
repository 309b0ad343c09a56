"""The fused engine learns what autograd learns, and refuses what it cannot train."""

from __future__ import annotations

import copy

import pytest
import torch
from layers import flat
from torch import nn
from torch.nn import functional as F

from bnutils import data, fast, models, norm, train
from bnutils.fast import extension
from bnutils.train import steps

needs_kernel = pytest.mark.skipif(
    bool(fast.available("kernel")), reason="no compiler for the kernel"
)


SMALL = {"batch_size": 30, "device": "cpu"}


def blobs(n: int, seed: int, dtype=torch.float64) -> data.Split:
    """Three Gaussian classes in six dimensions, overlapping."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = torch.randn(n, 6, generator=g, dtype=dtype) + F.one_hot(y, 6)
    return data.Split(x, y)


def toy(dtype=torch.float64) -> data.Dataset:
    splits = (blobs(95, 0, dtype), blobs(30, 1, dtype), blobs(30, 2, dtype))
    return data.Dataset("toy", "made here", *splits)


def both(net, full, **options):
    """Train two copies, one with each engine."""
    options = {"epochs": 3, "batch_size": 30, "lr": 0.1, "threads": 1} | options
    nets = {"autograd": net, "fused": copy.deepcopy(net)}
    found = [
        train.fit(n, full, engine=engine, device="cpu", **options)
        for engine, n in nets.items()
    ]
    return *nets.values(), *found


def deep(norm_=nn.BatchNorm1d, sizes=(6, 9, 7, 3), dtype=torch.float64, **options):
    torch.manual_seed(0)
    return models.mlp(sizes, norm_, **options).to(dtype)


def bn(**options):
    return lambda n: nn.BatchNorm1d(n, **options)


LAYERS = {
    "torch": nn.BatchNorm1d,
    "own": norm.BatchNorm1d,
    "fast": fast.TorchBatchNorm1d,
    "none": None,
    "no affine": bn(affine=False),
    "no statistics": bn(track_running_stats=False),
    "cumulative": bn(momentum=None),
    "large eps": bn(eps=0.5, momentum=0.7),
    "no offset": lambda n: norm.BatchNorm1d(n, bias=False),
}


@needs_kernel
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bias", [True, False])
def test_same_as_autograd(name, bias):
    a, b, ha, hb = both(deep(LAYERS[name], bias=bias), toy())
    torch.testing.assert_close(flat(a), flat(b), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ha.loss, hb.loss, rtol=1e-10, atol=1e-12)
    assert ha.lr == hb.lr and ha.accuracy == hb.accuracy
    assert hb.loss[-1] < hb.loss[0]


@needs_kernel
@pytest.mark.parametrize("optimizer", ["sgd", "plain_sgd"])
@pytest.mark.parametrize("decay", [0.0, 0.02])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("norm_", [nn.BatchNorm1d, None])
def test_every_setting_of_the_update(optimizer, decay, smoothing, norm_):
    options = {"optimizer": optimizer, "weight_decay": decay, "drop_last": False}
    a, b, ha, hb = both(deep(norm_), toy(), label_smoothing=smoothing, **options)
    assert len(hb.loss) == 12  # with the smaller last batch of each epoch
    torch.testing.assert_close(flat(a), flat(b), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ha.loss, hb.loss, rtol=1e-10, atol=1e-12)


@needs_kernel
@pytest.mark.parametrize("sizes", [(6, 3), (6, 5, 3), (6, 4, 8, 5, 3), (6, 700, 3)])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_depth_and_width(sizes, threads):
    a, b, _, _ = both(deep(sizes=sizes), toy(), threads=threads)
    torch.testing.assert_close(flat(a), flat(b), rtol=1e-9, atol=1e-11)


@needs_kernel
def test_float32_differs_by_rounding_only():
    net = deep(dtype=torch.float32)
    _, b, ha, hb = both(net, toy(torch.float32), epochs=1)
    torch.testing.assert_close(ha.loss, hb.loss, rtol=1e-5, atol=1e-6)
    again = deep(dtype=torch.float32)
    options = {"epochs": 1, "batch_size": 30, "lr": 0.1, "threads": 1, "device": "cpu"}
    train.fit(again, toy(torch.float32), engine="fused", **options)
    assert torch.equal(flat(b), flat(again))  # the same bits, run for run


@needs_kernel
def test_a_unit_at_exactly_zero_learns_nothing_through_relu():
    net = deep(sizes=(6, 9, 3))
    nn.init.zeros_(net.norm1.weight)  # y = 0: the derivative of relu there is 0
    a, b, _, _ = both(net, toy(), epochs=1)
    torch.testing.assert_close(flat(a), flat(b), rtol=1e-10, atol=1e-12)
    assert not b.norm1.weight.any()


@needs_kernel
def test_a_loss_that_is_not_finite_stops_before_the_update():
    net, full = deep(), toy()
    full.train.x[:] = torch.inf
    before = copy.deepcopy(dict(net.named_parameters()))
    history = train.fit(net, full, engine="fused", **SMALL)
    assert history.diverged and len(history.loss) == 1
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


@needs_kernel
def test_autograd_notices_that_the_parameters_changed():
    net, full = deep(), toy()
    loss = F.cross_entropy(net(full.train.x), full.train.y)
    train.fit(net, full, engine="fused", **SMALL)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@needs_kernel
def test_callbacks_work_as_ever():
    seen = []
    options = {
        "on_step": lambda step, history: seen.append((step, history.loss[-1])),
    }
    a, b, ha, hb = both(deep(), toy(), **options)
    torch.testing.assert_close(flat(a), flat(b), rtol=1e-10, atol=1e-12)
    n = len(ha.loss)
    assert [step for step, _ in seen] == [*range(1, n + 1)] * 2
    assert [loss for _, loss in seen] == ha.loss + hb.loss


# Single steps, each on the same batch

BATCH = blobs(40, 3)
X, Y = BATCH.x, BATCH.y


def one_step(engine, net, x, y, *, smoothing=0.0, decay=0.01, steps_=1):
    """Losses and hits of some steps on a batch."""
    take = steps.STEPS[engine](net, "sgd", 0.1, decay, smoothing, 3)
    return [take(x, y, 1.0) for _ in range(steps_)]


def by_each(net, x, y, **options):
    """What the steps return with each engine, and the two nets afterwards."""
    nets = [net, copy.deepcopy(net)]
    return [
        one_step(engine, n, x, y, **options)
        for engine, n in zip(("autograd", "fused"), nets, strict=True)
    ], nets


def check_steps(net, x, y):
    found, nets = by_each(net, x, y, steps_=3)
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(*map(flat, nets), rtol=1e-9, atol=1e-11)


@needs_kernel
@pytest.mark.parametrize("norm_", [nn.BatchNorm1d, None])
@pytest.mark.parametrize("width", [1, 9000])  # of weights, a thread's share and more
def test_the_narrowest_and_a_wide_layer_learn(width, norm_):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        x = X.clone().requires_grad_()  # which changes nothing
        check_steps(deep(norm_, (6, width, 3)), x, Y)
    finally:
        torch.set_num_threads(before)


@needs_kernel
def test_batches_may_lie_anywhere_in_memory():
    y = torch.stack([Y, torch.full_like(Y, 7)], 1)[:, 0]
    x = X.t().contiguous().t()
    assert not x.is_contiguous() and not y.is_contiguous()
    check_steps(deep(), x, y)


@needs_kernel
@pytest.mark.parametrize("gone", ["weight", "bias"])
def test_a_norms_weight_or_bias_learns_alone(gone):
    net = deep()
    for layer in (net.norm1, net.norm2):
        setattr(layer, gone, None)
        nn.init.constant_(next(layer.parameters()), 0.7)
    check_steps(net, X, Y)


@needs_kernel
def test_relu_has_slope_zero_at_zero():
    net = deep(None)
    for p in net.linear1.parameters():
        nn.init.zeros_(p)
    check_steps(net, X, Y)


@needs_kernel
@pytest.mark.parametrize("norm_", [nn.BatchNorm1d, None])
def test_autograd_is_told_that_each_parameter_changed(norm_):
    net = deep(norm_)
    before = [p._version for p in net.parameters()]
    one_step("fused", net, X, Y)
    assert all(p._version > v for p, v in zip(net.parameters(), before, strict=True))


# Losses at the edges


@needs_kernel
def test_equal_logits_count_as_the_first_class():
    net = deep()
    for p in net[-1].parameters():
        nn.init.zeros_(p)
    ((_, autograd),), ((_, fused),) = by_each(net, X, Y)[0]
    assert fused == autograd == (Y == 0).sum()


@needs_kernel
@pytest.mark.parametrize(("value", "name"), [(torch.nan, "nan"), (1e308, "inf")])
def test_a_loss_that_is_not_finite_is_that_of_autograd(value, name):
    net = nn.Sequential(nn.Linear(1, 3)).double()
    net[0].weight.data = torch.tensor([[0.0], [1.0], [-1.0]], dtype=torch.float64)
    before = flat(net)
    x, y = torch.full((4, 1), value, dtype=torch.float64), torch.full((4,), 2)
    found, nets = by_each(net, x, y, smoothing=0.1)
    assert [str(loss) for ((loss, _),) in found] == [name, name]
    assert all(torch.equal(flat(n), before) for n in nets)  # no update then


@needs_kernel
def test_relu_lets_nan_through():
    x = X.where(X.max() > X, torch.nan)
    found, _ = by_each(deep(None), x, Y)
    assert [str(loss) for ((loss, _),) in found] == ["nan", "nan"]


@needs_kernel
def test_logits_of_thousands_give_the_loss_all_the_same():
    net = deep()
    nn.init.normal_(net[-1].weight, std=3e3)
    found, _ = by_each(net, X, Y)
    assert found[0][0][0] > 1e3
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)


@needs_kernel
def test_logits_further_apart_than_the_largest_number_have_a_loss_all_the_same():
    net = nn.Sequential(nn.Linear(1, 3))
    net[0].weight.data = torch.tensor([[3e38], [-3e38], [0.0]])
    found, _ = by_each(net, torch.ones(4, 1), torch.zeros(4).long())
    assert [loss for ((loss, _),) in found] == [0, 0]


# What it refuses


class Twice(nn.Sequential):
    pass


def shared():
    linear = nn.Linear(6, 6)
    return nn.Sequential(linear, nn.ReLU(), linear, nn.ReLU(), nn.Linear(6, 3))


def frozen():
    net = models.mlp((6, 5, 3))
    net.linear1.weight.requires_grad_(False)
    return net


def hooked():
    net = models.mlp((6, 5, 3))
    net.act1.register_forward_hook(lambda module, inputs, output: None)
    return net


def half_gone():
    net = models.mlp((6, 5, 3))
    net.norm1.running_var = None
    return net


def mixed():
    net = models.mlp((6, 5, 3))
    net.linear1.double()
    return net


def strided():
    net = models.mlp((6, 5, 3))
    net.linear1.weight.data = torch.randn(6, 5).t()
    return net


def of_another_length(name):
    def make():
        net = models.mlp((6, 5, 3))
        value = torch.ones(4)
        setattr(net.norm1, name, value if "running" in name else nn.Parameter(value))
        return net

    return make


def block(*middle):
    return lambda: nn.Sequential(nn.Linear(6, 5), *middle, nn.Linear(5, 3))


MODELS = {
    "not a Sequential": (lambda: nn.Linear(6, 3), "nn.Sequential.*but got Linear"),
    "a subclass": (lambda: Twice(nn.Linear(6, 3)), "but got Twice"),
    "empty": (nn.Sequential, "nn.Sequential"),
    "tanh": (lambda: models.mlp((6, 5, 3), activation=nn.Tanh), "Tanh is not nn.ReLU"),
    "dropout": (block(nn.ReLU(), nn.Dropout()), "Dropout is not nn.Linear"),
    "norm after relu": (block(nn.ReLU(), nn.BatchNorm1d(5)), "BatchNorm1d is not"),
    "layer norm": (block(nn.LayerNorm(5), nn.ReLU()), "LayerNorm is not nn.ReLU"),
    "no relu": (block(nn.BatchNorm1d(5)), "Linear is not nn.ReLU"),
    "ends in relu": (
        lambda: nn.Sequential(nn.Linear(6, 3), nn.ReLU()),
        "nn.Linear as the last layer",
    ),
    "norm too wide": (block(nn.BatchNorm1d(6), nn.ReLU()), "a norm of 5 channels"),
    **{
        f"{name} too short": (of_another_length(name), "a norm of 5 channels")
        for name in ("weight", "bias", "running_mean", "running_var")
    },
    "one statistic": (half_gone, "both running statistics or none"),
    "shared": (shared, "not shared"),
    "frozen": (frozen, "that all learn"),
    "hooks": (hooked, "without hooks, but ReLU has one"),
    "mixed": (mixed, "found cpu torch.float32, cpu torch.float64"),
    "half": (lambda: models.mlp((6, 5, 3)).half(), "found cpu torch.float16"),
    "strided": (strided, "contiguous"),
    "too few outputs": (lambda: models.mlp((6, 5, 2)), "2 outputs for 3 classes"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_it_cannot_train_is_refused(name):
    make, message = MODELS[name]
    with pytest.raises(ValueError, match=message):
        train.fit(make(), toy(torch.float32), engine="fused", **SMALL)


@pytest.mark.parametrize("optimizer", ["adam", torch.optim.SGD])
def test_an_optimiser_it_does_not_know_is_refused(optimizer):
    with pytest.raises(ValueError, match="'sgd' or 'plain_sgd', but got"):
        train.fit(deep(), toy(), engine="fused", optimizer=optimizer, **SMALL)


def test_another_device_is_refused():
    net = models.mlp((6, 5, 3), None).to("meta")
    with pytest.raises(ValueError, match="device='cpu'.*found meta torch.float32"):
        steps.FusedStep(net, "sgd", 0.1, 0.0, 0.0, 3)


def test_an_engine_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="'autograd' or 'fused', but got 'fast'"):
        train.fit(deep(), toy(), engine="fast", **SMALL)


def test_without_a_kernel_the_reason_is_given(monkeypatch):
    def load(*, build):
        assert build  # it compiles if need be
        raise extension.NotAvailableError("there is no compiler")

    monkeypatch.setattr(extension, "load", load)
    with pytest.raises(RuntimeError, match="engine 'fused': there is no compiler"):
        train.fit(deep(), toy(), engine="fused", **SMALL)


@needs_kernel
def test_input_that_does_not_fit():
    for net, full in [(deep(sizes=(5, 4, 3)), toy()), (deep(), toy(torch.float32))]:
        with pytest.raises(RuntimeError, match="does not accept a batch of shape"):
            train.fit(net, full, engine="fused", **SMALL)
    with pytest.raises(ValueError, match="more than 1 value per channel.*drop_last"):
        train.fit(deep(), toy(), engine="fused", batch_size=1, device="cpu")
    _, _, a, b = both(deep(None), toy(), batch_size=1, epochs=1)  # no norm: it may
    assert a.loss == pytest.approx(b.loss, rel=1e-10)


@needs_kernel
@pytest.mark.parametrize("row", [0, 2, 3])
@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_no_output_stands_for_is_refused(label, row):
    x, y = X[:4], torch.tensor([0, 1, 2, 1])
    y[row] = label
    with pytest.raises(ValueError, match=f"label {label} for 3 classes"):
        one_step("fused", deep(), x, y)
