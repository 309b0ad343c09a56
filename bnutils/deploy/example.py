"""A run on an example: the shapes that batch norms see, and outputs compared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from bnutils._batches import clone, feed, tensors_in
from bnutils._modules import norms_of

if TYPE_CHECKING:
    from typing import Any

# What rounding may change at most, relative to the largest output: far above rounding,
# far below a mistake. Other dtypes have so few digits that 0.1 is allowed.
_ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-3}
_ALLOWED_ELSE = 0.1


def run(
    model: nn.Module,
    example: object,
    call: Callable[[nn.Module, Any], object] | None = None,
) -> tuple[dict[str, int], object]:
    """Number of dimensions that each batch norm sees in one run, and the run's output."""
    seen: dict[str, int] = {}
    paths = {norm: path for path, norm in norms_of(model).items()}

    def note(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs:  # empty where it is called by keyword
            seen[paths[norm]] = inputs[0].dim()

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for norm in paths:
            hooks.enter_context(norm.register_forward_pre_hook(note))
        # a copy: a model may write into its input, and the example runs twice
        return seen, feed(model, clone(example), call)


def require_same(before: object, after: object) -> float:
    """Largest relative difference; ValueError if it is more than rounding can explain."""
    error = _difference(before, after)
    limits = [_ALLOWED.get(t.dtype, _ALLOWED_ELSE) for t in tensors_in(before)]
    allowed = max(limits, default=_ALLOWED_ELSE)
    if not error <= allowed:
        raise ValueError(
            f"on the example the folded model's outputs differ by {error:.1e} (relative, at "
            f"most {allowed:.0e} was expected): the data flow that was found is not the one "
            "that runs, or the outputs are random; use the model unfolded"
        )
    return error


def _difference(before: object, after: object) -> float:
    """Largest difference of two outputs, divided by the largest number in the first."""
    worst = 0.0
    for a, b in zip(tensors_in(before), tensors_in(after), strict=True):
        if a.shape != b.shape:
            return float("inf")
        a, b = a.double().nan_to_num(), b.double().nan_to_num()
        gap = float((a - b).abs().max()) if a.numel() else 0.0
        if gap > 0:
            size = float(a.abs().max())
            worst = max(worst, gap / size if size > 0 else float("inf"))
    return worst
