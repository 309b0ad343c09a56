"""What stands below a chapter's title: how long it takes, and which one it is."""

from __future__ import annotations

import opener
import pytest
from docutils import nodes
from docutils.utils import new_document
from myst_nb.sphinx_ import HideCodeCellNode


def page(*children) -> nodes.document:
    document = new_document("page")
    document += children
    return document


def words(count: int) -> nodes.paragraph:
    return nodes.paragraph("", "word " * count)


def lines(count: int) -> nodes.literal_block:
    text = "x = 1\n\n" * count
    return nodes.literal_block(text, text)


@pytest.mark.parametrize(
    ("children", "minutes"),
    [
        ([words(10)], 5),
        ([words(170 * 20)], 20),
        ([lines(15 * 10)], 10),
        ([words(170 * 20), lines(15 * 10)], 30),
    ],
)
def test_words_and_lines_of_code_take_time(children, minutes):
    assert opener.minutes(page(*children)) == minutes


def test_what_is_folded_or_printed_takes_none():
    printed = nodes.container("", lines(600), classes=["cell_output"])
    assert (
        opener.minutes(page(HideCodeCellNode("", lines(600)), printed)) == opener.STEP
    )


def section(title: str, *children) -> nodes.section:
    return nodes.section("", nodes.title("", title), *children)


def test_what_folds_and_what_is_done_by_hand_has_no_part_in_the_time():
    folded = nodes.admonition("", words(170 * 20), classes=["dropdown"])
    deeper = section("Going deeper", words(170 * 15))
    tasks = section("Exercises", words(170 * 30))
    chapter = page(section("A chapter", words(170 * 10), folded, deeper, tasks))
    assert opener.minutes(chapter) == 10
    assert opener.minutes(deeper) == 15


@pytest.mark.parametrize(
    ("name", "number"), [("notebooks/02_forward", 2), ("book/faq", 0)]
)
def test_chapters_have_numbers_and_other_pages_none(name, number):
    assert opener.number_of(name) == number
