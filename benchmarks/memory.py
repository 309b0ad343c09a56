"""The time of a step told apart: arithmetic, and memory that the system hands out anew.

On Linux large arrays go back to the system when they die, and the next step asks for them
again. The system clears each page at its first touch, a *page fault*, which can take longer
than the arithmetic. So every case runs in three processes:

- usual: as Python starts;
- kept: glibc keeps what is freed (MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_);
- small pages: as usual, but the system gives no large pages (prctl), which the kernel asks for.

Each step is timed by itself, in shuffled turns: medians, 95th percentile, the worst, and page
faults per step.

    python benchmarks/memory.py --threads 2 [--quick]
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from _common import cpu_model, grid, machine, parser, readable
from batchnorm import SHAPES, calls
from torch import nn

from bnutils import fast, models

KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
}
REGIMES = {"usual": {}, "kept": KEPT, "small pages": {}}
THP_DISABLE = 41  # PR_SET_THP_DISABLE of linux/prctl.h


def step(net: nn.Module, x: torch.Tensor):
    """A function that trains a network for one step."""
    y = torch.randint(10, (len(x),))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)

    def run():
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    return run


def convolutional() -> nn.Module:
    """Two convolutions with batch norm, 28 x 28 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def cases() -> dict[str, dict]:
    """What is timed: by case, functions that take turns."""
    layers = {"PyTorch": nn.BatchNorm1d, "kernel": fast.KernelBatchNorm1d}
    found = {
        f"{phase} {shape}": {
            name: calls(cls, shape, phase) for name, cls in layers.items()
        }
        for phase in ("both", "eval")
        for shape in SHAPES
    }
    for batch in (128, 1024):
        net = models.mlp(norm=nn.BatchNorm1d, bias=False)
        name = f"784-512-256-10, batch {batch}"
        found[name] = {"PyTorch": step(net, torch.randn(batch, 784))}
    images = torch.randn(128, 1, 28, 28)
    found["2 convolutions, batch 128"] = {"PyTorch": step(convolutional(), images)}
    return found


def faults() -> int:
    """Page faults of this process so far that needed no disk."""
    import resource  # on POSIX only

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def timed(candidates: dict, steps: int) -> dict[str, dict]:
    """Seconds of every step, and page faults per step."""
    found = {name: {"seconds": [], "faults": 0} for name in candidates}
    order = random.Random(0)
    for run in candidates.values():
        for _ in range(3):
            run()
    for _ in range(steps):
        for name in order.sample(list(candidates), len(candidates)):
            before, start = faults(), time.perf_counter()
            candidates[name]()
            found[name]["seconds"].append(time.perf_counter() - start)
            found[name]["faults"] += (faults() - before) / steps
    return found


def child(regime: str, threads: int, steps: int) -> None:
    """Measure in this process, and print the result as JSON."""
    if regime == "small pages":
        failed = ctypes.CDLL(None, use_errno=True).prctl(THP_DISABLE, 1, 0, 0, 0)
        if failed:
            sys.exit("the system does not let a process do without large pages")
    torch.set_num_threads(threads)
    if problem := fast.build():
        sys.exit(f"the kernel cannot be built: {problem}")
    print(json.dumps({name: timed(found, steps) for name, found in cases().items()}))


def measured(regime: str, threads: int, steps: int) -> dict:
    """What a process in this regime measures."""
    command = [sys.executable, __file__, "--child", regime, "--steps", str(steps)]
    done = subprocess.run(
        [*command, "--threads", str(threads)],
        env=os.environ | REGIMES[regime],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def report(results: dict[str, dict]) -> str:
    """One line for each case and candidate in each regime."""
    head = ("case", "candidate", "memory", "median", "95 %", "worst", "faults", "ratio")
    lines = [head]
    for case in results["usual"]:
        for name in results["usual"][case]:
            for regime, found in results.items():
                times = found[case][name]["seconds"]
                pairs = zip(times, found[case]["PyTorch"]["seconds"], strict=True)
                ratio = statistics.median(a / b for a, b in pairs)
                late = statistics.quantiles(times, n=20, method="inclusive")[-1]
                lines.append(
                    (
                        case,
                        name,
                        regime,
                        readable(statistics.median(times)),
                        readable(late),
                        readable(max(times)),
                        f"{found[case][name]['faults']:.0f}",
                        "" if name == "PyTorch" else f"{ratio:.2f}",
                    )
                )
    return grid(lines, left=3)


def main() -> None:
    arguments = parser(__doc__, "memory.json")
    arguments.add_argument("--steps", type=int, default=0, help="0: 200, quick 20")
    arguments.add_argument("--child", choices=REGIMES, help="one regime, as JSON")
    args = arguments.parse_args()
    steps = args.steps or (20 if args.quick else 200)
    if args.child:
        child(args.child, args.threads, steps)
        return
    results = {regime: measured(regime, args.threads, steps) for regime in REGIMES}
    print(report(results))
    torch.set_num_threads(args.threads)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine(), "results": results}) + "\n")
    print(f"\n{cpu_model()}, {args.threads} threads, {steps} steps each\nsaved: {out}")


if __name__ == "__main__":
    main()
