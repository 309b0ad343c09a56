"""Run batches through a copy and note what each batch norm receives, and from whom."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bnutils._batches import clone, feed, main_output, size_of, tensors_in
from bnutils._modules import is_norm, norms_of
from bnutils.doctor.moments import Moments
from bnutils.norm import BatchNorm1d

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Call = Callable[[nn.Module, Any], object] | None

_POSITIONS = 64  # of an output with a position for each pixel
DROPOUT = nn.modules.dropout._DropoutNd
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_INSTANCE_NORM = nn.modules.instancenorm._InstanceNorm
# Modules that leave the axis of the channels where it is ...
_THROUGH: tuple[type[nn.Module], ...] = (nn.Identity, DROPOUT, nn.MaxPool1d)
_THROUGH += (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.ELU)
_THROUGH += (nn.Hardswish,)
# ... that have their channels in dimension 1, and that have them in the last one.
_FIRST: tuple[type[nn.Module], ...] = (_BATCH_NORM, BatchNorm1d, _INSTANCE_NORM)
_FIRST += (nn.modules.conv._ConvNd, nn.GroupNorm)
_LAST: tuple[type[nn.Module], ...] = (nn.Linear, nn.Embedding, nn.LayerNorm)
_LAST += (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer)


@dataclass
class Seen:
    """What one batch norm received; all but the moments is from the first batch."""

    calls: int = 0  # in one forward of the model
    shape: tuple[int, ...] = ()  # of the first input
    per_image: float = (
        1.0  # values per channel that an image of the model's batch brings
    )
    moments: Moments = field(default_factory=Moments)  # over all batches and calls
    # For (N, C, L): variance of the means of positions in dimension 1 and in 2, relative
    # to the whole variance.
    spread: tuple[float, float] = (0.0, 0.0)
    maker: str | None = None  # the module whose output it received, nothing between
    axis: str = ""  # "first" or "last": the channels of the module before, if known
    # Path and rate of the dropout that ran before it, with no normalisation between.
    dropout: tuple[str, float] | None = None


@dataclass
class Run:
    """What running some batches through a copy showed."""

    seen: dict[str, Seen] = field(default_factory=dict)  # in the order of calls
    outputs: list[Tensor | None] = field(default_factory=list)  # main ones, per batch
    # Calls of batch norms that are no part of the model, by name of their class.
    strangers: dict[str, int] = field(default_factory=dict)


class CallsOriginal(Exception):
    """The copy calls a batch norm of the original, which must not change."""


def observe(
    copy: nn.Module,
    batches: Sequence[object],
    call: Call = None,
    original: nn.Module | None = None,
) -> Run:
    """Run the batches and watch the batch norms; raises CallsOriginal."""
    watch, outputs = _Watch(copy, size_of(batches[0]), original), []
    with torch.no_grad(), watch.attached():
        for batch in batches:
            outputs.append(output_of(copy, batch, call))
            watch.end_of_batch()
    return Run(watch.seen, outputs, watch.strangers)


def output_of(copy: nn.Module, batch: object, call: Call = None) -> Tensor | None:
    """The main output for a batch, not more than is needed to compare it."""
    out = feed(copy, clone(batch), call)  # some models write into their input
    first = next((y for y in tensors_in(out) if y.dim()), None)
    size = size_of(batch) or (0 if first is None else len(first))
    y = main_output(out, size) if size else None
    if y is None:
        return None
    y = y.detach().float()
    if y.dim() > 2:  # maps: some positions of each channel are enough
        y = y.flatten(2)
        y = y[..., :: max(y.size(2) // _POSITIONS, 1)]
    return y


class _Watch:
    """Hooks on a copy; in the first batch, which module made which tensor."""

    def __init__(self, model: nn.Module, batch: int, original: nn.Module | None):
        self.modules = dict(model.named_modules())
        self.batch = batch
        self.seen: dict[str, Seen] = {}
        self.first = True
        # By id of a module's output: its path, and its input. The outputs are kept, so
        # that no later tensor gets the id of an earlier one.
        self.made: dict[int, tuple[str, object]] = {}
        self.kept: list[Tensor] = []
        self.nearest: str = ""  # where the last module that tells has its channels
        self.dropout: tuple[str, float] | None = None
        self.strangers: dict[str, int] = {}
        self.known = set(self.modules.values())
        self.original = set() if original is None else set(original.modules())

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        with contextlib.ExitStack() as hooks:  # which removes them at the end
            add = hooks.enter_context
            for path, module in self.modules.items():
                norm = is_norm(module)
                if norm:
                    hook = partial(self._before, path)
                    add(module.register_forward_pre_hook(hook, with_kwargs=True))
                if norm or not list(module.children()) or _of_one_piece(module):
                    add(module.register_forward_hook(partial(self._after, path)))
            # For batch norms that the model does not hold: in a plain list, or made anew
            # in each forward. Only a hook on all modules there are meets them.
            add(nn.modules.module.register_module_forward_pre_hook(self._meet))
            yield

    def end_of_batch(self) -> None:
        self.first = False
        self.made, self.kept = {}, []

    def _meet(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not is_norm(module):
            return
        if module in self.original:
            raise CallsOriginal
        if module not in self.known:
            name = type(module).__name__
            self.strangers[name] = self.strangers.get(name, 0) + self.first

    def _before(
        self, path: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        x = next(iter((*args, *kwargs.values())), None)
        if not isinstance(x, Tensor) or x.dim() < 2:
            return
        one = self.seen.setdefault(path, Seen())
        if self.first:
            one.calls += 1
            one.dropout = self.dropout or one.dropout
        if self.first and not one.shape:
            one.shape = tuple(x.shape)
            one.per_image = x.numel() / max(x.size(1), 1) / (self.batch or len(x))
            one.maker = self.made.get(id(x), (None,))[0]
            one.axis = self._axis(x)
            if x.dim() == 3 and min(x.shape[1:]) > 1:  # a variance needs two
                one.spread = _spread(x.detach())
        if x.is_floating_point():
            one.moments.add(x.detach())

    def _after(
        self, path: str, module: nn.Module, args: tuple[Any, ...], result: object
    ) -> None:
        if not self.first:
            return
        made = result[0] if isinstance(result, tuple) and result else result
        if isinstance(made, Tensor):
            given = args[0] if args else None
            self.made.setdefault(id(made), (path, given))
            self.kept.append(made)
        if isinstance(module, _FIRST + _LAST):
            self.nearest = "first" if isinstance(module, _FIRST) else "last"
        if isinstance(module, DROPOUT) and 0 < module.p < 1:
            self.dropout = path, module.p
        elif is_norm(module) or isinstance(module, nn.LayerNorm | nn.GroupNorm):
            self.dropout = None

    def _axis(self, x: object) -> str:
        """Where the channels of a norm's input are, if the modules before tell."""
        while id(x) in self.made:
            path, given = self.made[id(x)]
            module = self.modules[path]
            if not isinstance(module, _THROUGH) or given is x:
                if isinstance(module, _FIRST):
                    return "first"
                return "last" if isinstance(module, _LAST) else ""
            x = given
        # A function made it, which may have turned the axes: after a convolution that is
        # rare, after a Linear it is what transposing is for.
        return "first" if self.nearest == "first" else ""


def _of_one_piece(module: nn.Module) -> bool:
    """Whether PyTorch wrote its forward, so that what it returns is its own output."""
    containers = nn.Sequential | nn.ModuleList | nn.ModuleDict
    home = type(module).__module__
    return home.startswith("torch.nn") and not isinstance(module, containers)


def _spread(x: Tensor) -> tuple[float, float]:
    whole = x.float().var().clamp(min=1e-30)
    return tuple((x.float().mean(d).var() / whole).item() for d in ((0, 2), (0, 1)))


def outputs_of(copy: nn.Module, batch: object, call: Call = None) -> list[Tensor]:
    """The floating-point tensors among a model's outputs; the same noise in every call."""
    # Not torch.manual_seed, which seeds CUDA even before it is in use.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)
    leaves = tensors_in(feed(copy, clone(batch), call))
    return [y for y in leaves if y.is_floating_point()]


def recomputed(
    copy: nn.Module, batch: object, call: Call = None
) -> dict[str, tuple[int, int]]:
    """For each batch norm, its calls in a forward and in the backward after it."""
    counts: dict[str, list[int]] = {}
    phase = 0

    def count(path: str, *_: object) -> None:
        counts.setdefault(path, [0, 0])[phase] += 1

    with contextlib.ExitStack() as hooks, torch.enable_grad():
        hooks.callback(copy.zero_grad, set_to_none=True)
        for path, norm in norms_of(copy).items():
            hooks.enter_context(norm.register_forward_pre_hook(partial(count, path)))
        total = sum(y.sum() for y in outputs_of(copy, batch, call) if y.requires_grad)
        phase = 1
        if isinstance(total, Tensor):
            total.backward()
    return {path: tuple(pair) for path, pair in counts.items()}
