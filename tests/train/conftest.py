"""Data and a network small enough that a training takes milliseconds."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_data import blobs

from bnutils import data, models


@pytest.fixture
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("BNUTILS_DEVICE", "cpu")
    monkeypatch.delenv("BNUTILS_PROGRESS", raising=False)
    torch.manual_seed(0)


@pytest.fixture
def toy() -> data.Dataset:
    return data.Dataset("toy", "made here", blobs(90, 0), blobs(30, 1), blobs(30, 2))


@pytest.fixture
def net() -> nn.Sequential:
    return models.mlp((6, 8, 3))
