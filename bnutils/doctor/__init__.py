"""Examine a model with batch norms: findings with evidence, consequence and remedy.

Chapter 17 shows ten patients. :func:`examine` is the whole interface, from the command line
``python -m bnutils.doctor package.module:factory``. The folder reads in the order in which
it works:

- :mod:`codes` is the table of what is looked for: each entry (code, severity, texts)
  stands right above the function that looks for it;
- :mod:`batches` takes a few batches from a loader, :mod:`copies` copies the model, and
  :mod:`case` traces and runs the copy, which :mod:`observe` watches (:mod:`moments` are
  the means and variances that a batch norm received, :mod:`trace` reads the graph);
- :mod:`compare` compares evaluation with training mode from end to end, :mod:`habits`
  says what a batch norm of any author does with its statistics;
- the checks: :mod:`settings` needs no data, :mod:`flow` looks at what stands around a
  batch norm, :mod:`buffers` compares stored statistics with the data, :mod:`counts`
  batches with steps, :mod:`minibatches` looks at the batches themselves, and
  :mod:`outputs` at the model from end to end;
- :mod:`report` is what the reader gets.

``python -m bnutils.doctor --codes`` lists all that is looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from bnutils._modules import device_of, unwrap
from bnutils._words import few, first_line
from bnutils.doctor.batches import take
from bnutils.doctor.case import Case
from bnutils.doctor.codes import SEVERITIES, TABLE, CouldNot, Found, NotApplicable
from bnutils.doctor.copies import random_states_kept
from bnutils.doctor.report import Finding, Report

# Importing a module of checks enters them into the table.
from bnutils.doctor import settings, flow, buffers  # noqa: F401  # isort: skip
from bnutils.doctor import counts, minibatches, outputs  # noqa: F401  # isort: skip

if TYPE_CHECKING:
    from typing import Any

__all__ = ["CODES", "Finding", "Report", "examine"]

CODES: tuple[str, ...] = tuple(
    sorted(TABLE, key=lambda name: SEVERITIES.index(TABLE[name].severity))
)


def examine(
    model: nn.Module,
    loader: object = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    call: Callable[[nn.Module, Any], object] | None = None,
) -> Report:
    """Examine every batch norm of a model and report what is wrong with it.

    The model, its modes, buffers, gradients and hooks, the optimiser, the global random
    states (Python, NumPy, PyTorch on all devices) and the generators of a DataLoader
    stay exactly as they were: all passes run on copies of the model, without the hooks
    that others registered, and its own ``train()`` is never called.

    Without data: settings, modes, stored statistics, and the flow of data as far as
    :mod:`torch.fx` can trace it. With a loader, eight batches or as many as hold 64
    examples are run: what each batch norm receives is compared with what it has stored,
    and the outputs in evaluation with those in training mode. That takes about as long as
    two forward and backward passes over these batches. With an optimiser: weight decay,
    and batches seen against steps taken.

    A model whose training has not begun is not blamed for statistics that it cannot have
    yet, nor a new batch norm in a trained one. What cannot be copied, traced, run or told
    is said in the report, and everything else is examined.

    Parameters
    ----------
    model : nn.Module
        With batch norms of any dimension: PyTorch's, lazy, frozen and synchronised ones,
        :class:`bnutils.norm.BatchNorm1d`, and others that keep ``running_mean`` and
        ``running_var``. It may be wrapped (DataParallel, DistributedDataParallel,
        torch.compile). Several processes: give the model to the doctor in one of them; a
        SyncBatchNorm would wait for the others, so such a model is not run there.
    loader : DataLoader, iterable of batches, or one batch, optional
        The *training* data, as the model gets them in training. A batch is a tensor, a
        pair (x, y), several inputs, a dict or an object with fields; names and number of
        the inputs are those of ``model.forward``. A DataLoader over an indexable data set
        is sampled evenly and without workers; an iterator loses the batches taken.
    optimizer : torch.optim.Optimizer, optional
    call : callable, optional
        ``call(model, batch)`` returns the output, where the rule above does not fit.

    Returns
    -------
    Report
        ``print`` it, show it in Jupyter, or go through its findings; true if there are
        any. :data:`CODES` lists the codes, ``report.checked`` says what was checked where,
        and ``report.comparison`` holds the numbers of the comparison.

    Raises
    ------
    TypeError
        The model is no ``nn.Module``, the optimiser no ``Optimizer``, or the loader is
        nothing that gives batches.
    ValueError
        The loader gave no batch, or the model lies on the meta device.
    """
    _require(model, optimizer)
    prefix, inner = unwrap(model)
    with random_states_kept(loader):
        batches = None if loader is None else take(loader, device_of(inner), call)
        case = Case(inner, batches, optimizer, call)
        results, checked = _checked(case, prefix)
    findings = [
        Finding.of(code, found, prefix + path)
        for code, path, found in _explained(results)
    ]
    findings.sort(key=lambda one: SEVERITIES.index(one.severity))  # else as found
    return Report(
        findings,
        len(case.norms),
        case.used,
        case.notes + _remarks(case),
        checked,
        case.comparison,
    )


def _checked(
    case: Case, prefix: str
) -> tuple[list[tuple[str, str, Found]], dict[str, dict[str, str]]]:
    """Ask every check about every batch norm.

    Returns what was found (code, path, what), and for each code what became of it at
    each path: "found", "fine", or why it did not apply or could not be told.
    """
    results, checked = [], {}
    for name, code in TABLE.items():
        places = [("", None)] if code.whole else case.norms.items()
        checked[name] = {}
        for path, norm in places:
            place = "" if code.whole else (prefix + path).rstrip(".")
            try:
                found = code.check(case) if code.whole else code.check(case, path, norm)
            except NotApplicable as reason:
                checked[name][place] = f"not applicable: {reason}"
            except CouldNot as reason:
                checked[name][place] = f"could not: {reason}"
            except Exception as error:  # a fault of the check is none of the model
                why = f"the check failed ({first_line(error)})"
                checked[name][place] = f"could not: {why}"
                case.notes.append(f"{name} at '{place}': {why}")
            else:
                checked[name][place] = "fine" if found is None else "found"
                if found is not None:
                    where = path if found.path is None else found.path
                    results.append((name, where, found))
    return results, checked


def _explained(results: list[tuple[str, str, Found]]) -> list[tuple[str, str, Found]]:
    """Leave out what another finding explains: at the same place, or in the model."""
    places = {(name, path) for name, path, _ in results}
    names = {name for name, _ in places}
    kept = []
    for name, path, found in results:
        if TABLE[name].whole:
            explained = any(other in names for other in TABLE[name].unless)
        else:
            explained = any((other, path) in places for other in TABLE[name].unless)
        if not explained:
            kept.append((name, path, found))
    return kept


def _remarks(case: Case) -> list[str]:
    """What the reader should know of batch norms that were not examined."""
    remarks = []
    missed = [p or "the model" for p in case.norms if p not in case.as_training.seen]
    if case.used and missed:
        many = f"{len(missed)} of {len(case.norms)}"
        remarks.append(f"no batch reached {few(missed)} ({many})")
    for path, module in case.model.named_modules():
        name, parts = type(module).__name__, list(module.children())
        if "batchnorm" in name.lower() and path not in case.norms and not parts:
            remarks.append(
                f"'{path}' is a {name}, but keeps no running_mean and running_var: "
                "not examined"
            )
    if isinstance(case.model, torch.fx.GraphModule) and not case.norms:
        n = sum("batch_norm" in str(node.target) for node in case.model.graph.nodes)
        if n:
            remarks.append(f"{n} batch norms are operations of a graph: not examined")
    return remarks


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
