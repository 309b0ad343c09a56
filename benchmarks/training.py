"""Accuracy on MNIST with and without BatchNorm: how far, how many epochs, how long.

Every choice was made on the 5,000 validation images: the settings of both arms stand in
``recipe.py`` and come from the same grid (``--tune`` runs it again). The test
images are read once for each network, at the end of its run.

    BNUTILS_DATA=folder python benchmarks/training.py
    BNUTILS_DATA=folder python benchmarks/training.py --tune

Three parts: ``train.fit`` as it is, for two epochs on five seeds; the recipe of each arm for
1, 2, 5 and 10 epochs (each length is a run of its own: the schedule fits the length); time
and epochs until the validation accuracy reaches 98 %. The arms take turns, seed by seed.
"""

import itertools
import statistics
import time
from collections.abc import Iterator
from functools import partial

import torch
from _common import Timing, grid, parser, readable, save
from recipe import RECIPES, Augment, augmented, shift
from torch import nn

from bnutils import data, models, train

ARMS = {"with BN": nn.BatchNorm1d, "without BN": None}
SEEDS = (1, 2, 3)  # not those of the tuning
TARGET = 0.98
# --tune: every combination with the first seed, then the four best with the others
RATES, SMOOTHING, PIXELS = (0.05, 0.1, 0.2, 0.4), (0.0, 0.1), (0, 1, 2)
TUNING_SEEDS = (10, 11, 12)


def run(
    digits: data.Dataset,
    arm: str,
    seed: int,
    augment: Augment | None = None,
    **settings,
) -> dict:
    """Train one network; what happened, and the test accuracy."""
    if augment is not None:
        digits = augmented(digits, augment, seed)
    torch.manual_seed(seed)
    net = models.mlp(norm=ARMS[arm], bias=ARMS[arm] is None)
    start = time.perf_counter()
    h = train.fit(net, digits, seed=seed, progress=False, **settings)
    seconds = time.perf_counter() - start
    return {"net": net, "history": h, "seconds": seconds, "arm": arm, "seed": seed}


def until(history: train.History) -> tuple[int, float] | None:
    """Epochs and seconds of training until the validation accuracy is at the target."""
    for epoch, accuracy in enumerate(history.valid_accuracy, start=1):
        if accuracy >= TARGET:
            return epoch, sum(history.seconds[:epoch])
    return None


def percent(values: list[float]) -> str:
    """Mean and standard deviation in percent."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.2f} ± {100 * spread:.2f}"


def tested(digits: data.Dataset, arm: str, seed: int, **settings) -> dict:
    """Train one network and read the test images once; numbers only."""
    made = run(digits, arm, seed, **settings)
    history = made["history"]
    return {
        "arm": arm,
        "seed": seed,
        "epochs": settings["epochs"],
        "seconds": made["seconds"],
        "valid": history.valid_accuracy,
        "until": until(history),
        "test": train.evaluate(made["net"], digits.test).accuracy,
    }


def trials(digits: data.Dataset, args) -> Iterator[tuple[str, dict]]:
    """Every network of the benchmark, the arms in turn."""
    default_seeds, seeds, lengths = range(5), SEEDS, (1, 2, 5, 10)
    if args.quick:
        default_seeds, seeds, lengths = (0,), SEEDS[:1], (1, 2)
    for seed, arm in itertools.product(default_seeds, ARMS):
        yield "default", tested(digits, arm, seed, epochs=2)
    for epochs, seed, arm in itertools.product(lengths, seeds, ARMS):
        settings = {**RECIPES[arm], "epochs": epochs, "augment": shift}
        yield "recipe", tested(digits, arm, seed, **settings)


def row(key: tuple, group: list[dict]) -> tuple:
    """Sum up the runs of one arm and length."""
    reached = [t["until"] for t in group if t["until"]]
    epochs = "/".join(str(e) for e, _ in reached) or "-"
    seconds = statistics.median(s for _, s in reached) if reached else None
    return (
        *key,
        percent([t["valid"][-1] for t in group]),
        percent([t["test"] for t in group]),
        " ".join(f"{100 * t['test']:.2f}" for t in group),
        readable(statistics.median(t["seconds"] for t in group)),
        f"{epochs} of {len(group)} runs" if len(reached) < len(group) else epochs,
        readable(seconds) if seconds else "-",
    )


def benchmark(digits: data.Dataset, args) -> None:
    """Run, print and save everything but the tuning."""
    groups = {}
    for kind, trial in trials(digits, args):
        key = (kind, f"{trial['epochs']:>2} epochs", trial["arm"])
        groups.setdefault(key, []).append(trial)
    head = ("settings", "length", "arm", "validation, %", "test, %", "each seed")
    head += ("a run", f"epochs to {TARGET:.0%}", "time to it")
    print(grid([head, *(row(k, g) for k, g in groups.items())], left=3))
    timings = {}
    for (kind, length, arm), group in groups.items():
        seconds = Timing(tuple(t["seconds"] for t in group))
        timings.setdefault(f"{kind}, {length.strip()}", {})[arm] = seconds
    for name, arms in timings.items():
        ratio = arms["with BN"].ratio(arms["without BN"])
        print(f"{name}: a run with BN takes {ratio:.2f} x the time of one without")
    trained = [t for group in groups.values() for t in group]
    print("written:", save(args.out, timings, "without BN", runs=trained))


def tune(digits: data.Dataset, args) -> None:
    """Validation accuracy over the grid for both arms; the test images stay unread."""
    made = []
    for arm in ARMS:
        grid_ = list(itertools.product(RATES, SMOOTHING, PIXELS))
        found = {s: [score(digits, arm, s, TUNING_SEEDS[0], args)] for s in grid_}
        best = sorted(found, key=lambda s: -found[s][0])[:4]
        for settings, seed in itertools.product(best, TUNING_SEEDS[1:]):
            found[settings].append(score(digits, arm, settings, seed, args))
        ordered = sorted(found, key=lambda s: (-len(found[s]), -sum(found[s])))
        made += [(arm, *s, " ".join(f"{v:.2%}" for v in found[s])) for s in ordered]
    print(grid([("arm", "lr", "smoothing", "pixels", "validation"), *made]))


def score(digits: data.Dataset, arm: str, settings: tuple, seed: int, args) -> float:
    """Validation accuracy after ten epochs with a rate, a smoothing and a shift."""
    lr, smoothing, pixels = settings
    augment = partial(shift, pixels=pixels) if pixels else None
    rest = {"epochs": 1 if args.quick else 10, "augment": augment}
    h = run(digits, arm, seed, lr=lr, label_smoothing=smoothing, **rest)["history"]
    return h.valid_accuracy[-1]


def main() -> None:
    made = parser(__doc__, "training.json")
    made.add_argument("--tune", action="store_true", help="the grid, on validation")
    made.set_defaults(threads=1)
    args = made.parse_args()
    torch.set_num_threads(args.threads)
    digits = data.load()
    print(digits)
    (tune if args.tune else benchmark)(digits, args)


if __name__ == "__main__":
    main()
