"""What several topics ask of a model: its batch norms, device and modes, what wraps it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    # A batch norm, whoever wrote it (see is_norm). As an nn.Module it would have no attributes
    # of its own: to a checker each could be a tensor or another module.
    Norm: TypeAlias = Any

HOOKS = (  # where a module keeps the hooks that others registered
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)

# What a batch norm remembers, by PyTorch's names.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


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


def norms_of(model: nn.Module) -> dict[str, Norm]:
    """The batch norms of a model by path, each once."""
    return {path: m for path, m in model.named_modules() if is_norm(m)}


def unwrap(model: nn.Module) -> tuple[str, nn.Module]:
    """Prefix of the paths, and the model inside DDP, DataParallel and torch.compile."""
    prefix = ""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, wrappers):
            model, prefix = model.module, prefix + "module."
        elif "_orig_mod" in model._modules:
            model, prefix = model._orig_mod, prefix + "_orig_mod."  # type: ignore[assignment]
        else:
            return prefix, model


def random_numbers_kept() -> contextlib.AbstractContextManager[None]:
    """PyTorch's random numbers, those of the GPUs too, go on as if none had been drawn."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng(list(gpus))


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters, the CPU if it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextlib.contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Give each module its training or evaluation mode back."""
    before = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
