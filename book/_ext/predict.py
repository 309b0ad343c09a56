"""Predictions: a question whose answer, the next cell's output, is covered until one chooses.

    ```{predict}
    :answer: B

    Question in one or two sentences.

    - first answer
    - second answer

    Optional paragraph after the list, for whoever chose otherwise.
    ```

Two to four answers, lettered by their position. Without a list the answer is a number, such as
``:answer: 0.4`` with ``:within: 0.1``, and the question is one paragraph.

With ``:code:`` the code of the next cell is covered as well, where it gives the answer away.

Here only the plain form is written, which says all: that is what readers without scripts and
printed pages get. ``book/_static/predict.js`` makes the form out of it and covers what this
module marks: up to the next heading or prediction the outputs of the code cells, and the text
that speaks of them. What teaches stays open, since a reader may pass by the question: the
paragraph that leads over to the next cell, and text from a numbered formula or a live figure on.
"""

from __future__ import annotations

import re
import zlib
from itertools import takewhile

from docutils import nodes
from docutils.parsers.rst import directives
from playground import widget
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

LETTERS = "ABCD"
LOGGER = logging.getLogger(__name__)


class prediction(nodes.General, nodes.Element):
    """A question with its answers; what it covers has the class ``by-`` and its id."""


class Predict(SphinxDirective):
    """A question that the reader answers before seeing what follows."""

    has_content = True
    option_spec = {  # noqa: RUF012
        "answer": str.strip,
        "within": str.strip,
        "code": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """The question, its answers as a lettered list, and the right one."""
        content = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, content)
        question, answers, more = parts(content.children)
        if not question:
            raise self.error("{predict}: there is no question before the answers")
        right = self.right(answers)

        node = prediction(answer=right, page=self.env.docname)
        node["within"] = self.options.get("within", "")
        node["code"] = "code" in self.options
        words = (
            f"{self.env.docname}\n{content.astext()}"  # another question is asked anew
        )
        node["ids"] = [f"predict-{zlib.crc32(words.encode()):08x}"]
        node += nodes.paragraph("", "Predict", classes=["predict-title"])
        node += nodes.container("", *question, classes=["predict-question"])
        if answers is not None:
            node += nodes.enumerated_list(
                "",
                *answers.children,
                enumtype="upperalpha",
                classes=["predict-answers"],
            )
        answer = nodes.paragraph("", f"Answer: {right}.", classes=["predict-right"])
        node += nodes.container("", answer, *more, classes=["predict-answer"])
        self.set_source_info(node)
        return [node]

    def right(self, answers: nodes.bullet_list | None) -> str:
        """The right answer as it is given: a letter of the list, or a number."""
        given, within = self.options.get("answer", ""), self.options.get("within")
        if answers is None:
            if not is_number(given):
                raise self.error(
                    f"{{predict}}: without a list, :answer: must be a number, but got {given!r}"
                )
            if not is_number(within) or float(within) < 0:
                raise self.error(
                    "{predict}: a number needs :within:, how far off still counts as right, "
                    f"but got {within!r}"
                )
            return given
        count = len(answers.children)
        if not 2 <= count <= len(LETTERS):
            raise self.error(
                f"{{predict}}: expected two to four answers, but got {count}"
            )
        if len(given) != 1 or given not in LETTERS[:count]:
            raise self.error(
                f"{{predict}}: :answer: must be a letter from A to {LETTERS[count - 1]}, "
                f"but got {given!r}"
            )
        if within is not None:
            raise self.error("{predict}: :within: is for a number, and here is a list")
        return given


def is_number(text: str | None) -> bool:
    """Whether a text is a number that the page's script reads as Python does."""
    return bool(re.fullmatch(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", text or ""))


def parts(children: list) -> tuple[list, nodes.bullet_list | None, list]:
    """What stands before the list of answers, the list, and what stands after it.

    Without a list the first paragraph is the question, and the others tell the answer.
    """
    for i, child in enumerate(children):
        if isinstance(child, nodes.bullet_list):
            return children[:i], child, children[i + 1 :]
    return children[:1], None, children[1:]


def is_cell(node: nodes.Node) -> bool:
    """Whether a piece of a page is a notebook's code cell with its outputs."""
    return isinstance(node, nodes.Element) and node.get("nb_element") == "cell_code"


def cover(app, doctree):
    """Mark what each question of a page covers."""
    for question in list(doctree.findall(prediction)):
        name = question["ids"][0]
        siblings = question.parent.children
        after = siblings[siblings.index(question) + 1 :]
        section = list(takewhile(lambda node: not is_end(node), after))
        cells = [node for node in section if is_cell(node)]
        speaking = [cell for cell in cells if outputs_of(cell)]
        if not speaking:
            LOGGER.warning(
                "{predict}: no code cell before the next heading has an output to cover",
                location=question,
            )
            continue
        for cell in speaking:
            for output in outputs_of(cell):
                output["classes"] += ["predict-cover", f"by-{name}"]
            wrap(answer_after(cell), name)
        if question["code"]:
            for part in speaking[0].children:
                if part.get("nb_element") == "cell_code_source":
                    part["classes"] += ["predict-cover", f"by-{name}"]


def is_end(node: nodes.Node) -> bool:
    """Whether a question covers nothing from here on: at a heading, a question, an outlook."""
    is_outlook = isinstance(node, nodes.paragraph) and node.astext() == "You will"
    return is_outlook or isinstance(node, nodes.section | prediction)


def outputs_of(cell: nodes.Element) -> list[nodes.Element]:
    """What a cell printed or drew."""
    return [
        child
        for child in cell.children
        if child.get("nb_element") == "cell_code_output"
    ]


def answer_after(cell: nodes.Element) -> list[nodes.Node]:
    """What is said of a cell's outputs, up to what is taught or leads on to the next cell."""
    siblings = cell.parent.children
    after = siblings[siblings.index(cell) + 1 :]
    found = list(takewhile(lambda node: not (is_end(node) or is_cell(node)), after))
    leads_on = len(found) < len(after) and is_cell(after[len(found)])
    if leads_on and len(found) > 1:
        found.pop()
    found = list(takewhile(lambda node: not teaches(node), found))
    while found and isinstance(found[-1], nodes.target | nodes.comment):
        found.pop()  # the label of the next heading is not text to be covered
    return found


def teaches(node: nodes.Node) -> bool:
    """Whether a piece of text holds more than an answer: a numbered formula, a live figure."""
    numbered = any(formula.get("label") for formula in node.findall(nodes.math_block))
    return numbered or any(node.findall(widget))


def wrap(covered: list[nodes.Node], name: str):
    """Put neighbours into a box of their own, which can be covered as one."""
    if covered:
        parent, place = covered[0].parent, covered[0].parent.index(covered[0])
        for node in covered:
            parent.remove(node)
        box = nodes.container("", *covered, classes=["predict-cover", f"by-{name}"])
        parent.insert(place, box)


def visit(self, node: prediction):
    """Open the box, with what the script needs to know."""
    given = {
        f"data-{key}": node[key] for key in ("answer", "within", "page") if node[key]
    }
    self.body.append(self.starttag(node, "div", CLASS="predict", **given))


def depart(self, node: prediction):
    """Close it."""
    self.body.append("</div>\n")


def pass_by(self, node: prediction):
    """Elsewhere its text is enough."""


def add_script(app, pagename, templatename, context, doctree):
    """Load the script on pages with a question, and on no other."""
    if doctree is not None and any(doctree.findall(prediction)):
        app.add_js_file("predict/predict.js", loading_method="defer")


def setup(app):
    """Register the directive and what its pages load."""
    others = dict.fromkeys(("text", "latex", "man", "texinfo"), (pass_by, pass_by))
    app.add_node(prediction, html=(visit, depart), **others)
    app.add_directive("predict", Predict)
    app.add_css_file("predict.css")
    app.connect("doctree-read", cover)
    app.connect("html-page-context", add_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
