"""Checkers of chapter 5: how much may differ, what is broken, and a check that sees it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bnutils import conformance, norm
from bnutils.exercises import class_of, close, exercise

U = 2.0**-24  # largest relative error of one rounding to float32


@exercise("05.1")
def sum_tolerance(answer):
    """Bound of the error of a float32 sum in any order."""
    g = torch.Generator().manual_seed(5)
    plain = torch.randn(1000, generator=g)
    tiny = torch.full((4096,), U)
    tiny[0] = 1.0  # added in turn, no tiny one ever moves the 1
    cancelling = torch.cat([plain, -plain])
    cases = [("1000 normal values", plain), ("values that cancel", cancelling)]
    cases += [("a 1 and 4095 times 2**-24", tiny), ("values of size 100", 100 * plain)]
    given = [float(answer(x.clone())) for _, x in cases]
    if not all(0 <= t < np.inf for t in given):
        return "a tolerance is a finite number, not negative"
    if len(set(given)) == 1:
        return "yours is the same for every x; the roundings are not"
    for (name, x), got in zip(cases, given, strict=True):
        remark = _judge_tolerance(got, x.double(), x.numel())
        if remark:
            return f"for {name}: {remark}"
    return None


def _judge_tolerance(got: float, x: torch.Tensor, n: int) -> str | None:
    size, total = x.abs().sum().item(), x.sum().abs().item() + 1e-30
    needed = (n - 1) * U * size
    too_few = "one rounding; how many additions are there?"
    wrong = [
        ((n - 1) * U * total, "partial sums can be large where the total is small"),
        (U * size, too_few),
        (U * x.abs().max().item(), too_few),
        (
            n**0.5 * U * size,
            "the square root is typical; 'any order' has a worst case",
        ),
        (n * 2.0**-53 * size, "that is the precision of float64"),
    ]
    value, remark = min(wrong, key=lambda pair: abs(np.log((got + 1e-30) / pair[0])))
    if 0.4 < got / value < 2.5 and got < 0.9 * needed:
        return remark
    if got < 0.99 * needed:
        return (
            f"{got:.2g} is too small: an order exists that can be off by {needed:.2g}"
        )
    if got > 4 * needed:
        return f"safe, but {got / needed:.2g} times what is needed hides real mistakes"
    return None


@exercise("05.2")
def repaired(answer):
    """The exercise's class with its two mistakes put right."""
    kind = class_of(answer)
    if kind is None:
        return "hand over the class itself, not a layer made from it"
    if kind.__module__.startswith(("torch.", "bnutils.norm")):
        return "a fine layer, but not the repaired class: keep its one method"
    if "_update_running_stats" not in vars(kind):
        return "keep the one method that the class replaces, and repair it"
    layer = kind(3, momentum=0.0)
    x = 3 + torch.randn(8, 3, generator=torch.Generator().manual_seed(5))
    layer(x), layer(x)
    if not close(layer.running_mean, torch.zeros(3)):
        return "momentum=0 means that nothing moves; in yours something does"
    layer = kind(3, momentum=None)
    layer(x), layer(2 * x)
    if not close(layer.running_mean, 1.5 * x.mean(0)):
        return "momentum=None is the plain average of all batches; yours is another"
    layer = kind(3)
    held = layer.running_mean, layer.running_var
    layer(x)
    if layer.running_mean is not held[0] or layer.running_var is not held[1]:
        return "who held the buffers before the update now holds old ones"
    report = conformance.compare(kind)
    if not report.passed:
        first = next(iter(report.failures))
        return f"the report still fails at {first.name!r}: {first.detail}"
    return None


class _Reversed(norm.BatchNorm1d):
    """Some of the running statistics weigh the old value where the new one belongs."""

    wrong = "running_mean", "running_var"

    def _update_running_stats(self, mean, var, m):
        old = {name: getattr(self, name).clone() for name in self.wrong}
        super()._update_running_stats(mean, var, m)
        new = {"running_mean": mean.detach(), "running_var": var.detach() * m / (m - 1)}
        for name in self.wrong if self.momentum is not None else ():
            value = self.momentum * old[name] + (1 - self.momentum) * new[name]
            getattr(self, name).copy_(value)


class _ReversedMean(_Reversed):
    wrong = ("running_mean",)


class _ReversedVar(_Reversed):
    wrong = ("running_var",)


class _RoundsElsewhere(norm.BatchNorm1d):
    """A right layer, but for the last place of its running statistics."""

    @torch.no_grad()
    def _update_running_stats(self, mean, var, m):
        super()._update_running_stats(mean, var, m)
        self.running_mean.mul_(1 + 2e-7)
        self.running_var.mul_(1 + 2e-7)


def _is_bool(verdict) -> bool:
    """Whether it is a single True or False: Python's, NumPy's or in a tensor."""
    if isinstance(verdict, torch.Tensor | np.ndarray):
        return verdict.ndim == 0 and verdict.dtype in (torch.bool, np.bool_)
    return isinstance(verdict, bool | np.bool_)


def _kind_of(verdict) -> str:
    if isinstance(verdict, torch.Tensor | np.ndarray):
        return f"an array of shape {(*verdict.shape,)} and type {verdict.dtype}"
    return f"a value of type {type(verdict).__name__}"


@exercise("05.3")
def momentum_check(answer):
    """A check that passes right layers and fails reversed momentum."""

    def says(kind):
        return bool(answer(kind))

    verdict = answer(nn.BatchNorm1d)
    if not _is_bool(verdict):
        return f"return True or False, not {_kind_of(verdict)}"
    if not verdict:
        return "it fails PyTorch's own layer"
    if not says(norm.BatchNorm1d):
        return "it fails this book's layer, which is right and rounds differently"
    if not says(_RoundsElsewhere):
        return "it fails a right layer that is off by two in the last place"
    if says(_Reversed):
        return (
            "a layer with reversed momentum passes: does yours train, and for "
            "which momentum do old and new weigh differently?"
        )
    for kind, what in ((_ReversedMean, "mean"), (_ReversedVar, "variance")):
        if says(kind):
            return f"a layer whose running {what} alone is reversed passes"
    return None
