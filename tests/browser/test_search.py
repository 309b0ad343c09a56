"""What readers type or paste leads, first of all, to the section that answers it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from built import HTML

TABLE = Path(__file__).with_name("queries.yaml")
FIRST = {  # what is asked -> page, and how the heading begins that must come first
    query: (page, heading)
    for page, queries in yaml.safe_load(TABLE.read_text("utf8")).items()
    for query, heading in queries.items()
}
ERRORS = "book/errors.html"

TOP = """() => [...document.querySelectorAll("#search-results li")].slice(0, 5).map(li => [
  li.querySelector("a").getAttribute("href"), li.querySelector("a").textContent])"""
SNIPPETS = """() => [...document.querySelectorAll("#search-results p.context")]
  .map(p => p.textContent)"""


def results(page):
    page.wait_for_selector("#search-results .search-summary", timeout=9_000)
    return page.evaluate(TOP)


def answer(found) -> tuple[str, str, bool]:
    """Page and heading of the first result, and whether it leads to the heading."""
    href, heading = found[0]
    page, _, anchor = href.partition("#")
    return page, heading, bool(anchor)


@pytest.fixture(scope="module")
def asked(browser):
    """The first results of all queries of the table, from the disk, on one page."""
    page = browser.new_page()
    page.goto((HTML / "search.html").as_uri())
    page.wait_for_selector("#search-results", state="attached")
    found = page.evaluate(
        """queries => queries.map(query => bnSearch.find(query).slice(0, 5).map(
          ({section, page}) => [page[0] + "#" + section.a, section.h]))""",
        list(FIRST),
    )
    page.close()
    return dict(zip(FIRST, found))


@pytest.mark.parametrize("query", FIRST)
def test_the_answer_comes_first(asked, query):
    name, beginning = FIRST[query]
    found = asked[query]
    assert found, "nothing found"
    page, heading, _ = answer(found)
    assert (page, heading.startswith(beginning)) == (name, True), found


def test_the_table_is_as_long_as_promised():
    assert len(FIRST) >= 60


@pytest.mark.parametrize("where", ["from the disk", "from a server"])
def test_a_result_leads_to_its_heading(visit, site, where):
    root = (
        (HTML / "search.html").as_uri()
        if where == "from the disk"
        else f"{site}search.html"
    )
    page, trouble = visit(
        f"{root}?q={quote('running_mean should contain 5 elements not 7')}"
    )
    found = results(page)
    assert answer(found)[0] == ERRORS and answer(found)[2]
    page.locator("#search-results li a").first.click()
    page.wait_for_load_state()
    heading = page.locator("h3", has_text="running_mean should contain").first
    box = heading.bounding_box()
    assert 0 <= box["y"] < 450, "the page does not stand at the heading"
    assert trouble == []


@pytest.mark.parametrize(
    "query", ["variance", "gradient", "方差", "torch.Size([1, 3])"]
)
def test_snippets_show_no_raw_tex(visit, site, query):
    page, trouble = visit(f"{site}search.html?q={quote(query)}")
    assert results(page)
    texts = " ".join(page.evaluate(SNIPPETS))
    assert not any(
        mark in texts for mark in ("\\frac", "\\sum", "$$", "\\mathrm", "\\sigma")
    )
    assert trouble == []


def test_what_is_not_there_is_said(visit, site):
    page, _ = visit(f"{site}search.html?q=xyzzyplugh")
    page.wait_for_selector("#search-results .search-summary")
    assert "Nothing found" in page.locator("#search-results").text_content()


UNKNOWN = [  # messages that the book does not quote
    "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB",
    "RuntimeError: Expected 4-dimensional input for 4-dimensional weight [64, 3, 7, 7], "
    "but got 3-dimensional input of size [3, 224, 224] instead",
    "TypeError: conv2d() received an invalid combination of arguments - got (list, Parameter)",
    "ModuleNotFoundError: No module named 'torchaudio'",
    "IndexError: Target 10 is out of bounds.",
    "ValueError: too many values to unpack (expected 2)",
    "ValueError: Target size (torch.Size([64])) must be the same as input size",
    "RuntimeError: DataLoader worker (pid 123) is killed by signal: Killed.",
]


@pytest.fixture(scope="module")
def doubts(browser):
    """What the search says against its own results."""
    page = browser.new_page()
    page.goto((HTML / "search.html").as_uri())
    page.wait_for_selector("#search-results", state="attached")
    queries = [*FIRST, *UNKNOWN]
    found = page.evaluate(
        "queries => queries.map(query => bnSearch.doubt(query, bnSearch.find(query)))",
        queries,
    )
    page.close()
    return dict(zip(queries, found))


def test_no_doubt_is_cast_on_what_the_book_answers(doubts):
    assert {query: doubts[query] for query in FIRST if doubts[query]} == {}


@pytest.mark.parametrize("message", UNKNOWN)
def test_a_message_that_the_book_lacks_is_called_so(doubts, message):
    assert doubts[message] == "message"


def test_an_unknown_message_leads_to_the_list_of_messages(visit, site):
    page, trouble = visit(f"{site}search.html?q={quote(UNKNOWN[0])}")
    page.wait_for_selector("#search-results .search-summary")
    summary = page.locator("#search-results .search-summary")
    assert "does not quote this message" in summary.text_content()
    summary.locator("a").click()
    page.wait_for_url(f"**/{ERRORS}")
    assert trouble == []


@pytest.mark.parametrize("query, words", [("动量", "找到"), ("鼬鼱", "没有找到")])
def test_a_chinese_query_is_answered_in_chinese(visit, site, query, words):
    page, trouble = visit(f"{site}search.html?q={quote(query)}")
    page.wait_for_selector("#search-results .search-summary[lang=zh]")
    assert words in page.locator("#search-results .search-summary").text_content()
    assert trouble == []


def test_a_query_is_text_and_never_markup(visit, site):
    page, trouble = visit(
        f"{site}search.html?q={quote('<img src=x onerror=alert(1)> batch')}"
    )
    assert results(page)
    assert page.locator("#search-results img").count() == 0
    assert trouble == []


def test_code_and_api_come_after_headings_and_questions(asked):
    for query in ("momentum", "eps", "freeze batch norm", "gradient accumulation"):
        assert not asked[query][0][0].startswith("book/api")
