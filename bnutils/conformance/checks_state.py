"""Checks of what a layer remembers, its modes, its arguments and its errors."""

import torch

from bnutils.conformance.checks import (
    FLAT,
    LONG,
    Mismatch,
    Pair,
    both,
    check,
    expect,
    expect_close,
)

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _same_statistics(layers, names=STATISTICS, tolerance=1e-5) -> None:
    for name in names:
        expect_close(name, *(getattr(layer, name) for layer in layers), tolerance)


@check("running mean")
def _running_mean(pair: Pair) -> None:
    for shape in (FLAT, LONG):
        _same_statistics(pair.trained(20, shape), ["running_mean"])


@check("running variance")
def _running_var(pair: Pair) -> None:
    for shape in (FLAT, LONG):
        _same_statistics(pair.trained(20, shape), ["running_var"])


@check("num_batches_tracked")
def _count(pair: Pair) -> None:
    layers = pair.trained(4)
    _same_statistics(layers, ["num_batches_tracked"])


@check("momentum 0 and 1")
def _momentum(pair: Pair) -> None:
    for momentum in (0.0, 1.0):
        _same_statistics(pair.trained(momentum=momentum))


@check("momentum=None")
def _average(pair: Pair) -> None:
    _same_statistics(pair.trained(7, momentum=None))


@check("evaluation output")
def _evaluation(pair: Pair) -> None:
    layers = [layer.eval() for layer in pair.trained()]
    for shape in (FLAT, LONG, (1, 5)):
        expect_close("output", *both(layers, pair.data(shape)), 1e-5)


@check("quiet channels")
def _quiet(pair: Pair) -> None:
    scale = torch.tensor([0.0, 1e-4, 1e-3, 3e-3, 1e-2])  # eps is 1e-5, its root 3e-3
    layers = pair.layers(momentum=1.0)
    expect_close("training", *both(layers, pair.data(offset=0.0) * scale), 1e-4)
    layers = [layer.eval() for layer in layers]
    expect_close("evaluation", *both(layers, pair.data(offset=0.0) * scale), 1e-4)


@check("evaluation changes nothing")
def _frozen(pair: Pair) -> None:
    layer = pair.trained()[0].eval()
    before = {name: getattr(layer, name).clone() for name in STATISTICS}
    layer(pair.data())
    for name, value in before.items():
        expect_close(name, getattr(layer, name), value, 0.0)


@check("mode decides, not gradients")
def _mode(pair: Pair) -> None:
    layers, x = pair.trained(), pair.data()
    with torch.no_grad():
        expect_close("training under no_grad", *both(layers, x), 1e-5)
    _same_statistics(layers)
    for layer in layers:
        layer.eval()
    with torch.enable_grad():
        expect_close("evaluation with gradients", *both(layers, x), 1e-5)
    _same_statistics(layers)


@check("affine=False")
def _plain(pair: Pair) -> None:
    layers, x = pair.trained(affine=False), pair.data()
    expect_close("training", *both(layers, x), 1e-5)
    expect_close("evaluation", *both([layer.eval() for layer in layers], x), 1e-5)


@check("track_running_stats=False")
def _untracked(pair: Pair) -> None:
    layers, x = pair.trained(track_running_stats=False), pair.data()
    expect_close("training", *both(layers, x), 1e-5)
    expect_close("evaluation", *both([layer.eval() for layer in layers], x), 1e-5)


@check("float64")
def _double(pair: Pair) -> None:
    layers = [layer.double() for layer in pair.layers()]
    expect_close("training", *both(layers, pair.data().double()), 1e-12)
    _same_statistics(layers, tolerance=1e-12)
    for layer in layers:
        layer.eval()
    expect_close("evaluation", *both(layers, pair.data().double()), 1e-12)


@check("half precision")
def _half(pair: Pair) -> None:
    for dtype, tolerance in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
        layers, name = pair.layers(), str(dtype).removeprefix("torch.")
        x = pair.data(offset=100.0).to(dtype)  # whose mean dtype cannot hold
        expect_close(f"{name} input", *both(layers, x), tolerance)
        layers, x = [layer.to(dtype) for layer in layers], pair.data().to(dtype)
        expect_close(f"{name} layer", *both(layers, x), 2 * tolerance)


@check("strides")
def _strides(pair: Pair) -> None:
    layers = pair.layers()
    x = pair.data(LONG)
    expect_close("transposed", *both(layers, x.transpose(0, 1)[:, :5]), 1e-5)
    expect_close("sliced", *both(layers, x[..., ::2]), 1e-5)
    expect_close("expanded", *both(layers, x[:, :, :1].expand(LONG)), 1e-5)


@check("checkpoints both ways")
def _checkpoints(pair: Pair) -> None:
    ours, theirs = pair.trained()
    x = pair.data()
    for source, kind in ((theirs, pair.cls), (ours, pair.reference)):
        loaded = kind(5)
        loaded.load_state_dict(source.state_dict())
        way = "from" if kind is pair.cls else "into"
        expected = source.eval()(x)
        expect_close(f"{way} PyTorch's state", loaded.eval()(x), expected, 1e-5)


@check("errors")
def _errors(pair: Pair) -> None:
    mistakes = {
        "1-D input": ({}, torch.randn(5)),
        "4-D input": ({}, torch.randn(4, 5, 2, 2)),
        "wrong number of channels": ({}, torch.randn(4, 6)),
        "one value per channel": ({}, torch.randn(1, 5)),
        "eps=0 in training": ({"eps": 0.0}, torch.randn(4, 5)),
        "integer input": ({}, torch.ones(4, 5, dtype=torch.long)),
        "float64 input": ({}, torch.randn(4, 5).double()),
    }
    for mistake, (options, x) in mistakes.items():
        ours, theirs = (_raised(layer, x) for layer in pair.layers(**options))
        if mistake == "integer input" and theirs == "RuntimeError":  # an old PyTorch
            ours = theirs if ours == "NotImplementedError" else ours  # a kind of it
        if theirs is not None:  # an old PyTorch lets eps=0 pass
            expect(mistake, ours, theirs)


def _raised(layer, x) -> str | None:
    """Name of the exception that a layer raises, if any."""
    try:
        layer(x)
    except Mismatch:
        raise
    except Exception as error:
        return type(error).__name__
    return None
