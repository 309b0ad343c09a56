"""Make a trained model ready for use.

Recalibrate its running statistics (chapter 7); fold its batch norms (chapter 13).
"""

import contextlib
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bnutils.deploy import arithmetic as _fold
from bnutils.deploy import example as _fold_example
from bnutils.deploy import obstacles as _fold_checks
from bnutils.deploy.flow import survey

__all__ = ["FoldReport", "FoldResult", "FoldedNorm", "KeptNorm", "fold", "recalibrate"]

_SHOWN = 12  # lines of a long list that are printed
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def recalibrate(
    model: nn.Module, batches: Iterable[Tensor], *, reset: bool = True
) -> int:
    """Replace running statistics by their plain average over the batches given.

    The cure for statistics that are stale; the weights stay as they are. Each batch counts
    the same, so give batches of equal size, from the data that the model is to see. The
    result is the average of the batches' means and of their unbiased variances, as
    ``torch.optim.swa_utils.update_bn`` computes it; the variance *between* the batch means
    is not in it, about 1/m of the whole for shuffled batches of m values a channel.
    Also called precise batch norm: Wu and Johnson (2021), arXiv:2105.07576.

    Parameters
    ----------
    model : nn.Module
        With at least one batch norm, of any dimension, that keeps running statistics.
        Batch norm alone is in training mode during the passes (no dropout); modes,
        momenta and gradients are afterwards as before.
    batches : iterable of Tensor
        Inputs of the model, on its device.
    reset : bool
        False continues from the statistics that are there, with the number of batches
        they have seen as their weight.

    Returns
    -------
    int
        How many layers were recalibrated.

    Raises
    ------
    ValueError
        No layer keeps running statistics, or there is no batch. Whatever is raised, the
        statistics are those from before.
    """
    layers = [module for module in model.modules() if _keeps_statistics(module)]
    if not layers:
        raise ValueError(
            "the model has no batch norm with running statistics: nothing to recalibrate"
        )
    count = 0
    with _statistics_kept_on_error(layers), _averaging(model, layers), torch.no_grad():
        if reset:
            for layer in layers:
                layer.reset_running_stats()
        for batch in batches:
            model(batch)
            count += 1
        if count == 0:
            raise ValueError("no batch was given: an average needs at least one")
    return len(layers)


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
        lines += _first(
            [
                f"  {f.norm} ({f.kind}) into {f.layer} ({f.layer_kind})"
                for f in self.folded
            ]
        )
        by_reason: dict[tuple[str, str], list[str]] = {}
        for norm, kind, reason in self.kept:
            by_reason.setdefault((kind, reason), []).append(norm or "the model itself")
        if self.kept:
            lines.append(f"kept {len(self.kept)}")
        lines += _first(
            [f"  {_names(n)} ({kind}): {why}" for (kind, why), n in by_reason.items()]
        )
        lines += [f"note: {note}" for note in self.notes]
        if self.error is not None:
            size = f"{self.error:.0e}" if self.error else "0"
            lines.append(f"largest difference on the example: {size} (relative)")
        wide = (textwrap.wrap(line, 88, subsequent_indent="      ") for line in lines)
        return "\n".join(part for line in wide for part in line)

    __repr__ = __str__


class FoldResult(NamedTuple):
    """The folded copy and the report on it: ``folded, report = deploy.fold(model)``."""

    model: nn.Module
    report: FoldReport


def fold(model: nn.Module, example: object = None) -> FoldResult:
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
    example : Tensor or tuple of arguments, optional
        Run through the model before and after folding; the outputs must agree.

    Returns
    -------
    FoldResult
        ``model``, a folded copy, and ``report``: ``print(report)`` lists what was folded
        into what, what was kept, and why.

    Raises
    ------
    TypeError
        The model is compiled or scripted (fold first), or cannot be copied.
    ValueError
        A module is in training mode; a batch norm has no running statistics (either
        error names it); the outputs on the example differ by more than rounding.
    """
    _fold_checks.require_ready(model)
    folded = _fold_checks.copied(model)
    flow = survey(_fold_checks.copied(model))
    args = example if isinstance(example, tuple) else (example,)
    ranks, before = (
        _fold_example.run(folded, args) if example is not None else ({}, None)
    )
    done, kept = [], []
    for path, bn in _fold_checks.norms_of(folded).items():
        kind = type(bn).__name__
        if why := _fold_checks.obstacle(folded, flow, path, ranks.get(path)):
            kept.append(KeptNorm(path, kind, why))
        else:
            layer = flow.pairs[path]
            done.append(
                FoldedNorm(
                    path, kind, layer, type(folded.get_submodule(layer)).__name__
                )
            )
    for norm, _, layer, _ in done:
        _fold.replace(folded.get_submodule(layer), folded.get_submodule(norm))
    error = None
    if example is not None:
        error = _fold_example.require_same(before, _fold_example.run(folded, args)[1])
    return FoldResult(folded, FoldReport(done, kept, flow.notes(), error))


def _first(lines: list[str]) -> list[str]:
    rest = len(lines) - _SHOWN
    return lines if rest <= 1 else [*lines[:_SHOWN], f"  ... and {rest} more"]


def _names(paths: list[str]) -> str:
    rest = len(paths) - 3
    return ", ".join(paths if rest <= 1 else [*paths[:3], f"{rest} more"])


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether a module is a batch norm, PyTorch's or like it, that tracks statistics."""
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return False
    has_all = all(getattr(module, name, None) is not None for name in _STATISTICS)
    return has_all and hasattr(module, "momentum") and module.track_running_stats


@contextlib.contextmanager
def _averaging(model: nn.Module, layers: list[nn.Module]) -> Iterator[None]:
    """Batch norm in training mode with a plain average, everything else in evaluation."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    try:
        model.eval()
        for layer in layers:
            layer.training, layer.momentum = True, None
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@contextlib.contextmanager
def _statistics_kept_on_error(layers: list[nn.Module]) -> Iterator[None]:
    """Bring the old statistics back when anything goes wrong."""
    saved = [[getattr(layer, n).clone() for n in _STATISTICS] for layer in layers]
    try:
        yield
    except BaseException:
        for layer, values in zip(layers, saved, strict=True):
            for name, value in zip(_STATISTICS, values, strict=True):
                getattr(layer, name).copy_(value)
        raise
