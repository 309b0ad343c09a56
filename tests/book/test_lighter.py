"""The bundle keeps every rule that some page may need, and drops the theme's others."""

from __future__ import annotations

import shutil
from pathlib import Path

import lighter
import pydata_sphinx_theme
import pytest
from fontTools.ttLib import TTFont

KNOWN = {"fa-used", "card", "btn-made", "shadow"}


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        (".fa-used:before{content:'a'}", ".fa-used:before{content:'a'}"),
        (".fa-unused:before{content:'a'}", ""),
        (".fa-unused:before,.fa-used:before{x:y}", ".fa-used:before{x:y}"),
        (".card .btn-other{x:y}", ""),
        (".card .btn-made{x:y}", ".card .btn-made{x:y}"),
        (".bs-tooltip-end{x:y}", ".bs-tooltip-end{x:y}"),  # a script puts it together
        ("p>a[href],#id,:root{x:y}", "p>a[href],#id,:root{x:y}"),
        (".card:not(.btn-other,.b){x:y}", ".card:not(.btn-other,.b){x:y}"),
        (".c:is(.card,:not(.d)),.card{x:y}", ".card{x:y}"),
        ("@media print{.fa-unused{x:y}.fa-used{x:y}}", "@media print{.fa-used{x:y}}"),
        ("@media print{.fa-unused{x:y}}p{x:y}", "p{x:y}"),
        ("@font-face{font-family:fa-unused}", "@font-face{font-family:fa-unused}"),
        ("@keyframes k{0%{x:y}to{x:z}}", "@keyframes k{0%{x:y}to{x:z}}"),
    ],
)
def test_a_rule_is_dropped_only_where_nothing_can_have_its_class(rule, left):
    assert lighter.without_unused(rule, KNOWN) == left


def test_the_books_own_sheets_stay_as_they_are(tmp_path):
    text = ".pg-unknown{x:y}"
    for name in ("custom.css", "theirs.css"):
        (tmp_path / name).write_text(text)
    sheets = [tmp_path / "custom.css", tmp_path / "theirs.css"]
    assert lighter.joined(sheets, tmp_path, set()).count(text) == 1


def test_fonts_hold_the_icons_that_the_bundle_names_and_no_others(tmp_path):
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme"
    (font,) = theme.rglob("fa-solid-900.ttf")
    shutil.copy(font, tmp_path)
    faces = 'src:url(a/fa-solid-900.woff2) format("woff2"),url(fa-solid-900.ttf) format("truetype")'
    sun, bell = 0xF185, 0xF0F3
    text = f'@font-face{{{faces}}}.sun{{--fa:"\\{sun:x}"}}.bell{{--fa:"{chr(bell)}"}}'
    left = lighter.with_few_icons(text, tmp_path)
    assert 'src:url(fa-solid-900.woff) format("woff")}' in left
    assert set(TTFont(tmp_path / "fa-solid-900.woff").getBestCmap()) == {sun, bell}


def test_classes_are_looked_for_in_pages_and_scripts(tmp_path):
    (tmp_path / "a.html").write_text('<p class="one fa-used">two</p>')
    (tmp_path / "b.js").write_text('element.className = "btn-made";')
    assert {"one", "fa-used", "btn-made"} <= lighter.words_of(tmp_path)
    assert "two" not in lighter.words_of(tmp_path)
