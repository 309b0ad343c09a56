"""A few batches from whatever the doctor was given, and how large the batches are."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

__all__ = ["BATCHES", "Batches", "take"]

BATCHES = 8  # that are run through the copy


@dataclass(frozen=True)
class Batches:
    """Inputs to run, and the sizes of all batches as far as they are known.

    Attributes
    ----------
    inputs : list of Tensor
    size : int
        Of most batches.
    last : int or None
        Size of the last batch, where known.
    total : int or None
        Number of batches in one pass, where known.
    """

    inputs: list[Tensor]
    size: int
    last: int | None = None
    total: int | None = None


def take(loader: object, device: torch.device) -> Batches:
    """Choose up to eight batches, spread over the data where that is possible.

    Raises
    ------
    TypeError
        It is neither tensor, nor DataLoader, nor iterable; or a batch is neither a
        tensor nor a tuple or list that starts with one.
    ValueError
        There is no batch, or a batch without a batch dimension.
    """
    if isinstance(loader, Tensor):
        raw, sizes = [loader], None
    elif isinstance(loader, tuple) and _is_one_batch(loader):
        raw, sizes = [loader], None  # one batch (x, y)
    elif isinstance(loader, DataLoader):
        raw, sizes = _from_loader(loader)
    elif isinstance(loader, Sequence) and not isinstance(loader, str):
        sizes = [len(_input(batch)) for batch in loader]
        raw = [loader[i] for i in _spread(sizes)]
    elif isinstance(loader, Iterable) and not isinstance(loader, str | dict):
        raw, sizes = list(islice(loader, BATCHES)), None
    else:
        raise TypeError(
            "loader must be a DataLoader, an iterable of batches x or (x, y), or one "
            f"tensor, but got {type(loader).__name__}"
        )
    inputs = [_input(batch) for batch in raw]
    if not inputs:
        raise ValueError("the loader gave no batch: the doctor needs at least one")
    last, total = (sizes[-1], len(sizes)) if sizes else (None, None)
    usual = Counter(sizes or map(len, inputs)).most_common(1)[0][0]
    if len(inputs) > 1 and usual > 1:
        inputs = [x for x in inputs if len(x) > 1] or inputs
    return Batches([x.to(device) for x in inputs], usual, last, total)


def _is_one_batch(pair: tuple) -> bool:
    """Whether a tuple is (x, y), rather than several batches x."""
    if not pair or not isinstance(pair[0], Tensor):
        return False
    kinds = {(p.dtype, p.shape[1:]) if isinstance(p, Tensor) else None for p in pair}
    return len(kinds) > 1 or pair[0].dim() < 2


def _input(batch: object) -> Tensor:
    x = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(x, Tensor):
        raise TypeError(
            "a batch must be a tensor or (x, y) with a tensor x, but got "
            f"{type(batch).__name__}"
            + (f" that starts with {type(x).__name__}" if x is not batch else "")
            + ": wrap the loader in one that gives what the model is called with"
        )
    if x.dim() == 0 or len(x) == 0:
        raise ValueError(
            f"a batch has shape {tuple(x.shape)}: expected (N, ...) with N > 0"
        )
    return x


def _spread(sizes: list[int]) -> list[int]:
    """Indices of at most eight batches of the usual size, evenly spread."""
    usual = Counter(sizes).most_common(1)[0][0] if sizes else 0
    same = [i for i, size in enumerate(sizes) if size == usual]
    n = min(len(same), BATCHES)
    return [same[i * len(same) // n] for i in range(n)]


def _from_loader(loader: DataLoader) -> tuple[list, list[int] | None]:
    """Batches spread over a map-style data set, without workers; or the first ones."""
    index = _index(loader)
    if index is None:
        with _own_iterator(loader):
            return list(islice(loader, BATCHES)), None
    data, sizes = loader.dataset, [len(batch) for batch in index]
    several = getattr(data, "__getitems__", None)
    chosen = [index[i] for i in _spread(sizes)]
    items = [several(i) if several else [data[j] for j in i] for i in chosen]
    return [loader.collate_fn(batch) for batch in items], sizes


def _index(loader: DataLoader) -> list[list] | None:
    """Which items each batch of one pass holds; None where that is not known."""
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return None
    try:
        count = len(loader.batch_sampler)  # an endless sampler has none
    except TypeError:
        return None
    return [list(batch) for batch in islice(loader.batch_sampler, count)]


@contextlib.contextmanager
def _own_iterator(loader: DataLoader) -> Iterator[None]:
    """Leave the iterator alone that a loader with persistent workers keeps."""
    kept, loader._iterator = loader._iterator, None
    try:
        yield
    finally:
        loader._iterator = kept
