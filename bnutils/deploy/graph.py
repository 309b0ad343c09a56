"""Which layer feeds which batch norm: the flow of data through a model, by :mod:`torch.fx`.

``survey`` answers the question for a whole model. It traces the forward, or, where that
cannot be traced, the forwards of the parts (``graphs_of``), and reads in each graph what
every batch norm receives and who else receives it (``_Graph``).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import fx, nn
from torch.fx.node import map_aggregate

from bnutils._modules import random_numbers_kept
from bnutils.norm import BatchNorm1d

if TYPE_CHECKING:
    from typing import Any

LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
# Of which it is known what they compute; others may be batch norms and yet differ.
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, BatchNorm1d)


@dataclass
class Flow:
    """What was found; modules are named by their path in the model.

    Attributes
    ----------
    pairs : dict
        From a batch norm to the layer whose output it alone receives, always.
    reasons : dict
        From every other batch norm that was seen to what feeds it.
    opaque : dict
        From a module whose forward cannot be traced to the error met.
    """

    pairs: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    opaque: dict[str, str] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """What the reader of a report should know about forwards that were not traced."""
        if not self.opaque:
            return []
        named = [
            (f"'{path}'" if path else "the model") + f" ({error})"
            for path, error in self.opaque.items()
        ]
        return [
            f"not traced: the forward of {', '.join(named)}. What is inside was analysed "
            "part by part, as if each part were called as a whole; an example checks that"
        ]


def survey(model: nn.Module) -> Flow:
    """Find the pairs of layer and batch norm. Tracing may leave marks: give a copy.

    A module whose own forward cannot be traced is taken apart: its children are traced
    one by one, on the assumption that it calls them and does not reach inside them.
    """
    names = {module: path for path, module in model.named_modules()}
    opaque: dict[nn.Module, str] = {}
    with random_numbers_kept():  # a forward may draw numbers
        pieces = graphs_of(model, opaque)
    graphs = [_Graph(graph, root, names) for root, graph in pieces]
    flow = Flow(opaque={names[m]: error for m, error in opaque.items() if error})
    for module, norm in names.items():
        seen_in = [graph for graph in graphs if norm in graph.calls]
        if not isinstance(module, NORMS) or not seen_in:
            continue
        layers, reasons = set(), []
        for graph in seen_in:
            try:
                layers.add(graph.layer_feeding(norm))
            except _NoPair as reason:
                reasons.append(str(reason))
        others = [graph for graph in graphs if graph not in seen_in]
        if reasons:
            flow.reasons[norm] = reasons[0]
        elif len(layers) > 1 or any(layers & graph.calls.keys() for graph in others):
            flow.reasons[norm] = "its layer serves others too"
        else:
            flow.pairs[norm] = layers.pop()
    return flow


# Tracing


def graphs_of(
    module: nn.Module, opaque: dict[nn.Module, str]
) -> list[tuple[nn.Module, fx.Graph]]:
    """Graphs of a module; of its parts, where it cannot be traced as a whole.

    With each comes the module whose forward it is; there may be several of one, see
    ``_arguments``. Modules that cannot be traced are added to ``opaque``, with the error.
    """
    if not list(module.children()):
        return []
    graphs, error = _trace(module, opaque)
    pieces = []
    if not graphs:
        # Perhaps a part is to blame. The parts first; then again with those that cannot
        # be traced as single nodes.
        for child in module.children():
            pieces += graphs_of(child, opaque)
        graphs, error = _trace(module, opaque)
    if not graphs:
        opaque[module] = error
        return pieces
    # What was found in the parts is in the module's own graph now, unless an opaque part
    # hides it there.
    hidden = {part for box in opaque for part in box.modules()}
    inside = [(root, graph) for root, graph in pieces if root in hidden]
    return [*((module, graph) for graph in graphs), *inside]


class _Tracer(fx.Tracer):
    """Stops at PyTorch's layers, at batch norms and at what cannot be traced."""

    def __init__(self, opaque: set[nn.Module]) -> None:
        super().__init__()
        self.opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, NORMS) or m in self.opaque:
            return True
        if any(isinstance(part, NORMS) for part in m.modules()):
            return False  # PyTorch's own modules too: a batch norm is inside
        return isinstance(m, LAYERS) or super().is_leaf_module(m, module_qualified_name)


def _trace(
    module: nn.Module, opaque: dict[nn.Module, str]
) -> tuple[list[fx.Graph], str]:
    """Graphs with optional arguments given and left out; without any, the error."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return [], ""  # no error: they have no forward
    graphs, error = [], ""
    for concrete in _arguments(module):
        try:
            graph = _Tracer(set(opaque)).trace(module, concrete_args=concrete)
        except Exception as problem:  # whatever the model's code does with a proxy
            first = str(problem).partition("\n")[0].partition(". ")[0]
            error = f"{type(problem).__name__}: {first}"
        else:
            _mark_stored(graph, module)
            graphs.append(graph)
    return graphs, error


def _arguments(module: nn.Module) -> list[dict[str, Any] | None]:
    """Arguments to trace with: the optional ones at their defaults, then all given.

    A forward often branches on ``if mask is None``. A traced argument is never None, so
    one graph would show one branch only.
    """
    simple = (type(None), bool, int, float, str)
    parameters = inspect.signature(module.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if isinstance(p.default, simple)}
    return [defaults, None] if defaults else [None]


def _mark_stored(graph: fx.Graph, module: nn.Module) -> None:
    """Mark values that the forward keeps in attributes: somebody may read them."""

    def mark(value: Any) -> Any:
        # An earlier trace may have left nodes of its own graph behind.
        if isinstance(value, fx.Proxy) and value.node.graph is graph:
            value.node.meta["stored"] = True
        return value

    for part in module.modules():
        for value in vars(part).values():
            map_aggregate(value, mark)  # which also looks into lists and dictionaries


# Reading a graph


class _NoPair(Exception):
    """A batch norm that cannot be folded; the message says why."""


class _Graph:
    """One traced forward: what it calls, by the paths of modules in the whole model."""

    def __init__(
        self, graph: fx.Graph, root: nn.Module, names: dict[nn.Module, str]
    ) -> None:
        self.root, self.names = root, names
        self.calls: dict[str, list[fx.Node]] = {}
        self.read_directly: set[str] = set()  # whose parameters the forward itself uses
        for node in graph.nodes:
            if node.op == "call_module":
                self.calls.setdefault(self._path(node), []).append(node)
            elif node.op == "get_attr":
                owner = root.get_submodule(node.target.rpartition(".")[0])
                self.read_directly.add(names[owner])

    def layer_feeding(self, norm: str) -> str:
        """The one layer that feeds every call of a batch norm and nothing else."""
        nodes = self.calls[norm]
        layers = {self._layer_before(node) for node in nodes}
        if len(layers) > 1:
            raise _NoPair(f"used at {len(nodes)} places, after different layers")
        layer = layers.pop()
        if len(self.calls[layer]) != len(nodes):
            raise _NoPair(f"'{layer}' is also used without this batch norm")
        for path in sorted({layer, norm}):
            if path in self.read_directly:
                raise _NoPair(f"parameters of '{path}' are also read directly")
        return layer

    def _layer_before(self, node: fx.Node) -> str:
        """The layer whose output one call of a batch norm receives, and nobody else."""
        if len(node.all_input_nodes) != 1 or node.kwargs:
            raise _NoPair("called with several tensors or by keyword")
        (before,) = node.all_input_nodes
        if not isinstance(self._module(before), LAYERS):
            raise _NoPair(f"follows {self._describe(before)}")
        layer = self._path(before)
        if "stored" in before.meta:
            raise _NoPair(f"the output of '{layer}' is kept in an attribute")
        for user in before.users:
            if user is not node:
                other = self._describe(user)
                raise _NoPair(f"the output of '{layer}' also goes to {other}")
        return layer

    def _path(self, node: fx.Node) -> str:
        """Where in the whole model the module stands that a node calls."""
        return self.names[self.root.get_submodule(node.target)]

    def _module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls, None if it calls none."""
        if node.op != "call_module":
            return None
        return self.root.get_submodule(node.target)

    def _describe(self, node: fx.Node) -> str:
        """A node in words, as the report shows it."""
        own = self.names[self.root]
        if node.op in ("placeholder", "output"):
            end = "input" if node.op == "placeholder" else "output"
            return f"the {end} of '{own}'" if own else f"the model's {end}"
        if node.op == "call_module":
            return f"a {type(self._module(node)).__name__}"
        return str(getattr(node.target, "__name__", node.target))
