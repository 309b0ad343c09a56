"""Every test of this folder runs on each device that there is, from the same seed."""

from __future__ import annotations

import warnings

import pytest
import torch
from layers import DEVICES, by_default_on


@pytest.fixture(autouse=True, params=DEVICES)
def device(request):
    torch.manual_seed(0)
    with by_default_on(request.param):
        yield request.param


@pytest.fixture
def strict():
    """Warnings are errors, but for those that come from PyTorch alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", "Guards may run slower")  # Python 3.13.0
        yield
