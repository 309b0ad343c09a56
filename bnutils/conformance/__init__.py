"""Hold any BatchNorm1d-like class against ``torch.nn.BatchNorm1d``, as a readable report."""

import html
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from bnutils._modules import random_numbers_kept
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

    ``report["gradients"]`` is the check of that name.

    Attributes
    ----------
    subject : str
        Name of the class.
    checks : tuple of Check
    """

    subject: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failures

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
        """Return one line per check."""
        width = max((len(check.name) for check in self), default=0)
        lines = [
            f"{'agrees' if c.passed else 'DIFFERS'}  {c.name:{width}}  {c.detail}"
            for c in self
        ]
        return "\n".join([self._headline(), *(f"{line:9}".rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{'✓ agrees' if c.passed else '✗ differs'}</td>"
            f"<td>{html.escape(c.name)}</td><td>{html.escape(c.detail)}</td></tr>"
            for c in self
        )
        head = "<tr><th>result</th><th>check</th><th>what differs</th></tr>"
        caption = f"<caption>{html.escape(self._headline())}</caption>"
        return f"<table>{caption}<thead>{head}</thead><tbody>{rows}</tbody></table>"


def compare(cls: type, *, reference: type = nn.BatchNorm1d, seed: int = 0) -> Report:
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
    cls : type
        Made as ``cls(num_features)``, plus the arguments that a check is about. What it
        cannot do is a failed check, never an exception.
    reference : type
        The class to agree with.
    seed : int
        Of the inputs and parameters.

    Returns
    -------
    Report
    """
    results = []
    with random_numbers_kept():
        torch.default_generator.manual_seed(seed)
        for name, check in CHECKS.items():
            detail = _outcome(check, Pair(cls, reference, seed))
            results.append(Check(name, not detail, detail))
    return Report(cls.__name__, tuple(results))


def _outcome(check, pair: Pair) -> str:
    """What a check found to differ, or an empty text."""
    try:
        check(pair)
    except Mismatch as difference:
        return str(difference)
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        return f"raised {type(error).__name__}: {text}"
    return ""
