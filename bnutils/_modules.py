"""What surrounds a model at work: its batch norms, device, modes, threads, shapes."""

import contextlib
import os
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

HOOKS = (  # where a module keeps the hooks that others registered
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm: PyTorch's, the book's, or one that keeps the same.

    What makes a batch norm, whoever wrote it, are statistics of its own: it has a place
    for ``running_mean`` and ``running_var`` (None, if it keeps none). That takes in
    frozen ones such as torchvision's, which have no momentum; ask before you use an
    attribute other than these two. Instance norms have both places and are another thing:
    their statistics are of one image, not of the batch.
    """
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return False
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return True  # also those unpickled from old versions, whatever they lack
    stored = {*module._buffers.keys(), *module._parameters.keys()}
    return {"running_mean", "running_var"} <= stored


def norms_of(model: nn.Module) -> dict[str, nn.Module]:
    """The batch norms of a model by path, each once."""
    return {path: m for path, m in model.named_modules() if is_norm(m)}


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


def random_numbers_kept() -> contextlib.AbstractContextManager:
    """PyTorch's random numbers, those of the GPUs too, go on as if none had been drawn."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng(list(gpus))


def default_device() -> torch.device:
    """Return $BNUTILS_DEVICE if set, else CUDA or MPS if there is one, else the CPU."""
    chosen = os.environ.get("BNUTILS_DEVICE")
    if not chosen:
        cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
        chosen = "cuda" if cuda else "mps" if mps else "cpu"
    return torch.device(chosen)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters, the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


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


@contextlib.contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Give each module its training or evaluation mode back."""
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def too_small(shape: tuple[int, ...]) -> str:
    """What to do about a batch of one image."""
    return f"a batch of shape {shape}: raise batch_size or set drop_last=True"


def not_accepted(shape: tuple[int, ...]) -> str:
    """What is wrong with a batch of images that are not as long as the model's input."""
    return f"the model does not accept a batch of shape {shape}"


def forward(model: nn.Module, x: Tensor, classes: int) -> Tensor:
    """Compute the model's logits, or raise an error that names the shapes."""
    shape = tuple(x.shape)
    try:
        logits = model(x)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(f"{error} ({too_small(shape)})") from error
    except RuntimeError as error:
        if "shapes cannot be multiplied" not in str(error):
            raise
        raise RuntimeError(f"{not_accepted(shape)}: {error}") from error
    if logits.dim() != 2 or len(logits) != len(x) or logits.size(1) < classes:
        raise ValueError(
            f"the model made {tuple(logits.shape)} of a batch of shape {shape}; "
            f"expected ({len(x)}, {classes}): a row of logits for each image"
        )
    return logits
