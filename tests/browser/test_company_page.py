"""The figure of a digit and its company as a reader uses it: by mouse, finger and keyboard."""

from __future__ import annotations

import playground
import pytest
from test_live_figures import PAGES, SETTLED, drawn, figure, press
from test_pages import OVERFLOW, violations

api = pytest.importorskip("playwright.sync_api")

NAME = "company"
STATE = "(box) => box.playground.state()"
NUMBERS = "(box) => box.playground.numbers()"


@pytest.fixture
def opened(visit, site):
    page, trouble = visit(site + PAGES[NAME])
    yield page, figure(page, NAME)
    assert trouble == []


@pytest.fixture
def on_phone(browser, site):
    """The figure on a screen that is touched, and what touches it."""
    size = {"width": 390, "height": 800}
    context = browser.new_context(viewport=size, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(site + PAGES[NAME])
    yield page, figure(page, NAME), context.new_cdp_session(page)
    context.close()


def company(box):
    return box.evaluate(STATE)["company"]


def pool(box, i):
    return box.locator(".cp-pool .cp-digit").nth(i)


def slot(box, at):
    return box.locator(".cp-batch button.cp-digit").nth(at)


def middle(place):
    box = place.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*((a + b) / 2 for a, b in zip(start, end)))
    page.mouse.move(*end)
    page.mouse.up()
    drawn(page)


def shown(page, box, kind):
    """The numbers behind the bars: percentages, then counts."""
    drawn(page)
    bars = box.locator(f'[data-of^="{kind} "]').all_text_contents()
    return [int(text.removesuffix(" %")) for text in bars]


def test_the_bars_show_the_models_numbers(opened):
    page, box = opened
    for mode, kind in (("norm2", "train"), ("eval()", "eval"), ("train()", "train")):
        exact = mode != "norm2"
        box.get_by_role("radio", name=mode, exact=exact).check()
        for asked in ("3", "6"):
            box.get_by_label("Asked about", exact=True).select_option(asked)
            api.expect(box.locator(f'[data-of^="{kind} "]')).to_have_count(
                20, **SETTLED
            )
            api.expect(box.locator(".pg-words")).to_contain_text(
                f"this {asked} is read"
            )
            want = box.evaluate(NUMBERS)
            got = shown(page, box, kind)
            assert got[:10] == pytest.approx(
                [100 * p for p in want["probabilities"]], abs=0.5001
            )
            assert got[10:] == want["counts"]
            lengths = box.locator("g:nth-of-type(2) > rect.cp-bar").evaluate_all(
                "all => all.map((e) => +e.getAttribute('width'))"
            )
            counts = [c for c in want["counts"] if c]
            scale = sum(lengths) / 200
            assert lengths == pytest.approx([scale * c for c in counts], rel=1e-6)


def test_a_click_puts_in_and_takes_out(opened):
    page, box = opened
    press(box, "Take all out")
    pool(box, 4).click()
    pool(box, 29).click()
    drawn(page)
    assert company(box) == [4, 29]
    api.expect(slot(box, 1)).to_have_accessible_name("Take out a 9, the third")
    slot(box, 0).click()
    drawn(page)
    assert company(box) == [29]
    api.expect(slot(box, 1)).to_be_disabled()


def test_a_mouse_drags_in_onto_and_out(opened):
    page, box = opened
    before = company(box)
    box.locator(".cp-batch").scroll_into_view_if_needed()
    drag(page, middle(pool(box, 12)), middle(slot(box, 2)))
    assert company(box) == [*before[:2], 12, *before[3:]]
    drag(page, middle(slot(box, 2)), middle(pool(box, 20)))
    assert company(box) == [*before[:2], *before[3:]]
    drag(page, middle(pool(box, 0)), middle(box.locator(".cp-asked")))
    assert company(box) == [*before[:2], *before[3:], 0]  # behind the rest
    drag(page, middle(slot(box, 0)), middle(slot(box, 3)))
    drag(page, middle(pool(box, 0)), middle(pool(box, 9)))
    assert company(box) == [*before[:2], *before[3:], 0]  # from and to the same side
    assert box.locator(".cp-ghost").count() == 0


def test_after_a_drag_a_click_is_a_click_again(opened):
    page, box = opened
    press(box, "Take all out")
    drag(page, middle(pool(box, 3)), middle(slot(box, 0)))
    pool(box, 3).click()
    drawn(page)
    assert company(box) == [3, 3]


def test_keys_put_in_and_take_out_from_two_tab_stops(opened):
    page, box = opened
    press(box, "Take all out")
    stops = box.locator("button.cp-digit").evaluate_all(
        "all => all.filter((b) => b.tabIndex === 0 && !b.disabled).length"
    )
    assert stops == 1  # the batch is empty
    pool(box, 0).focus()
    for key in ("ArrowRight", "ArrowDown", "Enter", "ArrowDown", "Space", "ArrowLeft"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    drawn(page)
    assert company(box) == [7, 13, 12]
    slot(box, 0).focus()
    page.keyboard.press("ArrowDown")
    api.expect(slot(box, 2)).to_be_focused()
    page.keyboard.press("Enter")
    api.expect(slot(box, 1)).to_be_focused()  # the place that had the focus is empty
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert company(box) == []
    assert page.evaluate("document.activeElement.closest('.cp-pool') !== null")


def test_one_alone_is_refused_in_training_mode_only(opened):
    _, box = opened
    press(box, "Take all out")
    words = box.locator(".pg-words")
    api.expect(words).to_contain_text("Expected more than 1 value per channel")
    api.expect(box.locator(".cp-bar")).to_have_count(0)
    box.get_by_role("radio", name="eval()", exact=True).check()
    api.expect(words).to_contain_text(
        "alone in the batch, this 6 is read as 6", **SETTLED
    )


def test_in_eval_the_bars_stand_still(opened):
    page, box = opened
    box.get_by_role("radio", name="eval()", exact=True).check()
    api.expect(box.locator('[data-of^="eval "]')).to_have_count(20, **SETTLED)
    before = shown(page, box, "eval")
    for i in (0, 7, 25):
        pool(box, i).click()
        assert shown(page, box, "eval") == before


def test_no_grad_stops_nothing_and_eval_does(opened):
    page, box = opened
    left, no_grad = box.locator(".cp-left"), box.get_by_role("radio", name="no_grad()")
    api.expect(left).to_contain_text("records a graph for backward(). It moves")
    before = shown(page, box, "train"), box.evaluate(NUMBERS)["moved"]
    no_grad.check()
    api.expect(left).to_contain_text("records no graph for backward(). It still moves")
    assert (shown(page, box, "train"), box.evaluate(NUMBERS)["moved"]) == before
    for k, far in enumerate(before[1], 1):
        api.expect(left).to_contain_text(f"norm{k} by up to {far:.3f}")
    spoken = box.locator("[aria-live=polite]")
    api.expect(spoken).to_contain_text("It still moves", **SETTLED)
    box.get_by_role("radio", name="eval()", exact=True).check()
    api.expect(left).to_contain_text("because of eval(), not because of no_grad()")
    box.get_by_role("radio", name="norm2").check()
    api.expect(left).to_contain_text("the running mean of norm2")
    api.expect(left).not_to_contain_text("norm1")


def test_keys_and_a_finger_turn_no_grad_on_and_off(opened, on_phone):
    page, box = opened
    box.get_by_role("radio", name="recorded").focus()
    page.keyboard.press("ArrowRight")
    api.expect(box.locator(".cp-left")).to_contain_text("Under no_grad()")
    page.keyboard.press("ArrowLeft")
    api.expect(box.locator(".cp-left")).not_to_contain_text("no_grad()")
    _, box, _ = on_phone
    box.get_by_role("radio", name="no_grad()").tap()
    api.expect(box.locator(".cp-left")).to_contain_text("Under no_grad()")


def test_the_newest_choice_is_what_is_counted(opened):
    page, box = opened
    for asked in "0123456789":
        box.get_by_label("Asked about", exact=True).select_option(asked)
    box.get_by_role("radio", name="norm2").check()
    words = box.locator(".pg-words")
    api.expect(words).to_contain_text("In eval(), but norm2 in train()", **SETTLED)
    api.expect(words).to_contain_text("this 9")
    assert shown(page, box, "train")[10:] == box.evaluate(NUMBERS)["counts"]


def test_a_tap_puts_in(on_phone):
    page, box, _ = on_phone
    press(box, "Take all out")
    pool(box, 16).tap()
    drawn(page)
    assert company(box) == [16]
    slot(box, 0).tap()
    drawn(page)
    assert company(box) == []


def touched(page, touch, points):
    """A finger that goes along points."""
    for k, (x, y) in enumerate(points):
        kind = "touchMove" if k else "touchStart"
        touch.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": x, "y": y}]},
        )
        page.wait_for_timeout(10)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_timeout(300)


def test_a_finger_drags_sideways_and_scrolls_up_and_down(on_phone):
    page, box, touch = on_phone
    press(box, "Take all out")
    box.locator(".cp-pool").scroll_into_view_if_needed()
    (x, y), (to_x, to_y) = middle(pool(box, 1)), middle(slot(box, 0))
    ways = [(x + (to_x - x) * k / 12, y + (to_y - y) * k / 12) for k in range(13)]
    touched(page, touch, ways)
    assert company(box) == [1]
    top = page.evaluate("scrollY")
    x, y = middle(pool(box, 8))
    touched(page, touch, [(x, y - 12 * k) for k in range(14)])
    assert page.evaluate("scrollY") > top + 50
    assert company(box) == [1]
    assert box.locator(".cp-ghost").count() == 0


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 800, 1400])
def test_started_it_fits_and_axe_finds_nothing(visit, site, width, mode):
    page, trouble = visit(site + PAGES[NAME], mode, width)
    box = figure(page, NAME)
    press(box, "Take all out")
    pool(box, 3).click()
    page.wait_for_timeout(300)  # colours fade
    assert page.evaluate(OVERFLOW) <= 0
    cut = box.locator(".pg-picture").evaluate(
        """picture => [...picture.querySelectorAll("text")].filter((text) =>
          text.getBoundingClientRect().right > picture.getBoundingClientRect().right + 0.5
        ).map((text) => text.textContent)"""
    )
    assert cut == []
    assert violations(page) == []
    assert trouble == []


def test_with_reduced_motion_it_works_the_same(browser, site):
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(site + PAGES[NAME])
    box = figure(page, NAME)
    press(box, "7 of a kind")
    api.expect(box.locator(".pg-words")).to_contain_text("read as 6 (60 %)", **SETTLED)
    context.close()


def test_no_frame_waits_for_the_count(opened):
    page, _ = opened
    slices = page.evaluate(
        """async () => {
          const { initial, counting } = bnPlay.models.company;
          const work = counting({ ...initial(), asked: 2, mode: "one" }), times = [];
          for (let start = performance.now(); !work.next().done; start = performance.now())
            times.push(performance.now() - start);
          return times.sort((a, b) => a - b);
        }"""
    )
    assert len(slices) == 200
    assert slices[100] < 5


def test_in_the_clinic_one_norm_was_forgotten(visit, site):
    page, trouble = visit(site + "notebooks/17_clinic.html")
    box = figure(page, NAME)
    api.expect(box.get_by_role("radio", name="norm2")).to_be_checked()
    api.expect(box.locator(".pg-words")).to_contain_text("norm2 in train()", **SETTLED)
    assert trouble == []


def test_without_scripts_the_still_stands_in_its_place(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site + PAGES[NAME])
    place = page.locator(f'.playground[data-playground="{NAME}"]')
    api.expect(place.locator(".pg-still svg")).to_be_visible()
    api.expect(place.locator(".pg-static")).to_have_text(playground.figure(NAME).text)
    context.close()
