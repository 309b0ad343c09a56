"""Where a reader is: how long a chapter takes, which one it is, and what comes next.

The time is for somebody who reads English as a second language and reads the code as well. What is
folded and what cells print are not counted, and neither are the exercises. "Going deeper" folds,
too, and has a time of its own.
"""

from __future__ import annotations

import re

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx_exercise.nodes import is_solution_node

CHAPTER = re.compile(r"notebooks/(\d\d)_")
WORDS_A_MINUTE = 170
LINES_A_MINUTE = 15
STEP = 5  # minutes; more exact it is not
DEEPER = "Going deeper"
NOT_READ = {DEEPER, "Exercises", "References"}


def title_of(node: nodes.Node) -> str:
    """The title of a section; of anything else none."""
    if isinstance(node, nodes.section) and node.children:
        return node[0].astext()
    return ""


class Counted(nodes.SparseNodeVisitor):
    """Words and lines of code that one reads on a page."""

    def __init__(self, part):
        super().__init__(part.document)
        self.part = part
        self.words = self.lines = 0

    def visit_Text(self, node):
        """Count the words of a text."""
        self.words += len(node.astext().split())

    def visit_literal_block(self, node):
        """Count the lines of code."""
        self.lines += sum(bool(line.strip()) for line in node.astext().splitlines())
        raise nodes.SkipNode

    def visit_math_block(self, node):
        """An equation takes as long as a line of text."""
        self.words += 15
        raise nodes.SkipNode

    def dispatch_visit(self, node):
        """Leave out what is folded and what cells print."""
        printed = isinstance(node, nodes.Element) and "cell_output" in node.get(
            "classes", ()
        )
        folded = isinstance(node, nodes.admonition) and "dropdown" in node["classes"]
        if printed or folded or isinstance(node, HideCodeCellNode):
            raise nodes.SkipNode
        if is_solution_node(node) or (
            node is not self.part and title_of(node) in NOT_READ
        ):
            raise nodes.SkipNode
        return super().dispatch_visit(node)

    def unknown_visit(self, node):
        """Go on inside whatever else there is."""


def minutes(part: nodes.Element, step: int = STEP) -> int:
    """How long a page or a part of it takes to read, to the next ``step`` minutes."""
    counted = Counted(part)
    part.walk(counted)
    exact = counted.words / WORDS_A_MINUTE + counted.lines / LINES_A_MINUTE
    return max(step, step * round(exact / step))


def number_of(docname: str) -> int:
    """The number of a chapter; 0 for other pages."""
    found = CHAPTER.match(docname)
    return int(found[1]) if found else 0


def chapters(env) -> int:
    """How many chapters there are."""
    return sum(bool(number_of(name)) for name in env.found_docs)


def open_chapter(app, doctree, docname):
    """Write below a chapter's title which one it is, and how long it takes."""
    number = number_of(docname)
    title = next(iter(doctree.findall(nodes.title)), None)
    if app.builder.format != "html" or not number or title is None:
        return
    text = f"Chapter {number} of {chapters(app.env)} · about {minutes(doctree)} minutes to read"
    for part in doctree.findall(nodes.section):
        if title_of(part) == DEEPER:
            text += f", and {minutes(part)} more to go deeper"
    # No paragraph: the first of a page describes it to search engines.
    line = nodes.container("", nodes.inline("", text), classes=["reading-time"])
    title.parent.insert(title.parent.index(title) + 1, line)


def count(app, pagename, templatename, context, doctree):
    """Tell the template of the links below a page how far one is."""
    context["chapter"], context["chapters"] = number_of(pagename), chapters(app.env)


def setup(app):
    """Connect the above to Sphinx."""
    app.connect("doctree-resolved", open_chapter)
    app.connect("html-page-context", count)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
