"""The plates: drawings made by hand, and pictures of them for notebooks outside of the book.

    python book/_tools/plates.py [NAME ...]

``book/_plates/NAME.svg`` is a plate. It holds a few panels side by side, each an <svg> with a
title and a description for those who do not see it. The book writes the panels into its pages,
where they wrap on a narrow screen and take the page's colours; ``plate.css`` says what the classes
look like. The editors of notebooks show no SVG of a text cell, so the plain copies have
``NAME.png``. This program draws it, in a headless Chromium, and notes in it what it was drawn from.
"""

from __future__ import annotations

import hashlib
import html
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLATES = ROOT / "book" / "_plates"
STYLE = ROOT / "book" / "_static" / "plate.css"
SCALE = 2  # pixels of the picture for one of the drawing
MOST = 40 * 1024  # bytes of a picture, which stands in the text of a notebook
MARK = "drawn-from"
COLOURS = 32
PANEL = re.compile(
    r'<svg x="(?P<x>\d+)" width="(?P<width>\d+)" height="(?P<height>\d+)">\s*'
    r"<title>(?P<title>.+?)</title>\s*<desc>(?P<text>.+?)</desc>(?P<drawing>.+?)</svg>",
    re.S,
)


@dataclass(frozen=True)
class Panel:
    """One part of a plate, which stays in one piece."""

    x: int
    width: int
    height: int
    title: str
    text: str
    drawing: str

    def markup(self, name: str) -> str:
        """The panel as it stands in a page; ``name`` makes its ids."""
        return (
            f'<svg role="img" aria-labelledby="{name}-title" aria-describedby="{name}-text" '
            f'width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}">\n'
            f'<title id="{name}-title">{self.title}</title>\n'
            f'<desc id="{name}-text">{self.text}</desc>{self.drawing}</svg>\n'
        )


@dataclass(frozen=True)
class Plate:
    """A drawing of one or more panels."""

    name: str

    @property
    def drawing(self) -> Path:
        """Where it is drawn."""
        return PLATES / f"{self.name}.svg"

    @property
    def picture(self) -> Path:
        """Where its picture is."""
        return PLATES / f"{self.name}.png"

    @property
    def panels(self) -> list[Panel]:
        """Its parts, from left to right."""
        found = PANEL.finditer(self.drawing.read_text("utf8"))
        return [
            Panel(**{k: int(v) if v.isdigit() else v for k, v in m.groupdict().items()})
            for m in found
        ]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height with all panels side by side."""
        panels = self.panels
        return max(p.x + p.width for p in panels), max(p.height for p in panels)

    @property
    def alt(self) -> str:
        """What is drawn, in words."""
        parts = (f"{panel.title}. {panel.text}" for panel in self.panels)
        return html.unescape(" ".join(" ".join(parts).split()))

    def markup(self) -> str:
        """The panels as they stand in a page."""
        panels = (
            panel.markup(f"plate-{self.name}-{i}")
            for i, panel in enumerate(self.panels, 1)
        )
        return f'<div class="plate-panels">\n{"".join(panels)}</div>\n'

    def fingerprint(self) -> str:
        """What the picture was drawn from."""
        texts = (path.read_bytes() for path in (self.drawing, STYLE))
        return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


@cache
def names() -> list[str]:
    """The names of all plates."""
    return sorted(path.stem for path in PLATES.glob("*.svg"))


def draw(browser, plate: Plate) -> None:
    """Write the picture of a plate, in the colours of a light page."""
    from io import BytesIO

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    width, height = plate.size
    page = browser.new_page(
        viewport={"width": width, "height": height},
        device_scale_factor=SCALE,
        color_scheme="light",
    )
    page.goto(plate.drawing.as_uri())
    shown = Image.open(BytesIO(page.screenshot())).convert("RGB")
    page.close()
    mark = PngInfo()
    mark.add_text(MARK, plate.fingerprint())
    few = shown.quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(plate.picture, optimize=True, pnginfo=mark)


def main(given: list[str]) -> int:
    """Draw the pictures of the plates named, or of all."""
    import browsers
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu"]
        program = browsers.needed()
        browser = play.chromium.launch(executable_path=program, args=flags)
        for name in given or names():
            plate = Plate(name)
            draw(browser, plate)
            size = plate.picture.stat().st_size
            if size > MOST:
                raise SystemExit(f"{name}: {size} bytes, at most {MOST} are allowed")
            print(f"{name}: {size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
