"""What one run of :func:`bnutils.train.fit` does, step by step, and what it records."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnutils._modules import device_of, modes_restored
from bnutils.data import Split
from bnutils.train.steps import AutogradStep, FusedStep, logits_of


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
    device = device_of(model)
    classes = int(split.y.max()) + 1
    loss, hits = 0.0, 0
    with modes_restored(model), torch.no_grad():
        model.eval()
        for x, y in zip(split.x.split(batch_size), split.y.split(batch_size)):
            x, y = x.to(device), y.to(device)
            logits = logits_of(model, x, classes)
            # Sums, since the last batch may be smaller than the others.
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            hits += (logits.argmax(1) == y).sum().item()
    return Score(loss / len(split), hits / len(split))


def run_epoch(
    batches: Iterable[tuple[Tensor, Tensor]],
    take_step: AutogradStep | FusedStep,
    factor: Callable[[float], float],
    total: int,
    history: History,
    advance: Callable[[], object],
    on_step: Callable[[int, History], object] | None,
) -> None:
    """Take a step for each batch, and record the averages of the epoch.

    ``factor`` maps the part done of all ``total`` steps to a factor of the learning rate;
    ``advance`` moves the progress bar.
    """
    first = len(history.loss)
    start = time.perf_counter()
    for x, y in batches:
        loss, hits = take_step(x, y, factor(len(history.loss) / total))
        history.loss.append(loss)
        history.accuracy.append(hits / len(y))
        history.lr.append(take_step.lr)
        if not math.isfinite(loss):
            history.diverged = True
            history.note = f"the loss was {loss} at step {len(history.loss)}"
            break
        advance()
        if on_step is not None:
            on_step(len(history.loss), history)
    history.seconds.append(time.perf_counter() - start)
    history.train_loss.append(float(np.mean(history.loss[first:])))
    history.train_accuracy.append(float(np.mean(history.accuracy[first:])))


def mark_interrupted(history: History, total: int) -> None:
    """Note how far the run got; Ctrl-C can come between two entries of a step."""
    steps = (history.loss, history.accuracy, history.lr)
    complete = min(len(series) for series in steps)
    for series in steps:
        del series[complete:]
    history.interrupted = True
    history.note = f"interrupted after step {complete} of {total}"
