"""Verdicts in tables: words in bold at the start of a cell, such as **Supported.**, get a mark.

The four kinds (it holds, in part, it does not, not decided) look alike in a long table. The mark
is a sign and a colour beside the words; the words alone still say all.
"""

from __future__ import annotations

import re

from docutils import nodes

# The first that fits counts. What is asked is how the words begin.
KINDS = {
    "part": r"half right|loose|incomplete|misleading|depends|right if|.* in part\b|"
    r"supported.*, not (at|for)\b|not supported.*, supported\b",
    "open": r"not decid|not test",
    "no": r"wrong|not supported|not seen|contradicted",
    "yes": r"right|supported",
}


def kind(words: str) -> str | None:
    """What a verdict says: "yes", "part", "no", "open", or None where it is no verdict."""
    words = words.strip().lower()
    fitting = (name for name, pattern in KINDS.items() if re.match(pattern, words))
    return next(fitting, None)


def mark(app, doctree):
    """Give the verdicts of a page's tables their classes."""
    for cell in doctree.findall(nodes.entry):
        first = next(iter(cell.findall(nodes.paragraph)), None)
        parts = [] if first is None else first.children
        words = next((part for part in parts if part.astext().strip()), None)
        if isinstance(words, nodes.strong) and (found := kind(words.astext())):
            words["classes"] += ["verdict", f"verdict-{found}"]


def setup(app):
    app.connect("doctree-read", mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
