"""Replace stale running statistics by averages over fresh batches (chapter 7)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from bnutils import _batches
from bnutils._modules import STATISTICS, modes_restored, norms_of
from bnutils._words import cut, wrapped

if TYPE_CHECKING:
    from typing import Any

    from bnutils._modules import Norm

CHANGED, NOT_REACHED, FROZEN = "recalibrated", "not reached", "frozen"


class RecalibratedNorm(NamedTuple):
    """What became of one batch norm.

    Attributes
    ----------
    norm, kind : str
        Its path in the model and its class.
    status : str
        "recalibrated"; "not reached": no batch went through it, and it stays as it was;
        "frozen": it is meant to stay as it was.
    values : int
        How many values of each channel the new statistics are made of, over all batches.
    reason : str
        Why it counts as frozen, or empty.
    """

    norm: str
    kind: str
    status: str
    values: int = 0
    reason: str = ""


@dataclass(frozen=True)
class RecalibrationReport:
    """What :func:`recalibrate` did with each batch norm; printed as text.

    Attributes
    ----------
    norms : list of RecalibratedNorm
        In the order of the model's modules.
    batches : int
        How many were run.
    """

    norms: list[RecalibratedNorm]
    batches: int

    @property
    def changed(self) -> list[RecalibratedNorm]:
        """Those with new statistics."""
        return [norm for norm in self.norms if norm.status == CHANGED]

    @property
    def not_reached(self) -> list[RecalibratedNorm]:
        """Those that no batch went through."""
        return [norm for norm in self.norms if norm.status == NOT_REACHED]

    @property
    def frozen(self) -> list[RecalibratedNorm]:
        """Those that are meant to stay as they are."""
        return [norm for norm in self.norms if norm.status == FROZEN]

    def __str__(self) -> str:
        """Sum up, then list: first what changed, then what stayed and why."""
        batches = f"{self.batches} {'batch' if self.batches == 1 else 'batches'}"
        lines = [
            f"recalibrated {len(self.changed)} of {len(self.norms)} batch norms over "
            f"{batches}"
        ]
        lines += cut(
            [f"{_named(n)}: {n.values:,} values a channel" for n in self.changed]
        )
        if self.not_reached:
            lines.append(f"not reached, and as before: {len(self.not_reached)}")
            lines += cut([_named(norm) for norm in self.not_reached])
        if self.frozen:
            lines.append(f"frozen, and as before: {len(self.frozen)}")
            lines += cut([f"{_named(norm)}: {norm.reason}" for norm in self.frozen])
        return wrapped(lines)

    __repr__ = __str__


def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    reset: bool = True,
    call: Callable[[nn.Module, Any], object] | None = None,
) -> RecalibrationReport:
    """Replace running statistics by their plain average over the batches given.

    The cure for statistics that are stale; the weights stay as they are. The result is the
    average of the batches' means and of their unbiased variances. Each batch counts the
    same, so give shuffled batches of equal size, from the data that the model is to see;
    then nothing is missing, because the unbiased variance of a part is right on average
    for the whole. (Of sorted batches, which differ in their means, the variance between
    the means would be missing.) Also called precise batch norm: Wu and Johnson (2021),
    arXiv:2105.07576.

    ``torch.optim.swa_utils.update_bn`` computes the same average. It puts the *whole*
    model into training mode for it, so that dropout is at work and the layers behind it
    see its noise, and it resets every batch norm, frozen and unreached ones too. Here
    batch norm alone is in training mode, and only what the batches reach changes.

    A batch norm is left alone as frozen if it is in evaluation mode while other layers are
    in training mode, if it has a ``train()`` of its own (the usual way of keeping one in
    evaluation mode), if its momentum is 0, if its parameters do not require gradients
    while others of the model do, or if its class cannot average, as torchvision's
    ``FrozenBatchNorm2d``. It is all or nothing: whatever is raised on the way, all
    statistics are those from before.

    Parameters
    ----------
    model : nn.Module
        With at least one batch norm, of any dimension, that keeps running statistics.
        Modes, momenta and gradients are afterwards as before.
    batches : iterable of batches; or one batch, if it is a Tensor or a dict
        What a loader gives: inputs of the model, on its device, alone, as (x, y), several
        in a tuple, or as a dict whose keys are the names of forward's parameters.
    reset : bool
        False continues from the statistics that are there, with the number of batches
        they have seen as their weight.
    call : callable, optional
        ``call(model, batch)`` runs the model where it wants something else.

    Returns
    -------
    RecalibrationReport
        ``print(report)`` says what became of each batch norm.

    Raises
    ------
    ValueError
        No batch norm keeps running statistics, all are frozen, or none was reached; there
        is no batch; a batch, or what came of it, is not finite.
    TypeError
        A batch lacks an input that the model needs.
    """
    norms = {
        path: m for path, m in norms_of(model).items() if m.running_mean is not None
    }
    for path, norm in norms.items():
        if torch.nn.parameter.is_lazy(norm.running_mean):
            raise ValueError(f"'{path}' has no size yet: run the model once before")
    frozen = _frozen(model, norms)
    layers = {path: norm for path, norm in norms.items() if path not in frozen}
    if not layers:
        raise ValueError(_nothing_to_do(frozen))
    if isinstance(batches, Tensor | Mapping):
        batches = [batches]
    values = dict.fromkeys(layers, 0)
    count = 0
    with (
        _all_or_nothing(layers),
        _averaging(model, layers),
        _watched(layers, values, reset),
        torch.no_grad(),
    ):
        for batch in batches:
            if not _batches.finite(batch):
                raise ValueError(
                    f"batch {count} holds NaN or infinity, which would go into every "
                    "statistic: the running statistics are as before"
                )
            _batches.feed(model, batch, call)
            count += 1
        if count == 0:
            raise ValueError("no batch was given: an average needs at least one")
        if not any(values.values()):
            raise ValueError(
                f"no batch norm was reached by the {count} batches: the model's forward "
                "does not call them in evaluation mode"
            )
        _require_finite(layers)
    report = []
    for path, norm in norms.items():
        seen, reason = values.get(path, 0), frozen.get(path, "")
        status = FROZEN if reason else CHANGED if seen else NOT_REACHED
        kind = type(norm).__name__
        report.append(RecalibratedNorm(path, kind, status, seen, reason))
    return RecalibrationReport(report, count)


def _named(norm: RecalibratedNorm) -> str:
    """The beginning of a batch norm's line in the report."""
    return f"  {norm.norm or 'the model itself'} ({norm.kind})"


def _frozen(model: nn.Module, norms: dict[str, Norm]) -> dict[str, str]:
    """Paths of the batch norms that are meant to stay as they are, and how one can tell."""
    some_learn = any(p.requires_grad for p in model.parameters())
    # Of modules without children: the mode of a container, or of a wrapper such as
    # AveragedModel around a model in evaluation mode, says nothing.
    some_train = any(m.training for m in model.modules() if not list(m.children()))
    reasons = {}
    for path, norm in norms.items():
        parameters = list(norm.parameters())
        if any(getattr(norm, name, None) is None for name in STATISTICS):
            reasons[path] = "it counts no batches, so it cannot average over them"
        elif not hasattr(norm, "momentum"):
            reasons[path] = "its class has no momentum: it never updates"
        elif not getattr(norm, "track_running_stats", True):
            reasons[path] = "track_running_stats is False"
        elif norm.momentum == 0:
            reasons[path] = "its momentum is 0"
        elif "train" in vars(norm) or type(norm).train is not nn.Module.train:
            reasons[path] = "it has a train() of its own"
        elif some_train and not norm.training:
            reasons[path] = "in evaluation mode while other layers are in training mode"
        elif parameters and some_learn and not any(p.requires_grad for p in parameters):
            reasons[path] = "its parameters do not require gradients, others do"
    return reasons


def _nothing_to_do(frozen: dict[str, str]) -> str:
    """What the error says where no batch norm may be changed."""
    if not frozen:
        return "the model has no batch norm with running statistics: nothing to recalibrate"
    path, reason = next(iter(frozen.items()))
    why = f"'{path}': {reason}" if path else f"the model itself: {reason}"
    return f"every batch norm of the model is frozen ({why}): nothing to recalibrate"


@contextlib.contextmanager
def _averaging(model: nn.Module, layers: dict[str, Norm]) -> Iterator[None]:
    """Batch norm in training mode with a plain average, everything else in evaluation.

    The modes are set as attributes: ``model.eval()`` would call whatever ``train()`` the
    model's modules define, and some merge weights or freeze layers there.
    """
    momenta = {path: layer.momentum for path, layer in layers.items()}
    with modes_restored(model):
        try:
            for module in model.modules():
                module.training = False
            for layer in layers.values():
                layer.training, layer.momentum = True, None
            yield
        finally:
            for path, layer in layers.items():
                layer.momentum = momenta[path]


@contextlib.contextmanager
def _watched(
    layers: dict[str, Norm], values: dict[str, int], reset: bool
) -> Iterator[None]:
    """Count what goes into each layer, and reset a layer when the first batch reaches it."""
    paths = {layer: path for path, layer in layers.items()}

    def before(layer: Norm, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if reset and values[paths[layer]] == 0:
            layer.running_mean.zero_()
            layer.running_var.fill_(1)
            layer.num_batches_tracked.zero_()
        x = next(_batches.tensors_in([args, kwargs]))
        values[paths[layer]] += x.numel() // layer.running_mean.numel()

    with contextlib.ExitStack() as hooks:  # which removes them at the end
        for layer in paths:
            hook = layer.register_forward_pre_hook(before, with_kwargs=True)
            hooks.enter_context(hook)
        yield


def _require_finite(layers: dict[str, Norm]) -> None:
    """Raise ValueError if an average overflowed somewhere inside the model."""
    for path, layer in layers.items():
        if not _batches.finite([layer.running_mean, layer.running_var]):
            raise ValueError(
                f"the batches are finite, but what reaches '{path}' is not: the running "
                "statistics are as before"
            )


@contextlib.contextmanager
def _all_or_nothing(layers: dict[str, Norm]) -> Iterator[None]:
    """Bring the old statistics back when anything goes wrong, Ctrl-C included."""
    saved = {
        path: [getattr(layer, name).clone() for name in STATISTICS]
        for path, layer in layers.items()
    }
    try:
        yield
    except BaseException:
        for path, layer in layers.items():
            for name, value in zip(STATISTICS, saved[path], strict=True):
                getattr(layer, name).copy_(value)
        raise
