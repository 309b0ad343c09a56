"""What :mod:`torch.fx` shows of a model without running it."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass, field

from torch import fx, nn
from torch.nn import functional as F

from bnutils._modules import is_norm
from bnutils.deploy.graph import graphs_of, survey
from bnutils.doctor.observe import DROPOUT

_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)
_NORMALISING = (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


@dataclass
class Map:
    """What the graphs of a model show, by the path of each batch norm."""

    # The layer whose output it alone receives.
    pairs: dict[str, str] = field(default_factory=dict)
    # How often one forward calls it.
    calls: Counter[str] = field(default_factory=Counter)
    # The dropout upstream of it (no normalisation between them) and its rate.
    dropouts: dict[str, tuple[str, float]] = field(default_factory=dict)
    whole: bool = True  # whether every forward could be traced


def read(copy: nn.Module) -> Map:
    """Trace a copy of a model, whole or in parts."""
    names = {module: path for path, module in copy.named_modules()}
    found, opaque = Map(survey(copy).pairs), {}
    for root, graph in graphs_of(copy, opaque):
        calls: Counter[str] = Counter()
        for node in graph.nodes:
            module = _module(node, root)
            if module is None or not is_norm(module):
                continue
            path = names[module]
            calls[path] += 1
            if upstream := _dropout_above(node, root, names):
                found.dropouts[path] = upstream
        found.calls |= calls  # the larger of two numbers
    found.whole = not opaque
    return found


def _module(node: fx.Node, root: nn.Module) -> nn.Module | None:
    return root.get_submodule(node.target) if node.op == "call_module" else None


def _dropout_above(
    node: fx.Node, root: nn.Module, names: dict[nn.Module, str]
) -> tuple[str, float] | None:
    """The nearest dropout on any path into a batch norm, up to the norms before it."""
    queue, seen = list(node.all_input_nodes), set()
    while queue:
        one = queue.pop(0)
        if one in seen or one.target in (operator.attrgetter, getattr):
            continue
        seen.add(one)
        module = _module(one, root)
        if isinstance(module, DROPOUT) and 0 < module.p < 1:
            return names[module], module.p
        if one.op == "call_function" and one.target in _DROPOUTS:
            rate, active = one.kwargs["p"], one.kwargs["training"]  # never by position
            if isinstance(rate, int | float) and 0 < rate < 1 and active is not False:
                return one.name, rate
        if module is None or not (is_norm(module) or isinstance(module, _NORMALISING)):
            queue += one.all_input_nodes
    return None
