"""Every built page in a headless Chromium: at three widths, in light and in dark.

BOOK_HTML=_build/html pytest tests/browser
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin

import pytest

api = pytest.importorskip("playwright.sync_api")

HTML = Path(os.environ.get("BOOK_HTML", "_build/html")).resolve()
NAMES = [
    p.relative_to(HTML).as_posix()
    for d in ("book", "notebooks")
    for p in sorted((HTML / d).glob("*.html"))
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (390, 800, 1400)

READY = """async () => {
  await document.fonts.ready;
  if (window.MathJax) await MathJax.startup.promise;
}"""
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


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, f"no browser: install one of {', '.join(BROWSERS)}"
    with api.sync_playwright() as p:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = p.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open an address; return the page and what went wrong while it loaded."""
    contexts = []

    def visit(url, mode="light", width=1400):
        size = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=mode)
        contexts.append(context)
        context.add_init_script(f"localStorage.mode = localStorage.theme = '{mode}'")
        page, trouble = context.new_page(), []
        here = "file:" if url.startswith("file:") else urljoin(url, "/")

        def asked(request):
            if not request.url.startswith((here, "data:", "blob:")):
                trouble.append(f"asks the network for {request.url}")

        def answered(response):
            if response.status >= 400:
                trouble.append(f"{response.status} for {response.url}")

        page.on("request", asked)
        page.on("response", answered)
        page.on("requestfailed", lambda r: trouble.append(f"no answer for {r.url}"))
        page.on("pageerror", lambda e: trouble.append(f"script error: {e}"))
        page.on(
            "console",
            lambda m: m.type == "error" and trouble.append(f"console: {m.text}"),
        )
        page.goto(url, wait_until="load")
        page.evaluate(READY)
        return page, trouble

    yield visit
    for context in contexts:
        context.close()


def unrendered(page):
    """Formulas that are not drawn, or drawn as an error."""
    errors = page.locator("mjx-merror").all_text_contents()
    empty = page.locator(".math:not(:has(mjx-container))").all_text_contents()
    return errors + empty + page.evaluate(RAW_MATH)


def test_the_book_is_built():
    assert NAMES, f"no pages in {HTML}: run `make book` first"


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
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


def test_search_finds_a_word(visit, site):
    page, trouble = visit(site + "search.html?q=epsilon")
    page.wait_for_selector("#search-results li a", timeout=10_000)
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
