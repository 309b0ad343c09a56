"""What the theme and other extensions write, mended where it is wrong for readers.

- sphinx-exercise gives every exercise of a page the id ``exercise-content``; ids must differ.
- A solution's title is a link to its exercise, which stands right above: whoever clicked on the
  bar to open it was sent away. The title is plain text here.
- MyST-NB calls every fold "Toggle hidden content". Here it is named by what it does, and a folded
  cell says how long it is and which figure it draws.
- A cell without a text in the head of a table is a corner, no heading.
- A unit stays beside its number, and ± between its two: no line ends before "%" or "±".

``book/_static/page`` mends what happens in the page.
"""

from __future__ import annotations

import re
from html import escape

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx_exercise.nodes import is_solution_node

SCRIPTS = ["page/page.js", "page/code.js"]
VERBATIM = (nodes.literal, nodes.literal_block, nodes.raw, nodes.math, nodes.math_block)
LOOSE = re.compile(r"(?<=\d) (?=%)|(?<=\d) ± (?=\d)")


def name_boxes(doctree):
    """Give the inside of each exercise and solution an id of its own."""
    for section in doctree.findall(nodes.section):
        if section["ids"][0] in {"exercise-content", "solution-content"}:
            section["ids"] = [f"{section.parent['ids'][0]}-content"]


def unlink_titles(doctree):
    """Make the titles of solutions plain text."""
    for box in doctree.findall(is_solution_node):
        for title in box.findall(nodes.title):
            for link in list(title.findall(nodes.reference)):
                words = nodes.inline("", "", *link.children)
                link.parent.replace(link, words)
            break


def describe_folds(doctree):
    """Say what a folded cell has: how many lines, and which figure they draw."""
    for fold in doctree.findall(HideCodeCellNode):
        code = next(iter(fold.findall(nodes.literal_block)), None)
        if code is None:
            continue
        lines = len(code.astext().strip().splitlines())
        cell = fold.parent  # None where the fold is the whole cell
        drawn = any((fold if cell is None else cell).findall(nodes.figure))
        count, draw = ("1 line", "draws") if lines == 1 else (f"{lines} lines", "draw")
        fold["what"] = count + (f" that {draw} the figure" if drawn else "")


def keep_together(doctree):
    """Let no line of prose end inside "93 %" or "0.21 ± 0.10"."""
    for text in list(doctree.findall(nodes.Text)):
        joined = LOOSE.sub(lambda found: found[0].replace(" ", "\u00a0"), text)
        if joined != text and not isinstance(text.parent, VERBATIM):
            text.parent.replace(text, nodes.Text(joined))


def visit_fold(self, node):
    """Open a fold, named by the words that one sees on it."""
    classes = " ".join(node["classes"])
    what = f": {node['what']}" if node.get("what") else ""
    self.body.append(f'<details class="admonition hide {classes}">\n<summary>\n')
    for state, prompt in (("collapsed", "prompt_show"), ("expanded", "prompt_hide")):
        text = escape(node[prompt] + (what if state == "collapsed" else ""))
        self.body.append(f'<p class="{state} admonition-title">{text}</p>\n')
    self.body.append("</summary>\n")


def depart_fold(self, node):
    """Close it."""
    self.body.append("</details>\n")


def visit_entry(self, node):
    """Open a cell of a table; an empty one in the head names nothing, so it is no heading."""
    type(self).visit_entry(self, node)
    if not node.astext().strip():
        self.body[-1] = self.body[-1].replace("<th", "<td", 1)
        self.context[-1] = self.context[-1].replace("</th", "</td", 1)


def depart_entry(self, node):
    """Close it as Sphinx does."""
    type(self).depart_entry(self, node)


def mend(app, doctree, docname):
    """All of the above that a page's tree can have."""
    if app.builder.format == "html":
        name_boxes(doctree)
        unlink_titles(doctree)
        describe_folds(doctree)
        keep_together(doctree)


def setup(app):
    """Connect the above to Sphinx."""
    app.add_node(HideCodeCellNode, override=True, html=(visit_fold, depart_fold))
    app.add_node(nodes.entry, override=True, html=(visit_entry, depart_entry))
    app.add_css_file("print.css")
    for script in SCRIPTS:
        app.add_js_file(script, loading_method="defer")
    app.connect("doctree-resolved", mend, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
