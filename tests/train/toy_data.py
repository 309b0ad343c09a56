"""Three Gaussian classes in six dimensions."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from bnutils import data


def blobs(n: int, seed: int) -> data.Split:
    """Three Gaussian classes in six dimensions, far apart."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return data.Split(torch.randn(n, 6, generator=g) + 3 * F.one_hot(y, 6), y)
