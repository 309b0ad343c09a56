"""The check of a layer as a function of its parameters, under the transforms of torch.func."""

import torch
from torch import Tensor, func, nn

from bnutils.conformance.checks import Pair, check, expect_close


def _slopes(layer: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Gradients by name, from a layer in training mode whose state is an argument too."""

    def loss(parameters: dict, x: Tensor, buffers: dict) -> Tensor:
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
