"""Every built page under a Content-Security-Policy: `default-src 'self'` and what has a name.

The policy that a server may send with all pages:

    default-src 'self'; script-src 'self' 'unsafe-hashes' HASHES; style-src 'self'
    'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none';
    form-action 'self'

HASHES are of the inline scripts that the theme and its extensions write into the pages, and
of the print button's handler; `hashes` collects them. Scripts therefore need neither
'unsafe-inline' nor 'unsafe-eval'. Styles need 'unsafe-inline': MathJax gives parts of formulas
their place, and Jupyter gives pictures and tables their size, in a style attribute.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html.parser import HTMLParser

import pytest
from built import HTML, READY, Quiet, pages, served

OTHERS = [n for n in ("genindex.html", "search.html") if (HTML / n).exists()]
NAMES = pages() + OTHERS
POLICY = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-hashes'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
}
# The theme's inline event handlers, and why they may stay. None is ours.
HANDLERS = {"window.print()": "the theme's button Print to PDF"}
# The beginnings of inline scripts that the pages may hold, and whose they are.
SCRIPTS = {
    "document.documentElement.dataset.mode": "theme: light or dark, before it shows",
    'if ((localStorage.getItem("mode")': "ours: the system's light or dark, before it shows",
    "DOCUMENTATION_OPTIONS.": "theme: the page's name, the search as one types",
    "var togglebuttonSelector": "sphinx-togglebutton",
    "let toggle": "sphinx-togglebutton",
    "window.MathJax =": "Sphinx: MathJax's options",
    "kernelName =": "MyST-NB: the name of the notebook's kernel",
    "// Activate the search field": "theme: the search page",
}
NOTE = """() => {
  window.violations = [];
  document.addEventListener("securitypolicyviolation", (e) => window.violations.push(
    `${e.effectiveDirective} ${e.blockedURI} ${e.sourceFile}:${e.lineNumber} ${e.sample}`));
}"""


class Inline(HTMLParser):
    """Inline scripts, event handlers and script addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.scripts, self.handlers, self.addresses, self._open = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.handlers += [v for k, v in attributes if k.startswith("on")]
        self.addresses += [
            v for v in given.values() if (v or "").strip().startswith("javascript:")
        ]
        kind = given.get("type", "text/javascript")
        if tag == "script" and "src" not in given and "javascript" in kind:
            self.scripts.append("")
            self._open = True

    def handle_data(self, text):
        if self._open:
            self.scripts[-1] += text

    def handle_endtag(self, tag):
        self._open = self._open and tag != "script"


@cache
def inline(name: str) -> Inline:
    return Inline((HTML / name).read_text("utf8"))


def hashes() -> set[str]:
    """What `script-src` has to name: of inline scripts and handlers of all pages."""
    texts = {t for n in NAMES for t in inline(n).scripts} | set(HANDLERS)
    digests = (hashlib.sha256(t.encode()).digest() for t in texts)
    return {f"'sha256-{base64.b64encode(d).decode()}'" for d in digests}


@cache
def policy() -> str:
    parts = POLICY | {"script-src": " ".join([POLICY["script-src"], *sorted(hashes())])}
    return "; ".join(f"{name} {value}" for name, value in parts.items())


class Strict(Quiet):
    def end_headers(self):
        self.send_header("Content-Security-Policy", policy())
        super().end_headers()


@pytest.fixture(scope="module")
def strict():
    with served(Strict) as address:
        yield address


@pytest.fixture
def opened(browser, strict):
    """Open a page; afterwards nothing may have been blocked or gone wrong."""
    context, said = browser.new_context(color_scheme="light"), []
    context.add_init_script(f"({NOTE})()")
    page = context.new_page()
    page.on("console", lambda m: m.type == "error" and said.append(m.text))
    page.on("pageerror", lambda e: said.append(str(e)))

    def open_page(name):
        page.goto(strict + name, wait_until="load")
        page.evaluate(READY)
        return page

    yield open_page
    assert page.evaluate("() => window.violations") == []
    context.close()
    assert said == []


@pytest.mark.parametrize("name", NAMES)
def test_page_works_under_the_policy(opened, name):
    page = opened(name)
    assert page.locator("mjx-merror").count() == 0
    if page.locator(".math").count():
        assert page.locator(".math:not(:has(mjx-container))").count() == 0
    page.locator("button.theme-switch-button:visible").first.click()
    for fold in page.locator(".dropdown .toggle-button:visible").all()[:1]:
        fold.click()


def test_search_works_under_the_policy(opened):
    page = opened("search.html?q=epsilon")
    page.wait_for_selector("#search-results li a", timeout=10_000)


def test_playground_works_under_the_policy(opened):
    page = opened("book/playground.html")
    page.wait_for_selector(".playground.pg-ready >> nth=2")
    page.get_by_role("button", name="Ten batches").click()
    page.get_by_role("button", name="Train").click()
    page.wait_for_timeout(300)


def test_print_button_works_under_the_policy(opened):
    page = opened(NAMES[0])
    page.evaluate("() => { window.print = () => { window.printed = true } }")
    page.evaluate("() => document.querySelector('[onclick]').click()")
    assert page.evaluate("() => window.printed")


def test_the_policy_stops_a_script_that_nobody_named(browser, strict):
    page = browser.new_page()
    page.goto(strict + NAMES[0])
    page.evaluate(
        """() => { const s = document.createElement("script");
          s.textContent = "window.intruder = true"; document.body.append(s); }"""
    )
    assert not page.evaluate("() => window.intruder")
    page.close()


def test_a_header_can_carry_the_policy():
    assert "unsafe-eval" not in policy()
    assert "'unsafe-inline'" not in policy().partition("style-src")[0]
    assert len(policy()) < 7_000  # servers take 8 KB


@pytest.mark.parametrize("name", NAMES)
def test_no_inline_handlers_or_scripts_but_the_themes(name):
    found = inline(name)
    assert set(found.handlers) <= set(HANDLERS)
    assert found.addresses == []
    starts = tuple(SCRIPTS)
    assert [s for s in found.scripts if not s.strip().startswith(starts)] == []


def test_handlers_and_scripts_are_found():
    page = Inline("<a href='javascript:x' onclick='y'></a><script>z &lt;</script>")
    assert (page.handlers, page.scripts) == (["y"], ["z &lt;"])
    assert page.addresses == ["javascript:x"]
