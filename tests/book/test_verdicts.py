"""Verdicts in tables say what kind they are."""

from __future__ import annotations

import re

import pytest
import verdicts
from docutils import nodes
from provenance import ROOT

CLAIMS = (ROOT / "book" / "claims.md").read_text("utf8")
BOLD = re.findall(r"\| \*\*([^*]+)\*\*", CLAIMS)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Right.", "yes"),
        ("Right, and more:", "yes"),
        ("Right if all keys come from the same batch,", "part"),
        ("Half right.", "part"),
        ("Supported here.", "yes"),
        ("Supported in part.", "part"),
        ("Supported for hidden rates of 10 and more, not at 1.", "part"),
        ("Not supported for the default layer, supported with γ fixed at 1.", "part"),
        ("Not supported, either way.", "no"),
        ("Contradicted here, for a small one.", "no"),
        ("Wrong in PyTorch.", "no"),
        ("Not decided as the reason.", "open"),
        ("a norm", None),
    ],
)
def test_the_kind_follows_the_words(words, kind):
    assert verdicts.kind(words) == kind


def test_each_verdict_of_the_claims_has_a_kind():
    assert len(BOLD) > 50
    assert [words for words in BOLD if verdicts.kind(words) is None] == []


@pytest.mark.parametrize(("place", "marked"), [("entry", True), ("list_item", False)])
def test_the_first_words_of_a_cell_are_marked(place, marked):
    strong = nodes.strong("", "Not supported.")
    words = nodes.paragraph("", "", nodes.Text(""), strong, nodes.Text(" Because."))
    page = nodes.container("", getattr(nodes, place)("", words))
    verdicts.mark(None, page)
    assert strong["classes"] == (["verdict", "verdict-no"] if marked else [])
