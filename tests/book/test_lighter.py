"""The bundle keeps every rule that some page may need, and drops the theme's others."""

from __future__ import annotations

import lighter
import pytest

WORDS = {"fa-used", "card", "btn-made", "shadow"}


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        (".fa-used:before{content:'a'}", ".fa-used:before{content:'a'}"),
        (".fa-unused:before{content:'a'}", ""),
        (".fa-unused:before,.fa-used:before{x:y}", ".fa-used:before{x:y}"),
        (".card .btn-other{x:y}", ""),
        (".card .btn-made{x:y}", ".card .btn-made{x:y}"),
        (".ours-unknown{x:y}", ".ours-unknown{x:y}"),  # a script may put it together
        (".a:not(.btn-other,.b){x:y}", ".a:not(.btn-other,.b){x:y}"),
        ("@media print{.fa-unused{x:y}.fa-used{x:y}}", "@media print{.fa-used{x:y}}"),
        ("@font-face{font-family:fa-unused}", "@font-face{font-family:fa-unused}"),
        ("@keyframes k{0%{x:y}to{x:z}}", "@keyframes k{0%{x:y}to{x:z}}"),
    ],
)
def test_a_rule_is_dropped_only_where_nothing_can_have_its_class(rule, left):
    assert lighter.without_unused(rule, WORDS) == left


def test_classes_are_looked_for_in_pages_and_scripts(tmp_path):
    (tmp_path / "a.html").write_text('<p class="one fa-used">two</p>')
    (tmp_path / "b.js").write_text('element.className = "btn-made";')
    assert {"one", "fa-used", "btn-made"} <= lighter.words_of(tmp_path)
    assert "two" not in lighter.words_of(tmp_path)
