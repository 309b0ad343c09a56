"""Draw the stills of the live figures: what stands in their place until they start, and on paper.

    python book/_tools/stills.py [NAME ...]

Opens a figure in a headless Chromium, 640 pixels wide, with the preset `still`, and writes its
picture (`svg.pg-picture`) to ``book/_figures/NAME.svg``. The colours stay variables of the page.
What only a living figure needs is taken out: ids, places in the order of the Tab key, parts that
are not seen. The fingerprint of the scripts is in the file, so that a test can say when it is old.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import browsers  # noqa: E402
import playground  # noqa: E402

WIDTH = 640
MOST = 25 * 1024  # bytes
NUMBER = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")
CLEANED = """(title) => {
  const picture = document.querySelector(".pg-live .pg-picture").cloneNode(true);
  const shape = ["d", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "rx", "ry", "points"];
  const others = ["class", "width", "height", "viewBox", "transform", "fill-opacity"];
  const kept = new Set([...shape, ...others, "text-anchor"]);
  picture.querySelectorAll(".pg-reach, .pg-unstill").forEach((part) => part.remove());
  for (const part of [picture, ...picture.querySelectorAll("*")]) {
    for (const { name } of [...part.attributes]) {
      if (!kept.has(name)) part.removeAttribute(name);
    }
  }
  picture.removeAttribute("width");
  picture.removeAttribute("height");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", title);
  return picture.outerHTML;
}"""


def script(name: str) -> str:
    """The text of a script; that of the digits is made when the book is built."""
    if name == "digits":
        return playground.digits()
    return (playground.SCRIPTS / f"{name}.js").read_text("utf8")


def opened(browser, name: str):
    """A page that holds nothing but one figure, started with the preset `still`."""
    page = browser.new_page(viewport={"width": 1000, "height": 1000})
    # The browser's own names of fonts differ from machine to machine: nothing may measure letters.
    page.set_content(
        '<!doctype html><html lang="en" data-theme="light"><title>still</title>'
        f'<div style="width: {WIDTH}px">{playground.markup(name, "still")}</div>'
    )
    page.add_style_tag(
        content=(playground.SCRIPTS / "playground.css").read_text("utf8")
    )
    page.add_style_tag(
        content=".playground { border: 0 !important; padding: 0 !important }"
    )
    page.evaluate("document.querySelectorAll('.pg-still').forEach((e) => e.remove())")
    for one in playground.scripts({name}):
        page.add_script_tag(content=script(one))
    page.wait_for_selector(".playground.pg-ready")
    page.evaluate(  # the first drawings, and those that follow when the width is known
        "() => new Promise((done) => setTimeout(() => requestAnimationFrame(done), 200))"
    )
    return page


def drawn(browser, name: str) -> str:
    """The still of a figure."""
    page = opened(browser, name)
    title = playground.figure(name).title
    picture = page.evaluate(CLEANED, title)
    page.close()
    picture = NUMBER.sub(
        lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), picture
    )
    picture = re.sub(r"(?<![\d.])-0(?![\d.])", "0", picture)
    mark = f'<svg data-scripts="{playground.figure(name).fingerprint()}"'
    return picture.replace("<svg", mark, 1) + "\n"


def with_still() -> list[str]:
    """The figures that draw into a picture, and so have a still."""
    return [name for name in playground.names() if "pg-picture" in script(name)]


def main(given: list[str]) -> int:
    """Draw the stills of the figures named, or of all."""
    from playwright.sync_api import sync_playwright

    program = browsers.needed()
    with sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = play.chromium.launch(executable_path=program, args=flags)
        for name in given or with_still():
            still = drawn(browser, name)
            size = len(still.encode())
            if size > MOST:
                raise SystemExit(f"{name}: {size} bytes, at most {MOST} are allowed")
            playground.figure(name).still.write_text(still, "utf8")
            print(f"{name}: {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
