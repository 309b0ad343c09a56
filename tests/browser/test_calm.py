"""Pages for readers who want less motion: what plays goes in few jumps, and nothing slides."""

from __future__ import annotations

import pytest
from test_forced_colours import PAGES
from test_live_figures import drawn, figure, press

api = pytest.importorskip("playwright.sync_api")

# What starts a figure that plays by itself.
PLAYS = {
    "graph": "Play",
    "walk": "Play",
    "norms": "Play",
    "running": "Play",
    "network": "Train",
}
# How often the picture changes in some time; what follows within 0.1 s belongs to the same change.
CHANGES = """(box, ms) => new Promise((done) => {
  const seen = () => [...box.querySelectorAll("svg, input, output, .wk-handle")]
    .map((e) => e.outerHTML + (e.value ?? "")).join("");
  const end = performance.now() + ms;
  let before = seen(), count = 0, last = -Infinity;
  const frame = () => {
    const now = seen(), time = performance.now();
    if (now !== before && time - last > 100) {
      count += 1;
      last = time;
    }
    before = now;
    if (performance.now() < end) requestAnimationFrame(frame);
    else done(count);
  };
  requestAnimationFrame(frame);
})"""
SLIDES = """() => document.getAnimations().filter((one) =>
  one.effect.getComputedTiming().duration > 10
).map((one) => one.effect.target.outerHTML.slice(0, 90))"""


@pytest.fixture
def calm(visit, site):
    def opened(name, motion="reduce"):
        page, _ = visit(site + name, reduced_motion=motion)
        return page

    return opened


@pytest.mark.parametrize("name", PLAYS)
def test_what_plays_goes_in_few_jumps(calm, name):
    page = calm(PAGES[name])
    box = figure(page, name)
    drawn(page)
    press(box, PLAYS[name])
    changes = box.evaluate(CHANGES, 3000)
    assert 1 <= changes <= 7  # twice a second, and the first
    assert page.evaluate(SLIDES) == []


def test_in_motion_the_same_figure_changes_all_the_time(calm):
    """So that the test above can fail."""
    page = calm(PAGES["graph"], "no-preference")
    box = figure(page, "graph")
    press(box, "Play")
    assert box.evaluate(CHANGES, 1000) > 4


@pytest.mark.parametrize("name", sorted(set(PAGES) - set(PLAYS)))
def test_what_does_not_play_rests(calm, name):
    page = calm(PAGES[name])
    box = figure(page, name)
    page.wait_for_timeout(1500)
    assert box.evaluate(CHANGES, 1000) == 0
    assert page.evaluate(SLIDES) == []


def test_a_pause_goes_on_from_what_is_shown(calm):
    page = calm(PAGES["walk"])
    box = figure(page, "walk")
    time = "(box) => box.playground.state().t"
    press(box, "Play")
    page.wait_for_timeout(1900)
    press(box, "Pause")
    drawn(page)
    at = box.evaluate(time)
    assert at > 0 and at % 5 == 0
    press(box, "Next")
    drawn(page)
    assert box.evaluate(time) == at + 1
    press(box, "Back")
    drawn(page)
    assert box.evaluate(time) == at


def test_the_sidebar_does_not_slide(calm):
    page = calm(PAGES["walk"])
    page.locator("button.primary-toggle:visible").first.click()
    drawn(page)
    assert page.evaluate(SLIDES) == []
