"""The browser that draws the stills, prints the book and opens its pages in the tests."""

from __future__ import annotations

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")


def installed() -> str | None:
    """The path of the first browser that is there."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def needed() -> str:
    """The same for a program that can do nothing without one."""
    if found := installed():
        return found
    raise SystemExit(f"no browser: install one of {', '.join(NAMES)}")
