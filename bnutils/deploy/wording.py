"""How the reports of this folder are laid out: long lists cut, long lines wrapped."""

import textwrap

__all__ = ["cut", "wrapped"]

_SHOWN = 12  # lines of a long list that are printed
_COLUMNS = 88


def cut(lines: list[str]) -> list[str]:
    """The first lines of a long list, and how many more there are."""
    rest = len(lines) - _SHOWN
    if rest <= 1:  # a line that says "1 more" saves nothing
        return lines
    return [*lines[:_SHOWN], f"  ... and {rest} more"]


def wrapped(lines: list[str]) -> str:
    """One text, in which what does not fit in a line goes on indented."""
    parts = []
    for line in lines:
        parts += textwrap.wrap(line, _COLUMNS, subsequent_indent="      ")
    return "\n".join(parts)
