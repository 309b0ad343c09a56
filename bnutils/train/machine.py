"""What a run is computed on: device, threads, and the random numbers' seeds."""

import contextlib
import os
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from bnutils._modules import device_of, modes_restored


def seed_all(seed: int, threads: int | None = None) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators; set PyTorch's threads.

    The same seed and the same number of threads give the same bits on one machine; sums
    over several threads are added in another order than over one.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # code that takes no generator
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)


def default_device() -> torch.device:
    """Return $BNUTILS_DEVICE if set, else CUDA or MPS if there is one, else the CPU."""
    chosen = os.environ.get("BNUTILS_DEVICE")
    if not chosen:
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        chosen = "cuda" if cuda else "mps" if mps else "cpu"
    return torch.device(chosen)


@contextlib.contextmanager
def setting(
    model: nn.Module, device: torch.device | str | None, threads: int | None
) -> Iterator[torch.device]:
    """Choose the device and the number of threads for a while, and move the model.

    Yields the device: the one given, or else the model's, or else, where that is the
    CPU, the default one. Device, threads and modes are restored at the end.
    """
    before, threads_before = device_of(model), torch.get_num_threads()
    if device is None:
        device = default_device() if before.type == "cpu" else before
    torch.set_num_threads(threads_before if threads is None else threads)
    try:
        with modes_restored(model):
            model.to(device)
            yield torch.device(device)
    finally:
        model.to(before)
        torch.set_num_threads(threads_before)
