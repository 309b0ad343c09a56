"""Predictions: what their directive covers, what it refuses, and the plain editions of them."""

from __future__ import annotations

import asked
import colab
import plain
import pytest
from bs4 import BeautifulSoup

BOOK = colab.load()
LIST = "- 4 points\n- 0.4 points\n- none"
GOOD = asked.question(
    f"How much better is it?\n\n{LIST}\n\nThe loss is *not* the accuracy.", ":answer: B"
)
CELLS = [
    "# A chapter\n\n## Before",
    GOOD,
    "Some words on the code.",
    asked.code("0.41 points"),
    "It is 0.41 points.\n\nThat is more than none.\n\n"
    "**You will**\n\nlearn.\n\n(next)=\n## After\n\nOpen text.",
    asked.question("What is a half?\n\nOne by two.", ":answer: -0.5", ":within: 0.1"),
    asked.code("first", "second"),
    "Of these two the first is right.\n\nThe next cell leads on.",
    asked.code("the next cell"),
    "The text after the next cell.\n\n```{math}\n:label: eq-asked\nx = 1\n```\n\n"
    "A definition.\n\n## Defined first",
    asked.question("Which?\n\n- this\n- that", ":answer: A"),
    asked.code(),
    "The function is there; now it runs.",
    asked.code("this"),
    "It was this one.",
    asked.question("And the code?\n\n- this\n- that", ":answer: B", ":code:"),
    asked.code("seen after it"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A chapter with two predictions, built with warnings as errors."""
    pages = asked.built(tmp_path_factory.mktemp("asked"), CELLS)
    return BeautifulSoup((pages / "index.html").read_text("utf8"), "html.parser")


def covered(page, place: int) -> str:
    """The text that a prediction covers, by its place on the page."""
    name = page.select(".predict")[place]["id"]
    return " ".join(part.get_text() for part in page.select(f".by-{name}"))


def test_output_and_text_up_to_the_next_heading_are_covered(page):
    text = covered(page, 0)
    assert "0.41 points" in text and "more than none" in text
    assert "Open text" not in text and "Some words" not in text
    assert "How much" not in text


def test_what_one_will_learn_stays_open(page):
    assert "more than none" in covered(page, 0)
    assert "learn" not in covered(page, 0)


def test_later_outputs_of_the_section_are_covered_too(page):
    text = covered(page, 1)
    assert "first" in text and "second" in text
    assert "the next cell" in text and "The text after" in text
    assert "Defined first" not in text


def test_what_leads_on_and_what_teaches_stays_open(page):
    text = covered(page, 1)
    assert "Of these two" in text
    assert "leads on" not in text
    assert "A definition" not in text


def test_cell_that_only_defines_has_nothing_to_cover(page):
    text = covered(page, 2)
    assert "this" in text and "It was this one." in text
    assert "now it runs" not in text


def test_code_stays_open_unless_it_gives_the_answer_away(page):
    (covered_code,) = page.select(".cell_input.predict-cover")
    assert f"by-{page.select('.predict')[3]['id']}" in covered_code["class"]
    assert not page.select(".predict-cover .cell_input")


def test_without_scripts_the_page_says_all(page):
    asking = page.select_one(".predict")
    assert [li.get_text(strip=True) for li in asking.select("ol.upperalpha > li")] == [
        "4 points",
        "0.4 points",
        "none",
    ]
    answer = asking.select_one(".predict-answer").get_text(" ", strip=True)
    assert answer.startswith("Answer: B.") and "the accuracy" in answer
    assert not page.select("[hidden]")


def test_questions_have_names_of_their_own_that_their_words_give(page):
    first, second, *_ = (asking["id"] for asking in page.select(".predict"))
    assert first != second


def test_number_and_its_tolerance_reach_the_page(page):
    given = page.select(".predict")[1]
    assert (given["data-answer"], given["data-within"]) == ("-0.5", "0.1")


def test_what_explains_a_number_is_no_part_of_the_question(page):
    given = page.select(".predict")[1]
    assert (
        given.select_one(".predict-question").get_text(strip=True) == "What is a half?"
    )
    assert "One by two." in given.select_one(".predict-answer").get_text()


MISTAKES = {
    "no answer": (f"Which?\n\n{LIST}", "a letter from A to C, but got ''"),
    "a letter beyond the list": (f":answer: D\n\nWhich?\n\n{LIST}", "but got 'D'"),
    "two letters": (f":answer: AB\n\nWhich?\n\n{LIST}", "but got 'AB'"),
    "five answers": (
        f":answer: A\n\nWhich?\n\n{LIST}\n- 5\n- 6",
        "two to four answers, but got 5",
    ),
    "one answer": (":answer: A\n\nWhich?\n\n- this", "two to four answers, but got 1"),
    "no question": (f":answer: A\n\n{LIST}", "no question"),
    "no number": (":answer: half\n:within: 1\n\nHow much?", "but got 'half'"),
    "no tolerance": (":answer: 0.5\n\nHow much?", "needs :within:"),
    "a tolerance below zero": (":answer: 1\n:within: -1\n\nHow much?", "but got '-1'"),
    "a tolerance for letters": (
        f":answer: A\n:within: 1\n\nWhich?\n\n{LIST}",
        ":within: is for a number",
    ),
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    """What the build says of each mistake, by its page."""
    folder = tmp_path_factory.mktemp("mistaken")
    asked.write(folder, ["# Top"])
    for i, (text, _) in enumerate(MISTAKES.values()):
        cell = "```{predict}\n" + text + "\n```"
        asked.write(folder, ["# A page", cell, asked.code("1")], f"page{i}")
    asked.write(folder, ["# A page", GOOD, asked.code()], "silent")
    asked.write(folder, ["# A page", GOOD, "## Next", asked.code("1")], "late")
    status, said = asked.build(folder, "-W", "--keep-going")
    assert status == 1
    return said


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_stops_the_strict_build(complaints, mistake):
    name = f"page{list(MISTAKES).index(mistake)}.ipynb"
    said = [line for line in complaints.splitlines() if name in line]
    assert any(MISTAKES[mistake][1] in line for line in said), said


@pytest.mark.parametrize("name", ["silent", "late"])
def test_prediction_without_an_output_to_cover_stops_the_strict_build(complaints, name):
    said = [line for line in complaints.splitlines() if f"{name}.ipynb" in line]
    assert any("has an output to cover" in line for line in said), said


# The plain editions


def shown(text: str) -> str:
    return plain.markdown(text, "02_forward", BOOK)


def test_choice_becomes_a_lettered_list_with_the_answer_folded():
    assert shown(GOOD) == (
        "**Predict.** How much better is it?\n\n"
        "- **A** 4 points\n- **B** 0.4 points\n- **C** none\n\n"
        "<details><summary><b>Answer</b></summary>\n\n"
        "B.\n\nThe loss is *not* the accuracy.\n\n</details>"
    )


def test_number_becomes_a_question_with_the_answer_folded():
    words = "What is a half?\n\nOne by two."
    text = asked.question(words, ":answer: 0.5", ":within: 0.1")
    assert shown(text) == (
        "**Predict.** What is a half?\n\n"
        "<details><summary><b>Answer</b></summary>\n\n0.5.\n\nOne by two.\n\n</details>"
    )


def test_answers_may_take_several_lines_and_refer_to_other_places():
    text = asked.question(
        "Which, by {eq}`eq-02-scale`?\n\n- one\n  and a half\n- two", ":answer: A"
    )
    number = BOOK.numbers["eq-02-scale"][1]
    assert f"by ({number})?\n\n- **A** one and a half\n- **B** two" in shown(text)
