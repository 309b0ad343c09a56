"""Plates: what a drawing holds, its picture for plain copies, and the directive that shows it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import asked
import plates
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from bnutils import norm

EACH = pytest.mark.parametrize("name", plates.names())
NARROWEST = 288  # what a screen of 320 px leaves to a page
SMALLEST = 11
CLASSES = set(re.findall(r"\.(pl-[\w-]+)", plates.STYLE.read_text("utf8")))
CONFIGURED = 'extensions.append("plate")\nnumfig = True\n'
SHOWN = """See {numref}`fig-where`.

```{plate} where
:name: fig-where

Where *it* stands.
```"""


@EACH
def test_each_panel_fits_a_phone_at_full_size(name):
    plate = plates.Plate(name)
    assert plate.panels
    assert max(panel.width for panel in plate.panels) <= NARROWEST


@EACH
def test_nothing_of_the_drawing_is_lost_on_the_page(name):
    root = ET.parse(plates.Plate(name).drawing).getroot()
    panels = plates.Plate(name).panels
    assert len(panels) == len(list(root))
    width, height = plates.Plate(name).size
    assert (root.get("width"), root.get("height")) == (str(width), str(height))
    for panel in panels:
        ET.fromstring(f"<svg>{panel.drawing}</svg>")


@EACH
def test_a_reader_who_does_not_see_it_gets_words(name):
    for panel in plates.Plate(name).panels:
        assert len(panel.title.split()) <= 6
        assert len(panel.text.split()) >= 12


@EACH
def test_colours_and_sizes_are_the_style_sheets(name):
    text = plates.Plate(name).drawing.read_text("utf8")
    assert not re.search(r"\b(id|style|fill|stroke|font-size|on\w+)=", text)
    used = {
        one for found in re.findall(r'class="([^"]+)"', text) for one in found.split()
    }
    assert used - {"plate"} <= CLASSES


def test_the_style_sheet_has_no_small_letters():
    sizes = re.findall(r"font-size: (\d+)px", plates.STYLE.read_text("utf8"))
    assert sizes and min(map(int, sizes)) >= SMALLEST


@EACH
def test_picture_was_drawn_from_this(name):
    plate = plates.Plate(name)
    with Image.open(plate.picture) as picture:
        again = f"run book/_tools/plates.py {name}"
        assert picture.text[plates.MARK] == plate.fingerprint(), again
        assert picture.size == tuple(plates.SCALE * side for side in plate.size)
    assert plate.picture.stat().st_size <= plates.MOST


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plate")
    pages = asked.built(folder, [f"# A chapter\n\n{SHOWN}"], CONFIGURED)
    return BeautifulSoup((pages / "index.html").read_text("utf8"), "html.parser")


def test_a_plate_is_a_figure_with_a_number_that_one_can_refer_to(page):
    (figure,) = page.select("figure.plate")
    assert figure["id"] == "fig-where"
    assert figure.figcaption.get_text(strip=True).startswith("Fig. 1")
    assert figure.figcaption.em.get_text() == "it"
    assert page.select_one('p a[href="#fig-where"]').get_text() == "Fig. 1"


def test_each_panel_is_an_image_with_a_name_and_a_description(page):
    panels = page.select("figure.plate .plate-panels > svg")
    assert len(panels) == len(plates.Plate("where").panels)
    ids = [part["id"] for part in page.select("figure.plate svg [id]")]
    assert len(ids) == len(set(ids)) == 2 * len(panels)
    for panel in panels:
        assert panel["role"] == "img"
        for by, tag in (("aria-labelledby", "title"), ("aria-describedby", "desc")):
            assert panel.find(id=panel[by]).name == tag


MISTAKES = {
    "no 'nowhere' among": "{plate} nowhere\n:name: fig-a\n\nA caption.",
    "there is no :name:": "{plate} where\n\nA caption.",
    "there is no caption": "{plate} where\n:name: fig-b",
}


@pytest.fixture(scope="module")
def warnings(tmp_path_factory):
    """What the build says of a book that has each mistake on a page of its own."""
    folder = tmp_path_factory.mktemp("mistaken")
    asked.write(folder, ["# Top"])
    for i, written in enumerate(MISTAKES.values()):
        asked.write(folder, [f"# A page\n\n```{written}\n```"], f"page{i}")
    return asked.build(folder, configured=CONFIGURED)[1]


@pytest.mark.parametrize("said", MISTAKES)
def test_mistakes_are_named(warnings, said):
    page = f"page{list(MISTAKES).index(said)}.ipynb"
    assert any(said in line for line in warnings.splitlines() if page in line), warnings


# What the plates say


class Travels(TorchDispatchMode):
    """Counts the arrays of full size that operations read or write, as chapter 16 does."""

    def __init__(self, size: int):
        super().__init__()
        self.size, self.arrays = size, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        views = ("view", "expand", "detach", "alias", "slice", "unsqueeze", "t.")
        if not any(name in str(function) for name in views):
            every = [*args, *(made if isinstance(made, tuple) else (made,))]
            tensors = [one for one in every if isinstance(one, torch.Tensor)]
            self.arrays += sum(one.numel() >= self.size for one in tensors)
        return made


def rows(panel: plates.Panel) -> list[tuple[int, int]]:
    """The number that stands beside each row, and how many ticks the row has."""
    drawn = BeautifulSoup(panel.drawing, "html.parser")
    found: list[list[int]] = []
    for part in drawn.find_all(["tspan", "rect"]):
        if part.name == "tspan":
            found.append([int(part.get_text()), 0])
        else:
            found[-1][1] += 1
    return [tuple(one) for one in found]


def test_traffic_has_a_tick_for_each_array():
    for panel in plates.Plate("traffic").panels:
        assert [number for number, _ in rows(panel)] == [
            ticks for _, ticks in rows(panel)
        ]
        assert len(rows(panel)) == 4


def test_traffic_of_chapter_4s_layer_is_what_pytorch_does():
    x, dy = torch.ones(2, 64, 32)
    layer = norm.BatchNorm1d(32)
    with Travels(x.numel()) as forward:
        y = layer(x.requires_grad_())
    with Travels(x.numel()) as backward:
        y.backward(dy)
    first, second = (rows(panel)[0][0] for panel in plates.Plate("traffic").panels)
    assert first == forward.arrays
    assert abs(second - backward.arrays) <= 5  # versions of PyTorch differ a little
