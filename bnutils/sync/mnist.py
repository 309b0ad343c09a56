r"""MNIST on many processes: local and synchronised batch norm (chapter 15).

On one machine::

    torchrun --standalone --nproc-per-node 2 -m bnutils.sync.mnist --norm sync local

On several, the same command on each, HOST being the name of one of them::

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-id 15 --rdzv-backend c10d \
        --rdzv-endpoint HOST:29500 -m bnutils.sync.mnist --norm sync --batch-size 512

Rank 0 writes one line of JSON for each combination of the options given.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from bnutils import data, models, sync, train

if TYPE_CHECKING:
    from typing import Any

__all__ = ["experiment", "fit", "load", "main", "share", "step"]

SIZES = (784, 128, 64, 10)
CONVERT: dict[str, Callable[[nn.Module], nn.Module]] = {
    "local": lambda net: net,
    "sync": sync.convert,
    "pytorch": nn.SyncBatchNorm.convert_sync_batchnorm,
}


def share(batch: Tensor) -> Tensor:
    """Return the rows of a batch that fall to this process; all, if it is alone."""
    if not distributed.is_initialized():
        return batch
    parts = batch.tensor_split(distributed.get_world_size())
    return parts[distributed.get_rank()]


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
) -> Tensor:
    """Take one step on the whole batch (M, 784) by all processes.

    Each process works on its share. DistributedDataParallel averages the gradients over
    the W processes, so the loss of each is its sum times W / M, not its own mean.

    Returns
    -------
    Tensor, shape ()
        This process's part of the mean loss: its sum over M.
    """
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    loss = F.cross_entropy(model(share(x)), share(y), reduction="sum") / len(x)
    optimizer.zero_grad()
    (world * loss).backward()
    optimizer.step()
    return loss.detach()


def fit(
    digits: data.Dataset,
    norm: str = "sync",
    batch_size: int = 8,
    lr: float = 0.1,
    seed: int = 0,
    *,
    epochs: int = 1,
    on_step: Callable[[int], object] = lambda number: None,
) -> tuple[nn.Module, list[float]]:
    """Train the article's network, narrower, by all processes together.

    Parameters
    ----------
    digits : Dataset
        Its dtype and device are the model's.
    norm : "local", "sync" or "pytorch"
        Each process its own batch norm; :func:`bnutils.sync.convert`; PyTorch's
        ``SyncBatchNorm``, for GPUs only.
    batch_size : int
        M, of all processes together; need not be a multiple of their number.
    lr : float
        Rate of plain SGD for a batch of 32; multiplied by sqrt(M / 32).
    seed : int
        Of the weights and of the order of the images, the same in all processes.
    epochs : int
    on_step : callable
        Called with the number of steps done.

    Returns
    -------
    net : nn.Module
        This process's, with the last step's gradient of the whole batch.
    losses : list of float, one per step
        Mean over the whole batch.
    """
    torch.manual_seed(seed)
    net = CONVERT[norm](models.mlp(SIZES)).to(digits.train.x)
    model = DistributedDataParallel(net) if distributed.is_initialized() else net
    optimizer = torch.optim.SGD(net.parameters(), lr=lr * (batch_size / 32) ** 0.5)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(epochs):
        for x, y in digits.batches(
            digits.train, batch_size, generator=generator, drop_last=True
        ):
            losses.append(step(model, optimizer, x, y))
            on_step(len(losses))
    total = torch.stack(losses)  # the parts of the loss come together once, here
    if distributed.is_initialized():
        distributed.all_reduce(total)
    return net, total.tolist()


def experiment(
    digits: data.Dataset,
    norm: str = "sync",
    batch_size: int = 8,
    lr: float = 0.1,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Call :func:`fit` and return its arguments, the losses and the accuracy.

    The accuracy (0 to 1) is that of rank 0's network on the validation images; all
    ranks return it.
    """
    net, losses = fit(digits, norm, batch_size, lr, seed, **options)
    accuracy = torch.tensor(0.0, dtype=torch.float64, device=digits.train.x.device)
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        accuracy.fill_(train.evaluate(net, digits.valid).accuracy)
    if distributed.is_initialized():
        distributed.broadcast(accuracy, 0)
    result = {"norm": norm, "batch_size": batch_size, "lr": lr, "seed": seed}
    return result | {"loss": losses, "accuracy": accuracy.item()}


def load(
    images: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> data.Dataset:
    """Load the first training images and all validation images, as this dtype."""
    digits = data.load()
    x, y = digits.train.x[:images], digits.train.y[:images]
    few = replace(
        digits,
        train=data.Split(x.to(dtype), y),
        valid=data.Split(digits.valid.x.to(dtype), digits.valid.y),
    )
    return few.to(device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every combination of the options; for ``torchrun -m bnutils.sync.mnist``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--norm", nargs="+", default=["sync"], choices=CONVERT)
    parser.add_argument("--batch-size", nargs="+", type=int, default=[8])
    parser.add_argument(
        "--lr", nargs="+", type=float, default=[0.1], help="for a batch of 32"
    )
    parser.add_argument("--seed", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, help="train on the first so many")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument(
        "--patience", type=float, default=30.0, help="seconds a collective waits"
    )
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the processes share the machine's cores
    with sync.process_group(chosen.patience) as device:
        digits = load(chosen.images, getattr(torch, chosen.dtype), device)
        for options in itertools.product(
            chosen.norm, chosen.batch_size, chosen.lr, chosen.seed
        ):
            result = experiment(digits, *options, epochs=chosen.epochs)
            if distributed.get_rank() == 0:
                sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
