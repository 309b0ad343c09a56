"""Training throughput of ``bnutils.train.fit`` and of the usual loop, side by side.

The usual loop: ``torchvision.datasets.MNIST`` with ``ToTensor`` and ``Normalize``, a
``DataLoader`` that shuffles, an optimiser as its constructor makes it, loss and
accuracy recorded in every step. Both train the network 784-512-256-10 with BatchNorm,
with the same optimiser ("sgd" has Nesterov momentum) at the same batch size, on the CPU.
A repetition times every loop once over the same number of steps, in random order, so
that a busy machine slows all of them.

    BNUTILS_DATA=folder python benchmarks/throughput.py --threads 1 2

The folder (by default the cache) must have the layout that torchvision reads.
"""

import argparse
import importlib
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from bnutils import data, models, train
from bnutils._torchvision import import_mnist

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.001),
}


def usual_loop(
    kind: str, batch_size: int, steps: int, workers: int
) -> Callable[[], float]:
    """Return a function that trains and returns the seconds per step."""
    mnist = import_mnist()
    transforms = importlib.import_module("torchvision.transforms")
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(0.1307, 0.3081)]
    )
    root = os.environ.get("BNUTILS_DATA") or data.cache_folder()
    images = mnist.MNIST(root, transform=transform)
    loader = DataLoader(images, batch_size, shuffle=True, num_workers=workers)
    net = models.mlp()
    optimizer, history = OPTIMIZERS[kind](net.parameters()), []

    def seconds() -> float:
        batches = islice(loader, steps + 1)
        next(batches)  # the workers have started
        start = time.perf_counter()
        for x, y in batches:
            logits = net(x.view(-1, 784))
            loss = F.cross_entropy(logits, y)
            hits = (logits.argmax(1) == y).sum()
            history.append((loss.item(), hits.item() / len(y)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return (time.perf_counter() - start) / steps

    return seconds


def our_loop(kind: str, batch_size: int, steps: int) -> Callable[[], float]:
    """Return a function that trains and returns the seconds per step, all included."""
    full = data.load()
    n = steps * batch_size
    part = replace(full, train=data.Split(full.train.x[:n], full.train.y[:n]))
    net = models.mlp()

    def seconds() -> float:
        start = time.perf_counter()
        train.fit(
            net,
            part,
            epochs=1,
            optimizer=kind,
            lr=OPTIMIZERS[kind].keywords["lr"],
            batch_size=batch_size,
            device="cpu",
            evaluate_each_epoch=False,
            progress=False,
        )
        return (time.perf_counter() - start) / steps

    return seconds


def measure(loops: dict, repetitions: int) -> dict[str, list[float]]:
    """Seconds per step of each loop, interleaved in random order; the first is lost."""
    found = {name: [] for name in loops}
    for _ in range(repetitions + 1):
        for name in random.sample(list(loops), len(loops)):
            found[name].append(loops[name]())
    return {name: values[1:] for name, values in found.items()}


def row(name: str, seconds: list[float], usual: list[float], batch_size: int) -> str:
    """Format medians, range and the ratio of medians to the usual loop."""
    median, low, high = statistics.median(seconds), min(seconds), max(seconds)
    ratios = sorted(u / s for u, s in zip(usual, seconds, strict=True))
    return (
        f"{name:28} {batch_size / median:12,.0f} {median * 1e3:8.2f} "
        f"{low * 1e3:6.2f}-{high * 1e3:<6.2f} {statistics.median(usual) / median:6.2f} "
        f"{ratios[0]:6.2f}-{ratios[-1]:<6.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--workers", type=int, nargs="*", default=[2])
    args = parser.parse_args()
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"{os.cpu_count()} CPUs, batch size {args.batch_size}, {args.steps} steps, "
        f"{args.repetitions} repetitions"
    )
    for kind in args.optimizers:
        shape = (kind, args.batch_size, args.steps)
        names = {f"DataLoader, {n} workers": n for n in (0, *args.workers)}
        loops = {name: usual_loop(*shape, workers=n) for name, n in names.items()}
        loops["bnutils.train.fit"] = our_loop(*shape)
        for threads in args.threads:
            torch.set_num_threads(threads)
            found = measure(loops, args.repetitions)
            print(
                f"\n{f'{kind}, {threads} thread(s)':28} {'images/s':>12} {'ms/step':>8} "
                f"{'range':^13} {'ratio':>6} {'range':^13}"
            )
            for name, seconds in found.items():
                usual = found["DataLoader, 0 workers"]
                print(row(name, seconds, usual, args.batch_size))


if __name__ == "__main__":
    main()
