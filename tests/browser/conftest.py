"""What the browser tests share: a server, a browser, and pages that note what goes wrong."""

from __future__ import annotations

from urllib.parse import urljoin

import pytest
from browsers import NAMES, installed
from built import READY, served
from playground import SCRIPTS as PLAYGROUND


@pytest.fixture(scope="session")
def site():
    with served() as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    """One browser for a worker. Where Playwright is not installed, what needs it is skipped."""
    api = pytest.importorskip("playwright.sync_api")
    found = installed()
    assert found, f"no browser: install one of {', '.join(NAMES)}"
    with api.sync_playwright() as p:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = p.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def js(browser, request):
    """Evaluate a JavaScript function of one argument next to a module's SCRIPTS, without a page."""
    page = browser.new_page()
    for name in request.module.SCRIPTS:
        page.add_script_tag(path=PLAYGROUND / f"{name}.js")
    yield page.evaluate
    page.close()


@pytest.fixture
def visit(browser):
    """Open an address; return the page and what went wrong while it loaded.

    Further settings of the reader's browser, such as ``reduced_motion="reduce"``, may follow.
    """
    contexts = []

    def visit(url, mode="light", width=1400, **settings):
        size = {"width": width, "height": 900}
        context = browser.new_context(viewport=size, color_scheme=mode, **settings)
        contexts.append(context)
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
