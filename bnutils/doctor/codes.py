"""The table of findings. An entry stands right above the function that looks for it.

To add a finding, write one function with one entry above it, in the module where it
belongs: the list is in :mod:`bnutils.doctor`. Nothing else has to be told; the tests ask
that each code is found somewhere.

::

    @finding(
        "odd-eps",
        "note",
        what="eps is negative",
        means="the square root of a negative variance is NaN",
        remedy="a small positive eps, such as 1e-5",
    )
    def odd_eps(case, path, norm):
        if getattr(norm, "eps", 0) < 0:
            return Found(f"eps = {norm.eps:g}", norm.eps)

A batch norm of somebody's own may lack any attribute but the running statistics: ask
first, as here. A check gets the case (:class:`bnutils.doctor.case.Case`), and the path
and the batch norm it is to judge. It returns what it found, or None if all is well
there. Where it does not apply or cannot tell, it raises the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Found:
    """What a check found: evidence in words and the number in it.

    ``path`` is that of another module than the one examined, ``severity`` and ``remedy``
    replace the usual ones.
    """

    evidence: str
    value: float
    path: str | None = None
    severity: str | None = None
    remedy: str | None = None


# Takes a case, and a path and its batch norm unless it is of the whole model.
Check = Callable[..., Found | None]


@dataclass(frozen=True)
class Code:
    """One kind of finding, and the function that looks for it."""

    name: str  # stable; what reports and scripts call it
    severity: str  # the usual one; a single finding may have another
    what: str  # is looked for
    means: str  # what follows from it
    remedy: str
    check: Check
    whole: bool = False  # whether the check is of the model, not of each batch norm
    unless: tuple[str, ...] = ()  # codes that explain this one, at the same batch norm


class NotApplicable(Exception):  # no error: there is nothing to ask
    """Raised by a check: the question makes no sense for this batch norm."""


class CouldNot(Exception):
    """Raised by a check: it makes sense, but cannot be answered here."""


TABLE: dict[str, Code] = {}


def finding(name: str, severity: str, **fields: Any) -> Callable[[Check], Check]:
    """Enter the decorated check into the table; `fields` are the others of its Code."""

    def enter(check: Check) -> Check:
        TABLE[name] = Code(name, severity, check=check, **fields)
        return check

    return enter
