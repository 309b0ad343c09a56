"""Matplotlib's SVG, smaller for the notebook and in two sets of colours for the page.

``compact`` is for what a notebook stores: the same picture without what no reader sees. ``themed``
is for the page: its colours are variables inside the file, one set for light and one for dark
pages. A browser gives a picture the colour scheme of the element that shows it, so a figure follows
the switch of the page; by itself, or in a browser that does not, it follows the system. It brings
its own ground in either case.
"""

from __future__ import annotations

import re

KIND = "image/svg+xml"  # its MIME type, in a notebook's outputs

# The colours of bnutils.plot, and what they are on a dark page: those of the live figures, where
# they have them.
DARK = {
    "#0072b2": "#56b4e9",  # BLUE
    "#d55e00": "#ff9d57",  # ORANGE
    "#009e73": "#3ddbb0",  # GREEN
    "#56b4e9": "#3f86c9",  # SKY, far from letters and from BLUE
    "#cc79a7": "#eba9cb",  # PURPLE
}
# Letters and ground of a dark page.
INK, GROUND = (0xCE, 0xD6, 0xDD), (0x12, 0x12, 0x12)

COLOUR = re.compile(r"#[0-9a-f]{6}\b")
STYLE = re.compile(r'style="[^"]*"')
SIZE = re.compile(r'width="([\d.]+)pt" height="([\d.]+)pt"')
LONG = re.compile(r"-?\d+\.\d{3,}(?:e-?\d+)?")
PLACES = re.compile(r'\b(?:d|x|y|points)="[^"]*"')
UNSEEN = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", re.DOTALL)
CLIP = re.compile(r'(?<=<clipPath id=")p[0-9a-f]+')
MOVED = re.compile(r"(?<=translate\()[^)]*")


def compact(svg: str) -> str:
    """The same picture in some 60 % of the bytes.

    Places are rounded to a hundredth of a point. Glyphs are drawn in whole units and scaled, and
    scales stay as they are. What clips has the number of its place for a name: Matplotlib makes
    some of these names from addresses of memory, which differ from run to run.
    """

    def rounded(found: re.Match) -> str:
        return LONG.sub(
            lambda n: f"{float(n[0]):.2f}".rstrip("0").rstrip("."), found[0]
        )

    svg = UNSEEN.sub("", svg)
    svg = PLACES.sub(lambda d: re.sub(r"\s+", " ", rounded(d)), svg)
    svg = MOVED.sub(rounded, svg)
    for number, name in enumerate(dict.fromkeys(CLIP.findall(svg)), 1):
        svg = re.sub(rf"\b{name}\b", f"clip{number}", svg)
    return re.sub(r"\n\s*", "\n", svg).strip() + "\n"


def on_dark(colour: str) -> str | None:
    """What a colour is on a dark page; None for one that stays, as those of a map of values do."""
    channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    if len(set(channels)) == 1:  # black, white and greys change places
        part = channels[0] / 255
        mixed = [round(i + part * (g - i)) for i, g in zip(INK, GROUND)]
        return "#" + "".join(f"{c:02x}" for c in mixed)
    return DARK.get(colour)


def themed(svg: str) -> str:
    """The picture with variables for the colours that a dark page has otherwise.

    Letters have no colour of their own where they are black, so they take the picture's. A label
    with the name (``gid``) "on-map" stands on a ground that stays as it is, and stays black.
    """
    used = {"#000000": on_dark("#000000")}

    def named(style: re.Match) -> str:
        def variable(colour: re.Match) -> str:
            if dark := on_dark(colour[0]):
                used[colour[0]] = dark
                return f"var(--c{colour[0][1:]})"
            return colour[0]

        return COLOUR.sub(variable, style[0])

    drawn = STYLE.sub(named, svg)
    light = "".join(f"--c{name[1:]}:{name};" for name in used)
    dark = "".join(f"--c{name[1:]}:{other};" for name, other in used.items())
    sheet = (
        f":root{{{light}fill:var(--c000000)}}"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        '[id^="on-map"]{--c000000:#000000;--cffffff:#ffffff;fill:#000000}'
    )
    return drawn.replace("<defs>", f"<style>{sheet}</style>\n<defs>", 1)


def size(svg: str) -> tuple[int, int]:
    """Width and height on the page, in pixels: letters of 9 points have 13.5."""
    width, height = SIZE.search(svg).groups()
    return round(float(width) * 1.5), round(float(height) * 1.5)
