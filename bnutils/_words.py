"""How reports and messages put things: errors in a line, long lists cut, lines wrapped."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

_COLUMNS = 88
_LETTERS = 150  # of an error's message; some go on for pages
_LINES = 12  # of a long list that are printed


def first_line(error: Exception) -> str:
    """Class and first line of an error."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:_LETTERS]}"


def few(names: Sequence[str]) -> str:
    """Up to four names; three of a longer list, and how many more there are."""
    if len(names) <= 4:
        return ", ".join(names)
    return f"{', '.join(names[:3])} and {len(names) - 3} more"


def cut(lines: list[str]) -> list[str]:
    """The first lines of a long list, and how many more there are."""
    rest = len(lines) - _LINES
    if rest <= 1:  # a line that says "1 more" saves nothing
        return lines
    return [*lines[:_LINES], f"  ... and {rest} more"]


def wrapped(lines: list[str], indent: int = 6) -> str:
    """One text, in which what does not fit in a line goes on indented."""
    wrapper = textwrap.TextWrapper(
        _COLUMNS, subsequent_indent=" " * indent, break_on_hyphens=False
    )
    return "\n".join(part for line in lines for part in wrapper.wrap(line))
