"""Every built page under axe-core, in light and in dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import pages

axe = pytest.importorskip("axe_playwright_python")
NAMES = pages()
AXE = (Path(axe.__file__).parent / "axe.min.js").read_text("utf8")

# The theme's, on every page; nothing of ours.
KNOWN = {
    "region": "the title above the sidebar is outside of the theme's landmarks",
}


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_page_is_accessible(visit, site, name, mode):
    page, _ = visit(site + name, mode)
    page.evaluate(AXE)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    new = [v for v in found["violations"] if v["id"] not in KNOWN]
    assert not new, "\n".join(
        f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]}" for v in new
    )


def test_axe_finds_a_picture_without_a_text(visit, site):
    page, _ = visit(site + NAMES[0])
    page.evaluate("() => document.querySelector('article').append(new Image())")
    page.evaluate(AXE)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    assert "image-alt" in {v["id"] for v in found["violations"]}
