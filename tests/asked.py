"""A small book with predictions in it, for the tests that build or open one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from provenance import ROOT

CONF = """
import sys
sys.path.insert(0, {extensions!r})
extensions = ["myst_nb", "predict"]
project, html_theme = "Asked", "sphinx_book_theme"
html_theme_options = {{"navbar_persistent": []}}
html_context = {{"default_mode": "auto"}}
html_static_path = [{static!r}]
html_css_files = ["custom.css"]
html_favicon = {favicon!r}
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
mathjax_path = "none.js"
"""


def question(text: str, *options: str) -> str:
    """A prediction as it is written."""
    return "\n".join(["```{predict}", *options, "", text, "```"])


def code(*printed: str) -> dict:
    """A code cell that has printed something, or nothing."""
    outputs = [{"output_type": "stream", "name": "stdout", "text": t} for t in printed]
    cell = {"cell_type": "code", "metadata": {}, "source": "1 + 1"}
    return cell | {"execution_count": 1, "outputs": outputs}


def write(folder: Path, cells: list[str | dict], name: str = "index") -> None:
    """Write a notebook with these cells: a text, or a code cell."""
    cells = [
        c
        if isinstance(c, dict)
        else {"cell_type": "markdown", "metadata": {}, "source": c}
        for c in cells
    ]
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}}
    text = json.dumps(book | {"cells": cells})
    (folder / f"{name}.ipynb").write_text(text, "utf8")


def build(folder: Path, *options: str, configured: str = "") -> tuple[int, str]:
    """Build the notebooks of a folder into its subfolder `html`; exit status and warnings.

    ``configured`` are further lines of the settings.
    """
    static = ROOT / "book" / "_static"
    conf = CONF.format(
        extensions=str(ROOT / "book" / "_ext"),
        static=str(static),
        favicon=str(static / "favicon.svg"),
    )
    (folder / "conf.py").write_text(conf + configured, "utf8")
    command = [sys.executable, "-m", "sphinx", "-q", *options, str(folder)]
    done = subprocess.run(
        [*command, str(folder / "html")], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


def built(folder: Path, cells: list[str | dict], configured: str = "") -> Path:
    """Build a book of one page with warnings as errors; where its pages are."""
    write(folder, cells)
    status, said = build(folder, "-W", "--keep-going", configured=configured)
    assert status == 0, said
    return folder / "html"
