"""One training loop for all chapters (chapter 8): training, evaluation, what was recorded.

:func:`fit` trains a classifier and returns a :class:`History`; :func:`evaluate` returns a
:class:`Score`. Any loop would do for the book; this one records each step, survives Ctrl-C
and a loss that is not finite, and leaves random numbers, modes, threads and devices as it
found them.

Behind it: ``loop`` (what a run does, step by step, and what it records), ``steps`` (one step:
by autograd, or as one call of C++, chapter 16), ``optim`` (optimisers and schedules by name),
``machine`` (device, threads, seeds).
"""

import warnings
from collections.abc import Callable

import torch
from torch import nn

from bnutils.data import Dataset, number_of_batches
from bnutils.progress import bar, is_open
from bnutils.train.loop import History, Score, evaluate, mark_interrupted, run_epoch
from bnutils.train.machine import default_device, seed_all, setting
from bnutils.train.optim import make_schedule, onecycle
from bnutils.train.steps import STEPS

__all__ = [
    "History",
    "Score",
    "default_device",
    "evaluate",
    "fit",
    "onecycle",
    "seed_all",
]


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
    seed : int
        Of the order of the images.
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
        After Ctrl-C (in Jupyter: the stop button), or a loss that is not finite, what was
        recorded until then, marked ``interrupted`` (with a warning) or ``diverged``. A
        diverged run makes no further update, and is evaluated as it stands. For many
        trainings in a cell use :func:`bnutils.sweep.run`, which a single stop ends.

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
    if engine not in STEPS:
        raise ValueError(f"engine must be 'autograd' or 'fused', but got {engine!r}")
    factor = make_schedule(schedule)
    total = epochs * number_of_batches(data.train, batch_size, drop_last)
    classes = int(data.train.y.max()) + 1
    is_alone = not is_open()  # a sweep has a message of its own
    with setting(model, device, threads) as chosen:
        take_step = STEPS[engine](
            model, optimizer, lr, weight_decay, label_smoothing, classes
        )
        data = data.to(chosen)
        # One generator for all epochs, so that each has an order of its own.
        generator = torch.Generator().manual_seed(seed)
        history = History()
        model.train()
        with bar(total, progress) as advance:
            try:
                for _ in range(epochs):
                    batches = data.batches(
                        data.train, batch_size, generator=generator, drop_last=drop_last
                    )
                    run_epoch(
                        batches, take_step, factor, total, history, advance, on_step
                    )
                    if evaluate_each_epoch:
                        score = evaluate(model, data.valid)
                        history.valid_loss.append(score.loss)
                        history.valid_accuracy.append(score.accuracy)
                    if history.diverged:
                        break
            except KeyboardInterrupt:
                mark_interrupted(history, total)
    if history.interrupted and is_alone:
        kept = "the model and the history are as they were then"
        warnings.warn(f"training {history.note}: {kept}", stacklevel=2)
    return history
