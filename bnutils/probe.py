"""Record what flows through a network: inputs, outputs and gradients of chosen modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Recording", "record"]

Chosen = (
    type | tuple[type, ...] | Iterable[str] | Callable[[str, nn.Module], bool] | None
)


@dataclass
class Recording:
    """What :func:`record` saw in the last call of each module, by the module's name.

    Attributes
    ----------
    inputs, outputs : dict from str to Tensor
        Detached copies, in the shape in which they came.
    gradients : dict from str to Tensor
        Of the loss with respect to the output, same shape; filled by ``backward()``.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)


@contextlib.contextmanager
def record(
    model: nn.Module, modules: Chosen = None, *, gradients: bool = True
) -> Iterator[Recording]:
    """Record inputs, outputs and gradients of a model's modules while the context lasts.

    Parameters
    ----------
    model : nn.Module
    modules : names, type, types, predicate or None
        Which modules, by their names in ``model.named_modules()``, by type, or by a
        function of name and module; None takes all that have no children.
    gradients : bool
        Record gradients as well, where gradients are enabled.

    Yields
    ------
    Recording
        Holds the last call of each module; a module that was not called is not in it.

    Raises
    ------
    KeyError
        A name that the model does not have.
    ValueError
        No module was chosen.
    TypeError
        A chosen module takes or returns something other than a tensor.
    """
    recording = Recording()
    with contextlib.ExitStack() as hooks:  # which removes them at the end
        for name, module in _choose(model, modules).items():
            before, after = _hooks(name, recording, gradients)
            hooks.enter_context(module.register_forward_pre_hook(before))
            hooks.enter_context(module.register_forward_hook(after))
        yield recording


def _choose(model: nn.Module, modules: Chosen) -> dict[str, nn.Module]:
    """The modules to record, by name."""
    every = dict(model.named_modules())
    kinds = modules if isinstance(modules, tuple) else (modules,)
    if modules is None:
        chosen = {n: m for n, m in every.items() if not list(m.children())}
    elif all(isinstance(kind, type) for kind in kinds):  # and no tuple of names
        chosen = {n: m for n, m in every.items() if isinstance(m, kinds)}
    elif callable(modules):
        chosen = {n: m for n, m in every.items() if modules(n, m)}
    else:
        names = [modules] if isinstance(modules, str) else list(modules)
        unknown = [name for name in names if name not in every]
        if unknown:
            known = ", ".join(name for name in every if name)
            raise KeyError(f"the model has no module {unknown[0]!r}; it has: {known}")
        chosen = {name: every[name] for name in names}
    if not chosen:
        raise ValueError(f"no module of the model is chosen by {modules!r}")
    return chosen


def _hooks(
    name: str, recording: Recording, gradients: bool
) -> tuple[Callable[..., None], Callable[..., None]]:
    """Hooks that copy what they see, before anything can change it in place.

    A module may be called several times in one forward pass. The gradients of its calls
    come in the opposite order, that of the last call first, so each call marks itself and
    a gradient is kept only if its call is still the last.
    """
    last: object = None  # the mark of the last call

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        value = inputs[0] if inputs else None
        recording.inputs[name] = _copy(value, name, module, "takes")

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal last
        recording.outputs[name] = _copy(output, name, module, "returns")
        recording.gradients.pop(name, None)
        last = call = object()

        def keep(gradient: Tensor) -> None:
            if call is last:
                recording.gradients[name] = gradient.detach().clone()

        if gradients and output.requires_grad:
            output.register_hook(keep)

    return before, after


def _copy(value: object, name: str, module: nn.Module, verb: str) -> Tensor:
    """A detached copy of what a module takes or returns, which must be one tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"module {name!r} ({type(module).__name__}) {verb} a {type(value).__name__}, "
            "not a tensor: leave it out of the recording"
        )
    return value.detach().clone()
