"""The digits that scikit-learn ships, made to look like MNIST for whoever is offline."""

import torch
from torch import Tensor
from torch.nn import functional as F


def read() -> tuple[Tensor, Tensor]:
    """Read 1,797 digits (UCI's optical digits, 1998), resized from 8x8 to 28x28 pixels.

    Returns
    -------
    x : Tensor, shape (1797, 28, 28), uint8
    y : Tensor, shape (1797,), int64
    """
    from sklearn.datasets import load_digits  # here, since it takes a second

    found = load_digits()
    ink = torch.from_numpy(found.images).float() * (255 / 16)  # from 0..16 to 0..255
    small = ink[:, None]  # (N, 1, 8, 8): interpolate wants an axis for channels
    large = F.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    return large[:, 0].round().to(torch.uint8), torch.from_numpy(found.target).long()
