"""BatchNorm1d: PyTorch's, the book's, the gears of bnutils.fast, and the bandwidth limit.

Eight shapes, forward, backward, both, and evaluation; then the cost against the size of
the batch and against the number of channels. The limit is the time to copy as many bytes
as the operation must read and write: forward 2 arrays (x, y), backward 3 (x, dy, dx).

    python benchmarks/batchnorm.py --threads 2 [--quick] [--no-compile]
"""

from __future__ import annotations

import sys

import torch
from _common import Timing, grid, machine, measure, parser, save, table
from torch import nn

from bnutils import fast, norm

SHAPES = [
    (32, 512),
    (64, 256),
    (128, 512),
    (256, 512),
    (1024, 512),
    (8192, 256),
    (64, 128, 50),
    (256, 64, 784),
]
PASSES = {"forward": 2, "backward": 3, "both": 5, "eval": 2}
BASELINE = "PyTorch"


def layers(compile_too: bool) -> dict[str, type]:
    """The classes to time; a gear that is not to be had here is left out."""
    found = {BASELINE: nn.BatchNorm1d, "norm": norm.BatchNorm1d}
    found["fast torch"] = fast.TorchBatchNorm1d
    if compile_too and not fast.available("compile"):
        found["fast compile"] = fast.CompileBatchNorm1d
    if not fast.available("kernel") and not fast.build():
        found["fast kernel"] = fast.KernelBatchNorm1d
    return found


def calls(cls: type, shape: tuple[int, ...], phase: str):
    """Return the function to time, and one that prepares each turn."""
    layer = cls(shape[1])
    x = torch.randn(shape, requires_grad=phase != "eval")
    dy = torch.randn(shape)
    wanted = (x, *layer.parameters())
    if phase == "forward":
        return lambda: layer(x)
    if phase == "both":
        return lambda: torch.autograd.grad(layer(x), wanted, dy)
    if phase == "backward":
        y = layer(x)
        return lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)
    layer.eval()

    def evaluate():
        with torch.inference_mode():
            layer(x)

    return evaluate


def limit(shape: tuple[int, ...], phase: str):
    """Copy as many bytes as the operation has to read and write."""
    size = torch.Size(shape).numel() * PASSES[phase] // 2
    source, target = torch.randn(size), torch.empty(size)
    return lambda: target.copy_(source)


def run(shape, phase: str, classes: dict[str, type], rounds: int) -> dict[str, Timing]:
    """Time all candidates for one shape and phase."""
    candidates = {name: calls(cls, shape, phase) for name, cls in classes.items()}
    return measure(candidates | {"copy": limit(shape, phase)}, rounds=rounds)


def progress(done: int, of: int) -> None:
    """Say on standard error how far the run is."""
    if sys.stderr.isatty():
        print(f"\r{done}/{of} cases", end="" if done < of else "\n", file=sys.stderr)


def summary(results: dict[str, dict[str, Timing]], names: list[str]) -> str:
    """Ratio to PyTorch of every candidate, one line a case."""
    lines = [("case", *names, "kernel / copy")]
    for case, found in results.items():
        ratios = [
            f"{found[n].ratio(found[BASELINE]):.2f}" if n in found else "-"
            for n in names
        ]
        kernel = found.get("fast kernel")
        last = f"{kernel.ratio(found['copy']):.2f}" if kernel else "-"
        lines.append((case, *ratios, last))
    return grid(lines)


def main() -> None:
    arguments = parser(__doc__, "batchnorm.json")
    arguments.add_argument("--no-compile", action="store_true", help="skip that gear")
    arguments.add_argument("--rounds", type=int, default=0, help="0: 31, quick 7")
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    rounds = args.rounds or (7 if args.quick else 31)
    classes = layers(not args.no_compile)
    cases = [(shape, phase) for phase in PASSES for shape in SHAPES]
    if args.quick:
        cases = [c for c in cases if c[1] in ("both", "eval")]
    step = 4 if args.quick else 1
    cases += [((2**k, 512), "both") for k in range(1, 17, step)]
    cases += [((256, 2**k), "both") for k in range(3, 14, step)]
    results = {}
    for i, (shape, phase) in enumerate(cases):
        progress(i, len(cases))
        results[f"{phase} {shape}"] = run(shape, phase, classes, rounds)
    progress(len(cases), len(cases))
    print(table(results, BASELINE))
    print("\nRatios to PyTorch, medians over the rounds\n")
    print(summary(results, [*classes, "copy"]))
    where = save(args.out, results, BASELINE)
    print("\n" + ", ".join(f"{k} {v}" for k, v in machine().items()))
    print(f"saved: {where}")


if __name__ == "__main__":
    main()
