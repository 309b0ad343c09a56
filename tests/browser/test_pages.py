"""Every built page in a headless Chromium: at three widths, in light and in dark.

BOOK_HTML=_build/html pytest tests/browser
"""

from __future__ import annotations

import re

import pytest
from conftest import HTML, pages

NAMES = pages()
WIDTHS = (390, 800, 1400)

RAW_MATH = r"""() => {
  const article = document.querySelector("article").cloneNode(true);
  article.querySelectorAll("pre, code, script, mjx-container").forEach(e => e.remove());
  return article.textContent.match(/\$\$|\\\(|\\\[|\\frac|\\mathrm/g) || [];
}"""
NO_ALT = """() => [...document.querySelectorAll("article img")]
  .filter(i => !i.alt.trim() || /_images|\\.png$/.test(i.alt)).map(i => i.src)"""
FOLDED = """() => [...document.querySelectorAll(".admonition.dropdown")]
  .every(e => e.classList.contains("toggle-hidden"))"""
OVERFLOW = """() => document.documentElement.scrollWidth - document.documentElement.clientWidth"""


def unrendered(page):
    """Formulas that are not drawn, or drawn as an error."""
    errors = page.locator("mjx-merror").all_text_contents()
    empty = page.locator(".math:not(:has(mjx-container))").all_text_contents()
    return errors + empty + page.evaluate(RAW_MATH)


def test_the_book_is_built():
    assert NAMES, f"no pages in {HTML}: run `make book` first"


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", [*NAMES, "genindex.html"])
def test_page(visit, site, name, mode):
    page, trouble = visit(site + name, mode)
    assert trouble == []
    assert page.locator("html").get_attribute("data-theme") == mode
    assert unrendered(page) == []
    assert page.evaluate(NO_ALT) == [], "pictures without a text in their place"
    assert page.evaluate(FOLDED), "a hint or a solution is open"
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(OVERFLOW) <= 0, f"scrolls sideways at {width} px"


@pytest.mark.parametrize("name", NAMES)
def test_page_from_the_disk(visit, name):
    page, trouble = visit((HTML / name).as_uri())
    assert trouble == []
    assert unrendered(page) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_sidebar_button(visit, site, width):
    page, _ = visit(site + "book/welcome.html", width=width)
    entry = page.locator(".bd-sidebar-primary a, dialog a", has_text="Notation").first

    def shown():
        box = entry.is_visible() and entry.bounding_box()
        return bool(box) and 0 <= box["x"] < width

    before = shown()
    page.locator("button.primary-toggle:visible").first.click()
    page.wait_for_timeout(800)  # the sidebar slides
    assert shown() != before


FOUND = {  # what is searched, and a link that the results must have
    "epsilon": "notebooks/06_the_arguments.html",
    "recalibration": "book/glossary.html#term-recalibration",
    "批量归一化": "book/glossary.html",
    "cheat sheet": "book/cheat_sheet.html",
    "conformance.compare": "book/api.html#bnutils.conformance.compare",
    "playground": "book/playground.html",
    "Ioffe": "book/bibliography.html",
}


@pytest.mark.parametrize("words", FOUND)
def test_search_finds_chapters_and_reference_pages(visit, site, words):
    page, trouble = visit(f"{site}search.html?q={words}")
    page.wait_for_selector(
        f'#search-results li a[href^="{FOUND[words]}"]', timeout=9_000
    )
    assert trouble == []


def test_a_solution_unfolds(visit, site):
    name = next(
        n
        for n in NAMES
        if n.startswith("notebooks/") and "dropdown" in (HTML / n).read_text("utf8")
    )
    page, _ = visit(site + name)
    fold = page.locator(".solution.dropdown").first
    closed = fold.bounding_box()["height"]
    fold.locator(".toggle-button").first.click()
    page.wait_for_timeout(500)
    assert fold.bounding_box()["height"] > closed


def test_cheat_sheet_prints_on_one_sheet(visit, site):
    page, _ = visit(site + "book/cheat_sheet.html")
    printed = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1
    assert b"/MediaBox [0 0 594" in printed  # A4, in points
