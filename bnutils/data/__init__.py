"""MNIST as tensors: found, verified, downloaded, or replaced by offline digits (chapter 8).

:func:`load` finds the files and returns a :class:`Dataset` of three :class:`Split`; its
method ``batches`` shuffles them into minibatches. The whole data set lies in memory as one
tensor per split, normalised once. A batch is then one indexing operation, several times
faster than a pipeline of single images.

Behind it: ``mnist`` (the four files: where they are, their checksums, their download),
``digits`` (what stands in where there is no network), ``vision`` (torchvision's reader of
MNIST, imported even beside a torch that it was not built for).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from bnutils.data import digits, mnist
from bnutils.data.mnist import DataError

__all__ = [
    "DataError",
    "Dataset",
    "Split",
    "cache_folder",
    "load",
    "number_of_batches",
]


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images and labels that serve one purpose: training, validation or test.

    Attributes
    ----------
    x : Tensor, shape (N, 784), float32
        Images of 28x28 pixels, row by row, normalised.
    y : Tensor, shape (N,), int64
        Labels, 0 to 9.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        """Return N, the number of images."""
        return len(self.y)

    def __repr__(self) -> str:
        """Say how many images there are, and of which shape."""
        return f"{len(self):,} images of shape {tuple(self.x.shape[1:])}"

    def to(self, device: torch.device | str) -> Split:
        """Copy the split to another device, unless it is there."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Three splits and how they were normalised; ``print`` says which data they are.

    Attributes
    ----------
    name : str
        "MNIST" or "digits".
    source : str
        Where the data came from, in words.
    train, valid, test : Split
        Test images serve a final evaluation only; every choice is made on ``valid``.
    mean, std : float
        Of all pixels of the training images, on the scale 0 (paper) to 1 (ink). A
        normalised x shows the original pixels as ``x * std + mean``.
    classes : tuple of str
        Name of each label.
    """

    name: str
    source: str
    train: Split
    valid: Split
    test: Split
    mean: float = 0.0
    std: float = 1.0
    classes: tuple[str, ...] = tuple("0123456789")

    def __repr__(self) -> str:
        """Say which data these are and how many, the same on every machine."""
        title = self.name
        if title == "digits":
            title = (
                "Offline digits of scikit-learn (8x8, resized), standing in for MNIST"
            )
        n, n_valid, n_test = len(self.train), len(self.valid), len(self.test)
        size = " of 28x28 pixels" if self.train.x.size(-1) == 784 else ""
        return (
            f"{title}: {n:,} training, {n_valid:,} "
            f"validation and {n_test:,} test images{size}"
        )

    def to(self, device: torch.device | str) -> Dataset:
        """Copy the data to another device, unless they are there."""
        splits = {n: getattr(self, n).to(device) for n in ("train", "valid", "test")}
        return replace(self, **splits)

    def batches(
        self,
        split: Split,
        batch_size: int,
        *,
        generator: Generator | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over a split in minibatches, on the split's device.

        Parameters
        ----------
        split : Split
        batch_size : int
            B, the number of images per batch.
        generator : torch.Generator on the CPU, optional
            Draws the order, the same on every device; PyTorch's global one by default.
        shuffle : bool
            False keeps the order of the split.
        drop_last : bool
            Leave out the last batch if it holds fewer than B images.

        Returns
        -------
        iterator over (x, y), shapes (B, 784) and (B,)

        Raises
        ------
        ValueError
            The split is empty, the batch size is not positive, or there is no batch.
        """
        count = number_of_batches(split, batch_size, drop_last)
        order = torch.arange(len(split))
        if shuffle:
            order = torch.randperm(len(split), generator=generator)
        chosen = order.to(split.y.device).split(batch_size)[:count]
        return (
            (split.x.index_select(0, c), split.y.index_select(0, c)) for c in chosen
        )


def number_of_batches(split: Split, batch_size: int, drop_last: bool = False) -> int:
    """Count the minibatches of one pass over a split.

    Raises
    ------
    ValueError
        The split is empty, the batch size is not positive, or there is no batch.
    """
    n = len(split)
    if n == 0:
        raise ValueError("the split is empty: there is nothing to take batches from")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but got {batch_size}")
    if drop_last and batch_size > n:
        raise ValueError(
            f"batch_size={batch_size} is larger than the split ({n} images): with "
            "drop_last=True there is no batch; choose a smaller one"
        )
    return n // batch_size if drop_last else math.ceil(n / batch_size)


def load(
    root: str | os.PathLike[str] | None = None,
    *,
    device: torch.device | str = "cpu",
    download: bool = True,
) -> Dataset:
    """MNIST, or with nothing configured and no network the offline digits.

    The first of these that is there is used:

    1. ``root``, then the environment variable BNUTILS_DATA: a folder that holds the
       four raw files, or holds them in ``MNIST/raw`` (as torchvision leaves them) or
       ``raw``. The word ``digits`` chooses the offline digits. A relative BNUTILS_DATA
       is taken from the current folder or else from the folder that holds the package.
       What is named here but cannot be used is an error.
    2. the user's cache folder, see :func:`cache_folder`; files damaged there are
       downloaded again, and are an error when that fails.
    3. a download by torchvision into the cache folder.
    4. the 1,797 digits of 8x8 pixels that scikit-learn ships, resized to 28x28
       (bilinear); ``print`` of the result says so, and the logger "bnutils" says why.

    All files are compared with the originals by SHA-256. The 60,000 training images
    of MNIST become 55,000 for training and 5,000 for validation by the permutation
    ``numpy.random.RandomState(0)``, whose stream NumPy guarantees. A permutation, since
    the images are not in random order: the last 5,000 are easier (with the article's
    network their accuracy exceeded that of the test images by 0.2 percentage points,
    that of the 5,000 chosen here by 0.1; 6 runs each). The offline digits are split
    1,297/200/300 in the same way.

    Parameters
    ----------
    root : path, "digits" or None
    device : torch.device or str
        Where the tensors are to lie.
    download : bool
        False never uses the network.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        The folder or one of its files is missing, unreadable, truncated, corrupted,
        swapped, packed or no MNIST file; the cache is damaged and cannot be repaired;
        no space or no permission to store the download.
    ImportError
        For a download only: torchvision is not installed, or broken (one built for
        another torch will do).
    """
    named = root if root is not None else os.environ.get("BNUTILS_DATA") or None
    if named is not None and os.fspath(named) == "digits":
        return _from_digits("scikit-learn, as asked for").to(device)
    if named is not None:
        return _from_named(named, is_argument=root is not None).to(device)
    try:
        files, source = mnist.read_cached(cache_folder(), allow_download=download)
    except mnist.NoNetwork as error:
        mnist.log.info("%s; the offline digits of scikit-learn stand in", error)
        why = "scikit-learn, since MNIST could not be downloaded"
        return _from_digits(why).to(device)
    return _from_mnist(files, source).to(device)


def cache_folder() -> Path:
    """Return where downloads are kept: bnutils in $XDG_CACHE_HOME or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "bnutils")


def _from_named(named: str | os.PathLike[str], is_argument: bool) -> Dataset:
    """Read MNIST from a folder that was named; say where it was named if that fails."""
    where = "the argument root" if is_argument else "BNUTILS_DATA"
    path = os.path.expanduser(named)
    folder = Path.cwd() / path
    if not is_argument and not os.path.exists(folder):
        # One BNUTILS_DATA serves notebooks and scripts, which run in different folders.
        beside_the_package = Path(__file__).resolve().parents[2] / path
        if os.path.exists(beside_the_package):
            folder = beside_the_package
    try:
        files = mnist.read(mnist.find_folder(folder))
    except DataError as error:
        raise DataError(
            f"{error}. The folder was named by {where}: put the original files "
            f"there, leave {where} out to download MNIST, or {mnist.DIGITS}"
        ) from error
    return _from_mnist(files, f"the folder named by {where}")


def _from_mnist(files: tuple[Tensor, ...], source: str) -> Dataset:
    """Split the 60,000 training images into 5,000 for validation and the rest."""
    x, y, test_x, test_y = files
    valid, train = _shuffled(len(y)).tensor_split([5_000])
    splits = [(x[train], y[train]), (x[valid], y[valid]), (test_x, test_y)]
    return _normalised("MNIST", source, splits)


def _from_digits(source: str) -> Dataset:
    """Split the offline digits into 1,297 for training, 200 and 300."""
    x, y = digits.read()
    parts = _shuffled(len(y)).split([1_297, 200, 300])
    return _normalised("digits", source, [(x[part], y[part]) for part in parts])


def _shuffled(n: int) -> Tensor:
    """Put 0 to n - 1 into an order that is the same in every version of NumPy."""
    return torch.from_numpy(np.random.RandomState(0).permutation(n))


def _normalised(name: str, source: str, splits: list[tuple[Tensor, Tensor]]) -> Dataset:
    """Flatten and normalise bytes (N, 28, 28) by the first split's mean and std."""
    # From the counts of the 256 levels, in float64: a float32 sum of 43 million pixels
    # depends on the order of its terms, and so on the number of threads.
    count = torch.bincount(splits[0][0].flatten(), minlength=256).double()
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = float((count * level).sum() / count.sum())
    std = float(((count * (level - mean) ** 2).sum() / count.sum()).sqrt())
    train, valid, test = (
        # in place, since the training images alone take 170 MB
        Split(x.flatten(1).float().mul_(1 / (255 * std)).sub_(mean / std), y)
        for x, y in splits
    )
    return Dataset(name, source, train, valid, test, mean=mean, std=std)
