"""Plates in a page: letters that one can read on a phone, in the dark and in forced colours."""

from __future__ import annotations

import pytest
from built import HTML, pages
from plates import names

SHOWN = [n for n in pages() if 'class="plate-panels"' in (HTML / n).read_text("utf8")]
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SMALLEST = """() => Math.min(...[...document.querySelectorAll(".plate-panels text")].map((text) => {
  const svg = text.ownerSVGElement, size = parseFloat(getComputedStyle(text).fontSize);
  return size * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
}))"""
# Letters that leave the panel or the box that they begin in.
CUT = """() => [...document.querySelectorAll(".plate-panels text")].filter((text) => {
  const svg = text.ownerSVGElement, all = svg.getBoundingClientRect();
  const { left, right, top, bottom } = text.getBoundingClientRect();
  if (left < all.left - 1 || right > all.right + 1 || bottom > all.bottom + 1) return true;
  const x = (left + right) / 2, y = (top + bottom) / 2;
  return [...svg.querySelectorAll("rect")].map((rect) => rect.getBoundingClientRect())
    .filter((box) => x > box.left && x < box.right && y > box.top && y < box.bottom)
    .some((box) => left < box.left + 3 || right > box.right - 3);
}).map((text) => text.textContent)"""
# The least contrast of letters to what they stand on.
CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  const light = (colour) => {
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => {
      const part = v / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const page = getComputedStyle(document.body).backgroundColor;
  return Math.min(...[...document.querySelectorAll(".plate-panels text")].map((text) => {
    const box = text.getBoundingClientRect();
    const x = (box.left + box.right) / 2, y = (box.top + box.bottom) / 2;
    const under = [...text.ownerSVGElement.querySelectorAll("rect")].filter((rect) => {
      const { left, right, top, bottom } = rect.getBoundingClientRect();
      return x > left && x < right && y > top && y < bottom;
    }).pop();
    const on = under ? getComputedStyle(under).fill : page;
    const [a, b] = [light(getComputedStyle(text).fill), light(on)].sort((p, q) => q - p);
    return (a + 0.05) / (b + 0.05);
  }));
}"""
EACH = pytest.mark.parametrize("name", SHOWN)


def test_there_are_plates():
    assert names() and SHOWN


@EACH
def test_letters_on_a_phone_are_large_enough(visit, site, name):
    page, trouble = visit(site + name, width=340)
    assert page.evaluate(SMALLEST) >= 11
    assert page.evaluate(CUT) == []
    assert trouble == []


@EACH
@pytest.mark.parametrize("width", [320, 390, 800, 1400])
def test_nothing_is_wider_than_the_screen(visit, site, name, width):
    page, _ = visit(site + name, width=width)
    assert page.evaluate(OVERFLOW) <= 0
    for panel in page.locator(".plate-panels svg").all():
        box = panel.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width


@EACH
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_letters_stand_out(visit, site, name, mode):
    page, _ = visit(site + name, mode)
    assert page.locator("html").get_attribute("data-theme") == mode
    assert page.evaluate(CONTRAST) >= 4.5


@EACH
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_forced_colours_keep_letters_and_lines(visit, site, name, mode):
    page, _ = visit(site + name, mode)
    page.emulate_media(forced_colors="active")
    assert page.evaluate(CONTRAST) >= 7
    text = page.evaluate(
        """() => { const it = document.createElement("p"); it.style.color = "CanvasText";
          document.body.append(it); return getComputedStyle(it).color; }"""
    )
    lines = page.locator(".plate-panels path").evaluate_all(
        "all => all.map((e) => getComputedStyle(e).stroke)"
    )
    assert set(lines) == {text}


def test_it_is_there_without_scripts(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site + SHOWN[0])
    assert page.locator("figure.plate svg text").first.is_visible()
    context.close()
