"""Each live figure has a still that was drawn by the scripts as they are now."""

from __future__ import annotations

import re

import playground
import pytest
import stills

NAMES = stills.with_still()


@pytest.mark.parametrize("name", NAMES)
def test_still_was_drawn_by_these_scripts(name):
    one = playground.figure(name)
    text = one.still.read_text("utf8")
    (mark,) = re.findall(r'data-scripts="(\w+)"', text)
    assert mark == one.fingerprint(), f"run book/_tools/stills.py {name}"


@pytest.mark.parametrize("name", NAMES)
def test_still_is_light_and_can_stand_on_a_page_twice(name):
    text = playground.figure(name).still.read_text("utf8")
    assert len(text.encode()) <= stills.MOST
    assert not re.search(r"\b(id|style|tabindex|on\w+)=", text)
    assert "url(" not in text
    assert len(re.findall(r"<svg\b", text)) == 1


def test_every_still_belongs_to_a_figure():
    drawn = {path.stem for path in playground.FIGURES.glob("*.svg")}
    assert drawn == set(NAMES)


@pytest.mark.parametrize("name", playground.names())
def test_figure_names_scripts_that_are_there(name):
    for script in playground.figure(name).scripts:
        made = script == "digits"  # when the book is built
        assert made or (playground.SCRIPTS / f"{script}.js").is_file(), script


def test_a_changed_script_changes_the_fingerprint(tmp_path, monkeypatch):
    one = playground.Figure("a", "", "", ("page", "a-model", "a"))
    monkeypatch.setattr(playground, "SCRIPTS", tmp_path)
    for name in one.scripts:
        (tmp_path / f"{name}.js").write_text(name)
    first = one.fingerprint()
    (tmp_path / "page.js").write_text("shared, so all stills would be old")
    assert one.fingerprint() == first
    (tmp_path / "a-model.js").write_text("changed")
    assert one.fingerprint() != first
