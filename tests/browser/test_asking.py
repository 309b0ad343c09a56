"""Predictions in a browser: what is covered until one has chosen, and for whom nothing is."""

from __future__ import annotations

import re

import asked
import pytest
from built import served
from test_pages import OVERFLOW, violations

LIST = "- 4 points\n- 0.4 points, as a longer answer that needs more than one line says\n- none"
CELLS = [
    "# A chapter\n\n## Before",
    asked.question(
        f"How much better is it, at $\\alpha$?\n\n{LIST}\n\nThe loss is not the accuracy.",
        ":answer: B",
    ),
    asked.code("printed: 0.41 points"),
    "It is 0.41 points.\n\n(place)=\n\n> The label's paragraph.\n\n## After\n\nOpen text.",
    asked.question("What is a half, below zero?", ":answer: -0.5", ":within: 0.1"),
    asked.code("printed: -0.5"),
    "Minus one half.",
    asked.question("Which comes first?\n\n- this\n- that", ":answer: A"),
    asked.code("printed: this"),
    "The last words.",
]
STEM = "index.html"
SHOWN = """() => [...document.querySelectorAll(".predict-cover")].map(
  e => e.checkVisibility({contentVisibilityAuto: true}) && e.firstElementChild.checkVisibility())"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return asked.built(tmp_path_factory.mktemp("asked"), CELLS)


@pytest.fixture(scope="module")
def chapter(folder):
    with served(folder=folder) as address:
        yield address + STEM


@pytest.fixture
def opened(browser, chapter):
    """Open the chapter in a context of its own; a `where` goes behind its address."""
    contexts = []

    def opened(where="", width=1400, context=None, **settings):
        if context is None:
            size = {"width": width, "height": 900}
            context = browser.new_context(viewport=size, **settings)
            context.route("**/none.js", lambda route: route.fulfill(body=""))
            contexts.append(context)
        page = context.new_page()
        page.goto(chapter + where, wait_until="load")
        return page

    yield opened
    for context in contexts:
        context.close()


def asking(page, place=0):
    return page.locator(".predict").nth(place)


def visible(page):
    """Of each covered piece, whether it shows: output and text of every question in turn."""
    return page.evaluate(SHOWN)


def choose(page, words, place=0):
    asking(page, place).get_by_role("radio", name=words).check()
    asking(page, place).get_by_role("button", name="Check my prediction").click()


def test_output_and_text_are_covered_at_first(opened):
    page = opened()
    assert visible(page) == [False] * 6
    assert page.locator(".predict-wait:visible").count() == 3
    assert page.get_by_text("Open text.").is_visible()


def test_choosing_alone_shows_nothing_yet(opened):
    """The arrow keys choose among radio buttons, and a reader may think again."""
    page = opened()
    asking(page).get_by_role("radio", name="4 points").first.check()
    assert visible(page)[:2] == [False, False]


def test_right_answer_uncovers_and_says_so(opened):
    page = opened()
    choose(page, "0.4 points")
    assert visible(page) == [True, True, False, False, False, False]
    assert asking(page).get_by_role("status").text_content() == "Right: B."
    assert asking(page).get_by_text("The loss is not the accuracy.").is_visible()


def test_wrong_answer_names_both(opened):
    page = opened()
    choose(page, "none")
    said = asking(page).get_by_role("status").text_content()
    assert "You chose C" in said and "the answer is B" in said
    assert asking(page).locator(".is-right .predict-letter").text_content() == "B"
    assert asking(page).locator(".is-mine .predict-letter").text_content() == "C"


def test_shown_without_guessing_is_neither(opened):
    page = opened()
    asking(page).get_by_role("button", name="Show without guessing").click()
    assert visible(page)[:2] == [True, True]
    assert "Shown without a guess" in asking(page).get_by_role("status").text_content()
    assert "0 of 3 made, 0 right" in page.locator(".predict-tally").text_content()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-0.45", "Right"),
        ("−0,5", "Right"),
        ("0.5", "Not quite"),
        ("-0.61", "Not quite"),
    ],
)
def test_number_within_the_tolerance_is_right(opened, text, said):
    page = opened()
    asking(page, 1).get_by_role("textbox", name="Your number").fill(text)
    page.keyboard.press("Enter")
    assert asking(page, 1).get_by_role("status").text_content().startswith(said)


@pytest.mark.parametrize(
    ("place", "text"), [(0, "Choose an answer"), (1, "write a number")]
)
def test_empty_answer_is_asked_for(opened, place, text):
    page = opened()
    asking(page, place).get_by_role("button", name="Check my prediction").click()
    assert text in asking(page, place).get_by_role("status").text_content()
    assert visible(page) == [False] * 6


def test_keyboard_alone_is_enough(opened):
    page = opened()
    asking(page).get_by_role("radio").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert asking(page).get_by_role("status").text_content() == "Right: B."
    assert page.evaluate("document.activeElement.getAttribute('role')") == "status"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Guess again
    assert visible(page)[:2] == [False, False]
    assert page.evaluate("document.activeElement.type") == "radio"


def test_question_is_the_legend_of_its_answers(opened):
    page = opened()
    group = page.get_by_role("group", name=re.compile("How much better is it"))
    assert group.get_by_role("radio").count() == 3
    assert asking(page).locator("[aria-live=polite]").count() == 1


def test_choices_are_kept_and_counted(opened):
    page = opened()
    choose(page, "0.4 points")
    choose(page, "that", place=2)
    again = opened(context=page.context)
    assert visible(again) == [True, True, False, False, True, True]
    assert "2 of 3 made, 1 right" in again.locator(".predict-tally").text_content()
    link = again.locator(".predict-tally a")
    assert link.get_attribute("href") == f"#{asking(again, 1).get_attribute('id')}"


def test_all_can_be_asked_again(opened):
    page = opened()
    choose(page, "none")
    page.get_by_role("button", name="Forget them").click()
    assert visible(page) == [False] * 6
    assert visible(opened(context=page.context)) == [False] * 6


def test_link_into_what_is_covered_uncovers_it(opened):
    page = opened("#place")
    assert visible(page)[:2] == [True, True]
    assert page.evaluate("scrollY") > 0 or page.locator("#place").is_visible()
    assert visible(opened(context=page.context)) == [False] * 6, "a visit is no answer"


def test_link_on_the_page_uncovers_too(opened):
    page = opened()
    page.evaluate("location.hash = 'place'")
    page.wait_for_function("!document.querySelector('.predict-cover').hidden")
    assert visible(page)[:2] == [True, True]


def test_search_of_the_browser_looks_under_the_cover(opened):
    """It says so beforehand, by an event, and then shows the element it has found."""
    page = opened()
    cover = page.locator(".predict-cover").nth(2)
    assert cover.get_attribute("hidden") == "until-found"
    assert cover.evaluate("e => getComputedStyle(e).display") == "block"
    assert cover.bounding_box()["height"] < 2
    cover.dispatch_event("beforematch")
    assert visible(page)[2:4] == [True, True]


def test_without_scripts_nothing_is_covered(opened):
    page = opened(java_script_enabled=False)
    assert page.get_by_text("printed: 0.41 points").is_visible()
    assert page.get_by_text("Answer: B.").is_visible()
    assert page.get_by_role("radio").count() == 0


def test_script_that_may_store_nothing_works(opened, chapter):
    page = opened()
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('no') }})"
    )
    page.goto(chapter)
    choose(page, "0.4 points")
    assert visible(page)[:2] == [True, True]


def test_from_the_disk(browser, folder):
    context = browser.new_context()
    page = context.new_page()
    page.goto((folder / STEM).as_uri())
    choose(page, "0.4 points")
    page.reload()
    assert visible(page)[:3] == [True, True, False]
    context.close()


def test_paper_has_question_output_and_answer(opened):
    page = opened()
    page.emulate_media(media="print")
    assert visible(page) == [True] * 6
    assert page.get_by_text("Answer: B.").is_visible()
    assert page.get_by_text("4 points", exact=True).is_visible()
    for hidden in ("input", "button", ".predict-wait", ".predict-tally"):
        assert not page.locator(
            f".predict {hidden}, {hidden}.predict-wait"
        ).first.is_visible()


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 800])
def test_question_is_accessible_and_fits(opened, mode, width):
    page = opened(width=width, color_scheme=mode)
    for _ in range(2):  # covered, then chosen
        assert page.evaluate(OVERFLOW) <= 0
        ours = [v for v in violations(page) if "predict" in v]
        assert ours == []
        if asking(page).get_attribute("data-state") == "open":
            choose(page, "none")
            page.wait_for_timeout(400)  # it fades in


def test_forced_colours_keep_the_borders(opened):
    page = opened(forced_colors="active")
    box = asking(page).evaluate("e => getComputedStyle(e).borderTopWidth")
    assert box == "1px"


def test_reduced_motion_moves_nothing(opened):
    page = opened(reduced_motion="reduce")
    choose(page, "none")
    said = asking(page).get_by_role("status")
    assert said.evaluate("e => getComputedStyle(e).animationName") == "none"


def test_what_is_shown_makes_way_without_a_jump(opened):
    """Uncovering adds below the question; the question stays where it was."""
    page = opened()
    before = asking(page).bounding_box()["y"]
    choose(page, "0.4 points")
    assert abs(asking(page).bounding_box()["y"] - before) < 2
