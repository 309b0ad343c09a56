"""One training loop for all chapters: what it needs, does and records."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnutils import _modules as _context
from bnutils import _progress
from bnutils._modules import default_device, seed_all
from bnutils.data import Dataset, Split, number_of_batches
from bnutils.train.optim import make_schedule, onecycle
from bnutils.train.recipe import RECIPES, augmented, shift
from bnutils.train.steps import STEPS, AutogradStep, FusedStep

__all__ = ["History", "Score", "default_device", "evaluate", "fit", "onecycle", "shift"]
__all__ += ["RECIPES", "seed_all"]


@dataclass(repr=False)
class History:
    """What a run of :func:`fit` recorded.

    Attributes
    ----------
    loss, accuracy, lr : list of float, one per step
        Of the batch before the step's update (the loss with label smoothing, if any);
        the learning rate of the step.
    train_loss, train_accuracy : list of float, one per epoch
        Averages of the above over the epoch, during which the weights change.
    valid_loss, valid_accuracy : list of float, one per epoch
        On the validation split in evaluation mode, without label smoothing; empty with
        ``evaluate_each_epoch=False``.
    seconds : list of float, one per epoch
        Spent on training steps (with ``on_step``), evaluation apart.
    interrupted, diverged : bool
        Stopped by Ctrl-C; stopped by a loss that is not finite.
    note : str
        Why and when the run ended early, or empty.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    valid_loss: list[float] = field(default_factory=list)
    valid_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    interrupted: bool = False
    diverged: bool = False
    note: str = ""

    def __repr__(self) -> str:
        """Sum the run up in one line, without the time it took."""
        parts = [f"{len(self.loss)} steps, {len(self.train_loss)} epochs"]
        if self.train_loss:
            parts.append(f"training loss {self.train_loss[-1]:.3f}")
        if self.valid_accuracy:
            parts.append(f"validation accuracy {self.valid_accuracy[-1]:.1%}")
        return ", ".join(parts) + (f" ({self.note})" if self.note else "")


class Score(NamedTuple):
    """Mean cross-entropy (nats) and accuracy (0 to 1) over a split."""

    loss: float
    accuracy: float


def evaluate(model: nn.Module, split: Split, batch_size: int = 2048) -> Score:
    """Loss and accuracy on a split, in evaluation mode; leaves the model as it was.

    Parameters
    ----------
    model : nn.Module, from (B, 784) to logits (B, classes)
    split : Split
        Brought to the model's device batch by batch.
    batch_size : int
        Has no influence on the result but for rounding.

    Raises
    ------
    ValueError
        The split is empty, or the batch size is not positive.
    """
    if len(split) == 0 or batch_size < 1:
        raise ValueError(
            "evaluation needs at least one image and a positive batch_size, but got "
            f"{len(split)} images and batch_size={batch_size}"
        )
    device, loss, hits = _context.device_of(model), 0.0, 0
    classes = int(split.y.max()) + 1
    with _context.modes_restored(model), torch.no_grad():
        model.eval()
        parts = zip(split.x.split(batch_size), split.y.split(batch_size), strict=True)
        for x, y in ((x.to(device), y.to(device)) for x, y in parts):
            logits = _context.forward(model, x, classes)
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            hits += (logits.argmax(1) == y).sum().item()
    return Score(loss / len(split), hits / len(split))


def fit(
    model: nn.Module,
    data: Dataset,
    *,
    epochs: int = 2,
    batch_size: int = 128,
    lr: float = 0.1,
    optimizer: str | Callable[..., torch.optim.Optimizer] = "sgd",
    schedule: str | Callable[[float], float] = "onecycle",
    weight_decay: float = 0.0,
    label_smoothing: float = 0.0,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    seed: int = 0,
    drop_last: bool = True,
    threads: int | None = None,
    device: torch.device | str | None = None,
    engine: str = "autograd",
    evaluate_each_epoch: bool = True,
    on_step: Callable[[int, History], object] | None = None,
    progress: bool | None = None,
) -> History:
    """Train a classifier on ``data.train`` and return what happened, step by step.

    The test split is never looked at. PyTorch's global random state is left alone: the
    order of the images comes from ``seed`` only.

    Parameters
    ----------
    model : nn.Module, from (B, 784) to logits (B, classes)
        Trained in place, in training mode; each module's mode and the model's device
        are restored afterwards.
    data : Dataset
    epochs : int
        Passes over the training images.
    batch_size : int
    lr : float
        Learning rate, the peak one where the schedule varies it.
    optimizer : "sgd", "plain_sgd", "adam", "adamw" or callable
        "sgd" has Nesterov momentum 0.9, "plain_sgd" none. A callable makes the
        optimiser from the list of the model's parameters; it takes care of the
        learning rate and the weight decay itself.
    schedule : "onecycle", "constant" or callable
        A callable maps the part of all steps already done, from 0 to 1, to a factor of
        the learning rate. See :func:`onecycle`.
    weight_decay : float
        Applied to every parameter, those of BatchNorm included.
    label_smoothing : float
        Part of the target spread over all classes, in training only.
    augment : callable, optional
        Makes of a batch's images (B, 784) and a CPU generator the images to train on,
        for example :func:`shift`. The order of the images is the same with and without.
    seed : int
        Of the order of the images, and of what ``augment`` draws.
    drop_last : bool
        Leave out the last, smaller batch of an epoch.
    threads : int, optional
        Of PyTorch on the CPU, during this call.
    device : torch.device or str, optional
        Where to compute; by default where the model is, or :func:`default_device` if
        that is the CPU.
    engine : "autograd" or "fused"
        How a step is computed. "fused" is one call of compiled C++ (chapter 16), the
        same to rounding in half to four fifths of the time. It needs the CPU, a model as
        :func:`bnutils.models.mlp` makes it with ReLU, the optimiser "sgd" or
        "plain_sgd", a C++ compiler and ninja; it fills no ``.grad`` and runs no hooks.
        The first use compiles for about half a minute.
    evaluate_each_epoch : bool
        Evaluate on ``data.valid`` after each epoch.
    on_step : callable, optional
        Called as ``on_step(step, history)`` after the update; the first step is 1.
    progress : bool, optional
        Show a bar; by default in a terminal and in Jupyter, unless the environment
        has BNUTILS_PROGRESS=0 or CI.

    Returns
    -------
    History
        After Ctrl-C, or a loss that is not finite, what was recorded until then, marked
        ``interrupted`` or ``diverged``. A diverged run makes no further update, and is
        evaluated as it stands.

    Raises
    ------
    ValueError
        An argument out of range, an empty split, logits that do not fit the labels, or
        what BatchNorm raises for a batch of one image; a model or optimiser that
        ``engine="fused"`` does not cover.
    RuntimeError
        The model does not accept the images' shape; no compiler for ``"fused"``.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, but got {epochs}")
    steps = epochs * number_of_batches(data.train, batch_size, drop_last)
    if engine not in STEPS:
        raise ValueError(f"engine must be 'autograd' or 'fused', but got {engine!r}")
    order = {"generator": torch.Generator().manual_seed(seed), "drop_last": drop_last}
    setting = _context.setting(model, device, threads)
    with setting as chosen, _progress.bar(steps, progress) as advance:
        classes = int(data.train.y.max()) + 1
        take = STEPS[engine](
            model, optimizer, lr, weight_decay, label_smoothing, classes
        )
        loop = _Loop(model, take, make_schedule(schedule), steps, on_step, advance)
        moved = augmented(data.to(chosen), augment, seed)
        loop.run(moved, epochs, batch_size, order, evaluate_each_epoch)
    return loop.history


@dataclass
class _Loop:
    """The state of one run of :func:`fit`, and the steps it is made of."""

    model: nn.Module
    take: AutogradStep | FusedStep
    factor: Callable[[float], float]
    total: int
    on_step: Callable[[int, History], object] | None
    advance: Callable[[], object]
    history: History = field(default_factory=History)

    def run(self, data, epochs, batch_size, order, evaluate_each_epoch) -> None:
        """Train and validate, epoch by epoch; Ctrl-C becomes a note in the history."""
        history = self.history
        self.model.train()
        try:
            while len(history.train_loss) < epochs and not history.diverged:
                self.epoch(data.batches(data.train, batch_size, **order))
                if evaluate_each_epoch:
                    score = evaluate(self.model, data.valid)
                    history.valid_loss.append(score.loss)
                    history.valid_accuracy.append(score.accuracy)
        except KeyboardInterrupt:
            steps = (history.loss, history.accuracy, history.lr)
            complete = min(len(series) for series in steps)
            for series in steps:
                del series[complete:]
            history.interrupted = True
            history.note = f"interrupted after step {complete} of {self.total}"

    def epoch(self, batches) -> None:
        """Take one pass over the training images and record it."""
        history, first = self.history, len(self.history.loss)
        start = time.perf_counter()
        for x, y in batches:
            self.step(x, y)
            if history.diverged:
                break
        history.seconds.append(time.perf_counter() - start)
        history.train_loss.append(float(np.mean(history.loss[first:])))
        history.train_accuracy.append(float(np.mean(history.accuracy[first:])))

    def step(self, x: Tensor, y: Tensor) -> None:
        """Take a step and record it; there is no update if the loss is not finite."""
        lr = self.take.rate(self.factor(len(self.history.loss) / self.total))
        loss, hits = self.take(x, y)
        self.record(loss, hits / len(y), lr)
        if self.history.diverged:
            return
        self.advance()
        if self.on_step is not None:
            self.on_step(len(self.history.loss), self.history)

    def record(self, loss: float, accuracy: float, lr: float) -> None:
        """Append a step to the history, and mark a loss that is not finite."""
        history = self.history
        history.loss.append(loss)
        history.accuracy.append(accuracy)
        history.lr.append(lr)
        if not math.isfinite(loss):
            history.diverged = True
            history.note = f"the loss was {loss} at step {len(history.loss)}"
