"""The article's network: a multilayer perceptron with a pluggable normalisation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

__all__ = ["mlp"]


def mlp(
    sizes: Sequence[int] = (784, 512, 256, 10),
    norm: Callable[[int], nn.Module] | None = nn.BatchNorm1d,
    activation: Callable[[], nn.Module] = nn.ReLU,
    bias: bool = True,
    *,
    init_std: float | None = None,
    init_scale: float = 1.0,
) -> nn.Sequential:
    """Linear, norm, activation, once per hidden layer; then a last Linear alone.

    The submodules are named ``linear1, norm1, act1, linear2, ...``. The linear layers
    are drawn first, one after the other, so that the same seed gives the same weights
    whatever ``norm``, ``activation`` and ``bias`` are.

    Parameters
    ----------
    sizes : sequence of at least two positive int
        Widths of input, hidden layers and output; the default is the article's MNIST
        classifier (chapter 8).
    norm : callable or None
        Makes a normalisation layer from its width; None leaves it out.
    activation : callable
        Makes an activation layer.
    bias : bool
        Whether a linear layer that a norm follows has a bias; the norm's mean takes it
        out again (chapter 2). Other linear layers always have one.
    init_std : float, optional
        Draw weights from a normal distribution of mean 0 and this standard deviation,
        with zero biases, in place of PyTorch's default (chapter 11).
    init_scale : float
        Factor on all initial weights, biases apart (chapter 9).

    Returns
    -------
    nn.Sequential, from (N, sizes[0]) to (N, sizes[-1])

    Raises
    ------
    ValueError
        Fewer than two sizes or one that is not a positive integer.
    TypeError
        ``norm`` or ``activation`` is a layer already made, or not callable.
    """
    _check(sizes, norm, activation)
    linears = [_linear(n, m, init_std, init_scale) for n, m in pairwise(sizes)]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, linear in enumerate(linears[:-1], start=1):
        layers[f"linear{i}"] = linear
        if norm is not None:
            layers[f"norm{i}"] = norm(linear.out_features)
            if not bias:
                linear.register_parameter("bias", None)
        layers[f"act{i}"] = activation()
    layers[f"linear{len(linears)}"] = linears[-1]
    return nn.Sequential(layers)


def _linear(n: int, m: int, init_std: float | None, init_scale: float) -> nn.Linear:
    """A linear layer from n to m, initialised as :func:`mlp` says."""
    linear = nn.Linear(n, m)
    if init_std is not None:
        nn.init.normal_(linear.weight, std=init_std)
        nn.init.zeros_(linear.bias)
    linear.weight.data.mul_(init_scale)
    return linear


def _check(sizes: Sequence[int], norm: object, activation: object) -> None:
    """Raise unless the sizes make a network and the layers are still to be made.

    A layer that is made already would be shared by all places, with one width for all.
    """
    if len(sizes) < 2 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise ValueError(
            "sizes must be the widths of input, hidden layers and output, at least two "
            f"positive integers as in (784, 512, 256, 10), but got {tuple(sizes)}"
        )
    if norm is not None:
        _check_maker("norm", norm, "nn.BatchNorm1d")
    _check_maker("activation", activation, "nn.ReLU")


def _check_maker(name: str, layer: object, example: str) -> None:
    """Raise TypeError unless ``layer`` can be called to make one."""
    if isinstance(layer, nn.Module) or not callable(layer):
        raise TypeError(
            f"{name} must be a class or a function that makes a layer, such as {example}, "
            f"but got {layer!r}"
        )
