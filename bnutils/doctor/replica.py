"""A copy to examine, and random states that stay as they were."""

import contextlib
import copy
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

from bnutils._modules import HOOKS, is_norm, norms_of, random_numbers_kept

__all__ = [
    "is_norm",
    "norms_of",
    "random_states_kept",
    "replica",
    "unwrap",
]

_GENERATORS = (
    torch.Generator,
    np.random.Generator,
    np.random.RandomState,
    random.Random,
)


def unwrap(model: nn.Module) -> tuple[str, nn.Module]:
    """Prefix of the paths, and the model inside DDP, DataParallel and torch.compile."""
    prefix = ""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, wrappers):
            model, prefix = model.module, prefix + "module."
        elif "_orig_mod" in model._modules:
            model, prefix = model._orig_mod, prefix + "_orig_mod."
        else:
            return prefix, model


def replica(model: nn.Module) -> nn.Module:
    """A deep copy without hooks, but for PyTorch's own (lazy layers, weight norm)."""
    memo: dict[int, object] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
            elif type(value).__name__.startswith("ProcessGroup"):
                memo[id(value)] = value
            elif isinstance(value, torch.Generator):
                memo[id(value)] = _same_generator(value)
        for value in module._buffers.values():
            if isinstance(value, UninitializedBuffer):  # has no __deepcopy__ of its own
                blank = UninitializedBuffer(device=value.device, dtype=value.dtype)
                memo[id(value)] = blank
            elif value is not None and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        for name in HOOKS:
            hooks = getattr(module, name)
            for key in [k for k, hook in hooks.items() if not _from_torch(hook)]:
                del hooks[key]
    return twin


def _from_torch(hook: object) -> bool:
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return home.split(".")[0] == "torch"


def _same_generator(generator: torch.Generator) -> torch.Generator:
    twin = torch.Generator(device=generator.device)
    return twin.set_state(generator.get_state())


@contextlib.contextmanager
def random_states_kept(*owners: object) -> Iterator[None]:
    """Restore the global random states, and those of generators inside the objects given."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    own = [(g, _state_of(g)) for g in _generators(owners)]
    try:
        with random_numbers_kept():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if mps is not None:
            torch.mps.set_rng_state(mps)
        for generator, state in own:
            _restore(generator, state)


def _state_of(generator):
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state()


def _restore(generator, state) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def _generators(owners: tuple, limit: int = 2000) -> list:
    """Generators among the attributes of objects (a loader's sampler, a transform)."""
    seen: dict[int, object] = {}
    queue, found = list(owners), []
    while queue and len(seen) < limit:
        one = queue.pop()
        if id(one) in seen or isinstance(one, Tensor | type | np.ndarray | str | int):
            continue
        seen[id(one)] = one
        if isinstance(one, _GENERATORS):
            found.append(one)
        elif isinstance(one, list | tuple):
            queue += one[:100]
        elif isinstance(one, dict):
            queue += list(one.values())[:100]
        else:
            queue += list(getattr(one, "__dict__", {}).values())
    return found
