"""Reading a chapter: contents follow, folds open, pictures keep their room, paper is legible."""

from __future__ import annotations

import io
import re

import pytest
from built import HTML
from PIL import Image

CHAPTER = "notebooks/02_forward.html"
HERE = """() => [...document.querySelectorAll(".page-toc [aria-current]")]
  .map(e => e.textContent.trim())"""
HEIGHTS = """() => [...document.querySelectorAll("article figure img")]
  .map(i => Math.round(i.getBoundingClientRect().height))"""


def here(page):
    page.wait_for_timeout(400)  # a smooth scroll
    return page.evaluate(HERE)


def test_contents_follow_a_jump(visit, site):
    page, _ = visit(site + CHAPTER)
    page.keyboard.press("End")
    assert re.search("References$", *here(page))
    page.keyboard.press("Home")
    assert here(page) == [] or "Setup" in here(page)[0]
    link = page.locator(".page-toc a", has_text="What does ε do?").first
    link.click()
    assert "What does ε do?" in here(page)[0]


def test_title_of_a_solution_opens_it(visit, site):
    page, _ = visit(site + CHAPTER)
    title = page.locator(".solution > .admonition-title").first
    box = title.bounding_box()
    before = page.url
    title.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    page.wait_for_timeout(300)
    assert "toggle-hidden" not in page.locator(".solution").first.get_attribute("class")
    assert page.url == before


def test_folded_code_says_how_long_it_is(visit, site):
    page, _ = visit(site + CHAPTER)
    fold = page.locator("details.hide summary").first
    assert re.search(r"Show the code: \d+ lines", fold.inner_text())


def test_pictures_keep_their_room_while_they_load(browser, site):
    """None of them arrives here, and the page is as high as with them."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.goto(site + CHAPTER)
    page.evaluate(
        "() => document.querySelectorAll('img').forEach(i => { i.loading = 'eager' })"
    )
    page.wait_for_load_state("networkidle")
    loaded = page.evaluate(HEIGHTS)
    context.route("**/_images/**", lambda route: None)  # never answered
    page.goto(site + CHAPTER, wait_until="domcontentloaded")
    assert page.evaluate(HEIGHTS) == loaded
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("system", ["light", "dark"])
def test_figures_stand_on_the_ground_of_the_page(browser, site, theme, system):
    """Whatever the system likes: what the reader chose for the page holds for its figures."""
    context = browser.new_context(color_scheme=system)
    page = context.new_page()
    page.add_init_script(
        f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')"
    )
    page.goto(site + CHAPTER)
    shown = page.locator("article figure .drawing img").locator("visible=true").first
    shown.scroll_into_view_if_needed()
    shown.evaluate("e => e.decode()")
    picture = Image.open(io.BytesIO(shown.screenshot())).convert("RGB")
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert picture.getpixel((3, 3)) == tuple(map(int, re.findall(r"\d+", ground)[:3]))
    darkest, lightest = zip(*picture.getextrema())
    assert min(darkest) < 60 and max(lightest) > 200  # letters can be read on it
    context.close()


def test_letters_in_figures_are_eleven_pixels_on_a_phone(visit, site):
    page, _ = visit(site + CHAPTER, width=340)
    sizes = page.evaluate(
        """() => [...document.querySelectorAll(".drawing img")]
          .filter((e) => e.checkVisibility())
          .map((e) => [e.getBoundingClientRect().width, +e.getAttribute("width")])"""
    )
    # Letters of 9 points have 13.5 pixels where a figure has the size that it states.
    assert sizes and min(13.5 * shown / stated for shown, stated in sizes) >= 10.9
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    page.locator(
        ".drawing[tabindex='0']"
    ).first.focus()  # the keyboard reaches what scrolls


UNREACHED = """() => [...document.querySelectorAll("article :is(pre, .output, .drawing)")]
  .filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1 && e.tabIndex !== 0
    && /auto|scroll/.test(getComputedStyle(e).overflowX)).length"""


def test_the_keyboard_reaches_what_scrolls_in_a_fold_too_once_it_is_open(visit, site):
    page, _ = visit(site + CHAPTER, width=390)
    boxes = page.locator("article pre[tabindex='0']")
    assert page.evaluate(UNREACHED) == 0
    before = boxes.count()
    page.evaluate(
        "() => document.querySelectorAll('article details').forEach((d) => d.open = true)"
    )
    page.wait_for_timeout(500)
    assert page.evaluate(UNREACHED) == 0 and boxes.count() > before
    page.set_viewport_size({"width": 1400, "height": 900})
    page.wait_for_timeout(500)
    assert boxes.count() < before  # what no longer scrolls is no stop of the Tab key


def test_a_finger_finds_the_copy_buttons_and_outputs_have_none(browser, site):
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(site + CHAPTER)
    shown = page.locator(".cell_input .copybtn").first
    assert float(shown.evaluate("e => getComputedStyle(e).opacity")) > 0.5
    assert page.locator(".cell_output .copybtn").count() == 0
    context.close()


@pytest.mark.parametrize("name", ["search.html", CHAPTER])
def test_icon_of_the_search_stands_beside_the_words(visit, site, name):
    page, _ = visit(site + name, width=900)
    if name == CHAPTER:
        page.keyboard.press("Control+k")
    field = page.locator("form.bd-search:visible").first
    icon = field.locator("i, svg").first.bounding_box()
    words = field.locator("input[name=q]")
    start = words.bounding_box()["x"] + float(
        words.evaluate("e => parseFloat(getComputedStyle(e).paddingLeft)")
    )
    assert icon["x"] + icon["width"] <= start


def test_paper_from_a_dark_page_is_black_on_white(visit, site):
    page, _ = visit(site + CHAPTER, "dark")
    colour = "() => getComputedStyle(document.querySelector('article p')).color"
    page.evaluate(
        f"""() => window.addEventListener("beforeprint", () => {{
          window.printed = [document.documentElement.dataset.theme, ({colour})()] }})"""
    )
    page.pdf()
    theme, ink = page.evaluate("() => window.printed")
    assert theme == "light"
    assert max(map(int, re.findall(r"\d+", ink)[:3])) < 80
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_paper_has_the_number_of_the_chapter_and_all_of_the_code(visit, site):
    page, _ = visit(site + CHAPTER, width=680)  # a sheet of A4 without its margins
    page.emulate_media(media="print")
    (title,) = [t for t in page.locator("h1:visible").all_inner_texts() if t.strip()]
    assert title.startswith("2.")
    cut = page.evaluate(
        """() => [...document.querySelectorAll("article pre")]
          .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1).length"""
    )
    assert cut == 0


def test_address_without_a_page_offers_the_search(visit, site):
    assert (HTML / "404.html").is_file()
    page, _ = visit(site + "404.html")
    page.locator("article input[name=q]").fill("epsilon")
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a", timeout=9_000)


LETTERS = """() => [...document.querySelectorAll("article section > p")].map((p) => {
  const range = document.createRange();
  range.selectNodeContents(p);
  const lines = new Set([...range.getClientRects()].map((r) => Math.round(r.top / 14))).size;
  return [p.textContent.length, lines];
}).filter(([letters]) => letters > 300 && letters < 900)
  .map(([letters, lines]) => letters / lines)"""


def test_lines_have_a_length_that_one_reads_well(visit, site):
    """70 letters or so; the last line of a paragraph, which is shorter, is in the average."""
    page, _ = visit(site + "notebooks/01_why_normalize.html")
    found = sorted(page.evaluate(LETTERS))
    assert 55 <= found[len(found) // 2] <= 80, found
    size = "e => getComputedStyle(e).fontSize"
    assert page.locator("article p").first.evaluate(size) == "17px"
    assert page.locator("article .cell_input pre").first.evaluate(size) == "14px"


CUT = """() => [...document.querySelectorAll(".cell_input pre, .cell_output pre")]
  .filter((e) => e.clientWidth && e.scrollWidth > e.clientWidth + 1)
  .map((e) => e.textContent.slice(0, 60))"""


@pytest.mark.parametrize("width", [1280, 1400])
def test_code_and_what_it_prints_are_not_cut_at_the_right(visit, site, width):
    for name in ("notebooks/11_the_2015_claim.html", "notebooks/17_clinic.html"):
        page, _ = visit(site + name, width=width)
        assert page.evaluate(CUT) == []


def test_chapter_says_how_long_it_takes_and_how_far_one_is(visit, site):
    page, _ = visit(site + CHAPTER)
    said = page.locator("article .reading-time").inner_text()
    core = r"Chapter 2 of \d+ · about \d*[05] minutes to read"
    assert re.fullmatch(core + r", and \d*[05] more to go deeper", said)
    bar = page.get_by_label(re.compile(r"Chapter 2 of"))
    assert bar.evaluate("e => e.value") == 2


def test_read_folds_the_code_and_code_shows_it(visit, site):
    page, trouble = visit(site + CHAPTER)
    code = page.locator(".cell > .cell_input pre").first
    fold = page.locator(".code-fold").first
    assert code.is_visible() and not fold.is_visible()
    page.get_by_role("button", name="Read", exact=True).click()
    assert fold.get_attribute("aria-expanded") == "false"
    assert not code.evaluate("e => e.checkVisibility({contentVisibilityAuto: true})")
    assert page.locator(".cell_output:not(.predict-cover)").first.is_visible()
    fold.click()
    assert code.evaluate("e => e.checkVisibility()")
    page.get_by_role("button", name="Code", exact=True).click()
    assert page.locator(".cell_input[hidden]").count() == 0
    assert trouble == []


def test_read_is_remembered_and_leaves_the_exercises_open(visit, site):
    page, _ = visit(site + CHAPTER)
    page.get_by_role("button", name="Read", exact=True).click()
    page.goto(site + "notebooks/03_backward.html")
    assert page.locator(".cell_input[hidden]").count() > 3
    assert page.locator(".tag_exercise > .cell_input[hidden]").count() == 0
    for width in (320, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )


def test_paper_has_the_code_in_either_case(visit, site):
    page, _ = visit(site + CHAPTER)
    page.get_by_role("button", name="Read", exact=True).click()
    page.emulate_media(media="print")
    code = page.locator(".cell > .cell_input pre").first
    assert code.evaluate(
        "e => e.checkVisibility() && e.getBoundingClientRect().height > 10"
    )
