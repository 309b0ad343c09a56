"""Replace stale running statistics by averages over fresh batches (chapter 7)."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from bnutils._modules import is_norm, modes_restored

__all__ = ["recalibrate"]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def recalibrate(
    model: nn.Module, batches: Iterable[Tensor], *, reset: bool = True
) -> int:
    """Replace running statistics by their plain average over the batches given.

    The cure for statistics that are stale; the weights stay as they are. Each batch counts
    the same, so give batches of equal size, from the data that the model is to see. The
    result is the average of the batches' means and of their unbiased variances, as
    ``torch.optim.swa_utils.update_bn`` computes it; the variance *between* the batch means
    is not in it, about 1/m of the whole for shuffled batches of m values a channel.
    Also called precise batch norm: Wu and Johnson (2021), arXiv:2105.07576.

    Parameters
    ----------
    model : nn.Module
        With at least one batch norm, of any dimension, that keeps running statistics.
        Batch norm alone is in training mode during the passes (no dropout); modes,
        momenta and gradients are afterwards as before.
    batches : iterable of Tensor
        Inputs of the model, on its device.
    reset : bool
        False continues from the statistics that are there, with the number of batches
        they have seen as their weight.

    Returns
    -------
    int
        How many layers were recalibrated.

    Raises
    ------
    ValueError
        No layer keeps running statistics, or there is no batch. Whatever is raised, the
        statistics are those from before.
    """
    layers = [module for module in model.modules() if _keeps_statistics(module)]
    if not layers:
        raise ValueError(
            "the model has no batch norm with running statistics: nothing to recalibrate"
        )
    count = 0
    with _statistics_kept_on_error(layers), _averaging(model, layers), torch.no_grad():
        if reset:
            for layer in layers:
                layer.reset_running_stats()
        for batch in batches:
            model(batch)
            count += 1
        if count == 0:
            raise ValueError("no batch was given: an average needs at least one")
    return len(layers)


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether a module is a batch norm that tracks statistics and can average them."""
    has_all = all(getattr(module, name, None) is not None for name in _STATISTICS)
    can_average = hasattr(module, "momentum") and has_all
    return is_norm(module) and can_average and module.track_running_stats


@contextlib.contextmanager
def _averaging(model: nn.Module, layers: list[nn.Module]) -> Iterator[None]:
    """Batch norm in training mode with a plain average, everything else in evaluation."""
    momenta = [layer.momentum for layer in layers]
    with modes_restored(model):
        try:
            model.eval()
            for layer in layers:
                layer.training, layer.momentum = True, None
            yield
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum


@contextlib.contextmanager
def _statistics_kept_on_error(layers: list[nn.Module]) -> Iterator[None]:
    """Bring the old statistics back when anything goes wrong."""
    saved = [[getattr(layer, n).clone() for n in _STATISTICS] for layer in layers]
    try:
        yield
    except BaseException:
        for layer, values in zip(layers, saved, strict=True):
            for name, value in zip(_STATISTICS, values, strict=True):
                getattr(layer, name).copy_(value)
        raise
