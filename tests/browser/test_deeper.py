"""The folds of "Going deeper": closed at first; a link, a search and paper open them."""

from __future__ import annotations

PAGE = "notebooks/02_forward.html"
BOXED, FORMULA = "notebooks/03_backward.html", "equation-eq-03-affine"
ANCHOR = "does-it-make-the-data-gaussian"


def state(page):
    return page.evaluate(
        "[...document.querySelectorAll('details.deeper')].map(fold => fold.open)"
    )


def test_folds_are_closed_and_their_headings_are_in_sight(visit, site):
    page, trouble = visit(f"{site}{PAGE}")
    assert state(page) == [False] * len(state(page)) != []
    assert page.is_visible(f"#{ANCHOR} > h3")
    assert not trouble


def test_a_link_opens_the_fold_that_it_leads_into(visit, site):
    page, _ = visit(f"{site}{PAGE}#{ANCHOR}")
    assert state(page).count(True) == 1
    assert page.is_visible("#fig-02-shape")


def test_a_link_to_something_inside_opens_it_too(visit, site):
    page, _ = visit(f"{site}{PAGE}")
    page.evaluate("location.hash = '#fig-02-shape'")
    page.wait_for_function(
        "document.getElementById('fig-02-shape').closest('details.deeper').open"
    )


def test_a_link_opens_the_box_that_it_leads_into(visit, site):
    page, _ = visit(f"{site}{BOXED}")
    formula = page.locator(f"#{FORMULA}")
    assert not formula.is_visible()
    page.evaluate(f"location.hash = '#{FORMULA}'")
    formula.wait_for(state="visible")
    page, _ = visit(f"{site}{BOXED}#{FORMULA}")
    page.locator(f"#{FORMULA}").wait_for(state="visible")
    assert (
        page.locator(".admonition.toggle-hidden").count() > 1
    )  # the others stay closed


def test_the_keyboard_opens_a_fold(visit, site):
    page, _ = visit(f"{site}{PAGE}")
    page.focus("details.deeper > summary")
    page.keyboard.press("Enter")
    assert state(page)[0]


def test_on_paper_all_are_open(visit, site):
    page, _ = visit(f"{site}{PAGE}")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(state(page))
