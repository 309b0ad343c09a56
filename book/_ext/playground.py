"""Figures that live in the page: no kernel, no network, also from a file.

    ```{playground} batch
    :preset: outlier
    ```

Names a figure, which is described by ``book/_figures/NAME.yml``:

    title: what a screen reader calls it
    text: what it shows, for print and for readers without scripts
    scripts: [page, store, norms-model, norms]  # in the order in which they need each other
    presets: [small, large]                     # optional: what `:preset:` may be

and, where it has one, by ``NAME.svg`` beside it: the still, a picture which stands in its place
until the figure has started, and where scripts do not run (see ``book/_tools/stills.py``). How
the scripts are written is told at the top of ``book/_static/playground/store.js``. They are loaded
only by pages that use them, as classic scripts in one namespace (`bnPlay`), because browsers load
no ES module from a file.
"""

from __future__ import annotations

import hashlib
import html
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

FOLDER = "playground"
BOOK = Path(__file__).resolve().parents[1]
FIGURES = BOOK / "_figures"
SCRIPTS = BOOK / "_static" / FOLDER


@dataclass(frozen=True)
class Figure:
    """What the book knows of a figure."""

    name: str
    title: str
    text: str
    scripts: tuple[str, ...]
    presets: tuple[str, ...] = ()

    @property
    def still(self) -> Path:
        """Where its still is, if it has one."""
        return FIGURES / f"{self.name}.svg"

    def fingerprint(self) -> str:
        """What changes with the figure's own scripts, which its still is made by."""
        own = [name for name in self.scripts if name.split("-")[0] == self.name]
        texts = [(SCRIPTS / f"{name}.js").read_bytes() for name in own]
        return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


@cache
def figure(name: str) -> Figure:
    """The figure of a name."""
    given = yaml.safe_load((FIGURES / f"{name}.yml").read_text("utf8"))
    lists = {key: tuple(given.pop(key, ())) for key in ("scripts", "presets")}
    return Figure(name, **lists, **given)


def names() -> list[str]:
    """The names of all figures."""
    return sorted(path.stem for path in FIGURES.glob("*.yml"))


class widget(nodes.General, nodes.Element):
    """The place of a figure on a page."""


class Playground(SphinxDirective):
    """A figure, by name."""

    required_arguments = 1
    option_spec = {"preset": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """The figure's place."""
        one = figure(directives.choice(self.arguments[0], names()))
        preset = self.options.get("preset", "")
        if preset:
            directives.choice(preset, one.presets)
        for source in (FIGURES / f"{one.name}.yml", one.still):
            self.env.note_dependency(str(source))
        node = widget("", name=one.name, preset=preset)
        self.set_source_info(node)
        return [node]


def markup(name: str, preset: str = "") -> str:
    """The HTML of a figure's place: what stands there before, or without, its scripts."""
    one = figure(name)
    given = f' data-preset="{html.escape(preset)}"' if preset else ""
    still = one.still.read_text("utf8") if one.still.exists() else ""
    picture = f'<div class="pg-still">\n{still}</div>\n' if still else ""
    return (
        f'<div class="playground" role="group" aria-label="{html.escape(one.title)}" '
        f'data-playground="{name}"{given}>\n{picture}'
        f'<p class="pg-static">{html.escape(one.text)}</p>\n'
        "<noscript><p>It needs JavaScript, which this browser has switched off.</p></noscript>\n"
        "</div>\n"
    )


def write_html(self, node: widget):
    """Write a figure's place."""
    self.body.append(markup(node["name"], node["preset"]))
    raise nodes.SkipNode


def write_text(self, node: widget):
    """Write the description where there is no page to run in."""
    self.add_text(figure(node["name"]).text)
    raise nodes.SkipNode


def scripts(used: set[str]) -> list[str]:
    """The scripts that figures need, each after those that it needs itself."""
    needed = [script for name in sorted(used) for script in figure(name).scripts]
    return list(dict.fromkeys([*needed, "seen", "start"])) if used else []


def add_scripts(app, pagename, templatename, context, doctree):
    """Load the scripts and styles on pages with a figure, and on no other."""
    if doctree is None:
        return
    used = {node["name"] for node in doctree.findall(widget)}
    for name in scripts(used):
        app.add_js_file(f"{FOLDER}/{name}.js", loading_method="defer")
    if used:
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
