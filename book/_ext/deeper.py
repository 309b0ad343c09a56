"""The part "Going deeper" of a chapter: its headings stay in sight, what stands under each folds.

Without scripts a reader opens a fold by clicking on it. ``book/_static/deeper.js`` opens the one
that a link or a search leads into, and all of them on paper.
"""

from __future__ import annotations

from docutils import nodes
from opener import DEEPER, minutes


class deeper(nodes.General, nodes.Element):
    """What folds: everything under one heading."""


def fold(app, doctree, docname):
    """Put what stands under each heading of the part into a fold."""
    if app.builder.format != "html":
        return
    for section in list(doctree.findall(nodes.section)):
        title = section.next_node(nodes.title)
        if title is None or title.astext() != DEEPER:
            continue
        for inner in [c for c in section.children if isinstance(c, nodes.section)]:
            heading, *rest = inner.children
            box = deeper("", *rest, minutes=minutes(inner, step=1))
            inner.children = []
            inner += [heading, box]


def visit(self, node):
    """Open the fold."""
    time = node["minutes"]
    what = f"Show this section ({time} minute{'s' * (time > 1)})"
    self.body.append(f'<details class="deeper"><summary>{what}</summary>\n')


def depart(self, node):
    """Close it."""
    self.body.append("</details>\n")


def skip(self, node):
    """Other formats show what is inside, and no fold."""


def setup(app):
    """Connect the above to Sphinx."""
    others = {name: (skip, skip) for name in ("latex", "text")}
    app.add_node(deeper, html=(visit, depart), **others)
    app.add_css_file("deeper.css")
    app.add_js_file("deeper.js", loading_method="defer")
    app.connect("doctree-resolved", fold, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
