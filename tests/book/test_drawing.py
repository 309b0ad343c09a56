"""Figures for the notebook and for the page: smaller, and in two sets of colours."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import drawing
import matplotlib.pyplot as plt
import pytest

from bnutils import plot


@pytest.fixture
def svg():
    """A figure with a line, a tinted bar, a map, and labels on and beside it."""
    plot.use_style()
    fig, (left, right) = plt.subplots(1, 2)
    left.plot([0, 1, 2], [1.23456789, 2.3456789, 0.1], **plot.WITH)
    left.bar([0, 1], [1, 2], color=plot.GREEN, alpha=0.3)
    right.pcolormesh([[0.0, 1.0], [0.5, 0.25]], cmap="viridis")
    right.text(0.5, 0.5, "7", gid="on-map")
    file = io.StringIO()
    fig.savefig(file, format="svg", metadata={"Date": None})
    plt.close(fig)
    return file.getvalue()


def numbers(text: str) -> list[float]:
    """All places in a picture, in order."""
    places = re.findall(r'\b(?:d|x|y)="([^"]*)"', text)
    return [float(n) for d in places for n in re.findall(r"-?\d+(?:\.\d+)?", d)]


def test_a_compact_picture_is_the_same_picture(svg):
    small = drawing.compact(svg)
    assert len(small) < 0.9 * len(svg)
    ET.fromstring(small)
    before, after = numbers(svg), numbers(small)
    assert after == pytest.approx(before, abs=0.006) and len(before) > 500
    scales = [re.findall(r"scale\([^)]*\)", text) for text in (svg, small)]
    assert scales[0] == scales[1] != []
    assert drawing.compact(small) == small


def test_names_do_not_depend_on_the_run(svg):
    other = re.sub(r"\bp[0-9a-f]{10}\b", lambda name: f"p{name[0][:0:-1]}", svg)
    assert other != svg
    assert drawing.compact(other) == drawing.compact(svg)


def test_every_colour_of_the_style_changes_in_the_dark_and_a_map_stays(svg):
    page = drawing.themed(svg)
    ET.fromstring(page)
    light, dark = (
        dict(re.findall(r"--c(\w{6}):#(\w{6});", sheet))
        for sheet in re.search(r":root\{(.*?)\}.*?:root\{(.*?)\}", page).groups()
    )
    assert all(name == value for name, value in light.items())
    assert light.keys() == dark.keys() >= {"000000", "ffffff", "0072b2", "009e73"}
    assert not any(light[name] == dark[name] for name in light)
    left = set(re.findall(r'style="[^"]*?#(\w{6})', page))
    assert left == {"440154", "fde725", "21918c", "3b528b"}  # viridis


def test_all_colours_of_bnutils_plot_are_known():
    named = {plot.BLUE, plot.ORANGE, plot.GREEN, plot.SKY, plot.PURPLE, plot.GREY}
    for colour in named:
        assert drawing.on_dark(colour.lower()) not in (None, colour.lower())


def luminance(colour: str) -> float:
    """Relative luminance, after WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", [*drawing.DARK, "#707070", "#000000"])
def test_lines_and_letters_stand_out_from_the_dark_ground(colour):
    ground = luminance(drawing.on_dark("#ffffff"))
    assert (luminance(drawing.on_dark(colour)) + 0.05) / (ground + 0.05) > 4.5


def test_a_label_on_a_map_stays_black(svg):
    page = drawing.themed(svg)
    assert 'id="on-map"' in page
    assert re.search(
        r'\[id\^="on-map"\]\{[^}]*--c000000:#000000;[^}]*fill:#000000', page
    )


def test_letters_have_one_size_in_every_figure(svg):
    width, height = drawing.size(svg)
    stated = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    assert (width, height) == tuple(round(float(n) * 1.5) for n in stated.groups())
