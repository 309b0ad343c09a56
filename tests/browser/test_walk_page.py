"""The figure of the scale-free walk as a reader uses it: by mouse, finger and keyboard."""

from __future__ import annotations

import os
import re

import pytest
from test_live_figures import PAGES, SETTLED, drawn, figure, press, to_step
from test_pages import OVERFLOW, violations

api = pytest.importorskip("playwright.sync_api")

NAME = "walk"
STATE = "(box) => box.playground.state()"
NUMBERS = "(box) => box.playground.numbers()"


@pytest.fixture
def opened(visit, site):
    page, trouble = visit(site + PAGES[NAME])
    yield page, figure(page, NAME)
    assert trouble == []


def way(page, box):
    """The points of the way, in units of the plane, from its middle."""
    drawn(page)
    return box.evaluate(
        """(box) => {
          const middle = box.querySelector(".wk-dot");
          const all = [...box.querySelectorAll(".wk-circle")].map((c) => +c.getAttribute("r"));
          const [x, y] = ["cx", "cy"].map((k) => +middle.getAttribute(k));
          const labels = [...box.querySelectorAll(".wk-circle + text")].map((t) => +t.textContent);
          const unit = all[2] / labels[2];
          const d = box.querySelector(".wk-way").getAttribute("d");
          const points = d.slice(1).split("L").map((point) => point.split(" "));
          return points.map(([a, b]) => [(a - x) / unit, (y - b) / unit]);
        }"""
    )


@pytest.mark.parametrize("step", [0, 3, 60])
def test_the_way_is_the_models(opened, step):
    page, box = opened
    to_step(box, step)
    points, want = way(page, box), box.evaluate(NUMBERS)["w"]
    assert len(points) == step + 1
    for point, w in zip(points, want):
        assert point == pytest.approx(w, abs=5e-4)


def test_next_takes_a_step_and_play_goes_on(opened):
    _, box = opened
    press(box, "Next")
    words = box.locator(".pg-words")
    api.expect(words).to_contain_text("After 1 step: |w| = 1.004")
    press(box, "Play")
    api.expect(words).to_contain_text(
        re.compile(r"After (\d\d|[6-9]) steps"), timeout=9000
    )
    press(box, "Pause")
    drawn(box.page)
    assert 6 <= box.evaluate(STATE)["t"] < 200


def test_a_mouse_drags_the_start(opened):
    page, box = opened
    plane, grip = box.locator(".wk-plane svg"), box.locator(".wk-handle")
    plane.scroll_into_view_if_needed()
    area, held = plane.bounding_box(), grip.bounding_box()
    x, y = held["x"] + held["width"] / 2, held["y"] + held["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    middle = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
    page.mouse.move(middle[0] + 3, middle[1] + 40, steps=4)
    page.mouse.move(middle[0], middle[1] + (y - middle[1]) * -1.16, steps=4)
    page.mouse.up()
    drawn(page)
    state = box.evaluate(STATE)
    assert state["angle"] == -90
    assert state["length"] == pytest.approx(1)
    api.expect(box.get_by_role("slider", name="Start: angle")).to_have_value("-90")


def test_keys_move_the_start(opened):
    page, box = opened
    box.get_by_role("slider", name="Start: angle").press("ArrowRight")
    box.get_by_role("slider", name="Start: length").press("ArrowRight")
    drawn(page)
    state = box.evaluate(STATE)
    assert state["angle"] == 125
    assert state["length"] == pytest.approx(2**0.25)


def test_a_finger_drags_the_start_and_the_page_stays(browser, site):
    size = {"width": 390, "height": 800}
    context = browser.new_context(viewport=size, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(site + PAGES[NAME])
    box = figure(page, NAME)
    box.locator(".wk-handle").scroll_into_view_if_needed()
    held, touch = (
        box.locator(".wk-handle").bounding_box(),
        context.new_cdp_session(page),
    )
    assert held["width"] >= 24
    top = page.evaluate("scrollY")
    x, y = held["x"] + held["width"] / 2, held["y"] + held["height"] / 2
    for k in range(12):
        kind = "touchMove" if k else "touchStart"
        point = {"x": x, "y": y - 6 * k}
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
        page.wait_for_timeout(10)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_timeout(300)
    assert page.evaluate("scrollY") == top
    assert box.evaluate(STATE)["length"] > 1.4
    context.close()


def test_decay_brings_the_line_of_the_balance(opened):
    _, box = opened
    line = box.locator(".pg-line.pg-theory")
    api.expect(line).to_have_attribute("d", "")
    box.get_by_role("slider", name="Weight decay").fill("5")
    api.expect(line).not_to_have_attribute("d", "")
    api.expect(box.locator(".pg-words")).to_contain_text("In balance the turn is")


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 800, 1400])
def test_started_it_fits_and_axe_finds_nothing(visit, site, width, mode):
    page, trouble = visit(site + PAGES[NAME], mode, width)
    box = figure(page, NAME)
    to_step(box, 200)
    page.wait_for_timeout(300)  # colours fade
    assert page.evaluate(OVERFLOW) <= 0
    assert violations(page) == []
    assert trouble == []


def test_with_reduced_motion_it_goes_whole_steps(browser, site):
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(site + PAGES[NAME])
    box = figure(page, NAME)
    press(box, "Play")
    times = []
    while len(times) < 20:
        times.append(box.evaluate(STATE)["t"])
        page.wait_for_timeout(40)
    assert all(t == int(t) for t in times) and times[-1] > 1
    context.close()


def test_a_frame_takes_less_than_eight_milliseconds(opened):
    page, _ = opened
    took = page.evaluate(
        """async () => {
          const box = document.querySelector("[data-playground=walk]");
          const frame = () => new Promise((done) => requestAnimationFrame(done));
          const inputs = box.querySelectorAll("input[type=range]"), times = [];
          inputs[4].value = 200;
          inputs[4].dispatchEvent(new Event("input"));
          await frame();
          await frame();
          for (let k = 0; k < 40; k++) {
            inputs[0].value = -100 + 5 * k;
            const own = window.requestAnimationFrame;
            let paint;
            window.requestAnimationFrame = (f) => (paint = f);
            inputs[0].dispatchEvent(new Event("input"));
            window.requestAnimationFrame = own;
            const start = performance.now();
            if (paint) paint();
            times.push(performance.now() - start);
          }
          return times.sort((a, b) => a - b)[20];
        }"""
    )
    busy = os.getloadavg()[0] > (os.cpu_count() or 1) / 2
    assert 0 < took < 8 or busy


def test_in_chapter_12_there_is_decay(visit, site):
    page, trouble = visit(site + "notebooks/12_why_it_works.html")
    box = figure(page, NAME)
    to_step(box, 200)
    api.expect(box.locator(".pg-words")).to_contain_text("last 50 steps was", **SETTLED)
    assert trouble == []
