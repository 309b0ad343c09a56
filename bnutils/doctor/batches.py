"""A few batches from whatever the doctor was given, and how large all of them are."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """Batches to run, and the sizes of all as far as they are known.

    Attributes
    ----------
    items : list
        Batches as the loader gives them, on the model's device.
    sizes : list of int
        Of all batches that are known, in order.
    complete : bool
        Whether these are all batches of one pass.
    problems : list of str
        Batches that were passed over, and why.
    nonfinite : list of int
        Which batches (of those taken) hold NaN or infinity.
    """

    items: list[object]
    sizes: list[int]
    complete: bool = False
    problems: list[str] = dataclasses.field(default_factory=list)
    nonfinite: list[int] = dataclasses.field(default_factory=list)

    @property
    def size(self) -> int:
        """Of most batches; 0 if it is not known."""
        return _usual(self.sizes)

    @property
    def total(self) -> int | None:
        """Number of batches in one pass, where known."""
        return len(self.sizes) if self.complete else None


def take(loader: object, device: torch.device, call: object = None) -> Batches:
    """Choose some batches, spread over the data where that is possible.

    Raises
    ------
    TypeError
        It is neither a batch, nor a DataLoader, nor iterable.
    ValueError
        There is no batch.
    """
    if isinstance(loader, Tensor) or _is_one_batch(loader):
        raw, sizes, complete = [loader], [size_of(loader)], False
    elif isinstance(loader, DataLoader):
        raw, sizes, complete = _from_loader(loader)
    elif isinstance(loader, Sequence) and not isinstance(loader, str):
        sizes, complete = [size_of(batch) for batch in loader], True
        raw = [loader[i] for i in _spread(sizes)]
    elif isinstance(loader, Iterable) and not isinstance(loader, str):
        raw, sizes, complete = _first(loader)
    else:
        raise TypeError(
            "loader must be a DataLoader, an iterable of batches, or one batch, but got "
            f"{type(loader).__name__}"
        )
    if not raw and not sizes:
        raise ValueError("the loader gave no batch: the doctor needs at least one")
    return _usable(Batches(raw, sizes, complete), device, call)


def _usable(batches: Batches, device: torch.device, call: object) -> Batches:
    """Leave out, and note, batches that cannot be run or would spoil the statistics."""
    kept, problems = [], Counter()
    for i, batch in enumerate(batches.items):
        size = size_of(batch)
        if next(tensors_in(batch), None) is None and call is not None:
            # What is inside is the business of `call`; many such objects can be moved.
            kept.append(batch.to(device) if hasattr(batch, "to") else batch)
        elif next(tensors_in(batch), None) is None:
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
    """Whether a dict, an object with fields or a tuple is a batch, not several."""
    if isinstance(batch, Mapping):
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


def _enough(size: int) -> int:
    """How many batches of a size are taken."""
    return min(max(_BATCHES, -(-_IMAGES // size)), _MOST) if size else _BATCHES


def _spread(sizes: list[int]) -> list[int]:
    """Indices of batches of the usual size, evenly spread; of any size, where none is usual."""
    usable = [i for i, size in enumerate(sizes) if size > 1]
    same = [i for i, size in enumerate(sizes) if size == _usual(sizes)]
    if 2 * len(same) < len(usable):  # graphs, sentences
        same = usable
    n = min(len(same), _enough(_usual(sizes)))
    return [same[i * len(same) // n] for i in range(n)]


def _first(loader: Iterable[Any]) -> tuple[list[Any], list[int], bool]:
    """The first batches of an iterable, and whether these were all."""
    iterator, raw = iter(loader), []
    while len(raw) < _enough(_usual([size_of(batch) for batch in raw])):
        more = list(islice(iterator, 1))
        if not more:
            return raw, [size_of(batch) for batch in raw], True
        raw += more
    return raw, [size_of(batch) for batch in raw], False


def _from_loader(loader: DataLoader[Any]) -> tuple[list[Any], list[int], bool]:
    """Batches spread over a map-style data set, without workers; or the first ones."""
    index = _index(loader)
    if index is None:
        with _own_iterator(loader):
            return _first(loader)
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


@contextlib.contextmanager
def _own_iterator(loader: DataLoader[Any]) -> Iterator[None]:
    """Leave the iterator alone that a loader with persistent workers keeps."""
    kept, loader._iterator = loader._iterator, None
    try:
        yield
    finally:
        loader._iterator = kept
