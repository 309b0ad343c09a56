"""What the benchmarks share: interleaved timing, a table, JSON with where it ran.

Timings compare only within one run of one process. Candidates take turns in an order that
is shuffled anew in every round, so that a busy machine slows all of them, and the ratio of
two candidates is the median over rounds of the ratio within a round.

    from _common import measure, options, save, table

    args = options(__doc__, "training.json")
    results = measure({"a": f, "b": g}, rounds=5 if args.quick else 25)
    print(table({"some shape": results}, baseline="a"))
    save(args.out, {"some shape": results}, baseline="a")
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds per call of one candidate, one value for each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Lower and upper quartile."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    def ratio(self, baseline: Timing) -> float:
        """Median over rounds of this time over the baseline's in the same round."""
        pairs = zip(self.seconds, baseline.seconds, strict=True)
        return statistics.median(a / b for a, b in pairs)


def measure(
    candidates: dict[str, Callable[[], object]],
    *,
    rounds: int = 25,
    seconds: float = 0.005,
    warmup: int = 3,
    setup: dict[str, Callable[[], object]] | None = None,
    seed: int = 0,
) -> dict[str, Timing]:
    """Time every candidate once a round, in shuffled order.

    Parameters
    ----------
    candidates : dict of callables without arguments
    rounds : int
    seconds : float
        A turn repeats a call until it takes about this long (the same number of
        calls for every round; one call where a call takes longer).
    warmup : int
        Calls before anything counts.
    setup : dict of callables, optional
        Called before a turn of the candidate of that name, not timed.
    seed : int
        Of the order; the global random state is left alone.
    """
    setup = setup or {}
    calls = {}
    for name, f in candidates.items():
        setup.get(name, int)()
        for _ in range(warmup):
            f()
        start = time.perf_counter()
        f()
        once = max(time.perf_counter() - start, 1e-7)
        calls[name] = max(1, min(10_000, round(seconds / once)))
    order, found = random.Random(seed), {name: [] for name in candidates}
    for _ in range(rounds):
        for name in order.sample(list(candidates), len(candidates)):
            f, n = candidates[name], calls[name]
            setup.get(name, int)()
            start = time.perf_counter()
            for _ in range(n):
                f()
            found[name].append((time.perf_counter() - start) / n)
    return {name: Timing(tuple(values)) for name, values in found.items()}


def rows(results: dict[str, dict[str, Timing]], baseline: str) -> list[dict]:
    """One dict for each case and candidate: median, quartiles, ratio (JSON-ready)."""
    return [
        {
            "case": case,
            "candidate": name,
            "median_s": t.median,
            "quartiles_s": t.spread,
            "ratio": t.ratio(timings[baseline]) if baseline in timings else None,
            "rounds": len(t.seconds),
        }
        for case, timings in results.items()
        for name, t in timings.items()
    ]


def readable(seconds: float) -> str:
    """Seconds in a unit that suits them."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.1f} {unit}"
    return f"{seconds:.2f} s"


def table(results: dict[str, dict[str, Timing]], baseline: str) -> str:
    """Median, quartiles and ratio to the baseline of every case and candidate."""
    head = ("case", "candidate", "median", "quartiles", f"ratio to {baseline}")
    body = [
        (
            r["case"],
            r["candidate"],
            readable(r["median_s"]),
            " - ".join(map(readable, r["quartiles_s"])),
            "" if r["ratio"] is None else f"{r['ratio']:.2f}",
        )
        for r in rows(results, baseline)
    ]
    return grid([head, *body], left=2)


def grid(lines: list[tuple], left: int = 1) -> str:
    """Columns of text: the first ``left`` flush left, the others flush right."""
    lines = [tuple(map(str, line)) for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def cpu_model() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict:
    """Versions, threads and CPU: what a timing depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def save(
    out: str | os.PathLike,
    results: dict[str, dict[str, Timing]],
    baseline: str,
    **extra,
) -> Path:
    """Write results, every single round and :func:`machine` as JSON; return where."""
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine(),
        "baseline": baseline,
        "rows": rows(results, baseline),
        "rounds": {
            case: {name: asdict(t)["seconds"] for name, t in timings.items()}
            for case, timings in results.items()
        },
        **extra,
    }
    path.write_text(json.dumps(content, indent=1) + "\n", "utf8")
    return path


def parser(doc: str, out: str) -> argparse.ArgumentParser:
    """A parser with --quick, --out and --threads; add your own arguments to it."""
    found = argparse.ArgumentParser(
        description=doc.strip().splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    found.add_argument("--quick", action="store_true", help="few rounds, fewer cases")
    found.add_argument("--out", default=str(RESULTS / out), help="the JSON file")
    found.add_argument("--threads", type=int, default=2, help="of PyTorch")
    return found


def options(doc: str, out: str) -> argparse.Namespace:
    """Read the common options and set PyTorch's number of threads."""
    args = parser(doc, out).parse_args()
    torch.set_num_threads(args.threads)
    return args
