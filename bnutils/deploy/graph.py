"""Graphs of a model by :mod:`torch.fx`: of the whole, or of its parts."""

import inspect

from torch import fx, nn
from torch.fx.node import map_aggregate

from bnutils.norm import BatchNorm1d

__all__ = ["CONTAINER", "LAYERS", "NORMS", "graphs_of"]

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS += (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, BatchNorm1d)
CONTAINER = "a container without a forward of its own"


class _Tracer(fx.Tracer):
    """Stops at PyTorch's layers, at batch norms and at what cannot be traced."""

    def __init__(self, opaque: set[nn.Module]) -> None:
        super().__init__()
        self.opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, NORMS) or m in self.opaque:
            return True
        if any(isinstance(part, NORMS) for part in m.modules()):
            return False
        return isinstance(m, LAYERS) or super().is_leaf_module(m, module_qualified_name)


def graphs_of(
    module: nn.Module, opaque: dict[nn.Module, str]
) -> list[tuple[nn.Module, fx.Graph]]:
    """Graphs of a module; of its parts, where it cannot be traced as a whole.

    Modules that cannot be traced are added to ``opaque``, with the error.
    """
    if not list(module.children()):
        return []
    graphs, error = _trace(module, opaque)
    pieces = []
    if not graphs:
        pieces = [p for child in module.children() for p in graphs_of(child, opaque)]
        graphs, error = _trace(module, opaque)
    if not graphs:
        opaque[module] = error
        return pieces
    closed = {part for box in opaque for part in box.modules()}
    inside = [piece for piece in pieces if piece[0] in closed]
    return [*((module, graph) for graph in graphs), *inside]


def _trace(module: nn.Module, opaque) -> tuple[list[fx.Graph], str]:
    """Graphs with optional arguments given and left out; without any, the error."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return [], CONTAINER
    graphs, error = [], ""
    for concrete in _arguments(module):
        try:
            graph = _Tracer(set(opaque)).trace(module, concrete_args=concrete)
            graphs.append(_with_stored(graph, module))
        except Exception as problem:  # whatever the model's code does with a proxy
            first = str(problem).partition("\n")[0].partition(". ")[0]
            error = f"{type(problem).__name__}: {first}"
    return graphs, error


def _arguments(module: nn.Module) -> list[dict | None]:
    """Arguments to trace with: the optional ones at their defaults, then all given."""
    simple = (type(None), bool, int, float, str)
    parameters = inspect.signature(module.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if isinstance(p.default, simple)}
    return [defaults, None] if defaults else [None]


def _with_stored(graph: fx.Graph, module: nn.Module) -> fx.Graph:
    """Mark values that the forward keeps in attributes: somebody may read them."""
    stored: list[fx.Node] = []

    def note(value):
        if isinstance(value, fx.Proxy):
            stored.append(value.node)
        return value

    for part in module.modules():
        for value in vars(part).values():
            map_aggregate(value, note)
    for node in (n for n in stored if n.graph is graph):
        node.meta["stored"] = True
    return graph
