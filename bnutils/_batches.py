"""One rule for what a batch is and how a model is called with it.

``examine``, ``recalibrate`` and ``fold`` take the batches that a loader gives,
whatever their form:

- a tensor is the input;
- a dict, or an object with fields (dataclass, namedtuple), is spread over the parameters
  of ``forward`` that have its names; where ``forward`` has none of them, it is the input;
- a tuple or list holds the inputs first, as many as ``forward`` asks for, loose or as a
  tuple of their own: (x, y), (a, b, y), ((a, b), y). The targets after them go to the
  model only if it has a parameter for them (``targets=None``);
- a list of pictures (C, H, W) is one input, as detectors take it;
- everything else is what ``call=lambda model, batch: ...`` is for.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bnutils._modules import unwrap

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_TARGETS = ("target", "targets", "label", "labels", "y")
_LOGITS = ("logits", "out", "output", "prediction", "scores")  # in outputs with names


def feed(
    model: nn.Module,
    batch: object,
    call: Callable[[nn.Module, Any], object] | None = None,
) -> object:
    """Call a model with a batch, by the rule or as ``call`` does it."""
    if call is not None:
        return call(model, batch)
    args, kwargs = arguments(model, batch)
    return model(*args, **kwargs)


def arguments(
    model: nn.Module, batch: object
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments for a model's forward, out of a batch.

    Raises
    ------
    TypeError
        The batch has fewer inputs than ``forward`` asks for, or names other ones.
    """
    needed, optional, open_names = _signature(model)
    if isinstance(batch, Tensor):
        return _enough((batch,), needed)
    if (named := _fields(batch)) is not None:
        known = {*needed, *optional}
        chosen = {k: v for k, v in named.items() if k in known or open_names}
        if chosen and set(needed) <= set(chosen):
            return (), chosen
        if not isinstance(batch, tuple):  # a namedtuple is a tuple as well
            if known.isdisjoint(named) and len(needed) <= 1:
                return (batch,), {}
            missing = [name for name in needed if name not in named]
            raise TypeError(
                f"forward needs {', '.join(map(repr, missing))}, which the batch has not "
                f"(it has {', '.join(map(repr, named))}): give call=lambda model, batch: ..."
            )
    if isinstance(batch, tuple | list) and batch:
        if _are_images(batch):
            return (batch,), {}
        first = batch[0]
        if len(needed) > 1:  # ((a, b), y) or (a, b, y)
            pair = isinstance(first, tuple | list) and len(first) == len(needed)
            if pair and not _are_images(first):
                return tuple(first), {}
            return _enough(tuple(batch[: len(needed)]), needed)
        return _with_target(model, batch, optional)
    return (batch,), {}


def _with_target(
    model: nn.Module, batch: Sequence[Any], optional: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(x, y) for a forward that asks for one input, or none by name."""
    first = batch[0]
    nested = isinstance(first, tuple | list) and not _are_images(first)
    inner = nested or (_fields(first) is not None and not isinstance(first, tuple))
    args, kwargs = arguments(model, first) if inner else ((first,), {})
    names = [name for name in optional if name in _TARGETS]
    if names and len(batch) > 1 and names[0] not in kwargs:
        kwargs = {**kwargs, names[0]: batch[1]}
    return args, kwargs


def _enough(
    args: tuple[Any, ...], needed: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if len(args) < len(needed):
        raise TypeError(
            f"forward needs {len(needed)} inputs ({', '.join(needed)}), the batch has "
            f"{len(args)}: give call=lambda model, batch: ..."
        )
    return args, {}


def _signature(model: nn.Module) -> tuple[list[str], list[str], bool]:
    """Names of parameters that forward needs and may have, and whether it takes any."""
    try:
        parameters = inspect.signature(unwrap(model)[1].forward).parameters.values()
    except (TypeError, ValueError):  # scripted, or written in C
        return [], [], False
    usual = [
        p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    named = [p for p in parameters if p.kind == p.KEYWORD_ONLY]
    needed = [p.name for p in usual if p.default is p.empty]
    optional = [p.name for p in (*usual, *named) if p.name not in needed]
    kinds = {p.kind.name for p in parameters}
    return needed, optional, "VAR_KEYWORD" in kinds and "VAR_POSITIONAL" not in kinds


def _fields(batch: object) -> dict[str, Any] | None:
    """What a dict or an object with named fields holds; None for anything else."""
    if isinstance(batch, Mapping):
        return {k: v for k, v in batch.items() if isinstance(k, str)}
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return batch._asdict()
    return None


def _are_images(batch: tuple[Any, ...] | list[Any]) -> bool:
    """Whether this is a list of pictures (C, H, W), which detectors take as it is."""
    return isinstance(batch, list) and all(
        isinstance(x, Tensor) and x.dim() == 3 and x.size(0) in (1, 3, 4) for x in batch
    )


# ------------------------------------------------------------------ inside a batch


def tensors_in(value: object) -> Iterator[Tensor]:
    """All tensors of a batch or of an output, in order."""
    if isinstance(value, Tensor):
        yield value
    elif (named := _fields(value)) is not None:
        for part in named.values():
            yield from tensors_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)


def mapped(value: object, function: Callable[[Tensor], Tensor]) -> object:
    """A batch of the same form with each tensor replaced."""
    if isinstance(value, Tensor):
        return function(value)
    return _rebuilt(value, lambda part: mapped(part, function))


def _rebuilt(value: object, change: Callable[[object], object]) -> object:
    """A container of the same kind, with each of its parts changed."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Mapping):
        twin = object.__new__(type(value))  # whatever its constructor asks for
        for name, part in _fields(value).items():
            object.__setattr__(twin, name, change(part))
        return twin
    if isinstance(value, Mapping):
        kind = type(value) if isinstance(value, dict) else dict
        return kind((k, change(v)) for k, v in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(change, value))
    if isinstance(value, tuple | list):
        return type(value)(map(change, value))
    return value


def clone(batch: object) -> object:
    """A copy whose tensors a model may write into."""
    return mapped(batch, torch.clone)


def size_of(batch: object) -> int:
    """Number of examples: rows of the first tensor, or pictures in the list before it."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else 0
    if isinstance(batch, list) and _are_images(batch) and batch:
        return len(batch)
    parts = _fields(batch)
    values = batch if isinstance(batch, tuple | list) else (parts or {}).values()
    for part in values:
        if next(tensors_in(part), None) is not None:
            return size_of(part)
    return 0


def finite(batch: object) -> bool:
    """Whether no floating-point tensor of it holds NaN or infinity."""
    return all(
        bool(x.isfinite().all()) for x in tensors_in(batch) if x.is_floating_point()
    )


def target_of(batch: object) -> object:
    """What is left for the loss: the second element of (x, y), or what is called so."""
    if isinstance(batch, tuple | list) and len(batch) > 1 and not _are_images(batch):
        return batch[1]
    named = _fields(batch) or {}
    return next((named[name] for name in _TARGETS if name in named), None)


def main_output(output: object, size: int) -> Tensor | None:
    """The floating-point output with a row for each example; logits, if it is named.

    Scalars such as a loss are passed over; None if no output has that many rows.
    """
    named = _fields(output) or {}
    first = [named[name] for name in _LOGITS if name in named]
    for y in (*tensors_in(first), *tensors_in(output)):
        if y.is_floating_point() and y.dim() and len(y) == size:
            return y
    return None


# ------------------------------------------------------------------ parts of a batch


def rows(batch: object, index: slice | list[int]) -> object:
    """Some examples of a batch: rows of what has as many rows as the batch is large."""
    size = size_of(batch)

    def part(value: object) -> object:
        if isinstance(value, Tensor):
            return value[index] if value.dim() and len(value) == size else value
        if isinstance(value, list) and len(value) == size and size > 1:
            return (
                value[index] if isinstance(index, slice) else [value[i] for i in index]
            )
        return _rebuilt(value, part)

    return part(batch)


def mixed(a: object, b: object) -> tuple[object, object]:
    """Two batches out of two of the same form and size: every second example of each."""
    parts = [(rows(a, slice(i, None, 2)), rows(b, slice(i, None, 2))) for i in (0, 1)]
    return tuple(_joined(*part) for part in parts)


def _joined(a: object, b: object) -> object:
    """One batch of two that have the same form."""
    sizes = size_of(a), size_of(b)

    def join(x: object, y: object) -> object:
        if isinstance(x, Tensor):
            return torch.cat([x, y]) if x.dim() and len(x) == sizes[0] else x
        if isinstance(x, list) and _one_each(x, sizes[0]):
            return [*x, *y]
        if (named := _fields(x)) is not None and not isinstance(x, tuple):
            parts = iter([join(v, _fields(y)[k]) for k, v in named.items()])
            return _rebuilt(x, lambda _: next(parts))
        if isinstance(x, tuple | list):
            parts = iter([join(v, w) for v, w in zip(x, y, strict=True)])
            return _rebuilt(x, lambda _: next(parts))
        return x

    return join(a, b)


def _one_each(values: list[Any], size: int) -> bool:
    """Whether a list holds something for each example, rather than columns of a batch."""
    columns = all(isinstance(v, Tensor) and v.dim() and len(v) == size for v in values)
    return len(values) == size > 0 and (_are_images(values) or not columns)
