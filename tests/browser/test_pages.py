"""Every built page in a headless Chromium: at three widths, in light and in dark, under axe.

BOOK_HTML=_build/html pytest tests/browser
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from built import HTML, pages

axe = pytest.importorskip("axe_playwright_python")
AXE = (Path(axe.__file__).parent / "axe.min.js").read_text("utf8")
NAMES = pages()
# What axe finds and may stay: the theme's, on every page; nothing of ours.
KNOWN = {
    "region": "the title above the sidebar is outside of the theme's landmarks",
}
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
# A link behind a heading that stands on a line of its own.
LONE_LINKS = """() => [...document.querySelectorAll("article :is(h1, h2, h3)")].filter(heading => {
  const link = heading.querySelector(".headerlink"), words = document.createRange();
  if (!link || getComputedStyle(link).position === "absolute") return false;
  words.setStart(heading, 0);
  words.setEndBefore(link);
  const last = [...words.getClientRects()].filter((r) => r.width).pop();
  return last && link.getBoundingClientRect().top >= last.bottom - 4;
}).map((heading) => heading.textContent)"""
TWICE = """() => {
  const all = [...document.querySelectorAll("[id]")].map((e) => e.id);
  return all.filter((id, i) => all.indexOf(id) < i);
}"""
NAMELESS = """() => [...document.querySelectorAll("article :is(summary, .toggle-button)")]
  .filter((e) => /hidden content/.test(e.getAttribute("aria-label") || "")).length"""
TEXT_TABLES = r"""() => [...document.querySelectorAll("article .cell_output")]
  .map((e) => e.textContent).filter((text) => /\|\s*:?[-–]+:?\s*\|/.test(text))"""
OVERFLOW = """() => document.documentElement.scrollWidth - document.documentElement.clientWidth"""


def unrendered(page):
    """Formulas that are not drawn, or drawn as an error."""
    errors = page.locator("mjx-merror").all_text_contents()
    empty = page.locator(".math:not(:has(mjx-container))").all_text_contents()
    return errors + empty + page.evaluate(RAW_MATH)


def violations(page):
    """What axe finds on a page as it is shown now."""
    page.evaluate(f"() => {{ if (!window.axe) {{ {AXE} }} }}")
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]}"
        for v in found["violations"]
        if v["id"] not in KNOWN
    ]


def test_the_book_is_built(browser):
    assert NAMES, f"no pages in {HTML}: run `make book` first"


@pytest.mark.parametrize("name", [*NAMES, "genindex.html", "index.html", "404.html"])
def test_page(visit, site, name):
    """One visit for all that a page promises: opening it, with its formulas, takes longest."""
    page, trouble = visit(site + name, "light")
    assert page.locator("html").get_attribute("data-theme") == "light"
    assert unrendered(page) == []
    assert page.evaluate(NO_ALT) == [], "pictures without a text in their place"
    assert page.evaluate(FOLDED), "a hint or a solution is open"
    assert page.evaluate(TWICE) == [], "ids that two things have"
    assert page.evaluate(NAMELESS) == 0, "folds that do not say what they hide"
    assert page.evaluate(TEXT_TABLES) == [], "a table shown as its source"
    assert page.locator("meta[name=viewport]").count() == 1
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(OVERFLOW) <= 0, f"scrolls sideways at {width} px"
        assert page.evaluate(LONE_LINKS) == []
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html[data-theme=dark]")
    page.wait_for_timeout(300)  # colours fade
    assert violations(page) == []
    assert trouble == []


def test_page_opens_in_the_dark(visit, site):
    page, trouble = visit(site + NAMES[0], "dark")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert trouble == []


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_colours_of_the_system_do_not_wait_for_the_theme(browser, site, mode):
    """Its script comes last; until then nothing may be drawn in other colours."""
    page = browser.new_page(color_scheme=mode)
    page.route("**/pydata-sphinx-theme.js*", lambda route: route.abort())
    page.goto(site + NAMES[0])
    assert page.locator("html").get_attribute("data-theme") == mode
    page.close()


def test_axe_finds_a_picture_without_a_text(visit, site):
    page, _ = visit(site + NAMES[0])
    page.evaluate("() => document.querySelector('article').append(new Image())")
    assert [v.partition(":")[0] for v in violations(page)] == ["image-alt"]


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
    "conformance.compare": "book/api/conformance.html#bnutils.conformance.compare",
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
