"""Which layer feeds which batch norm, and what feeds the others."""

from dataclasses import dataclass, field

from torch import fx, nn

from bnutils._modules import random_numbers_kept
from bnutils.deploy.graph import CONTAINER, LAYERS, NORMS, graphs_of

__all__ = ["Flow", "survey"]


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
        untraced = [
            f"{_named(path)} ({error})"
            for path, error in self.opaque.items()
            if error != CONTAINER
        ]
        if not untraced:
            return []
        return [
            f"not traced: the forward of {', '.join(untraced)}. What is inside was analysed "
            "part by part, as if each part were called as a whole; an example checks that"
        ]


def survey(model: nn.Module) -> Flow:
    """Find the pairs of layer and batch norm. Tracing may leave marks: give a copy.

    A module whose own forward cannot be traced is taken apart: its children are traced
    one by one, on the assumption that it calls them and does not reach inside them.
    """
    names = {module: path for path, module in model.named_modules()}
    flow, opaque = Flow(), {}
    with random_numbers_kept():  # a forward may draw numbers
        pieces = graphs_of(model, opaque)
    flow.opaque = {names[module]: error for module, error in opaque.items()}
    found = [_read(graph, root, names) for root, graph in pieces]
    for norm in {n for calls, _, _ in found for n in calls}:
        seen = [(pairs, reasons) for calls, pairs, reasons in found if norm in calls]
        layers = {pairs.get(norm) for pairs, _ in seen}
        (layer,) = layers if len(layers) == 1 else (None,)
        if layer and all(layer not in c or norm in p for c, p, _ in found):
            flow.pairs[norm] = layer
        elif isinstance(model.get_submodule(norm), NORMS):
            reasons = [reasons[norm] for _, reasons in seen if norm in reasons]
            flow.reasons[norm] = (
                reasons[0] if reasons else "its layer serves others too"
            )
    return flow


def _read(graph: fx.Graph, root: nn.Module, names):
    """Modules called in a graph, its pairs, and why the other batch norms have none."""
    called: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            name = names[root.get_submodule(node.target)]
            called.setdefault(name, []).append(node)
    name_of = {node: name for name, nodes in called.items() for node in nodes}
    direct = {_owner(n, root, names): n for n in graph.nodes if n.op == "get_attr"}
    pairs, reasons = {}, {}
    for name, nodes in called.items():
        if isinstance(root.get_submodule(nodes[0].target), NORMS):
            layer, reason = _source(nodes, called, name_of, root, names[root])
            if layer and (used := {layer, name} & direct.keys()):
                layer, reason = (
                    None,
                    f"parameters of '{min(used)}' are also read directly",
                )
            if layer:
                pairs[name] = layer
            else:
                reasons[name] = reason
    return set(called), pairs, reasons


def _owner(node: fx.Node, root: nn.Module, names) -> str:
    """Path of the module to which a parameter that is read belongs."""
    return names[root.get_submodule(node.target.rpartition(".")[0])]


def _source(nodes, called, name_of, root, path) -> tuple[str | None, str]:
    """The one layer that feeds every call of a batch norm and nothing else, or why not."""
    for node in nodes:
        before, *more = node.all_input_nodes or (None,)
        if more or node.kwargs:
            return None, "called with several tensors or by keyword"
        if before is None or not isinstance(_module(before, root), LAYERS):
            return None, f"follows {_what(before, root, path)}"
        if "stored" in before.meta:
            return None, f"the output of '{name_of[before]}' is kept in an attribute"
        if others := [user for user in before.users if user is not node]:
            what = _what(others[0], root, path)
            return None, f"the output of '{name_of[before]}' also goes to {what}"
    layers = {name_of[node.all_input_nodes[0]] for node in nodes}
    if len(layers) > 1:
        return None, f"used at {len(nodes)} places, after different layers"
    (layer,) = layers
    if len(called[layer]) != len(nodes):
        return None, f"'{layer}' is also used without this batch norm"
    return layer, ""


def _module(node: fx.Node, root: nn.Module) -> nn.Module | None:
    return root.get_submodule(node.target) if node.op == "call_module" else None


def _what(node: fx.Node | None, root: nn.Module, path: str) -> str:
    """A node of the graph in words."""
    if node is None or node.op == "placeholder":
        return f"the input of '{path}'" if path else "the model's input"
    if node.op == "call_module":
        return f"a {type(_module(node, root)).__name__}"
    if node.op == "output":
        return f"the output of '{path}'" if path else "the model's output"
    return str(getattr(node.target, "__name__", node.target))


def _named(path: str, whole: str = "the model") -> str:
    return f"'{path}'" if path else whole
