"""The notation page lists every letter of the book's formulas, each with one meaning.

A few letters have a second meaning, most of them a paper's own. The page names these and the
chapters in which they have it, and nothing else may.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict

import pytest
from provenance import ROOT

PAGE = (ROOT / "book" / "notation.md").read_text("utf8")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GREEK = re.compile(
    "alpha|beta|gamma|delta|epsilon|eta|theta|kappa|lambda|mu|nu|pi|rho|sigma|tau|varphi|phi"
    "|psi|omega|Delta|Sigma|Gamma|Lambda|Phi|Omega|Theta|Pi"
)
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$([^$]+?)\$(?!\$)", re.S)
WORDS = re.compile(  # what is set upright, the names of environments, and lengths
    r"\\(?:text|mathrm|operatorname|texttt|mathsf|begin|end)\*?\{[^}]*\}|\\math(?:rm|sf)\s+\w"
    r"|\\\\\[[^]]*\]|\b[a-z]{2,}\b(?=\()"
)
LETTER = re.compile(r"\\mathcal\{?\s*(\w)\}?|\\([A-Za-z]+)|([A-Za-z])")
CODE = re.compile(r"`[^`]*`")
NUMBERS = {"e", "d", "O"}  # Euler's number, the differential, Landau's symbol


def letters(formula: str) -> set[str]:
    """The letters of a formula, Greek ones by their TeX names, the loss as ``mathcal L``."""
    found = set()
    for script, command, letter in LETTER.findall(WORDS.sub(" ", formula)):
        if script:
            found.add(f"mathcal {script}")
        elif GREEK.fullmatch(command):
            found.add(command)
        elif letter:
            found.add(letter)
    return found - NUMBERS - {"mathcal O"}


def formulas(path) -> list[str]:
    """All formulas in the text of a notebook."""
    cells = json.loads(path.read_text("utf8"))["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    return [a or b for t in texts for a, b in FORMULA.findall(CODE.sub("", t))]


def listed() -> tuple[dict[str, list[set[int]]], dict[str, set[int]]]:
    """Letter -> chapters of each row that has it (none: all); and of its second meaning."""
    first, second = defaultdict(list), defaultdict(set)
    for section in PAGE.split("\n## "):
        for row in re.findall(r"^\| (\$.*?) \|.*\| (.*?) \|$", section, re.M):
            cell, last = row
            chapters = {int(n) for n in re.findall(r"\d+", last)}
            names = set().union(*(letters(f) for _, f in FORMULA.findall(cell)))
            for name in names:
                if section.startswith("Second meanings"):
                    second[name] |= chapters
                else:
                    inside = section.startswith("In single chapters")
                    first[name].append(chapters if inside else set())
    return first, second


FIRST, SECOND = listed()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_letter_of_a_chapter_is_on_the_notation_page(path):
    number = int(path.stem[:2])
    used = set().union(*map(letters, formulas(path)))
    known = {
        name
        for name, rows in FIRST.items()
        if any(not chapters or number in chapters for chapters in rows)
    }
    known |= {name for name, chapters in SECOND.items() if number in chapters}
    assert sorted(used - known) == []


def test_no_letter_is_listed_twice():
    """A letter with subscripts may have a row beside the plain one: μ and what it is of."""
    plain = re.findall(
        r"^\| \$(\\?[A-Za-z]+)\$ \|", PAGE.partition("\n## Second")[0], re.M
    )
    assert sorted({name for name in plain if plain.count(name) > 1}) == []


def test_second_meanings_are_used():
    """In the chapters that the page names; a row that no formula needs goes."""
    used = {
        int(path.stem[:2]): set().union(*map(letters, formulas(path)))
        for path in NOTEBOOKS
    }
    idle = {
        (name, n)
        for name, chapters in SECOND.items()
        for n in chapters
        if name not in used[n]
    }
    assert idle == set()
