"""What stands in the way of folding: state, classes, hooks, shared weights, shapes."""

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from bnutils._modules import HOOKS, norms_of
from bnutils.deploy.arithmetic import rank_of
from bnutils.deploy.graph import LAYERS, NORMS, Flow

# A subclass or an object with one of these of its own may compute something else.
_DEFINING = {"forward", "_conv_forward", "__call__", "__getattr__", "weight", "bias"}
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_KNOWN_NORMS = (*NORMS, nn.modules.batchnorm._BatchNorm)  # the lazy ones as well


def require_ready(model: nn.Module) -> None:
    """Raise unless the whole model is in evaluation mode, with running statistics."""
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        raise TypeError(
            f"the model is a {type(model).__name__}: fold it first, then script or compile"
        )
    _require_evaluation(model)
    for path, norm in norms_of(model).items():
        if not isinstance(norm, _KNOWN_NORMS):
            continue  # stays as it is, so what it lacks does not matter
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError(
                f"'{path}' ({type(norm).__name__}) has no running statistics "
                "(track_running_stats=False): in evaluation mode it normalises with the "
                "batch, so there is nothing fixed to fold; give it statistics by training "
                "it with track_running_stats=True"
            )
        if torch.nn.parameter.is_lazy(norm.running_mean):
            raise ValueError(f"'{path}' has no size yet: run the model once before")


def _require_evaluation(model: nn.Module) -> None:
    """Raise ValueError if a module is in training mode; name a batch norm if one is."""
    training = [
        path
        for path, module in model.named_modules()
        if module.training and type(module) not in _CONTAINERS  # theirs means nothing
    ]
    if not training:
        return
    norms = norms_of(model)
    first = next((path for path in training if path in norms), training[0])
    named = f"'{first}'" if first else "the model itself"
    more = f" and {len(training) - 1} more" if len(training) > 1 else ""
    raise ValueError(
        f"in training mode: {named}{more}; a batch norm that uses the batch has nothing "
        "fixed to fold: call eval() first"
    )


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; TypeError if the model holds something that cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise TypeError(
            f"folding works on a copy, and the model cannot be copied ({error}); "
            "running it once under torch.no_grad() replaces tensors that hang on a graph"
        ) from error


def obstacle(model: nn.Module, flow: Flow, norm: str, rank: int | None) -> str:
    """Why the batch norm at path ``norm`` cannot be folded, or an empty string.

    ``rank`` is the number of dimensions that it receives in the example, if there is one.
    """
    bn = model.get_submodule(norm)
    if not isinstance(bn, NORMS):
        return f"a {type(bn).__name__} is not a batch norm class that is known here"
    if norm not in flow.pairs:
        return flow.reasons.get(norm) or _unseen(flow, norm)
    path = flow.pairs[norm]
    layer = model.get_submodule(path)
    hooked = _hooked(model, path, norm)
    if hooked:
        return f"a hook on '{hooked}' would see other values"
    for name, module, known in ((path, layer, LAYERS), (norm, bn, NORMS)):
        if parametrize.is_parametrized(module):
            return f"'{name}' has a parametrization"
        if not _is_plain(module, known):
            return f"'{name}' is a {type(module).__name__} with a forward of its own"
    shared = _shared(model, layer)
    if shared:
        return f"the weights of '{path}' are also those of '{shared}'"
    return _misfit(layer, bn, path, rank)


def _is_plain(module: nn.Module, known: tuple[type, ...]) -> bool:
    """Whether a module computes what the known class does: itself or a mere subclass."""
    classes = type(module).__mro__
    base = next(cls for cls in classes if cls in known)
    own_names = [vars(module), *map(vars, classes[: classes.index(base)])]
    return not any(_DEFINING & names.keys() for names in own_names)


def _unseen(flow: Flow, norm: str) -> str:
    """Why a batch norm appears in no graph."""
    around = [p for p in flow.opaque if not p or norm.startswith(p + ".")]
    if not around:
        return "not called in evaluation mode"
    nearest = max(around, key=len)
    who = f"'{nearest}'" if nearest else "the model"
    return f"the forward of {who} cannot be traced ({flow.opaque[nearest]})"


def _hooked(model: nn.Module, layer: str, norm: str) -> str | None:
    """First module with a hook that contains one of the two paths, but not both.

    What goes into a module that contains both, and what comes out of it, stays the same.
    """
    for path in sorted(_ancestors(layer) ^ _ancestors(norm)):
        module = model.get_submodule(path)
        if any(getattr(module, kind) for kind in HOOKS):
            return path
    return None


def _ancestors(path: str) -> set[str]:
    """The path itself and those of the modules that contain it, but for the model's."""
    parts = path.split(".")
    return {".".join(parts[: i + 1]) for i in range(len(parts))}


def _shared(model: nn.Module, layer: nn.Module) -> str | None:
    """Path of another module that holds a parameter of the layer."""
    own = set(layer.parameters())
    for other, module in model.named_modules():
        if module is not layer and own.intersection(module.parameters(recurse=False)):
            return other
    return None


def _misfit(layer: nn.Module, bn: nn.Module, path: str, rank: int | None) -> str:
    """Why the layer's outputs are not the batch norm's channels, or an empty string."""
    out = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if out != bn.num_features:
        return f"'{path}' has {out} outputs, the batch norm {bn.num_features} channels"
    if isinstance(layer, nn.Linear) and isinstance(bn, nn.BatchNorm2d | nn.BatchNorm3d):
        return f"'{path}' works on the last axis, the batch norm on axis 1"
    expected = rank_of(layer)
    if rank is not None and expected is not None and rank != expected:
        return (
            f"the output of '{path}' has {rank} dimensions in the example: its channels "
            "are not the batch norm's"
        )
    return ""
