"""Fold the batch norms of a model into the layers before them, and report what was done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from bnutils._modules import norms_of
from bnutils._words import cut, few, wrapped
from bnutils.deploy.arithmetic import replace
from bnutils.deploy.example import require_same, run
from bnutils.deploy.graph import survey
from bnutils.deploy.obstacles import copied, obstacle, require_ready

if TYPE_CHECKING:
    from typing import Any


class FoldedNorm(NamedTuple):
    """A batch norm that is gone: its path and class, and those of the layer before it."""

    norm: str
    kind: str
    layer: str
    layer_kind: str


class KeptNorm(NamedTuple):
    """A batch norm that stays: path, class, and the reason in words."""

    norm: str
    kind: str
    reason: str


@dataclass(frozen=True)
class FoldReport:
    """What was folded into what, what was kept and why; printed as text.

    Attributes
    ----------
    folded : list of FoldedNorm
    kept : list of KeptNorm
    notes : list of str
        What else to know: parts that could not be traced, and what that means.
    error : float or None
        With an example: largest difference between the outputs before and after,
        divided by the largest output.
    """

    folded: list[FoldedNorm]
    kept: list[KeptNorm]
    notes: list[str]
    error: float | None = None

    def __str__(self) -> str:
        """Sum up, then list: first the folded ones, then the kept ones by reason."""
        total = len(self.folded) + len(self.kept)
        lines = [f"folded {len(self.folded)} of {total} batch norms"]
        into = "  {} ({}) into {} ({})"
        lines += cut([into.format(*norm) for norm in self.folded])
        if self.kept:
            lines.append(f"kept {len(self.kept)}")
            lines += cut(self._kept_by_reason())
        lines += [f"note: {note}" for note in self.notes]
        if self.error is not None:
            size = f"{self.error:.0e}" if self.error else "0"
            lines.append(f"largest difference on the example: {size} (relative)")
        return wrapped(lines)

    def _kept_by_reason(self) -> list[str]:
        """One line for all batch norms of a class that stay for the same reason."""
        paths: dict[tuple[str, str], list[str]] = {}
        for norm, kind, reason in self.kept:
            paths.setdefault((kind, reason), []).append(norm or "the model itself")
        return [
            f"  {few(names)} ({kind}): {reason}"
            for (kind, reason), names in paths.items()
        ]

    __repr__ = __str__


class FoldResult(NamedTuple):
    """The folded copy and the report on it: ``folded, report = deploy.fold(model)``."""

    model: nn.Module
    report: FoldReport


def fold(
    model: nn.Module,
    example: object = None,
    *,
    call: Callable[[nn.Module, Any], object] | None = None,
) -> FoldResult:
    """Fold each batch norm into the layer whose output it receives (chapter 13).

    Layers are ``Linear``, ``Conv1d`` to ``3d`` and ``ConvTranspose1d`` to ``3d``; batch
    norms are PyTorch's, ``SyncBatchNorm`` and :class:`bnutils.norm.BatchNorm1d`. What
    counts is the flow of data, found by ``torch.fx``, not the order of registration.
    A batch norm stays, with a reason, where folding would change a result or where the
    flow is unknown: the layer's output goes elsewhere too, a module or a weight is shared,
    there are hooks or parametrizations, a subclass has a forward of its own.

    A module whose forward cannot be traced is analysed in parts, on the assumption that
    it calls its submodules and does not reach inside them; a note in the report says so.
    Values that a forward hides from tracing (a global list, say) go unseen as well. An
    ``example`` checks all of it.

    A ``Linear`` works on the last axis of (N, L, C), a batch norm on axis 1: a folded
    ``BatchNorm1d`` leaves a module that raises for outputs of another rank than (N, C)
    after ``Linear``, (N, C, L) after a convolution. Other batch norms become
    ``nn.Identity``. Names of modules stay as they are.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode; it is not changed.
    example : Tensor or any other batch, optional
        Run through the model before and after folding; the outputs must agree. It may be
        what a loader gives: a tensor, (x, y), several inputs in a tuple, a dict whose
        keys are the names of forward's parameters.
    call : callable, optional
        ``call(model, example)`` runs the model where it wants something else.

    Returns
    -------
    FoldResult
        ``model``, a folded copy, and ``report``, to be printed.

    Raises
    ------
    TypeError
        The model is compiled or scripted (fold first), or cannot be copied; the example
        lacks an input that the model needs.
    ValueError
        A module is in training mode; a batch norm has no running statistics (either
        error names it); the outputs on the example differ by more than rounding.
    """
    require_ready(model)
    folded = copied(model)
    flow = survey(copied(model))  # of another copy, since tracing may leave marks
    ranks, before = {}, None
    if example is not None:
        ranks, before = run(folded, example, call)
    done, kept = [], []
    for path, bn in norms_of(folded).items():
        kind = type(bn).__name__
        reason = obstacle(folded, flow, path, ranks.get(path))
        if reason:
            kept.append(KeptNorm(path, kind, reason))
        else:
            layer = flow.pairs[path]
            layer_kind = type(folded.get_submodule(layer)).__name__
            done.append(FoldedNorm(path, kind, layer, layer_kind))
    for pair in done:  # when all are judged, since it changes what is judged
        replace(folded.get_submodule(pair.layer), folded.get_submodule(pair.norm))
    error = None
    if example is not None:
        _, after = run(folded, example, call)
        error = require_same(before, after)
    return FoldResult(folded, FoldReport(done, kept, flow.notes(), error))
