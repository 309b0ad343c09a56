"""One training step of :func:`bnutils.train.fit`: by autograd, or by the fused kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnutils import fast, norm
from bnutils._modules import HOOKS, STATISTICS
from bnutils.fast import extension
from bnutils.train.optim import OPTIMIZERS, make_optimizer

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from bnutils._modules import Norm

# The classes whose forward and backward pass the kernel knows to be the book's. Classes
# derived from them may do something else.
NORMS = {nn.BatchNorm1d, norm.BatchNorm1d, fast.BatchNorm1d}
NORMS |= {fast.TorchBatchNorm1d, fast.CompileBatchNorm1d, fast.KernelBatchNorm1d}
MORE_IMAGES = "raise batch_size or set drop_last=True"


def logits_of(model: nn.Module, x: Tensor, classes: int) -> Tensor:
    """Compute the model's logits, or raise an error that names the shapes."""
    shape = tuple(x.shape)
    try:
        logits: Tensor = model(x)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"{error} (a batch of shape {shape}: {MORE_IMAGES})"
        ) from error
    except RuntimeError as error:
        if "shapes cannot be multiplied" not in str(error):
            raise
        raise RuntimeError(
            f"the model does not accept a batch of shape {shape}: {error}"
        ) from error
    if logits.dim() != 2 or len(logits) != len(x) or logits.size(1) < classes:
        raise ValueError(
            f"the model made {tuple(logits.shape)} of a batch of shape {shape}; "
            f"expected ({len(x)}, {classes}): a row of logits for each image"
        )
    return logits


class AutogradStep:
    """Forward, loss, ``backward()``, optimiser; any model, any optimiser."""

    def __init__(
        self,
        model: nn.Module,
        kind: str | Callable[..., torch.optim.Optimizer],
        lr: float,
        weight_decay: float,
        label_smoothing: float,
        classes: int,
    ) -> None:
        self.model, self.smoothing, self.classes = model, label_smoothing, classes
        self.optimizer = make_optimizer(kind, model, lr, weight_decay)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]

    def __call__(self, x: Tensor, y: Tensor, factor: float) -> tuple[float, int]:
        """Return loss and hits before the update; no update if the loss is not finite.

        ``factor`` is that of the learning rates; ``lr`` becomes that of the first group.
        """
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.lr = self.optimizer.param_groups[0]["lr"]
        logits = logits_of(self.model, x, self.classes)
        loss = F.cross_entropy(logits, y, label_smoothing=self.smoothing)
        hits = (logits.detach().argmax(1) == y).sum()
        value = loss.item()
        if math.isfinite(value):
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return value, hits.item()  # type: ignore[return-value]


class FusedStep:
    """The same step of a multilayer perceptron in one call of C++, on the CPU.

    Forward and backward passes are the formulas of chapter 3, written out; no graph is
    made, no ``.grad`` is filled and no hook is called. Agrees with :class:`AutogradStep`
    to rounding.
    """

    def __init__(
        self,
        model: nn.Module,
        kind: str,
        lr: float,
        weight_decay: float,
        label_smoothing: float,
        classes: int,
    ) -> None:
        if kind not in ("sgd", "plain_sgd"):
            _refuse(f"the optimiser 'sgd' or 'plain_sgd', but got {kind!r}")
        layers = list(_blocks(model))
        self.outputs = layers[-1][0].out_features
        if self.outputs < classes:
            raise ValueError(
                f"the model has {self.outputs} outputs for {classes} classes"
            )
        try:
            kernel = extension.load(build=True)
        except extension.NotAvailableError as reason:
            raise RuntimeError(f"engine 'fused': {reason}") from reason
        momentum = OPTIMIZERS[kind][1].get("momentum", 0.0)
        self.kernel = kernel.Step(momentum, weight_decay, label_smoothing)
        for linear, bn in layers:
            self.kernel.add_linear(linear.weight, linear.bias)
            if bn is not None:
                # A statistic that is not kept must not change.
                kept = bn.track_running_stats
                self.kernel.add_batch_norm(
                    weight=bn.weight,
                    bias=bn.bias,
                    momentum=bn.momentum,
                    eps=bn.eps,
                    **{n: getattr(bn, n) if kept else None for n in STATISTICS},
                )
        self.inputs, self.dtype = layers[0][0].in_features, layers[0][0].weight.dtype
        self.normalised, self.peak = any(bn for _, bn in layers), lr

    def __call__(self, x: Tensor, y: Tensor, factor: float) -> tuple[float, int]:
        """As that of :class:`AutogradStep`."""
        self.lr = self.peak * factor
        shape = tuple(x.shape)
        if x.dim() != 2 or x.size(1) != self.inputs or x.dtype != self.dtype:
            raise RuntimeError(
                f"the model does not accept a batch of shape {shape} and {x.dtype}: "
                f"engine 'fused' expects (B, {self.inputs}) and {self.dtype}"
            )
        if len(x) == 1 and self.normalised:
            raise ValueError(
                "Expected more than 1 value per channel when training, "
                f"but got a batch of shape {shape}: {MORE_IMAGES}"
            )
        loss, hits, row_of_bad_label = self.kernel(
            x.contiguous(), y.contiguous(), self.lr
        )
        if row_of_bad_label >= 0:
            label = y[row_of_bad_label]
            raise ValueError(f"label {label} for {self.outputs} classes")
        return loss, hits


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"engine 'fused' needs {what}; use engine='autograd'")


def _blocks(model: nn.Module) -> Iterator[tuple[nn.Linear, Norm | None]]:
    """Yield each Linear with its norm; refuse what is not a plain perceptron."""
    if type(model) is not nn.Sequential or not len(model):
        name = type(model).__name__
        _refuse(f"an nn.Sequential as models.mlp makes it, but got {name}")
    _check_tensors(model)
    parts = list(model)
    while parts:
        linear = _take(parts, {nn.Linear}, "nn.Linear")
        bn = parts.pop(0) if parts and type(parts[0]) in NORMS else None
        _check_fit(linear, bn)
        if parts or bn is not None:
            _take(parts, {nn.ReLU}, "nn.ReLU")
            if not parts:
                _refuse("nn.Linear as the last layer")
        yield linear, bn


def _take(parts: list[nn.Module], kinds: set[type[nn.Module]], name: str) -> Any:
    """Remove the first module from the list and return it; refuse one of another kind."""
    if not parts or type(parts[0]) not in kinds:
        found = type(parts[0]).__name__ if parts else "the end"
        _refuse(f"blocks of Linear, BatchNorm1d or none, ReLU: {found} is not {name}")
    return parts.pop(0)


def _check_fit(linear: nn.Linear, bn: Norm | None) -> None:
    """Refuse a norm whose tensors are not as long as the layer's output is wide."""
    if bn is None:
        return
    state = [bn.weight, bn.bias, bn.running_mean, bn.running_var]
    sizes = {len(t) for t in state if t is not None} | {bn.num_features}
    if sizes != {linear.out_features}:
        _refuse(f"a norm of {linear.out_features} channels after {linear}, not {bn}")
    if (bn.running_mean is None) != (bn.running_var is None):
        _refuse("both running statistics or none")


def _check_tensors(model: nn.Sequential) -> None:
    """Refuse hooks, frozen or shared parameters, other devices, mixed dtypes."""
    for module in model.modules():
        if any(getattr(module, hook) for hook in HOOKS):
            _refuse(f"a model without hooks, but {type(module).__name__} has one")
    parameters = list(model.parameters())
    total = sum(len(list(layer.parameters())) for layer in model)
    if total != len(parameters) or not all(p.requires_grad for p in parameters):
        _refuse("parameters that all learn and are not shared")
    floats = [*parameters, *(b for b in model.buffers() if b.is_floating_point())]
    kinds = {(t.device.type, t.dtype) for t in floats}
    if kinds not in ({("cpu", torch.float32)}, {("cpu", torch.float64)}):
        found = ", ".join(sorted(f"{device} {dtype}" for device, dtype in kinds))
        _refuse(f"float32 or float64 on the CPU (device='cpu'), but found {found}")
    if not all(t.is_contiguous() for t in floats):
        _refuse("contiguous parameters")


STEPS: dict[str, Callable[..., AutogradStep | FusedStep]] = {
    "autograd": AutogradStep,
    "fused": FusedStep,
}
