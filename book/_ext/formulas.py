"""Formulas drawn when the book is built, so that they are there with the first paint.

MathJax runs here, in V8 (the wheel ``mini-racer``), instead of in the reader's browser: the pages
hold the same elements, with MathML for screen readers, and need no script. Numbers of equations,
links to them and the search are Sphinx's, as before. Where V8 is not installed, MathJax draws the
formulas in the browser.
"""

from __future__ import annotations

import json
from functools import cache, cached_property
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

LOGGER = logging.getLogger(__name__)
RENDERER, SHEET = "built", "formulas.css"
# In the order in which they need each other.
PARTS = ["startup", "core", "adaptors/liteDOM", "input/tex-full", "output/chtml"]
PARTS += ["output/chtml/fonts/tex", "a11y/assistive-mml"]
# V8 alone has no timers; nothing that MathJax would do later is needed.
SETTINGS = """
globalThis.global = globalThis;
globalThis.console = {log() {}, warn() {}, error() {}, info() {}};
globalThis.setTimeout = () => 0;
globalThis.clearTimeout = () => {};
globalThis.MathJax = {
  loader: {load: [], require: null, paths: {mathjax: "x"}},
  options: {enableAssistiveMml: true},
  chtml: {fontURL: "mathjax/output/chtml/fonts/woff-v2"},
  startup: {typeset: false, ready() { MathJax.startup.defaultReady(); }},
};
0
"""
DRAW = """(([tex, display]) => {
  const drawn = MathJax.tex2chtml(tex, {display, em: 16, ex: 8, containerWidth: 800});
  return MathJax.startup.adaptor.outerHTML(drawn);
})"""
STYLES = "MathJax.startup.adaptor.textContent(MathJax.chtmlStylesheet())"


def available() -> bool:
    """Whether there is a V8 to draw with."""
    return find_spec("py_mini_racer") is not None


class Engine:
    """MathJax, started when the first formula comes. There is one, as long as the build lasts."""

    @cached_property
    def context(self):
        """V8 with MathJax in it; this takes a quarter of a second."""
        from py_mini_racer import MiniRacer

        context = MiniRacer()
        package = distribution("sphinx-mathjax-offline")
        folder = Path(package.locate_file("sphinx-mathjax-offline/static/mathjax"))
        context.eval(SETTINGS)
        for part in PARTS:
            context.eval((folder / f"{part}.js").read_text("utf8") + ";0")
        context.eval(f"MathJax.loader.preLoad(...{json.dumps(PARTS)});0")
        context.eval("MathJax.config.startup.ready();0")
        return context

    @cache  # noqa: B019
    def draw(self, tex: str, display: bool) -> str:
        """The HTML of a formula."""
        return self.context.eval(f"{DRAW}({json.dumps([tex, display])})")

    def styles(self) -> str:
        """The style sheet of what has been drawn so far."""
        return self.context.eval(STYLES)


ENGINE = Engine()


def source_of(node: nodes.math | nodes.math_block) -> tuple[str, bool]:
    """A formula's TeX, and whether it stands by itself."""
    text = node.astext()
    if isinstance(node, nodes.math):
        return text, False
    if node.get("nowrap"):
        return text, True
    # As Sphinx does it: paragraphs are lines, and a line break inside one splits it.
    parts = [part for part in text.split("\n\n") if part.strip()]
    lines = [rf"\begin{{split}}{p}\end{{split}}" if r"\\" in p else p for p in parts]
    if len(lines) == 1:
        return lines[0], True
    joined = r"\\".join(lines)
    return (
        rf"\begin{{align}}\begin{{aligned}}{joined}\end{{aligned}}\end{{align}}",
        True,
    )


def drawn(node) -> str:
    """The HTML of a formula; a mistake in it is a warning."""
    html = ENGINE.draw(*source_of(node))
    if "mjx-merror" in html:
        LOGGER.warning("MathJax cannot draw %r", node.astext(), location=node)
    return html


def visit_inline(self, node: nodes.math):
    """Write a formula in a sentence."""
    self.body.append(
        self.starttag(node, "span", "", CLASS="math notranslate nohighlight")
    )
    self.body.append(f"{drawn(node)}</span>")
    raise nodes.SkipNode


def visit_display(self, node: nodes.math_block):
    """Write an equation, with its number and the link to it."""
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"] and not node["nowrap"]:
        number = get_node_equation_number(self, node)
        self.body.append(f'<span class="eqno">({number})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(f"{drawn(node)}</div>\n")
    raise nodes.SkipNode


def note(app, doctree):
    """Keep a page's formulas, for the style sheet, which all pages share."""
    known = formulas(app.env)
    known[app.env.docname] = [
        source_of(node) for node in doctree.findall(lambda n: isinstance(n, KINDS))
    ]


def forget(app, env, docname):
    """Drop what an older version of a page had."""
    formulas(env).pop(docname, None)


def formulas(env) -> dict[str, list[tuple[str, bool]]]:
    """The formulas of each page."""
    if not hasattr(env, "bn_formulas"):
        env.bn_formulas = {}
    return env.bn_formulas


KINDS = (nodes.math, nodes.math_block)


def choose(app, config):
    """Draw here, not in the browser."""
    config.html_math_renderer = RENDERER


def write_styles(app, exception):
    """Write what all formulas of the book need, those of pages not written anew too."""
    if exception is None and app.builder.format == "html":
        for page in formulas(app.env).values():
            for tex, display in page:
                ENGINE.draw(tex, display)
        (Path(app.outdir) / "_static" / SHEET).write_text(ENGINE.styles(), "utf8")


def setup(app):
    """Register the renderer, and what it needs."""
    safe = {"parallel_read_safe": False, "parallel_write_safe": False, "env_version": 1}
    if not available():
        return safe  # a renderer that is registered is Sphinx's choice, unasked
    app.add_html_math_renderer(RENDERER, (visit_inline, None), (visit_display, None))
    app.add_css_file(SHEET)
    app.connect("config-inited", choose)
    app.connect("doctree-read", note)
    app.connect("env-purge-doc", forget)
    app.connect("build-finished", write_styles, priority=600)  # before the bundle
    return safe
