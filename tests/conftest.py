"""Hooks of pytest for all tests."""

import signal

import pytest
from whole_run import pytest_collection_modifyitems, pytest_terminal_summary

__all__ = ["pytest_collection_modifyitems", "pytest_terminal_summary"]


@pytest.fixture
def with_ctrl_c():
    """Ctrl-C works here and in children, even if a background shell switched it off."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)
