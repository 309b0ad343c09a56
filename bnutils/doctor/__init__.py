"""Examine a model with batch norms: findings with evidence, consequence and remedy.

Chapter 17 shows ten patients. :func:`examine` is the whole interface. What it looks for,
without data:

- ``nonfinite-statistics``: NaN or infinity in a running statistic, or a negative variance
- ``never-updated``: mean 0, variance 1 and no batch seen, in a model that was trained
- ``train-mode-in-eval``: a batch norm in training mode, in a model in evaluation mode
- ``frozen-by-requires-grad``: training mode, but no parameter of it requires a gradient
- ``momentum-zero``, ``momentum-one``, ``momentum-range``: momentum 0, 1, outside of [0, 1]
- ``no-running-stats``, ``tracking-off``: none kept; kept, but ``track_running_stats=False``
- ``dead-channels``: gamma below a thousandth of the layer's root mean square
- ``sync-without-group``: ``SyncBatchNorm`` without a process group

from the flow of data, traced or (with a loader) observed:

- ``redundant-bias``: a bias that the batch norm takes out; tested by changing it
- ``dropout-before-norm``: with no normalisation between; variance changed by 2 % or more
- ``shared-norm``: called several times in one forward
- ``recomputed``: called again in the backward pass (checkpointing)
- ``wrong-axis``: (N, L, C) with L = C, by the module before, or by the data

with a loader:

- ``stale-statistics``: far from the data's, in standard errors and in effect
- ``batches-differ``: means of batches scatter more than those of random batches
- ``tiny-batch``: at most 4 values per statistic, or a running mean uncertain by 0.1 sigma
- ``batch-of-one``: a batch that leaves one value per channel in training
- ``forward-fails``: the model does not run on the batches

and with an optimiser:

- ``decayed-norm``: weight decay on gamma or beta
- ``several-forwards``: batches seen are a multiple (2 to 32) of the steps taken
"""

from dataclasses import replace

import torch
from torch import nn

from bnutils._modules import device_of
from bnutils.doctor import static as _doctor_static
from bnutils.doctor.batches import take
from bnutils.doctor.examination import Examination
from bnutils.doctor.replica import norms_of, random_states_kept, unwrap
from bnutils.doctor.report import Finding, Report, ordered
from bnutils.doctor.texts import TEXTS

__all__ = ["CODES", "Finding", "Report", "examine"]

CODES: tuple[str, ...] = tuple(TEXTS)
_EXPLAIN_STALE = ("never-updated", "momentum-zero")
_SEVERAL = ("shared-norm", "recomputed")


def examine(
    model: nn.Module,
    loader: object = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Report:
    """Examine every batch norm of a model and report what is wrong with it.

    The model, its modes, buffers, gradients and hooks, the optimiser, the global random
    states (Python, NumPy, PyTorch on all devices) and those of generators inside the
    loader stay exactly as they were: all passes run on a copy of the model, without the
    hooks that others registered. What cannot be copied, traced or run is said in a note,
    and everything else is examined.

    Without data: settings, modes, stored statistics, and the flow of data as far as
    :mod:`torch.fx` can trace it. With a loader, up to eight batches are run in training
    mode: what each batch norm receives is compared with what it has stored. With an
    optimiser: weight decay, and batches seen against steps taken.

    A model that is fresh (no batch seen, no step taken, beta the same in all channels)
    is not blamed for statistics that it cannot have yet.

    Parameters
    ----------
    model : nn.Module
        With batch norms of any dimension: PyTorch's, lazy and synchronised ones,
        :class:`bnutils.norm.BatchNorm1d`, and others with the same attributes.
    loader : DataLoader, iterable of batches, or Tensor, optional
        The *training* data, as the model gets them in training; a batch is x or (x, y).
        A DataLoader over an indexable data set is sampled evenly and without workers;
        an iterator loses the batches taken from it.
    optimizer : torch.optim.Optimizer, optional

    Returns
    -------
    Report
        ``print`` it, show it in Jupyter, or go through its findings; true if there are
        any. :data:`CODES` lists the codes.

    Raises
    ------
    TypeError
        The model is no ``nn.Module``, the optimiser no ``Optimizer``, or the loader or
        a batch is of another kind.
    ValueError
        The loader gave no batch, or the model lies on the meta device.
    """
    _require(model, optimizer)
    prefix, inner = unwrap(model)
    norms = norms_of(inner)
    findings: list[Finding] = []
    notes: list[str] = []
    used = 0
    with random_states_kept(loader, getattr(loader, "dataset", None)):
        for check in _doctor_static.CHECKS:
            findings += check(inner, norms, optimizer)
        data = None if loader is None else take(loader, device_of(inner))
        if norms:
            one = Examination(inner, norms, data, optimizer)
            one.explained = {f.path for f in findings if f.code in _EXPLAIN_STALE}
            findings += one.findings()
            notes, used = one.notes, one.used
    placed = [_at(prefix, f) for f in ordered(_once(findings))]
    return Report(placed, len(norms), used, notes)


def _once(findings: list[Finding]) -> list[Finding]:
    """Leave out several forwards per step where one forward explains them all."""
    explained = {(f.path, f.value) for f in findings if f.code in _SEVERAL}
    return [
        f
        for f in findings
        if f.code != "several-forwards" or (f.path, f.value) not in explained
    ]


def _at(prefix: str, one: Finding) -> Finding:
    return replace(one, path=(prefix + one.path).rstrip("."))


def _require(model: object, optimizer: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be an nn.Module, but got {type(model).__name__}: give a model, "
            "made already, not its class"
        )
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "the model lies on the meta device, so it has no values to examine: "
            "load it first"
        )
    if not isinstance(optimizer, torch.optim.Optimizer | None):
        raise TypeError(
            "optimizer must be a torch.optim.Optimizer or None, but got "
            f"{type(optimizer).__name__}"
        )
