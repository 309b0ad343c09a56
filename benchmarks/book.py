"""What the book costs: importing, building, running the notebooks, testing.

    python benchmarks/book.py                     imports, book and notebooks
    python benchmarks/book.py --parts test        what ``make test`` runs

Everything but the imports works on a copy of the tree in a temporary folder: nothing stored
changes. ``book cold`` builds from nothing, ``book warm`` again without a change, ``book, one
page`` after one notebook was touched. Making the environments is not counted. Imports run in
fresh processes, ``import torch`` in turn with the others.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import Timing, grid, measure, parser, readable, save

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("imports", "book", "notebooks", "test")
LEFT_OUT = ("_build", ".venv", ".git", ".*_cache", "__pycache__", ".hypothesis")
BIN = Path(sys.executable).parent


def modules() -> list[str]:
    """Public modules of the package, by import name."""
    paths = sorted((ROOT / "bnutils").glob("*.py"))
    return ["bnutils"] + [f"bnutils.{p.stem}" for p in paths if p.stem[0] != "_"]


def started(*command: str, cwd: Path = ROOT, **environment: str) -> float:
    """Run a command to its end; the seconds it took."""
    variables = {**os.environ, "PYTHONPATH": str(cwd), **environment}
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return time.perf_counter() - start


def imports(args) -> dict[str, dict[str, Timing]]:
    """Seconds of a process that imports one module, and of one that imports nothing."""
    names = ["torch", *(["bnutils", "bnutils.train"] if args.quick else modules())]
    code = {"nothing": "pass", **{f"import {n}": f"import {n}" for n in names}}
    runs = {
        name: lambda text=text: started(sys.executable, "-c", text)
        for name, text in code.items()
    }
    return {"imports": measure(runs, rounds=2 if args.quick else 9, warmup=1)}


def copied(folder: str) -> Path:
    """Copy the tree, without what can be made again."""
    tree = Path(folder) / "book"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return tree


def book(args, tree: Path) -> dict[str, dict[str, Timing]]:
    """Seconds of a build from nothing, of one without a change, and after one."""
    build = (str(BIN / "jupyter-book"), "build", ".", "-n")
    cold, warm, page = [], [], []
    for _ in range(1 if args.quick else 3):
        shutil.rmtree(tree / "_build", ignore_errors=True)
        cold.append(started(*build, cwd=tree))
        warm.append(started(*build, cwd=tree))
        min((tree / "notebooks").glob("*.ipynb")).touch()
        page.append(started(*build, cwd=tree))
    times = {"book cold": cold, "book warm": warm, "book, one page": page}
    return {"book": {name: Timing(tuple(v)) for name, v in times.items()}}


def notebooks(args, tree: Path) -> dict[str, dict[str, Timing]]:
    """Seconds to run each notebook again, kernel and checks included."""
    paths = sorted((tree / "notebooks").glob("*.ipynb"))[: 1 if args.quick else None]
    run = (sys.executable, "book/_tools/execute.py", "--force")
    found = {p.stem: Timing((started(*run, str(p), cwd=tree),)) for p in paths}
    total = Timing((sum(t.seconds[0] for t in found.values()),))
    return {"notebooks": {**found, "all notebooks": total}}


def test(args, tree: Path) -> dict[str, dict[str, Timing]]:
    """Seconds of the tests that ``make test`` runs, in as many processes as cores."""
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-n", "logical"]
    run += ["--dist", "loadscope", "--nbval-lax", "--nbval-current-env"]
    run += ["--nbval-cell-timeout=120", "--ignore", "tests/browser"]
    what = ["tests/book/test_package.py"] if args.quick else ["tests", "notebooks"]
    return {"test": {"make test": Timing((started(*run, *what, cwd=tree),))}}


def lines(results: dict[str, dict[str, Timing]]) -> list[tuple]:
    """Rows of the table; imports are compared with torch, builds with the first one."""
    made = []
    for part, timings in results.items():
        base = "import torch" if part == "imports" else next(iter(timings))
        for name, t in timings.items():
            spread = " - ".join(map(readable, t.spread)) if len(t.seconds) > 1 else ""
            ratio = (
                f"{t.ratio(timings[base]):.2f}" if part in ("imports", "book") else ""
            )
            made.append((part, name, readable(t.median), spread, ratio))
    return made


def main() -> None:
    made = parser(__doc__, "book.json")
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:3])
    args = made.parse_args()
    results = imports(args) if "imports" in args.parts else {}
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(folder)
        for part in (book, notebooks, test):
            if part.__name__ in args.parts:
                results |= part(args, tree)
    head = ("part", "what", "median", "quartiles", "ratio")
    print(grid([head, *lines(results)], left=2))
    if "imports" in results:
        print("ratio of an import: to import torch; of a build: to the cold one")
        torch, nothing = (
            results["imports"][n].median for n in ("import torch", "nothing")
        )
        print(f"torch alone: {readable(torch - nothing)} more than a bare interpreter")
    print("written:", save(args.out, results, "import torch"))


if __name__ == "__main__":
    main()
