"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from typing import Any

OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "plain_sgd": (torch.optim.SGD, {}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
}

PEAK_AT = 0.3  # part of all steps at which onecycle turns


def onecycle(progress: float) -> float:
    """Return the factor of the peak learning rate: up along a cosine, then down.

    ``progress`` is the part of all steps already done, 0 to 1. The factor starts at
    1/25, is 1 at progress 0.3 and ends at 4e-6: the shape of PyTorch's ``OneCycleLR``
    with its defaults, after Smith and Topin (2017), arXiv:1708.07120. The momentum
    stays constant here.
    """
    if progress <= PEAK_AT:
        low, position = 1 / 25, progress / PEAK_AT
    else:
        low, position = 4e-6, (1 - progress) / (1 - PEAK_AT)
    return low + (1 - low) * (1 - math.cos(math.pi * position)) / 2


def make_optimizer(
    kind: str | Callable[..., torch.optim.Optimizer],
    model: nn.Module,
    lr: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Make the optimiser, its update fused into one kernel where PyTorch has one."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if callable(kind):
        return kind(parameters)
    if kind not in OPTIMIZERS:
        names = ", ".join(OPTIMIZERS)
        raise ValueError(
            f"optimizer must be one of {names} or a callable, got {kind!r}"
        )
    make, options = OPTIMIZERS[kind]
    options = {"lr": lr, "weight_decay": weight_decay, **options}
    try:
        # One call for all parameters instead of several for each.
        return make(parameters, fused=True, **options)
    except (RuntimeError, TypeError):  # not for this device, dtype or version
        return make(parameters, **options)


def make_schedule(kind: str | Callable[[float], float]) -> Callable[[float], float]:
    """Return the function from progress to a factor of the learning rate."""
    if callable(kind):
        return kind
    if kind not in ("onecycle", "constant"):
        raise ValueError(
            f"schedule must be 'onecycle', 'constant' or a callable, but got {kind!r}"
        )
    return onecycle if kind == "onecycle" else lambda progress: 1.0
