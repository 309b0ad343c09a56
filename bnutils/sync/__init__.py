"""Synchronised batch norm: one batch, held by many processes (chapter 15).

Here: the layer, which works wherever ``torch.distributed`` does, on the CPU too, and
:func:`convert`, which puts it into a model.

- ``functional``: the arithmetic of the layer, as the chapter derives it.
- ``processes``: :func:`run` and :func:`launch` start processes on this machine and never
  leave one behind; :func:`process_group` connects them.
- ``worker``: what each of these processes does.
- ``mnist``: the chapter's training script, ``python -m bnutils.sync.mnist``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn

from bnutils import norm
from bnutils.norm import per_channel
from bnutils.sync.functional import Standardize
from bnutils.sync.processes import LaunchError, launch, process_group, run

if TYPE_CHECKING:
    from typing import Any

    from torch.distributed import ProcessGroup

__all__ = ["BatchNorm1d", "LaunchError", "convert", "launch", "process_group", "run"]


class BatchNorm1d(norm.BatchNorm1d):
    """Batch norm whose batch is that of all processes together (chapter 15).

    In training, with a process group of two or more, statistics and gradients are those
    of the whole batch: the parts may differ in size, and one may be empty. Otherwise
    (no process group, world size 1, evaluation, or this process not in the group) it is
    :class:`bnutils.norm.BatchNorm1d`. Same parameters, buffers and ``state_dict``.

    Every process must make the same calls, forward and backward, in the same order; one
    that skips a step keeps the others waiting until the group's timeout ends them with
    an error. One that has no data passes a batch of shape (0, C).

    Gradients mean the derivative of the *sum* of all processes' losses: with respect to
    x it is complete; of weight and bias each process holds the part that comes from its
    own rows, as with ``torch.nn.SyncBatchNorm``. ``DistributedDataParallel`` averages
    these parts over the W processes. To get the gradient of the mean over the M images
    of the whole batch, process r with N_r of them therefore takes as its loss
    ``W * N_r / M`` times the mean over its own: that is its sum times ``W / M``. For
    equal parts the factor is 1.

    Running statistics are updated with the mean and the unbiased variance of the whole
    batch, the same in every process. A forward pass in training costs an ``all_reduce``
    of C + 1 numbers and one of C, a backward pass one of 2 C numbers, and on a GPU one
    wait for the device, as the count is needed on the host.

    Parameters
    ----------
    num_features, eps, momentum, affine, track_running_stats, device, dtype, bias
        As of :class:`bnutils.norm.BatchNorm1d`.
    process_group : ProcessGroup, optional
        The processes that share a batch; all of them by default.

    Raises
    ------
    ValueError, RuntimeError, NotImplementedError
        As of the plain layer; the one value per channel counts over all processes.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: ProcessGroup | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        bias: bool = True,
    ) -> None:
        options: dict[str, Any] = {"device": device, "dtype": dtype, "bias": bias}
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, **options
        )
        self.process_group = process_group

    def forward(self, x: Tensor) -> Tensor:
        """Normalise this process's part of the batch, shape (N, C) or (N, C, L)."""
        group = self._group()
        if group is None:
            return super().forward(x)
        # As if of two rows: how many there are in all is known after the exchange.
        self._check_input(x.new_empty((2, *x.shape[1:])))
        half = x.dtype in (torch.float16, torch.bfloat16)
        z = x.float() if half else x
        x_hat, _, mean, var, count = Standardize.apply(z, self.eps, group)
        if self.track_running_stats:
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            self._update_running_stats(mean, var, count)
        y = x_hat
        if self.weight is not None:
            y = y * per_channel(self.weight, x)
        if self.bias is not None:
            y = y + per_channel(self.bias, x)
        if y is x_hat:
            y = y.clone()  # x_hat is saved for backward; y may be changed in place
        return y.to(x.dtype).contiguous()

    def _group(self) -> ProcessGroup | None:
        """The process group to synchronise with, or None."""
        ready = distributed.is_available() and distributed.is_initialized()
        if not (self.training and ready):
            return None
        group = self.process_group
        if group is None:
            group = distributed.group.WORLD
        # Of one process, or (then -1) a group that this process is not in: nobody to ask.
        return group if distributed.get_world_size(group) > 1 else None


def convert(model: nn.Module, process_group: ProcessGroup | None = None) -> nn.Module:
    """Make every BatchNorm1d of a model, PyTorch's or the book's, a synchronised one.

    Each layer stays the object it is and changes its class: parameters, buffers, hooks,
    modes, ``state_dict`` and references to it remain. Convert before
    ``DistributedDataParallel`` wraps the model.

    Parameters
    ----------
    model : nn.Module
        Changed in place; may be a BatchNorm1d itself.
    process_group : ProcessGroup, optional
        The processes that share a batch; all of them by default.

    Returns
    -------
    nn.Module
        The same ``model``.

    Raises
    ------
    TypeError
        The model has a batch norm of another dimension or a subclass, which would go on
        normalising alone. Nothing is changed then.
    """
    known = (nn.BatchNorm1d, norm.BatchNorm1d, BatchNorm1d)
    found = []
    for name, module in model.named_modules():
        if type(module) in known:
            found.append(module)
        elif isinstance(module, (nn.modules.batchnorm._BatchNorm, norm.BatchNorm1d)):
            raise TypeError(
                f"cannot synchronise {name or 'the model'}, a {type(module).__name__}: "
                "only BatchNorm1d is converted; replace it, or on GPUs use "
                "torch.nn.SyncBatchNorm.convert_sync_batchnorm"
            )
    for module in found:
        # The same attributes, one more, and other methods: no copy could keep what refers
        # to the layer.
        module.__class__ = BatchNorm1d
        module.process_group = process_group
    return model
