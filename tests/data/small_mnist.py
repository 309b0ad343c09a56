"""A small stand-in for MNIST: four files of a few thousand images, and where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bnutils import data

N_TRAIN, N_TEST = 5_060, 40
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    """Write the IDX format: magic number, sizes, bytes."""
    head = np.array([0x0800 + array.ndim, *array.shape], dtype=">i4")
    return head.tobytes() + array.astype(np.uint8).tobytes()


def make_contents() -> dict[str, bytes]:
    """Four small files: image i of either set is filled with i modulo 251."""
    files = {}
    for prefix, n in (("train", N_TRAIN), ("t10k", N_TEST)):
        number = np.arange(n)
        images = np.broadcast_to((number % 251)[:, None, None], (n, 28, 28))
        files[f"{prefix}-images-idx3-ubyte"] = idx(images)
        files[f"{prefix}-labels-idx1-ubyte"] = idx(number % 10)
    return files


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def cache() -> Path:
    return data.cache_folder() / "MNIST" / "raw"


def stored() -> list[str]:
    """Every file below the cache folder."""
    return sorted(p.name for p in data.cache_folder().rglob("*") if p.is_file())
