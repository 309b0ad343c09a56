"""A copy to examine, so that the model itself stays as it is."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

from bnutils._modules import HOOKS, is_norm, random_numbers_kept


def replica(model: nn.Module) -> nn.Module:
    """A deep copy without hooks, but for PyTorch's own (lazy layers, weight norm).

    Somebody's hooks may send numbers to a log or keep activations: they are not called.
    """
    twin = copy.deepcopy(model, _replacements(model))
    for module in twin.modules():
        for name in HOOKS:
            hooks = getattr(module, name)
            for key in [k for k, hook in hooks.items() if not _from_torch(hook)]:
                del hooks[key]
    return twin


def _replacements(model: nn.Module) -> dict[int, object]:
    """What to use where ``deepcopy`` refuses, by id of the original.

    These are tensors that hang on a graph (old-style weight norm leaves one behind),
    process groups, and buffers of lazy layers.
    """
    memo: dict[int, object] = {}
    for module in model.modules():
        for value in (*vars(module).values(), *module._buffers.values()):
            if isinstance(value, UninitializedBuffer):
                memo[id(value)] = UninitializedBuffer(  # type: ignore[call-arg]
                    device=value.device, dtype=value.dtype
                )
            elif isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
            elif type(value).__name__.startswith("ProcessGroup"):
                memo[id(value)] = value
    return memo


def _from_torch(hook: object) -> bool:
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return home.split(".")[0] == "torch"


def set_modes(copy: nn.Module, original: nn.Module, *, norms_only: bool) -> None:
    """Put the copy into training mode: as the original trains, or its batch norms alone.

    By the flags, not by ``train()``, which some models define as "start the training".
    What is in evaluation mode inside a model that trains was frozen and stays so.
    """
    for module, model in zip(copy.modules(), original.modules(), strict=True):
        frozen = original.training and not model.training
        module.training = not frozen and (is_norm(module) or not norms_only)


@contextlib.contextmanager
def random_states_kept(loader: object) -> Iterator[None]:
    """Restore the global random states, and those of a DataLoader and its samplers."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    own = [(g, g.get_state()) for g in _generators(loader)]
    try:
        with random_numbers_kept():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if mps is not None:
            torch.mps.set_rng_state(mps)
        for generator, state in own:
            generator.set_state(state)


def _generators(loader: object) -> list[torch.Generator]:
    batches = getattr(loader, "batch_sampler", None)
    samplers = [getattr(owner, "sampler", None) for owner in (loader, batches)]
    owners = (loader, batches, *samplers)
    found = [getattr(owner, "generator", None) for owner in owners]
    return [g for g in found if isinstance(g, torch.Generator)]
