"""The checks of :mod:`bnutils.conformance`, in the order in which a layer grows.

A check takes a :class:`Pair` and returns nothing; it raises :class:`Mismatch` where the class
under test differs from the reference. Any other exception is the class's own, and a failure too.
"""

import copy
import inspect
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

CHECKS: dict[str, Callable] = {}
FLAT = (16, 5)  # (N, C)
LONG = (8, 5, 7)  # (N, C, L)


class Mismatch(AssertionError):
    """The two classes differ; the message says where and by how much."""


def check(name: str) -> Callable:
    """Register the decorated function as a check of that name."""

    def register(function: Callable) -> Callable:
        CHECKS[name] = function
        return function

    return register


def expect(what: str, ours, theirs) -> None:
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

    def __init__(self, cls: type, reference: type, seed: int) -> None:
        self.cls, self.reference = cls, reference
        self.generator = torch.Generator().manual_seed(seed)

    def data(self, shape: tuple[int, ...] = FLAT, offset: float = 3.0) -> Tensor:
        """An input whose channels differ in mean (about ``offset``) and spread."""
        c = torch.arange(shape[1]).view(-1, *(1,) * (len(shape) - 2))
        noise = torch.randn(shape, generator=self.generator)
        return offset + c / 2 + (1 + c / 3) * noise

    def layers(self, *args, **options) -> list[nn.Module]:
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

    def trained(self, batches: int = 3, shape=FLAT, **options) -> list[nn.Module]:
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


def gradients(layers: list[nn.Module], x: Tensor, dy: Tensor) -> Iterator[tuple]:
    """For each layer, the gradients of input, weight and bias."""
    for layer in layers:
        z = x.clone().requires_grad_()
        wanted = (z, layer.weight, layer.bias)
        yield torch.autograd.grad((layer(z) * dy).sum(), wanted)


@check("constructor")
def _constructor(pair: Pair) -> None:
    ours, theirs = (
        {n: p.default for n, p in inspect.signature(kind).parameters.items()}
        for kind in (pair.cls, pair.reference)
    )
    if "bias" not in theirs:  # the reference is older than this argument
        ours.pop("bias", None)
    missing = [name for name in theirs if name not in ours]
    expect("missing arguments", missing, [])
    expect("defaults", {n: ours[n] for n in theirs}, theirs)


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
    results = []
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
