"""The printed edition: one PDF of the whole book."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api")
ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "book" / "_tools" / "pdf.py"


def test_the_whole_book_prints_with_bookmarks(tmp_path):
    out = tmp_path / "new" / "book.pdf"
    command = [sys.executable, str(TOOL), "--out", str(out)]
    command += ["--address", "https://book.test/bn/"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = out.read_bytes()
    chapters = len(list((ROOT / "notebooks").glob("*.ipynb")))
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 10 * chapters
    assert b"/Outlines" in printed
    links = printed.count(b"/URI (https://book.test/bn/book/playground.html)")
    assert links >= 3  # one for each interactive part, a line of text each
    assert [p.name for p in out.parent.iterdir()] == ["book.pdf"]


def test_an_address_that_is_none_is_refused(tmp_path):
    command = [sys.executable, str(TOOL), "--out", str(tmp_path / "a.pdf")]
    done = subprocess.run(
        [*command, "--address", "book.test"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "must begin with https://" in done.stderr
    assert list(tmp_path.iterdir()) == []
