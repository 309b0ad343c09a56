"""List the exercises of all chapters, with level and topic, on one page.

    ```{exercise-index}
    ```

Titles, levels and links come out of the notebooks when the book is built.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
EXERCISE = re.compile(
    r"\{exercise\} (?P<title>.+)\n:label: (?P<label>ex-\d\d-\d+)\n"
    r"Level: (?P<level>[★☆]{3})(?P<paper>, on paper)?"
)
HEADING = re.compile(r"^\((ch-[\w-]+)\)=\n+# (.+)$", re.M)
WAY = {True: "on paper", False: "checked"}


class Exercise(NamedTuple):
    """One exercise of a chapter."""

    title: str
    label: str
    level: str
    on_paper: bool

    @property
    def number(self) -> str:
        """As the checker and the heading name it: "3.2"."""
        _, chapter, position = self.label.split("-")
        return f"{int(chapter)}.{int(position)}"


def read(path: Path) -> tuple[str, str, list[Exercise]]:
    """Label and title of a chapter, and its exercises in order."""
    cells = json.loads(path.read_text("utf8"))["cells"]
    text = "\n".join(
        "".join(c["source"]) for c in cells if c["cell_type"] == "markdown"
    )
    label, title = HEADING.search(text).groups()
    found = [
        Exercise(m["title"], m["label"], m["level"], bool(m["paper"]))
        for m in EXERCISE.finditer(text)
    ]
    return label, title, found


def page(chapters: list[Path]) -> str:
    """The index as Markdown."""
    lines = []
    for path in chapters:
        label, title, exercises = read(path)
        lines += [
            f"**{int(path.name[:2])} · {{ref}}`{title} <{label}>`**",
            "",
            "| Number | Exercise | Level | Way |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {e.number} | {{ref}}`{e.title} <{e.label}>` | {e.level} | {WAY[e.on_paper]} |"
            for e in exercises
        ]
        lines.append("")
    return "\n".join(lines)


class ExerciseIndex(SphinxDirective):
    """A table of exercises for each chapter."""

    def run(self) -> list[nodes.Node]:
        """The tables, parsed as the page itself is."""
        paths = sorted((Path(self.env.srcdir) / "notebooks").glob("[0-9][0-9]_*.ipynb"))
        for path in paths:
            self.env.note_dependency(str(path))
        holder = nodes.container(classes=["exercise-index"])
        text = StringList(page(paths).splitlines(), source=self.get_source_info()[0])
        self.state.nested_parse(text, self.content_offset, holder)
        return [holder]


def setup(app):
    """Register the directive."""
    app.add_directive("exercise-index", ExerciseIndex)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
