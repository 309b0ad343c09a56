"""Pages under forced colours, as a contrast theme of Windows sets them: what stays to be seen."""

from __future__ import annotations

import pytest
from test_live_figures import PAGES as LIVE
from test_live_figures import figure

api = pytest.importorskip("playwright.sync_api")

PAGES = {
    **LIVE,
    "norms": "notebooks/14_convolutions_and_relatives.html",
    "batch": "book/playground.html",
    "running": "book/playground.html",
    "network": "book/playground.html",
}
CHAPTER = "notebooks/03_backward.html"
figures = pytest.mark.parametrize("name", PAGES)
both = pytest.mark.parametrize("mode", ["light", "dark"])

# Colours as the browser paints them: a canvas reads any notation.
COLOURS = """
  const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  function rgba(colour) {
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  }
  const over = (top, below, opacity = 1) => {
    const a = top[3] * opacity;
    return [0, 1, 2].map((k) => a * top[k] + (1 - a) * below[k]).concat(1);
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const contrast = (one, two) => {
    const [a, b] = [light(one), light(two)].sort((p, q) => q - p);
    return (a + 0.05) / (b + 0.05);
  };
  const CANVAS = rgba("Canvas");
  // What is behind an element of HTML.
  function ground(node) {
    const all = [];
    for (let e = node; e; e = e.parentElement) all.push(rgba(getComputedStyle(e).backgroundColor));
    return all.reverse().reduce((below, top) => over(top, below), CANVAS);
  }
  const seen = (e) => e.checkVisibility({ visibilityProperty: true }) && e.getClientRects().length;
  const short = (e) => e.outerHTML.slice(0, 120);
"""

# Controls without a border or a ground of their own, or with words that cannot be read.
CONTROLS = f"""(root, what) => {{ {COLOURS}
  return [...root.querySelectorAll(what)].filter(seen).filter((e) => {{
    const style = getComputedStyle(e), own = ground(e), outside = ground(e.parentElement);
    const edge = ["Top", "Right", "Bottom", "Left"].some((side) =>
      parseFloat(style[`border${{side}}Width`]) > 0 && style[`border${{side}}Style`] !== "none" &&
      contrast(rgba(style[`border${{side}}Color`]), outside) >= 3);
    const wordless = !e.textContent.trim() || e.querySelector("svg");
    const legible = wordless || contrast(rgba(style.color), own) >= 4.5;
    return !legible || !(edge || contrast(own, outside) >= 3);
  }}).map(short);
}}"""

# Shapes of a picture that are painted like what is behind them. Not counted: what is meant to be
# unseen (places to hit), grounds, and values, which are written in their cells as well.
SHAPES = f"""(root) => {{ {COLOURS}
  const grounds = ".pg-reach, .pg-paper, .pg-ink, .pg-grid, .nm-ground, .nm-mini, .dp-layer, " +
    ".cp-right, .cp-digit, .gr-value";
  const values = ".pg-above, .pg-below";
  return [...root.querySelectorAll("svg :is(path, rect, line, circle)")]
    .filter((e) => seen(e) && !e.closest(grounds) && !e.matches(values))
    .filter((e) => e.getAttribute("d") !== "")
    .filter((e) => {{
      let opacity = 1;
      for (let p = e; p.tagName !== "svg"; p = p.parentElement)
        opacity *= getComputedStyle(p).opacity;
      if (opacity < 0.05) return false; // not shown yet
      const style = getComputedStyle(e);
      const paint = (kind) => style[kind] !== "none" &&
        contrast(over(rgba(style[kind]), CANVAS, style[`${{kind}}Opacity`] * opacity), CANVAS) >= 2;
      return !paint("fill") && !paint("stroke");
    }}).map(short);
}}"""

# Words in a picture that cannot be read where they stand: on the canvas, a value or a handle.
WORDS = f"""(root) => {{ {COLOURS}
  const behind = (e) => {{
    const before = [...e.parentNode.children].filter((one) => one.matches("rect, circle, path") &&
      one.matches(".pg-above, .pg-below, .pg-dot, .nm-ground"));
    return before.reduce((below, one) => {{
      const style = getComputedStyle(one);
      return style.fill === "none" ? below : over(rgba(style.fill), below, +style.fillOpacity);
    }}, CANVAS);
  }};
  return [...root.querySelectorAll("svg text")].filter((e) => seen(e) && e.textContent.trim())
    .filter((e) => contrast(rgba(getComputedStyle(e).fill), behind(e)) < 4.5).map(short);
}}"""

# How a control that is on differs from its neighbours that are off: ground or border.
STATES = f"""(root, [on, off]) => {{ {COLOURS}
  const look = (e) => {{
    const style = getComputedStyle(e);
    const border = style.borderTopWidth + style.borderTopStyle + style.borderTopColor;
    return {{ ground: ground(e), border }};
  }};
  const others = [...root.querySelectorAll(off)].filter(seen).map(look);
  return [...root.querySelectorAll(on)].filter(seen).filter((e) => others.some((other) =>
    contrast(look(e).ground, other.ground) < 3 && look(e).border === other.border)).map(short);
}}"""
# Without a border: what is an icon in a card that has one.
BUTTONS = "button:not(.copybtn, .toggle-button), select, .pg-choice span, .predict-answers label"


@pytest.fixture
def forced(visit, site):
    """Open a page under forced colours, whatever theme was chosen in the page."""

    def opened(name, mode, theme=None):
        page, _ = visit(site + name, mode, forced_colors="active")
        assert page.evaluate("matchMedia('(forced-colors: active)').matches")
        page.evaluate(
            "(theme) => document.documentElement.dataset.theme = theme", theme or mode
        )
        page.wait_for_timeout(300)  # colours fade
        return page

    return opened


@both
@figures
def test_a_live_figure_can_be_seen_and_used(forced, name, mode):
    page = forced(PAGES[name], mode)
    box = figure(page, name)
    page.wait_for_timeout(500)
    assert box.evaluate(CONTROLS, BUTTONS) == []
    assert box.evaluate(SHAPES) == []
    assert box.evaluate(WORDS) == []


@both
@figures
def test_a_chosen_theme_makes_no_difference(forced, name, mode):
    """The reader's colours count, not the theme that was chosen in the page."""
    page = forced(PAGES[name], mode, theme="dark" if mode == "light" else "light")
    box = figure(page, name)
    page.wait_for_timeout(500)
    assert box.evaluate(SHAPES) == []
    assert box.evaluate(WORDS) == []


@both
def test_the_last_steps_of_a_figure_can_be_seen(forced, mode):
    for name, last in (("graph", "21"), ("walk", "20"), ("norms", "3.5")):
        box = figure(forced(PAGES[name], mode), name)
        box.get_by_role("slider", name="Step").fill(last)
        box.page.wait_for_timeout(300)
        assert box.evaluate(SHAPES) == []
        assert box.evaluate(WORDS) == []


@both
@pytest.mark.parametrize(
    ("name", "on", "off"),
    [
        (
            "company",
            ".pg-choice input:checked + span",
            ".pg-choice input:not(:checked) + span",
        ),
        (
            "norms",
            ".pg-choice input:checked + span",
            ".pg-choice input:not(:checked) + span",
        ),
        ("deep", ".dp-toggles [aria-pressed=true]", ".dp-toggles [aria-pressed=false]"),
    ],
)
def test_what_is_on_differs_by_more_than_weight(forced, name, on, off, mode):
    box = figure(forced(PAGES[name], mode), name)
    if name == "deep":
        box.get_by_role("button", name="Layer 12", exact=True).click()
    assert box.locator(on).count() > 0
    assert box.evaluate(STATES, [on, off]) == []
    assert box.evaluate(CONTROLS, on) == []


@both
def test_digits_stay_ink_on_paper(forced, mode):
    box = figure(forced(PAGES["company"], mode), "company")
    found = box.locator(".cp-digit:has(path)").evaluate_all(
        f"""all => {{ {COLOURS}
          const ink = (e) => rgba(getComputedStyle(e.querySelector("path")).fill);
          return all.map((e) => contrast(ink(e), ground(e)));
        }}"""
    )
    assert len(found) == 38
    assert min(found) > 7


@both
def test_the_switch_predictions_and_cards_of_a_page(forced, mode):
    page = forced(CHAPTER, mode)
    body = page.locator("body")
    switch = ".code-switch [aria-pressed={}]".format
    assert page.locator(switch("true")).count() == 1
    assert body.evaluate(STATES, [switch("true"), switch("false")]) == []
    asked = page.locator(".predict").first
    asked.scroll_into_view_if_needed()
    asked.locator("label").first.click()
    on, off = (f".predict-answers label:{one}(:checked)" for one in ("has", "not(:has"))
    off += ")"
    assert page.locator(on).count() == 1
    assert body.evaluate(STATES, [on, off]) == []
    assert page.locator("article").evaluate(CONTROLS, BUTTONS) == []
    cards = ".admonition, .exercise, .predict"
    assert page.locator("article").evaluate(CONTROLS, cards) == []


@both
def test_verdicts_keep_their_frame_and_words(forced, mode):
    page = forced("book/claims.html", mode)
    chips = page.locator(".verdict")
    assert chips.count() > 10
    assert page.locator("article").evaluate(CONTROLS, ".verdict") == []


@both
def test_the_search_can_be_used(forced, mode):
    page = forced("search.html?q=momentum", mode)
    page.locator("#search-results li").first.wait_for()
    field = page.locator("article form.bd-search, main form.bd-search").first
    assert field.locator("xpath=..").evaluate(CONTROLS, "form.bd-search") == []
    field.locator("input").focus()
    ring = field.evaluate("e => getComputedStyle(e).outlineWidth")
    assert ring == "3px"


@both
def test_the_focus_is_seen(forced, mode):
    """Each of twelve stops of the Tab key has a ring."""
    page = forced(PAGES["company"], mode)
    figure(page, "company")
    page.locator('[data-playground="company"] input').first.focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        found = page.evaluate(
            f"""() => {{ {COLOURS}
              let e = document.activeElement;
              if (e.matches(".pg-choice input")) e = e.nextElementSibling;
              const style = getComputedStyle(e);
              return {{ width: parseFloat(style.outlineWidth), style: style.outlineStyle,
                contrast: contrast(rgba(style.outlineColor), CANVAS), what: short(e) }};
            }}"""
        )
        assert found["width"] >= 2 and found["style"] != "none", found
        assert found["contrast"] >= 3, found
