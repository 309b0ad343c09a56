"""Run an experiment for many settings; an interruption loses only the run it hits."""

import contextlib
import signal
import threading
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import numpy as np

from bnutils import _progress

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
        """The results as an array over a grid of settings.

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
        lists = [list(axis) for axis in axes]
        grid = _product(lists)
        unknown = [setting for setting in grid if setting not in set(self.settings)]
        if unknown or not self:
            what = f"{unknown[0]!r} is not a setting of this sweep" if unknown else ""
            raise ValueError(what or f"there is no result yet: {self.note}")
        empty = np.full(np.shape(next(iter(self.values()))), np.nan)
        values = [self.get(setting, empty) for setting in grid]
        shape = [len(values) for values in lists]
        return np.array(values, dtype=float).reshape(*shape, *empty.shape)


def _product(lists: list[list[Hashable]]) -> list[tuple[Hashable, ...]]:
    """Every combination, the last part varying fastest."""
    grid: list[tuple[Hashable, ...]] = [()]
    for values in lists:
        grid = [(*setting, value) for setting in grid for value in values]
    return grid


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
    with _ctrl_c() as pressed, _progress.bar(total, progress, "run") as advance:
        try:
            for setting in results.settings:
                value = function(*setting)
                if pressed:
                    break
                results[setting] = value
                advance()
        except KeyboardInterrupt:
            results.interrupted = True
    if results.interrupted or len(results) < total:
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
def _ctrl_c() -> Iterator[list[int]]:
    """Yield a list that is no longer empty once Ctrl-C was pressed.

    A run may swallow the KeyboardInterrupt; the list still tells. Python allows a
    handler in the main thread only; elsewhere the list stays empty.
    """
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def note_and_raise(number: int, frame: Any) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note_and_raise)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
