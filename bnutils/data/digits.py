"""The digits that scikit-learn ships, made to look like MNIST for whoever is offline."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
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
    table = torch.from_numpy(_table())
    ink = table[:, :-1].float().view(-1, 8, 8) * (255 / 16)  # from 0..16 to 0..255
    small = ink[:, None]  # (N, 1, 8, 8): interpolate wants an axis for channels
    large = F.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    return large[:, 0].round().to(torch.uint8), table[:, -1].long()


def _table() -> np.ndarray:
    """Scikit-learn's table of digits, (1797, 65): 64 pixels from 0 to 16, and the label.

    Its file is read without scikit-learn, whose import takes most of a second, in each of the
    processes of chapter 15 too. A version that keeps the file elsewhere is asked itself.
    """
    package = find_spec("sklearn")
    if package and package.origin:
        file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.column_stack([found.data, found.target])
