"""A few batches from whatever the doctor was given, and how large all of them are."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from bnutils._batches import finite, mapped, size_of, tensors_in

if TYPE_CHECKING:
    from typing import Any

_BATCHES = 8  # that are run through the copy ...
_IMAGES, _MOST = 64, 64  # ... or as many as hold 64 images, but at most 64 batches


@dataclasses.dataclass
class Batches:
    """Batches to run, and the sizes of all as far as they are known."""

    items: list[object]  # as the loader gives them, on the model's device
    sizes: list[int]  # of all batches that are known, in order
    complete: bool  # whether these are all batches of one pass
    problems: list[str] = dataclasses.field(default_factory=list)  # why passed over
    nonfinite: list[int] = dataclasses.field(default_factory=list)  # which of the taken

    @property
    def size(self) -> int:
        """Of most batches; 0 if it is not known."""
        return _usual(self.sizes)


def take(loader: object, device: torch.device, call: object = None) -> Batches:
    """Choose some batches, spread over the data where that is possible.

    Raises
    ------
    TypeError
        It is neither a batch, nor a DataLoader, nor iterable.
    ValueError
        There is no batch.
    """
    if _is_one_batch(loader):
        raw, sizes, complete = [loader], [size_of(loader)], False
    elif isinstance(loader, DataLoader):
        raw, sizes, complete = _from_loader(loader)
    elif isinstance(loader, str) or not isinstance(loader, Iterable):
        raise TypeError(
            "loader must be a DataLoader, an iterable of batches, or one batch, but got "
            f"{type(loader).__name__}"
        )
    elif isinstance(loader, Sequence):
        sizes, complete = [size_of(batch) for batch in loader], True
        raw = [loader[i] for i in _spread(sizes)]
    else:
        raw, sizes, complete = _first(loader)
    if not raw and not sizes:
        raise ValueError("the loader gave no batch: the doctor needs at least one")
    return _usable(Batches(raw, sizes, complete), device, call)


def _usable(batches: Batches, device: torch.device, call: object) -> Batches:
    """Leave out, and note, batches that cannot be run or would spoil the statistics."""
    kept, problems = [], Counter()
    for i, batch in enumerate(batches.items):
        size = size_of(batch)
        empty = next(tensors_in(batch), None) is None
        if empty and call is not None:
            # What is inside is the business of `call`; many such objects can be moved.
            kept.append(batch.to(device) if hasattr(batch, "to") else batch)
        elif empty:
            problems[f"{type(batch).__name__} without a tensor"] += 1
        elif size == 0:
            problems["no rows"] += 1
        elif not finite(batch):
            batches.nonfinite.append(i)
        elif size == 1 and batches.size > 1:
            pass  # has a finding of its own, and would stop the run
        else:
            kept.append(mapped(batch, lambda x: x.to(device)))
    batches.items = kept
    batches.problems = [f"{n} x {what}" for what, n in problems.items()]
    return batches


def _is_one_batch(batch: object) -> bool:
    """Whether this is a batch, not several: a tuple may be both."""
    if isinstance(batch, Tensor | Mapping):
        return True
    if dataclasses.is_dataclass(batch) or hasattr(batch, "_fields"):
        return True
    if not isinstance(batch, tuple) or not batch or not isinstance(batch[0], Tensor):
        return False
    # (x, y) differ in kind; a tuple of several batches x does not.
    kinds = {(p.dtype, p.shape[1:]) if isinstance(p, Tensor) else None for p in batch}
    return len(kinds) > 1 or batch[0].dim() < 2


def _usual(sizes: list[int]) -> int:
    rows = [size for size in sizes if size > 0]
    return Counter(rows).most_common(1)[0][0] if rows else 0


def _enough(sizes: list[int]) -> int:
    """How many batches are taken."""
    size = _usual(sizes)
    return min(max(_BATCHES, -(-_IMAGES // size)), _MOST) if size else _BATCHES


def _spread(sizes: list[int]) -> list[int]:
    """Indices of batches of the usual size, evenly spread; of any size, where none is usual."""
    usable = [i for i, size in enumerate(sizes) if size > 1]
    same = [i for i, size in enumerate(sizes) if size == _usual(sizes)]
    if 2 * len(same) < len(usable):  # graphs, sentences
        same = usable
    n = min(len(same), _enough(sizes))
    return [same[i * len(same) // n] for i in range(n)]


def _first(loader: Iterable[Any]) -> tuple[list[Any], list[int], bool]:
    """The first batches of an iterable, and whether these were all."""
    raw, sizes = [], []
    for batch in loader:
        raw.append(batch)
        sizes.append(size_of(batch))
        if len(raw) >= _enough(sizes):
            return raw, sizes, False
    return raw, sizes, True


def _from_loader(loader: DataLoader[Any]) -> tuple[list[Any], list[int], bool]:
    """Batches spread over a map-style data set, without workers; or the first ones."""
    index = _index(loader)
    if index is None:
        kept, loader._iterator = loader._iterator, None  # that of persistent workers
        try:
            return _first(loader)
        finally:
            loader._iterator = kept
    data, sizes = loader.dataset, [len(batch) for batch in index]
    several = getattr(data, "__getitems__", None)
    chosen = [index[i] for i in _spread(sizes)]
    items = [several(i) if several else [data[j] for j in i] for i in chosen]
    return [loader.collate_fn(batch) for batch in items], sizes, True


def _index(loader: DataLoader[Any]) -> list[list[Any]] | None:
    """Which items each batch of one pass holds; None where that is not known."""
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return None
    try:
        count = len(loader.batch_sampler)  # an endless sampler has none
    except TypeError:
        return None
    return [list(batch) for batch in islice(loader.batch_sampler, count)]
