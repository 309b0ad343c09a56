"""What several tests do to layers and models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

from bnutils import norm

STRICT_EPS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10)
try:
    nn.BatchNorm1d(1, eps=0.0).eval()(torch.ones(2, 1))
except ValueError:  # PyTorch 2.11
    ZERO_EPS_AS_NOW = False
else:  # before 2.10 never refused; now in training only, and negative ones
    ZERO_EPS_AS_NOW = STRICT_EPS
try:
    nn.BatchNorm1d(1)(torch.ones(2, 1, dtype=torch.long))
except RuntimeError as error:
    INTEGER_ERROR = type(error)  # PyTorch 2.4: RuntimeError; now its subclass

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@contextmanager
def by_default_on(device: str) -> Iterator[None]:
    """Tensors are made on the device unless something else is said."""
    if device == "cpu":
        yield
        return
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


def on_gpu() -> bool:
    """Whether that device is one."""
    return torch.get_default_device().type == "cuda"


def mixed(of_x: torch.dtype, *of_layer: torch.dtype) -> bool:
    """Whether PyTorch refuses this mixture of dtypes on the CPU."""
    half = of_x.itemsize == 2 and set(of_layer) == {torch.float32}
    return set(of_layer) != {of_x} and not half


def shuffled(layer: nn.Module) -> nn.Module:
    """Give every parameter and statistic a value that hides no mistake."""
    with torch.no_grad():
        for name, value in layer.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 2) if "var" in name else value.normal_()
    return layer


def as_here(error: type) -> type:
    """Return what this PyTorch raises where the newest raises ``error``."""
    return INTEGER_ERROR if error is NotImplementedError else error


def flat(model: nn.Module) -> Tensor:
    """Every number of the model's state, in one vector."""
    return torch.cat(
        [t.detach().double().flatten() for t in model.state_dict().values()]
    )


def mutant(name: str, function) -> type[norm.BatchNorm1d]:
    """The book's layer with another function of that name in its module."""

    class Mutant(norm.BatchNorm1d):
        def forward(self, x):
            with patch.object(norm, name, function):
                return super().forward(x)

    return Mutant
