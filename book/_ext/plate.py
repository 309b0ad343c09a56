"""A plate: a drawing made by hand for this book, as a figure with a number and a caption.

    ```{plate} where
    :name: fig-18-where

    The caption, in one paragraph.
    ```

Names a drawing in ``book/_plates``; ``book/_tools/plates.py`` says what such a file holds. Its
panels are written into the page, so that they follow its colours and need no script.
"""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

sys.path.append(str(Path(__file__).resolve().parents[1] / "_tools"))
import plates


class drawing(nodes.General, nodes.Element):
    """The panels of a plate."""


class PlateDirective(SphinxDirective):
    """A plate by name; the directive's content is the caption."""

    required_arguments = 1
    has_content = True
    option_spec = {"name": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """The figure, its caption parsed from the directive's content."""
        name, known = self.arguments[0], plates.names()
        if name not in known:
            raise self.error(f"{{plate}}: no {name!r} among {', '.join(known)}")
        for what, given in (
            (":name:", self.options.get("name")),
            ("caption", self.content),
        ):
            if not given:
                raise self.error(f"{{plate}} {name}: there is no {what}")
        self.env.note_dependency(str(plates.Plate(name).drawing))
        text, messages = self.state.inline_text(" ".join(self.content), self.lineno)
        figure = nodes.figure("", drawing("", plate=name), classes=["plate"])
        figure += nodes.caption("", "", *text)
        self.add_name(figure)
        self.set_source_info(figure)
        return [figure, *messages]


def write_html(self, node: drawing):
    """Write the panels."""
    self.body.append(plates.Plate(node["plate"]).markup())
    raise nodes.SkipNode


def write_text(self, node: drawing):
    """Write what is drawn, in words."""
    self.add_text(plates.Plate(node["plate"]).alt)
    raise nodes.SkipNode


def setup(app):
    """Register the directive and its style sheet."""
    app.add_node(drawing, html=(write_html, None), text=(write_text, None))
    app.add_directive("plate", PlateDirective)
    app.add_css_file("plate.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
