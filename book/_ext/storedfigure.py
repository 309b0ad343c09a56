"""Show the stored figure of a chapter on another page.

    ```{stored-figure} notebooks/09_learning_rate_and_init.ipynb fig-09-rates
    The caption.
    ```

The picture and its alternative text come out of the notebook when the book is built, so the page
cannot show an older picture than the chapter does. The directive's content is the caption.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

sys.path.append(str(Path(__file__).resolve().parents[1] / "_tools"))
import drawing


def find(nb: dict, name: str) -> tuple[str, str]:
    """The figure's drawing and its alternative text."""
    for cell in nb["cells"]:
        myst = cell["metadata"].get("mystnb", {})
        if myst.get("figure", {}).get("name") == name:
            for output in cell["outputs"]:
                if picture := "".join(output.get("data", {}).get(drawing.KIND, "")):
                    return picture, myst["image"]["alt"]
    raise KeyError(name)


class StoredFigure(SphinxDirective):
    """A figure whose picture is the stored output of a notebook's cell."""

    required_arguments = 2
    has_content = True

    def run(self) -> list[nodes.Node]:
        """The figure, its caption parsed from the directive's content."""
        notebook, name = self.arguments
        relative, path = self.env.relfn2path(f"/{notebook}")
        self.env.note_dependency(relative)
        self.env.note_dependency(drawing.__file__)
        try:
            with open(path, encoding="utf8") as file:
                picture, alt = find(json.load(file), name)
        except (OSError, KeyError) as error:
            raise ExtensionError(
                f"no stored figure {name} in {notebook}: {error}"
            ) from error
        data = base64.b64encode(drawing.themed(picture).encode()).decode()
        image = nodes.image(uri=f"data:{drawing.KIND};base64,{data}", alt=alt)
        image["pixels"] = drawing.size(picture)
        figure = nodes.figure("", image)
        text, messages = self.state.inline_text(" ".join(self.content), self.lineno)
        figure += nodes.caption("", "", *text)
        self.set_source_info(figure)
        return [figure, *messages]


def setup(app):
    """Register the directive."""
    app.add_directive("stored-figure", StoredFigure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
