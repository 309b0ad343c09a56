"""Run the solutions that the book prints, and judge answers to its exercises."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import matplotlib as mpl
import pytest

from bnutils import exercises

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def cells(chapter: str, tag: str | None = None) -> list[str]:
    """Sources of a chapter's code cells, in order; with ``tag``, of those that carry it."""
    (path,) = NOTEBOOKS.glob(f"{chapter}_*.ipynb")
    code = [
        c
        for c in json.loads(path.read_text("utf8"))["cells"]
        if c["cell_type"] == "code"
    ]
    if tag is not None:
        code = [c for c in code if tag in c["metadata"].get("tags", [])]
    return ["".join(c["source"]) for c in code]


def run_solution(number: str):
    """Verdict of the book's own solution to an exercise ("03.2").

    Runs the chapter's set-up cell, its ``shipped`` cells and the solution, in a fresh namespace.
    """
    chapter = number.partition(".")[0]
    (solution,) = (
        s for s in cells(chapter, "solution") if f'exercises.check("{number}"' in s
    )
    *body, last = re.split(r"\n(?=exercises\.check\()", "\n" + solution)
    namespace: dict = {"__name__": "solution"}
    with mpl.rc_context({"backend": "agg"}):
        for source in (cells(chapter)[0], *cells(chapter, "shipped"), "\n".join(body)):
            exec(source, namespace)
        return eval(last, namespace)


@functools.cache
def solution(number: str):
    """The answer that the book's own solution hands to ``exercises.check``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exercises, "check", lambda number, answer: answer)
        return run_solution(number)


def changed(number: str, change):
    """The book's answer, its results changed; ``change`` is also handed the arguments."""

    def wrong(*args, **kwargs):
        return change(solution(number)(*args, **kwargs), *args)

    return wrong


def verdict_words(number: str, answer, right: bool = False) -> str:
    """What the reader is told; fails the test when the verdict is not as expected."""
    verdict = exercises.check(number, answer)
    assert verdict.right == right, verdict
    return verdict.remark


def ids(rows: dict[str, list]) -> list[str]:
    """A name for each row: the exercise and the words of the remark."""
    return [f"{number} {words}" for number, each in rows.items() for _, words in each]
