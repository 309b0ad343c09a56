"""Check a learner's answer and say what is off, without giving the answer away.

In a chapter, an exercise ends with::

    from bnutils import exercises
    exercises.check("03.2", my_function)

The checkers of chapter 3 live in ``bnutils/exercises/ch03.py``. Each is a function that takes
the answer and returns None when it is right, or one sentence that says what is off. Most of
them compare with the expected value and with those that typical mistakes give, and leave the
rest to :func:`find_remark`::

    @exercise("NN.K")
    def scaled_std(answer):
        wrong = {"that is the variance": 36.0, "a scales the values, not 1 / a": 1.5}
        return find_remark(answer(std=3.0, a=2.0), 6.0, wrong)

Its tests are rows of a table, see ``tests/exercises``: one for each mistake. The book's own
solution is run without being asked.
"""

from __future__ import annotations

import dis
import importlib
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    Checker = Callable[[Any], str | None]

__all__ = [
    "Verdict",
    "as_array",
    "check",
    "class_of",
    "close",
    "exercise",
    "find_mistake",
    "find_remark",
    "gap",
    "is_tuple_of",
    "registry",
]

_CHECKERS: dict[str, Checker] = {}
_UNANSWERED = (
    "not answered yet: replace the `...` with your code and run the cell again"
)
_NOTHING = (
    "the function returned nothing: are the dots still there, or is a `return` missing?"
)
_EMPTY = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}


class Verdict(NamedTuple):
    """What :func:`check` says: the exercise's number, right or not, and a remark."""

    number: str
    right: bool
    remark: str

    def __repr__(self) -> str:
        return f"Exercise {self.number}: {self.remark}"

    def __bool__(self) -> bool:
        return self.right


def exercise(number: str) -> Callable[[Checker], Checker]:
    """Register the decorated function as the checker of exercise ``number`` ("03.2")."""

    def register(checker: Checker) -> Checker:
        _CHECKERS[number] = checker
        return checker

    return register


def registry(chapter: str) -> dict[str, Callable[[Any], str | None]]:
    """The checkers of one chapter ("03"), by exercise number."""
    try:
        importlib.import_module(f"bnutils.exercises.ch{chapter}")
    except ModuleNotFoundError as error:
        if error.name != f"bnutils.exercises.ch{chapter}":
            raise
    return {n: f for n, f in sorted(_CHECKERS.items()) if n.startswith(f"{chapter}.")}


def check(number: str, answer: Any) -> Verdict:
    """Judge the answer to one exercise.

    Random numbers drawn on the way, by PyTorch's generator of the CPU, are the same each time;
    the generator is then as it was before.

    Parameters
    ----------
    number : str
        Chapter and exercise, as printed in the book: "03.2".
    answer : object
        What the exercise asks for, usually a function, sometimes a number.

    Returns
    -------
    Verdict
        True in a condition when the answer is right; its text says what is off.

    Raises
    ------
    KeyError
        There is no exercise of that number.
    """
    chapter, _, place = number.partition(".")
    checkers = registry(chapter)
    if number not in checkers:
        meant = f"{chapter:0>2}.{place}"
        if meant in registry(f"{chapter:0>2}"):
            raise KeyError(f"no exercise {number!r}: did you mean {meant!r}?")
        known = ", ".join(checkers) or "none in that chapter"
        raise KeyError(f"no exercise {number!r}; there are: {known}")
    if _unanswered(answer):
        return Verdict(number, False, _UNANSWERED)
    import torch  # takes seconds, and the framework itself does without

    from bnutils._modules import random_numbers_kept

    try:
        with random_numbers_kept():
            torch.default_generator.manual_seed(0)
            remark = checkers[number](_Watched(answer) if callable(answer) else answer)
    except _Unanswered as missing:
        remark = str(missing)
    except Exception as error:
        remark = f"your answer raised {type(error).__name__}: {error}"
        remark += _line_of(error, answer)
    return Verdict(number, remark is None, remark or "right")


def _line_of(error: Exception, answer: Any) -> str:
    """Say in which line of the learner's file or cell an error came up, if in any."""
    # An answer that is a class has its code in its methods.
    functions = [answer, *getattr(answer, "__dict__", {}).values()]
    files = {f.__code__.co_filename for f in functions if hasattr(f, "__code__")}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in files and frame.line:
            return f", in the line `{frame.line.strip()}`"
    return ""


class _Unanswered(Exception):
    """The learner's function returned nothing; the text is the remark on it."""


class _Watched:
    """The learner's function; says so when it returns nothing yet."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.function(*args, **kwargs)
        if _unanswered(result):
            sure = result is Ellipsis or _is_empty(self.function)
            raise _Unanswered(_UNANSWERED if sure else _NOTHING)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function, name)


def _unanswered(value: Any) -> bool:
    return value is None or value is Ellipsis


def _is_empty(function: Callable[..., Any]) -> bool:
    """Whether a function does nothing at all, as one whose body is `...`."""
    code = getattr(function, "__code__", None)  # a class has none
    return code is not None and {i.opname for i in dis.get_instructions(code)} <= _EMPTY


def as_array(value: Any) -> np.ndarray:
    """A NumPy float64 copy of a number, list, array or tensor."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    return np.array(value, dtype=float)


def gap(answer: Any, expected: Any) -> float:
    """Largest absolute difference; infinite when the shapes differ."""
    a, b = as_array(answer), as_array(expected)
    return float(abs(a - b).max(initial=0.0)) if a.shape == b.shape else float("inf")


def close(answer: Any, expected: Any, tolerance: float = 1e-6) -> bool:
    """Same shape and every element within ``tolerance``, absolute and relative."""
    a, b = as_array(answer), as_array(expected)
    return a.shape == b.shape and np.allclose(a, b, rtol=tolerance, atol=tolerance)


def find_mistake(
    result: Any, mistakes: Mapping[str, Any], tolerance: float = 1e-6
) -> str | None:
    """Return the first remark whose value is the result, or None.

    ``mistakes`` maps remarks to what a typical mistake gives, not the other way round: two
    mistakes can give the same number for one case, and as the keys of a dict one would be lost.
    """
    for remark, wrong in mistakes.items():
        if close(result, wrong, tolerance):
            return remark
    return None


def find_remark(
    result: Any,
    expected: Any,
    mistakes: Mapping[str, Any] = {},  # only read
    otherwise: str = "",
    *,
    name: str = "",
    tolerance: float = 1e-6,
) -> str | None:
    """Return None for the expected result, else the remark that says what is off.

    Parameters
    ----------
    result, expected : number, list, array or tensor
    mistakes : dict from remark to value
        What typical mistakes give; see :func:`find_mistake`.
    otherwise : str, optional
        The remark on any other result; by default its shape, or how far it is off.
    name : str, optional
        What the result is, for the default remark: "the mean".
    tolerance : float
        See :func:`close`.
    """
    if close(result, expected, tolerance):
        return None
    remark = find_mistake(result, mistakes, tolerance) or otherwise
    if remark:
        return remark
    shape, right = as_array(result).shape, as_array(expected).shape
    if shape != right:
        return f"the shape of {name or 'the result'} is {shape}, but should be {right}"
    off = f"off by {gap(result, expected):.3g}"
    return f"{name} is {off}" if name else off


def is_tuple_of(count: int, result: Any) -> bool:
    """Whether the answer returned so many things, as a tuple or a list."""
    return isinstance(result, tuple | list) and len(result) == count


def class_of(answer: Any) -> type | None:
    """Return the class that was handed over, None if it is an object or a function."""
    kind = getattr(answer, "function", answer)  # a class is watched like a function
    return kind if isinstance(kind, type) else None
