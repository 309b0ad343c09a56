"""The checks of :mod:`bnutils.conformance`, in the order in which a layer grows.

A check takes a :class:`Pair` and returns nothing; it raises :class:`Mismatch` where the class
under test differs from the reference. Any other exception is the class's own, and a failure too.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, func, nn

from bnutils._modules import STATISTICS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from bnutils.conformance.causes import Maker

    CheckFunction = Callable[["Pair"], None]

CHECKS: dict[str, CheckFunction] = {}
FLAT = (16, 5)  # (N, C)
LONG = (8, 5, 7)  # (N, C, L)


class Mismatch(AssertionError):
    """The two classes differ; the message says where and by how much."""


def check(name: str) -> Callable[[CheckFunction], CheckFunction]:
    """Register the decorated function as a check of that name."""

    def register(function: CheckFunction) -> CheckFunction:
        CHECKS[name] = function
        return function

    return register


def expect(what: str, ours: object, theirs: object) -> None:
    """Both must be equal."""
    if ours != theirs:
        raise Mismatch(f"{what}: {ours}, expected {theirs}")


def expect_close(what: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Same shape and dtype; difference within ``tolerance``, absolute and relative."""
    expect(f"{what}, shape", tuple(ours.shape), tuple(theirs.shape))
    expect(f"{what}, dtype", ours.dtype, theirs.dtype)
    a, b = ours.detach().double(), theirs.detach().double()
    error = ((a - b).abs() / (1 + b.abs())).max().item()
    if not error <= tolerance:
        raise Mismatch(f"{what}: off by about {error:.0e}, tolerance {tolerance:g}")


class Pair:
    """A class, its reference, and the same random input and parameters for both."""

    def __init__(self, cls: Maker, reference: Maker, seed: int) -> None:
        self.cls, self.reference = cls, reference
        self.generator = torch.Generator().manual_seed(seed)

    def data(self, shape: tuple[int, ...] = FLAT, offset: float = 3.0) -> Tensor:
        """An input whose channels differ in mean (about ``offset``) and spread."""
        c = torch.arange(shape[1]).view(-1, *(1,) * (len(shape) - 2))
        noise = torch.randn(shape, generator=self.generator)
        return offset + c / 2 + (1 + c / 3) * noise

    def layers(self, *args: Any, **options: Any) -> list[nn.Module]:
        """One layer of each class, C = 5, with the same random weight and bias.

        A parameter that the class under test does not have stays 1 or 0 in the other.
        """
        layers = [kind(5, *args, **options) for kind in (self.cls, self.reference)]
        for name, parameter in layers[1].named_parameters():
            if isinstance(getattr(layers[0], name, None), Tensor):
                value = torch.randn(5, generator=self.generator)
                parameter.data.copy_(value)
                getattr(layers[0], name).data.copy_(value)
        return layers

    def trained(
        self, batches: int = 3, shape: tuple[int, ...] = FLAT, **options: Any
    ) -> list[nn.Module]:
        """Layers that have seen the same batches in training mode."""
        layers = self.layers(**options)
        for _ in range(batches):
            x = self.data(shape)
            for layer in layers:
                layer(x)
        return layers


def both(layers: list[nn.Module], x: Tensor) -> list[Tensor]:
    """The outputs of both layers for one input."""
    return [layer(x) for layer in layers]


def expect_alike(layers: list[nn.Module], x: Tensor, tolerance: float) -> None:
    """Outputs must agree in training mode, then in evaluation mode."""
    expect_close("training", *both(layers, x), tolerance)
    layers = [layer.eval() for layer in layers]
    expect_close("evaluation", *both(layers, x), tolerance)


def gradients(
    layers: list[nn.Module], x: Tensor, dy: Tensor
) -> Iterator[tuple[Tensor, ...]]:
    """For each layer, the gradients of input, weight and bias."""
    for layer in layers:
        z = x.clone().requires_grad_()
        wanted = (z, layer.weight, layer.bias)
        yield torch.autograd.grad((layer(z) * dy).sum(), wanted)


@check("constructor")
def _constructor(pair: Pair) -> None:
    ours, theirs = (
        inspect.signature(kind).parameters for kind in (pair.cls, pair.reference)
    )
    wanted = {name: parameter.default for name, parameter in theirs.items()}
    if any(p.kind is p.VAR_KEYWORD for p in ours.values()):
        # It passes arguments on, to a class that has to be asked by making a layer.
        layers = pair.cls(5), pair.reference(5)
        for name in ("eps", "momentum", "affine", "track_running_stats"):
            expect(f"default of {name}", *(getattr(layer, name) for layer in layers))
        return
    expect("missing arguments", [name for name in wanted if name not in ours], [])
    expect("defaults", {name: ours[name].default for name in wanted}, wanted)


@check("state_dict")
def _state(pair: Pair) -> None:
    for options in ({}, {"affine": False}, {"track_running_stats": False}):
        ours, theirs = (layer.state_dict() for layer in pair.layers(**options))
        expect(f"names with {options or 'defaults'}", list(ours), list(theirs))
        for name, value in theirs.items():
            expect_close(name, ours[name], value, 0.0)


@check("repr")
def _repr(pair: Pair) -> None:
    ours, theirs = (repr(x).partition("(")[2] for x in pair.layers(momentum=0.2))
    if "bias=" not in theirs:
        ours = ours.replace("bias=True, ", "")
    expect("repr", ours, theirs)


@check("training output (N, C)")
def _output(pair: Pair) -> None:
    expect_close("output", *both(pair.layers(), pair.data()), 1e-5)


@check("training output (N, C, L)")
def _output_long(pair: Pair) -> None:
    expect_close("output", *both(pair.layers(), pair.data(LONG)), 1e-5)


@check("gradients")
def _gradients(pair: Pair) -> None:
    for shape in (FLAT, LONG):
        x, dy = pair.data(shape), pair.data(shape, offset=0.3)
        found = gradients(pair.layers(), x, dy)
        for name, ours, theirs in zip(("x", "weight", "bias"), *found, strict=True):
            expect_close(f"gradient of {name}", ours, theirs, 1e-4)


@check("second derivative")
def _second(pair: Pair) -> None:
    x, dy = pair.data(), pair.data(offset=0.3)
    results: list[Tensor] = []
    for layer in pair.layers():
        z = x.clone().requires_grad_()
        (first,) = torch.autograd.grad((layer(z) * dy).sum(), z, create_graph=True)
        results += torch.autograd.grad(first.square().sum(), z)
    expect_close("second derivative", *results, 1e-4)


@check("large offset")
def _offset(pair: Pair) -> None:
    for shape in ((256, 5), (64, 5, 50)):
        layers, x = pair.layers(), pair.data(shape, offset=1e6)
        exact = copy.deepcopy(layers[1]).double()(x.double())
        ours, theirs = ((y - exact).abs().max().item() for y in both(layers, x))
        if not ours <= 2 * theirs + 2**-5:  # half the spacing of float32 at 1e6
            raise Mismatch(
                f"mean 1e6, {len(shape)}-D: error {ours:.0e}, PyTorch's {theirs:.0e}"
            )


@check("copy")
def _copy(pair: Pair) -> None:
    layers = layer, _ = pair.layers()
    for _ in range(3):
        both(layers, pair.data().requires_grad_())
    graphs = [n for n, b in layer.named_buffers() if b.requires_grad]
    expect("buffers that carry an autograd graph", graphs, [])
    layers[0] = copy.deepcopy(layer)
    expect_close("output of a deepcopy", *both(layers, pair.data()), 1e-5)


# What a layer remembers, its modes, arguments and errors


def _same_statistics(
    layers: list[nn.Module], names: Iterable[str] = STATISTICS, tolerance: float = 1e-5
) -> None:
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
    _same_statistics(pair.trained(4), ["num_batches_tracked"])


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
    layers = [layer.eval() for layer in layers]
    with torch.enable_grad():
        expect_close("evaluation with gradients", *both(layers, x), 1e-5)
    _same_statistics(layers)


@check("affine=False")
def _plain(pair: Pair) -> None:
    expect_alike(pair.trained(affine=False), pair.data(), 1e-5)


@check("track_running_stats=False")
def _untracked(pair: Pair) -> None:
    expect_alike(pair.trained(track_running_stats=False), pair.data(), 1e-5)


@check("float64")
def _double(pair: Pair) -> None:
    layers = [layer.double() for layer in pair.layers()]
    expect_close("training", *both(layers, pair.data().double()), 1e-12)
    _same_statistics(layers, tolerance=1e-12)
    layers = [layer.eval() for layer in layers]
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


def _raised(layer: nn.Module, x: Tensor) -> str | None:
    """Name of the exception that a layer raises, if any."""
    try:
        layer(x)
    except Exception as error:
        return type(error).__name__
    return None


# The layer as a function of its parameters


def _slopes(layer: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Gradients by name, from a layer in training mode whose state is an argument too."""

    def loss(
        parameters: dict[str, Tensor], x: Tensor, buffers: dict[str, Tensor]
    ) -> Tensor:
        return (func.functional_call(layer, {**parameters, **buffers}, x) * dy).sum()

    parameters = {n: p.detach() for n, p in layer.named_parameters()}
    buffers = {n: b.clone() for n, b in layer.named_buffers()}
    found, of_x = func.grad(loss, argnums=(0, 1))(parameters, x, buffers)
    return {**found, "x": of_x}


@check("torch.func")
def _func(pair: Pair) -> None:
    x, dy = pair.data(), pair.data(offset=0.3)
    ours, theirs = (_slopes(layer, x, dy) for layer in pair.layers())
    for name, gradient in theirs.items():
        expect_close(f"grad of functional_call, {name}", ours[name], gradient, 1e-4)
    layers = [layer.eval() for layer in pair.trained()]
    many = torch.stack([x, 2 * x])
    expect_close("vmap", *(func.vmap(layer)(many) for layer in layers), 1e-5)
    found = [func.jvp(layer, (x,), (dy,)) for layer in layers]
    for what, *both in zip(("output", "tangent"), *found, strict=True):
        expect_close(f"jvp, {what}", *both, 1e-5)
