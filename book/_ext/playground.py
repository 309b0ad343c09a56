"""Widgets that run in the page: no kernel, no network, also from a file.

    ```{playground} batch
    :preset: outlier
    ```

Names a widget: `batch`, `running` or `network`. Its scripts are loaded only by pages that use it.
They are classic scripts in one namespace (`bnPlay`), because browsers load no ES module from a
file. Readers without scripts, and printed pages, get the description instead.
"""

from __future__ import annotations

import html
import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

FOLDER = "playground"
SCRIPTS = {  # in the order in which they need each other
    "batch": ["math", "page", "batch"],
    "running": ["math", "page", "running"],
    "network": ["digits", "math", "mlp", "page", "network"],
}
ORDER = ["digits", "math", "mlp", "page", "batch", "running", "network", "start"]
TITLES = {
    "batch": "Playground: one channel, one batch",
    "running": "Playground: running statistics",
    "network": "Playground: a network with and without batch norm",
}
PRESETS = ["plain", "outlier", "constant", "clusters", "pair"]
TEXTS = {
    "batch": "Three axes show a batch of samples of one channel: the input x, the normalised "
    "x̂ and the output y. A sample moved on the first axis changes the mean and the variance, "
    "and so moves all the others on the second and third. Arrows show the gradients, whose "
    "sum over the inputs is zero.",
    "running": "Two charts follow the running mean and the running variance from batch to "
    "batch, next to the value expected after t batches, where the initial value has kept the "
    "weight (1 − α) to the power t. In evaluation mode both stand still.",
    "network": "Two networks with layers of 64, 32, 32 and 10 units, one with batch norm, learn "
    "the same digits from the same weights. Shown are the training loss, the share of held-out "
    "digits recognised, and histograms of what reaches each ReLU.",
}


class widget(nodes.General, nodes.Element):
    """The place of a widget on a page."""


class Playground(SphinxDirective):
    """A widget, by name."""

    required_arguments = 1
    option_spec = {"preset": lambda given: directives.choice(given, PRESETS)}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """The widget's place."""
        name = directives.choice(self.arguments[0], list(SCRIPTS))
        node = widget("", name=name, preset=self.options.get("preset", ""))
        self.set_source_info(node)
        return [node]


def markup(name: str, preset: str = "") -> str:
    """The HTML of a widget's place: what stands there before, or without, its scripts."""
    given = f' data-preset="{html.escape(preset)}"' if preset else ""
    return (
        f'<div class="playground" role="group" aria-label="{TITLES[name]}" '
        f'data-playground="{name}"{given}>\n'
        f'<p class="pg-static">{TEXTS[name]}</p>\n'
        "<noscript><p>It needs JavaScript, which this browser has switched off.</p></noscript>\n"
        "</div>\n"
    )


def write_html(self, node: widget):
    """Write a widget's place."""
    self.body.append(markup(node["name"], node["preset"]))
    raise nodes.SkipNode


def write_text(self, node: widget):
    """Write the description where there is no page to run in."""
    self.add_text(TEXTS[node["name"]])
    raise nodes.SkipNode


def scripts(names: set[str]) -> list[str]:
    """The scripts that widgets need, in order."""
    if not names:
        return []
    needed = {"start"}.union(*(SCRIPTS[name] for name in names))
    return [name for name in ORDER if name in needed]


def add_scripts(app, pagename, templatename, context, doctree):
    """Load the scripts and styles on pages with a widget, and on no other."""
    if doctree is None:
        return
    names = {node["name"] for node in doctree.findall(widget)}
    for name in scripts(names):
        app.add_js_file(f"{FOLDER}/{name}.js", loading_method="defer")
    if names:
        app.add_css_file(f"{FOLDER}/playground.css")


def digits() -> str:
    """The 1,797 digits of scikit-learn as a script: a letter per pixel, A for 0 to Q for 16."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    data = {
        "pixels": "".join(chr(65 + int(v)) for v in pixels.ravel()),
        "labels": "".join(str(v) for v in labels),
    }
    return f"(window.bnPlay = window.bnPlay || {{}}).digits = {json.dumps(data)};\n"


def write_digits(app, exception):
    """Put the digits where the network's page looks for them."""
    if exception is None and app.builder.format == "html":
        target = Path(app.outdir) / "_static" / FOLDER / "digits.js"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(digits(), "utf8")


def setup(app):
    """Register the directive and what its pages load."""
    app.add_node(widget, html=(write_html, None), text=(write_text, None))
    app.add_directive("playground", Playground)
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", write_digits)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
