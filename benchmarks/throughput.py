"""Training throughput: the usual DataLoader loop, ``train.fit``, and the matrix products alone.

The usual loop: ``torchvision.datasets.MNIST`` with ``ToTensor``, a ``DataLoader`` that
shuffles, an optimiser as its constructor makes it, loss and accuracy recorded in every
step. ``train.fit`` trains the same network, 784-512-256-10 with BatchNorm, with the same
optimiser (SGD, Nesterov momentum 0.9) at the same batch size, on the CPU, with both of
its engines. The last measurement does the step's eight matrix products and nothing else:
no training step built on the same products can be faster.

All are timed in one process, in turns of shuffled order; a ratio is the median over
the rounds of the ratio within a round. On a machine with other work, two threads wait for
each other and medians say little: "by least" compares the fastest round of each.

    BNUTILS_DATA=folder python benchmarks/throughput.py --threads 1 2

The folder (by default the cache) must have the layout that torchvision reads.
"""

import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, islice, pairwise, repeat

import torch
from _common import Timing, grid, measure, parser, readable, save
from torch.nn import functional as F
from torch.utils.data import DataLoader

from bnutils import data, fast, models, train
from bnutils.data.vision import import_mnist

SIZES = (784, 512, 256, 10)
GOALS = {"loop": 4.5, "products": 0.6}  # ratios, at two threads
USUAL, PRODUCTS = "DataLoader + ToTensor", "matrix products only"
OURS, FUSED = "train.fit", 'train.fit, engine="fused"'
ENGINES = {OURS: "autograd", FUSED: "fused"}


def usual_loop(batch_size: int, steps: int, workers: int) -> Callable[[], None]:
    """Return a function that trains for some steps."""
    mnist = import_mnist()
    transforms = importlib.import_module("torchvision.transforms")
    root = os.environ.get("BNUTILS_DATA") or data.cache_folder()
    images = mnist.MNIST(root, transform=transforms.ToTensor())
    loader = DataLoader(
        images, batch_size, shuffle=True, num_workers=workers, drop_last=True
    )
    batches = chain.from_iterable(repeat(loader))  # epoch after epoch
    net = models.mlp(SIZES)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    history = []

    def run() -> None:
        for x, y in islice(batches, steps):
            logits = net(x.view(-1, 784))
            loss = F.cross_entropy(logits, y)
            hits = (logits.argmax(1) == y).sum()
            history.append((loss.item(), hits.item() / len(y)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def our_loop(
    full: data.Dataset, batch_size: int, steps: int, engine: str
) -> Callable[[], None]:
    """Return a function that trains for some steps, all that surrounds them included."""
    n = steps * batch_size
    part = replace(full, train=data.Split(full.train.x[:n], full.train.y[:n]))
    net = models.mlp(SIZES)
    options = {"epochs": 1, "lr": 0.01, "batch_size": batch_size, "device": "cpu"}
    options["engine"] = engine

    def run() -> None:
        train.fit(net, part, **options, evaluate_each_epoch=False, progress=False)

    return run


def products(batch_size: int, steps: int) -> Callable[[], None]:
    """Return a function that multiplies matrices as the steps do."""
    layers = [
        (torch.randn(batch_size, n), torch.randn(m, n), torch.randn(batch_size, m))
        for n, m in pairwise(SIZES)
    ]

    def run() -> None:
        with torch.no_grad():
            for _ in range(steps):
                for i, (x, weight, dy) in enumerate(layers):
                    _ = x @ weight.T  # forward
                    _ = dy.T @ x  # the weight's gradient
                    if i:
                        _ = dy @ weight  # the input's; images need none

    return run


def case(full: data.Dataset, batch_size: int, args) -> dict[str, Timing]:
    """Seconds per step of each loop, in each round."""
    steps = max(4, args.images // batch_size)
    few = max(2, steps // 4)  # steps of the slow loop
    loops = {USUAL: (usual_loop(batch_size, few, 0), few)}
    for n in args.workers:
        loops[f"DataLoader, {n} workers"] = (usual_loop(batch_size, few, n), few)
    for name, engine in ENGINES.items():
        loops[name] = (our_loop(full, batch_size, steps, engine), steps)
    loops[PRODUCTS] = (products(batch_size, steps), steps)
    runs = {name: run for name, (run, _) in loops.items()}
    found = measure(runs, rounds=args.rounds, warmup=1)
    return {
        name: Timing(tuple(s / loops[name][1] for s in t.seconds))
        for name, t in found.items()
    }


def line(title: str, batch_size: int, name: str, found: dict[str, Timing]) -> tuple:
    """Format one row: rate, time, and the two ratios the goals are about."""
    t = found[name]
    return (
        title,
        name,
        f"{batch_size / t.median:,.0f}",
        readable(t.median),
        " - ".join(map(readable, t.spread)),
        readable(min(t.seconds)),
        f"{found[USUAL].ratio(t):.2f}",
        f"{min(found[USUAL].seconds) / min(t.seconds):.2f}",
        f"{found[PRODUCTS].ratio(t):.2f}",
        f"{min(found[PRODUCTS].seconds) / min(t.seconds):.2f}",
    )


def main() -> None:
    options = parser(__doc__, "throughput.json")
    options.set_defaults(threads=[1, 2])
    next(a for a in options._actions if a.dest == "threads").nargs = "+"
    options.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[64, 128, 256, 512]
    )
    options.add_argument("--rounds", type=int, default=25)
    options.add_argument("--images", type=int, default=4096, help="per round")
    options.add_argument("--workers", type=int, nargs="*", default=[])
    args = options.parse_args()
    if args.quick:
        args.rounds, args.images = 3, 1024
    full = data.load()
    if full.name != "MNIST":
        raise SystemExit("the usual loop reads MNIST: name its folder in BNUTILS_DATA")
    if reason := fast.build():
        print(f"{FUSED}: {reason}; left out")
        del ENGINES[FUSED]
    results, lines = {}, []
    for threads in args.threads:
        torch.set_num_threads(threads)
        for batch_size in args.batch_sizes:
            title = f"{threads} thread(s), batch {batch_size}"
            results[title] = found = case(full, batch_size, args)
            lines += [line(title, batch_size, name, found) for name in found]
    head = ("case", "loop", "images/s", "a step", "quartiles", "least")
    head += ("x loop", "by least", "of products", "by least")
    print(grid([head, *lines], left=2))
    print(
        f"\nGoals for {FUSED} at two threads: x loop >= {GOALS['loop']} at every batch "
        f"size, of products >= {GOALS['products']} at batch 128."
    )
    settings = {k: v for k, v in vars(args).items() if k != "out"}
    print("written:", save(args.out, results, USUAL, settings=settings))


if __name__ == "__main__":
    main()
