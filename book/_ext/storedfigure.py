"""Show the stored figure of a chapter on another page.

    ```{stored-figure} notebooks/09_learning_rate_and_init.ipynb fig-09-rates
    The caption.
    ```

The picture and its alternative text come out of the notebook when the book is built, so the page
cannot show an older picture than the chapter does. The directive's content is the caption.
"""

from __future__ import annotations

import json

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective


def find(nb: dict, name: str) -> tuple[str, str]:
    """The figure's picture (base64) and its alternative text."""
    for cell in nb["cells"]:
        myst = cell["metadata"].get("mystnb", {})
        if myst.get("figure", {}).get("name") == name:
            for output in cell["outputs"]:
                if "image/png" in output.get("data", {}):
                    picture = "".join(output["data"]["image/png"])
                    return "".join(picture.split()), myst["image"]["alt"]
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
        try:
            with open(path, encoding="utf8") as file:
                picture, alt = find(json.load(file), name)
        except (OSError, KeyError) as error:
            raise ExtensionError(
                f"no stored figure {name} in {notebook}: {error}"
            ) from error
        figure = nodes.figure(
            "", nodes.image(uri=f"data:image/png;base64,{picture}", alt=alt)
        )
        text, messages = self.state.inline_text(" ".join(self.content), self.lineno)
        figure += nodes.caption("", "", *text)
        self.set_source_info(figure)
        return [figure, *messages]


def setup(app):
    """Register the directive."""
    app.add_directive("stored-figure", StoredFigure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
