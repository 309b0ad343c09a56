"""Run an experiment for many settings; an interruption loses only the run it hits.

A chapter that trains twenty networks in a cell does it here: one bar, one press of the stop
button ends the cell, and what was done by then is there. A loop around
:func:`bnutils.train.fit` would go on with the next training.
"""

import contextlib
import itertools
import signal
import threading
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import numpy as np

from bnutils.progress import bar

__all__ = ["Results", "run"]


class Results(dict):
    """What each setting gave, by setting, in the order they were run.

    Attributes
    ----------
    settings : list of tuple
        All that were asked for.
    interrupted : bool
        Ctrl-C came before all of them had run.
    note : str
        How far an interrupted sweep got, or empty.
    """

    def __init__(self, settings: list[tuple[Hashable, ...]]) -> None:
        super().__init__()
        self.settings = settings
        self.interrupted = False
        self.note = ""

    def __missing__(self, setting: Hashable) -> Any:
        """Say why there is no such result."""
        reason = self.note or f"it is not one of the {len(self.settings)} settings run"
        raise KeyError(f"no result for {setting!r}: {reason}")

    def __repr__(self) -> str:
        """Sum the sweep up in one line."""
        note = f" ({self.note})" if self.note else ""
        return f"results of {len(self)} runs{note}"

    def array(self, *axes: Iterable[Hashable]) -> np.ndarray:
        """Put the results into an array over a grid of settings.

        Parameters
        ----------
        *axes : iterables
            The values of each part of the settings, in order; the first axes of the
            result.

        Returns
        -------
        ndarray of float, shape (len(axis), ..., *shape of one result)
            NaN where an interrupted sweep has no result.

        Raises
        ------
        ValueError
            The axes hold a setting that the sweep was never asked for, or there is no
            result at all.
        """
        values = [list(axis) for axis in axes]
        grid = list(itertools.product(*values))
        known = set(self.settings)
        for setting in grid:
            if setting not in known:
                raise ValueError(f"{setting!r} is not a setting of this sweep")
        if not self:
            raise ValueError(f"there is no result yet: {self.note}")
        missing = np.full(np.shape(next(iter(self.values()))), np.nan)
        filled = [self.get(setting, missing) for setting in grid]
        shape = [len(each) for each in values]
        return np.array(filled, dtype=float).reshape(*shape, *missing.shape)


def run(
    function: Callable[..., Any],
    settings: Iterable[tuple[Hashable, ...]],
    *,
    progress: bool | None = None,
) -> Results:
    """Call ``function(*setting)`` for each setting, one after the other.

    Ctrl-C (in Jupyter: the stop button) ends the sweep early: the run it hits is
    dropped, even if it returns something, as :func:`bnutils.train.fit` does; the
    results before it are returned, and a warning says how far the sweep got.

    Parameters
    ----------
    function : callable
        One run of the experiment. What it raises ends the sweep.
    settings : iterable of tuple
        The arguments of each run, for example ``itertools.product(rates, seeds)``; no
        setting twice.
    progress : bool, optional
        Show a bar; by default as :func:`bnutils.train.fit` does.

    Returns
    -------
    Results
        A dictionary from setting to result, with ``interrupted`` and ``note``.

    Raises
    ------
    TypeError
        A setting is not a tuple.
    ValueError
        There is no setting, or one occurs twice.
    """
    results = Results(_checked(settings))
    total = len(results.settings)
    with (
        _noting_ctrl_c() as presses,
        bar(total, progress, "run") as advance,
        contextlib.suppress(KeyboardInterrupt),
    ):
        for setting in results.settings:
            value = function(*setting)
            # fit() turns Ctrl-C into a note and returns half a training: that is no result.
            if presses:
                break
            results[setting] = value
            advance()
    if len(results) < total:
        results.interrupted = True
        results.note = f"interrupted after {len(results)} of {total} runs"
        warnings.warn(results.note, stacklevel=2)
    return results


def _checked(settings: Iterable[tuple[Hashable, ...]]) -> list[tuple[Hashable, ...]]:
    """The settings as a list, or an error that says what is wrong with them."""
    listed = list(settings)
    if not listed:
        raise ValueError("a sweep needs at least one setting, but got none")
    for setting in listed:
        if not isinstance(setting, tuple):
            raise TypeError(
                f"each setting must be a tuple of arguments, but got {setting!r}; "
                f"a single argument is written ({setting!r},)"
            )
    if len(set(listed)) < len(listed):
        twice = next(s for s in listed if listed.count(s) > 1)
        raise ValueError(f"the setting {twice!r} occurs more than once")
    return listed


@contextlib.contextmanager
def _noting_ctrl_c() -> Iterator[list[int]]:
    """Yield a list of the Ctrl-Cs in the block, each noted before it is raised as ever.

    A run may swallow the KeyboardInterrupt; the list stays.
    """
    presses: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield presses  # Python sets handlers in the main thread only, and raises only there
        return

    def note_and_raise(number: int, frame: Any) -> None:
        presses.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note_and_raise)
    try:
        yield presses
    finally:
        signal.signal(signal.SIGINT, before)
