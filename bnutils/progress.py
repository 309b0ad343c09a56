"""The one bar that a long call shows, in a terminal and in Jupyter, and never in a log.

:func:`bnutils.train.fit` and :func:`bnutils.sweep.run` open one each. Bars do not nest: a
training inside a sweep moves the sweep's bar by a part of a run. JupyterLab without
ipywidgets would print each state of a second bar as an output of its own, thousands of them.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

__all__ = ["bar", "is_open"]


class _Bar:
    """How far a call with ``total`` parts is; drawn by tqdm, or not at all."""

    def __init__(self, total: int, unit: str, tqdm: Any | None) -> None:
        self.total, self.unit, self.tqdm = total, unit, tqdm
        self.done = 0

    def advance(self) -> None:
        """One more part is done."""
        self.done += 1
        self._move_to(self.done)

    def advance_within(self, share: float) -> None:
        """Move by a share of the part in work, at most to its end."""
        if self.tqdm is not None:
            self._move_to(min(self.tqdm.n + share, self.done + 1))

    def _move_to(self, position: float) -> None:
        if self.tqdm is None:
            return
        self.tqdm.set_description_str(self.description(), refresh=False)
        self.tqdm.update(position - self.tqdm.n)

    def description(self) -> str:
        """What is in work, for example "run 3 of 8"."""
        return f"{self.unit} {min(self.done + 1, self.total)} of {self.total}"


# The bar that is open now. A context variable, so that threads do not see each other's.
_OPEN: ContextVar[_Bar | None] = ContextVar("open progress bar", default=None)


@contextlib.contextmanager
def bar(
    total: int, wanted: bool | None = None, unit: str = "step"
) -> Iterator[Callable[[], object]]:
    """Show a bar while the ``with`` block runs; it is gone afterwards.

    Parameters
    ----------
    total : int
        How many parts there are.
    wanted : bool, optional
        By default where someone watches: in a terminal and in Jupyter, unless the
        environment has BNUTILS_PROGRESS=0 or CI. Inside the block of another bar it has no
        meaning: that bar is moved, and if it was not wanted, nothing is shown.
    unit : str
        What a part is called.

    Yields
    ------
    callable without arguments
        Call it after each part.
    """
    outer = _OPEN.get()
    if outer is not None:
        yield lambda: outer.advance_within(1 / total)
        return
    with contextlib.ExitStack() as stack:
        shown = _Bar(total, unit, None)
        if _is_watched() if wanted is None else wanted:
            shown.tqdm = stack.enter_context(_tqdm(total, shown.description()))
        token = _OPEN.set(shown)
        try:
            yield shown.advance
        finally:
            _OPEN.reset(token)


def is_open() -> bool:
    """Whether this call is part of a longer one that has a bar, shown or not."""
    return _OPEN.get() is not None


def _is_watched() -> bool:
    """Whether someone looks at what is printed: a terminal or Jupyter, not silenced."""
    if os.environ.get("BNUTILS_PROGRESS") == "0" or os.environ.get("CI"):
        return False
    ipython = sys.modules.get("IPython")  # nothing is imported to find out
    shell = ipython.get_ipython() if ipython is not None else None
    return sys.stderr.isatty() or hasattr(shell, "kernel")


def _tqdm(total: int, description: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about widgets that Jupyter lacks
        from tqdm.auto import tqdm
    return tqdm(
        total=total,
        desc=description,
        leave=False,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}",
    )
