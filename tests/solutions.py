"""Run the solutions that the book prints, and judge wrong answers to its exercises."""

from __future__ import annotations

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


def solution(number: str):
    """The answer that the book's own solution hands to ``exercises.check``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exercises, "check", lambda number, answer: answer)
        return run_solution(number)


def judge(number: str, answer) -> str:
    """The remark on a wrong answer; fails the test when the answer passes."""
    verdict = exercises.check(number, answer)
    assert not verdict
    return verdict.remark
