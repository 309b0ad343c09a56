"""Run batches through the copy and note what each batch norm receives, and from whom."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from bnutils.doctor.moments import Moments
from bnutils.doctor.replica import is_norm

__all__ = ["Seen", "Watch", "modes", "observe", "outputs_of", "recomputed"]


@dataclass
class Seen:
    """What one batch norm received.

    Attributes
    ----------
    calls : int
        In one forward of the model.
    shape : tuple of int
        Of the first input.
    per_image : float
        Values per channel that one image of the model's batch brings.
    moments : Moments
        Of its channels, over all batches.
    spread : tuple of float
        For (N, C, L): variance of the means of positions in dimension 1 and in 2,
        relative to the whole variance; of the first batch.
    """

    calls: int = 0
    shape: tuple[int, ...] = ()
    per_image: float = 1.0
    moments: Moments = field(default_factory=Moments)
    spread: tuple[float, float] = (0.0, 0.0)


class Watch:
    """Hooks on a copy: which module made which tensor, in which order."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: dict[str, Seen] = {}
        self.maker: dict[int, tuple[str, Tensor]] = {}  # by id of the output
        self.order: list[str] = []
        self.feeds: dict[str, Tensor] = {}
        self.kept: list[object] = []
        self.first, self.batch = True, 1
        self.modules = dict(model.named_modules())

    def before(self, path: str, args: tuple) -> None:
        """Note the input of a batch norm."""
        x = args[0] if args and isinstance(args[0], Tensor) else None
        if x is None or x.dim() < 2:
            return
        one = self.seen.setdefault(path, Seen())
        if self.first:
            one.calls += 1
            self.feeds.setdefault(path, x)
            if not one.shape:
                one.shape = tuple(x.shape)
                one.per_image = x.numel() / max(x.size(1), 1) / self.batch
                if x.dim() == 3 and min(x.shape[1:]) > 1:  # a variance needs two
                    one.spread = _spread(x.detach())
        if x.is_floating_point():
            one.moments.add(x.detach())

    def after(self, path: str, args: tuple, result: object) -> None:
        """Note what a module without children made, in the first forward."""
        if self.first:
            self.order.append(path)
            given = args[0] if args and isinstance(args[0], Tensor) else None
            made = result[0] if isinstance(result, tuple) and result else result
            if isinstance(made, Tensor):
                self.maker.setdefault(id(made), (path, given))
                self.kept.append(made)

    def maker_of(self, norm: str, through: tuple[type, ...] = ()) -> str | None:
        """Path of the module that made a norm's input, seen through some types."""
        x = self.feeds.get(norm)
        for _ in range(len(self.order)):
            path, x = self.maker.get(id(x), (None, None))
            if path is None or not isinstance(self.modules[path], through):
                return path
        return None

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks on batch norms and on modules without children."""
        handles = []
        for path, module in self.modules.items():
            if is_norm(module):
                handles.append(
                    module.register_forward_pre_hook(
                        lambda _, args, path=path: self.before(path, args)
                    )
                )
            if is_norm(module) or not list(module.children()) or _whole(module):
                handles.append(
                    module.register_forward_hook(
                        lambda _, args, out, path=path: self.after(path, args, out)
                    )
                )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.kept.clear()
            self.maker, self.feeds = {}, {}


def _whole(module: nn.Module) -> bool:
    home = type(module).__module__
    return home.startswith("torch.nn") and not isinstance(
        module, nn.Sequential | nn.ModuleList | nn.ModuleDict
    )


def _spread(x: Tensor) -> tuple[float, float]:
    whole = x.float().var().clamp(min=1e-30)
    return tuple((x.float().mean(d).var() / whole).item() for d in ((0, 2), (0, 1)))


def modes(copy: nn.Module, original: nn.Module, norms_only: bool) -> None:
    """Put the copy into training mode: as the original trains, or its batch norms alone."""
    pairs = zip(copy.modules(), original.modules(), strict=True)
    for module, model in list(pairs):
        frozen = original.training and not model.training
        if is_norm(module):
            module.training = not frozen
        else:
            module.training = not norms_only and not frozen


def observe(copy: nn.Module, inputs: list[Tensor], on_first=None) -> dict[str, Seen]:
    """Run the batches; ``on_first`` sees the watch after the first one."""
    watch = Watch(copy)
    with torch.no_grad(), watch.attached():
        watch.batch = len(inputs[0])
        for x in inputs:
            copy(x.clone())
            if watch.first and on_first is not None:
                on_first(watch)
            watch.first = False
            watch.kept.clear()
            watch.maker, watch.feeds = {}, {}
    return watch.seen


def outputs_of(copy: nn.Module, x: Tensor) -> list[Tensor]:
    """The floating-point tensors among a model's outputs; the same noise in every call."""
    # Not torch.manual_seed, which seeds CUDA even before it is in use.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)
    leaves = _pytree.tree_leaves(copy(x.clone()))
    return [y for y in leaves if isinstance(y, Tensor) and y.is_floating_point()]


def recomputed(copy: nn.Module, x: Tensor) -> dict[str, tuple[int, int]]:
    """For each batch norm, its calls in a forward and in the backward after it."""
    counts: dict[str, list[int]] = {}
    during = [0]

    def count(path):
        counts.setdefault(path, [0, 0])[during[0]] += 1

    norms = [(path, m) for path, m in copy.named_modules() if is_norm(m)]
    handles = [
        m.register_forward_pre_hook(lambda *_, path=path: count(path))
        for path, m in norms
    ]
    try:
        with torch.enable_grad():
            total = sum(y.sum() for y in outputs_of(copy, x) if y.requires_grad)
            during[0] = 1
            if isinstance(total, Tensor):
                total.backward()
    finally:
        for handle in handles:
            handle.remove()
        copy.zero_grad(set_to_none=True)
    return {path: tuple(pair) for path, pair in counts.items()}
