"""Hold any BatchNorm1d-like class against ``torch.nn.BatchNorm1d``, as a readable report.

``compare`` runs the checks of :mod:`bnutils.conformance.checks` one by one and collects
them in a ``Report``; where some differ, :mod:`bnutils.conformance.causes` looks for the
mistake behind them. On the command line, ``python -m bnutils.conformance module:Class``
prints the report and exits with 1 unless all checks agree (chapter 5).
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from bnutils._modules import random_numbers_kept
from bnutils._words import first_line
from bnutils.conformance.causes import likely_causes
from bnutils.conformance.checks import CHECKS, Mismatch, Pair

__all__ = ["Check", "Report", "compare"]


@dataclass(frozen=True)
class Check:
    """One aspect in which a class agrees with its reference or not.

    Attributes
    ----------
    name : str
    passed : bool
    detail : str
        What differed and by how much, or the exception raised; empty when passed.
    """

    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, repr=False)
class Report:
    """The checks of one class: a table in Jupyter, text in a terminal, a sequence in code.

    ``report["gradients"]`` is the check of that name; the report itself is true when all
    checks passed, so that ``assert conformance.compare(MyNorm)`` is a test.

    Attributes
    ----------
    subject : str
        Name of the class.
    checks : tuple of Check
    causes : tuple of str
        Mistakes that probably explain the failures, the first to be mended first.
    """

    subject: str
    checks: tuple[Check, ...]
    causes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    def __bool__(self) -> bool:
        """Whether every check passed."""
        return self.passed

    @property
    def failures(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if not check.passed]

    def __iter__(self) -> Iterator[Check]:
        """Go through the checks in order."""
        return iter(self.checks)

    def __len__(self) -> int:
        """Count the checks."""
        return len(self.checks)

    def __getitem__(self, name: str) -> Check:
        """Return the check of that name; KeyError names those there are."""
        for check in self.checks:
            if check.name == name:
                return check
        known = ", ".join(check.name for check in self.checks)
        raise KeyError(f"no check {name!r}; there are: {known}")

    def _headline(self) -> str:
        agree = len(self) - len(self.failures)
        return f"{self.subject}: {agree} of {len(self)} checks agree with PyTorch"

    def __repr__(self) -> str:
        """Return the likely causes, then one line per check."""
        lines = [self._headline()]
        if self.causes:
            lines.append("likely causes, from which other differences may follow:")
            for cause in self.causes:
                lines += textwrap.wrap(
                    cause, 86, initial_indent="  - ", subsequent_indent="    "
                )
        verdicts = ["agrees" if check.passed else "DIFFERS" for check in self]
        columns = max(map(len, verdicts), default=0)
        width = max((len(check.name) for check in self), default=0)
        for verdict, check in zip(verdicts, self):
            line = f"{verdict:{columns}}  {check.name:{width}}  {check.detail}"
            lines.append(line.rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the likely causes as a list and the checks as a table."""
        causes = "".join(f"<li>{html.escape(cause)}</li>" for cause in self.causes)
        if causes:
            causes = (
                f"<p>{html.escape(self.subject)}: likely causes, from which other "
                f"differences may follow</p><ul>{causes}</ul>"
            )
        rows = "".join(
            f"<tr><td>{'✓ agrees' if check.passed else '✗ differs'}</td>"
            f"<td>{html.escape(check.name)}</td><td>{html.escape(check.detail)}</td></tr>"
            for check in self
        )
        head = "<tr><th>result</th><th>check</th><th>what differs</th></tr>"
        caption = f"<caption>{html.escape(self._headline())}</caption>"
        table = f"<table>{caption}<thead>{head}</thead><tbody>{rows}</tbody></table>"
        return causes + table


def compare(
    cls: Callable[..., nn.Module], *, reference: type = nn.BatchNorm1d, seed: int = 0
) -> Report:
    """Compare a class with PyTorch's BatchNorm1d in everything that a user can observe.

    Inputs are off-centre, and weights and biases random, so that a wrong axis or a
    forgotten term shows. Outputs must agree to 1e-5, gradients to 1e-4 (relative to
    1 + the value): float32 has 6e-8, and a sum of a few dozen terms in another order
    loses a digit or two. In float64 it is 1e-12; in float16 and bfloat16 four units in
    the last place. With channels of mean 1e6 the error against float64 may be at most
    twice PyTorch's, and half the spacing of float32 more. Compilers (torch.compile,
    torch.export) are not asked. PyTorch's random state is left alone.

    Parameters
    ----------
    cls : type, or a function that makes a layer
        Called as ``cls(num_features)``, plus the arguments that a check is about. What it
        cannot do is a failed check, never an exception.
    reference : type
        The class to agree with.
    seed : int
        Of the inputs and parameters.

    Returns
    -------
    Report

    Raises
    ------
    TypeError
        ``cls`` is a layer that is already made, or cannot be called.
    """
    _require_maker(cls)
    results = []
    with random_numbers_kept():
        torch.default_generator.manual_seed(seed)
        for name, check in CHECKS.items():
            detail = _outcome(check, Pair(cls, reference, seed))
            results.append(Check(name, not detail, detail))
        agree = all(check.passed for check in results)
        causes = () if agree else likely_causes(cls, reference)
    return Report(_name(cls), tuple(results), causes)


def _require_maker(cls: object) -> None:
    """Raise TypeError unless layers can be made by calling ``cls``."""
    if isinstance(cls, nn.Module):
        name = type(cls).__name__
        raise TypeError(
            f"compare takes a class, here {name}, since it makes many layers with other "
            f"arguments; it got one that is made already. A function will do too, such as "
            f"lambda c, **options: {name}(c, **options)"
        )
    if not callable(cls):
        raise TypeError(
            "compare takes a class or a function that makes a layer from its number of "
            f"channels, but got {cls!r}"
        )


def _name(cls: Callable[..., nn.Module]) -> str:
    """What the report calls a class, a function or a ``functools.partial`` of one."""
    made = getattr(cls, "func", cls)
    return getattr(made, "__name__", type(made).__name__)


def _outcome(check: Callable[[Pair], None], pair: Pair) -> str:
    """What a check found to differ, or an empty text."""
    try:
        check(pair)
    except Mismatch as difference:
        return str(difference)
    except Exception as error:
        return f"raised {first_line(error)}"
    return ""
