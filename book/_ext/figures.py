"""The figures that notebooks store, in the colours of the page and at one size of letters.

MyST-NB writes each stored drawing to a file. Its place takes a copy whose colours follow the
page (``book/_tools/drawing.py``), and the picture gets a size at which 9 points are 13.5 pixels in
every figure. It stands as attributes, so that the page keeps the room while the picture loads. On
a phone the letters stay large enough to be read, and a box around the picture scrolls.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from docutils import nodes

sys.path.append(str(Path(__file__).resolve().parents[1] / "_tools"))
import drawing


def follow_the_page(app, doctree):
    """Exchange the drawings that notebooks brought, before Sphinx collects the page's pictures."""
    for picture in doctree.findall(nodes.image):
        _, path = app.env.relfn2path(picture["uri"], app.env.docname)
        if "jupyter_execute" in path and path.endswith(".svg"):
            stored = Path(path)
            text = drawing.themed(stored.read_text("utf8"))
            name = f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.svg"
            stored.with_name(name).write_text(text, "utf8")
            folder, _, _ = picture["uri"].rpartition("/")
            picture["uri"] = f"{folder}/{name}"
            picture["pixels"] = drawing.size(text)
            app.env.note_dependency(drawing.__file__)


def visit_image(self, node):
    """Write a figure with its size, in a box of its own."""
    type(self).visit_image(self, node)
    if "pixels" in node:
        width, height = node["pixels"]
        sized = f'<div class="drawing"><img width="{width}" height="{height}" '
        self.body[-1] = self.body[-1].replace("<img ", sized, 1) + "</div>\n"


def depart_image(self, node):
    """Close it as Sphinx does."""
    type(self).depart_image(self, node)


def setup(app):
    """Connect the above to Sphinx."""
    app.add_node(nodes.image, override=True, html=(visit_image, depart_image))
    app.connect("doctree-read", follow_the_page, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
