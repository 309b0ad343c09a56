"""What stands in the way of folding: state, classes, hooks, shared weights, shapes."""

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from bnutils.deploy.arithmetic import rank_of
from bnutils.deploy.flow import Flow
from bnutils.deploy.graph import CONTAINER, LAYERS, NORMS

__all__ = ["copied", "norms_of", "obstacle", "require_ready"]

_DEFINING = {"forward", "_conv_forward", "__call__", "__getattr__", "weight", "bias"}
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_ANY_NORM = (*NORMS, nn.modules.batchnorm._BatchNorm)  # the lazy ones as well
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
_HOOKS += ("_backward_pre_hooks",)


def norms_of(model: nn.Module) -> dict[str, nn.Module]:
    """Batch norms by path: those that are known, subclasses and look-alikes."""
    return {p: m for p, m in model.named_modules() if _is_norm(m)}


def _is_norm(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):
        return False
    known = isinstance(module, _ANY_NORM)
    return known or {"running_mean", "running_var"} <= module._buffers.keys()


def require_ready(model: nn.Module) -> None:
    """Raise unless the whole model is in evaluation mode, with running statistics.

    Raises
    ------
    TypeError
        The model is compiled or scripted.
    ValueError
        Names the first module that stands in the way.
    """
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        raise TypeError(
            f"the model is a {type(model).__name__}: fold it first, then script or compile"
        )
    norms = norms_of(model)
    training = [
        path
        for path, m in model.named_modules()
        if m.training and type(m) not in _CONTAINERS  # their own mode means nothing
    ]
    if training:
        first = next((p for p in training if p in norms), training[0])
        raise ValueError(
            f"in training mode: {f'{first!r}' if first else 'the model itself'}"
            f"{f' and {len(training) - 1} more' if training[1:] else ''}; a batch norm that "
            "uses the batch has nothing fixed to fold: call eval() first"
        )
    for path, norm in norms.items():
        if not isinstance(norm, _ANY_NORM):
            continue
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError(
                f"'{path}' ({type(norm).__name__}) has no running statistics "
                "(track_running_stats=False): in evaluation mode it normalises with the "
                "batch, so there is nothing fixed to fold; give it statistics by training "
                "it with track_running_stats=True"
            )
        if torch.nn.parameter.is_lazy(norm.running_mean):
            raise ValueError(f"'{path}' has no size yet: run the model once before")


def copied(model: nn.Module) -> nn.Module:
    """A deep copy.

    Raises
    ------
    TypeError
        The model holds something that cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise TypeError(
            f"folding works on a copy, and the model cannot be copied ({error}); "
            "running it once under torch.no_grad() replaces tensors that hang on a graph"
        ) from error


def obstacle(model: nn.Module, flow: Flow, norm: str, rank: int | None) -> str:
    """Why a batch norm of the model cannot be folded, or an empty string."""
    bn = model.get_submodule(norm)
    if not isinstance(bn, NORMS):
        return f"a {type(bn).__name__} is not a batch norm class that is known here"
    if norm not in flow.pairs:
        return flow.reasons.get(norm) or _unseen(flow, norm)
    path = flow.pairs[norm]
    layer = model.get_submodule(path)
    if hooked := _hooked(model, path, norm):
        return f"a hook on '{hooked}' would see other values"
    for name, module, known in ((path, layer, LAYERS), (norm, bn, NORMS)):
        if parametrize.is_parametrized(module):
            return f"'{name}' has a parametrization"
        if not _plain(module, known):
            return f"'{name}' is a {type(module).__name__} with a forward of its own"
    if shared := _shared(model, layer, path):
        return f"the weights of '{path}' are also those of '{shared}'"
    return _shapes(layer, bn, path, rank)


def _plain(module: nn.Module, known: tuple[type, ...]) -> bool:
    """Whether a module computes what the known class does: itself or a mere subclass."""
    kinds = type(module).__mro__
    base = next(kind for kind in kinds if kind in known)
    own = (vars(module), *map(vars, kinds[: kinds.index(base)]))
    return not any(_DEFINING & names.keys() for names in own)


def _unseen(flow: Flow, norm: str) -> str:
    """Why a batch norm appears in no graph."""
    outer = [path for path, error in flow.opaque.items() if error != CONTAINER]
    around = [p for p in outer if not p or norm.startswith(p + ".")]
    if not around:
        return "not called in evaluation mode"
    nearest = max(around, key=len)
    who = f"'{nearest}'" if nearest else "the model"
    return f"the forward of {who} cannot be traced ({flow.opaque[nearest]})"


def _hooked(model: nn.Module, *paths: str) -> str | None:
    """First module with a hook that holds one of the two, but not both."""
    chains = [
        {".".join(p.split(".")[: i + 1]) for i in range(p.count(".") + 1)}
        for p in paths
    ]
    for path in sorted(chains[0] ^ chains[1]):
        module = model.get_submodule(path)
        if any(getattr(module, kind) for kind in _HOOKS):
            return path
    return None


def _shared(model: nn.Module, layer: nn.Module, path: str) -> str | None:
    """Another module that holds a parameter of the layer."""
    own = {id(p) for p in layer.parameters()}
    for other, module in model.named_modules():
        if module is not layer and other != path:
            if any(id(p) in own for p in module.parameters(recurse=False)):
                return other
    return None


def _shapes(layer: nn.Module, bn: nn.Module, path: str, rank: int | None) -> str:
    out = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if out != bn.num_features:
        return f"'{path}' has {out} outputs, the batch norm {bn.num_features} channels"
    if isinstance(layer, nn.Linear) and isinstance(bn, nn.BatchNorm2d | nn.BatchNorm3d):
        return f"'{path}' works on the last axis, the batch norm on axis 1"
    if rank is not None and rank != (rank_of(layer) or rank):
        return (
            f"the output of '{path}' has {rank} dimensions in the example: its channels "
            "are not the batch norm's"
        )
    return ""
