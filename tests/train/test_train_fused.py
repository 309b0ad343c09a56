"""The fused training step: the same as autograd's, and what it refuses."""

import copy

import pytest
import torch
from layers import flat
from torch import nn
from torch.nn import functional as F

from bnutils import data, fast, models, norm, train
from bnutils.fast import extension as _fast_build
from bnutils.train import steps as _steps

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
        _steps.FusedStep(net, "sgd", 0.1, 0.0, 0.0, 3)


def test_an_engine_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="'autograd' or 'fused', but got 'fast'"):
        train.fit(deep(), toy(), engine="fast", **SMALL)


def test_without_a_compiler_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(_fast_build, "load", lambda *, build: "there is no compiler")
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
def test_a_label_below_zero_is_refused():
    full = toy()
    full.train.y[3] = -1
    with pytest.raises(ValueError, match="label -1 for 3 classes"):
        train.fit(deep(), full, engine="fused", **SMALL)
