"""Re-execute the notebooks whose stored outputs no longer fit their code.

    python book/_tools/execute.py [--force] [--jobs N] [notebook ...]

Each notebook runs in a fresh kernel, from its own folder, with one thread, on the real MNIST.
A notebook is written only after it ran to the end; on failure it stays as it was, the cell and
its error are printed, and the exit status is 1. Ctrl-C ends the kernels, stores nothing more, and
the exit status is 130, as a shell has it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path

import drawing
import nbformat
import provenance
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from normalise import normalise, text

LIBRARIES = ("numpy", "torch", "matplotlib", "scikit-learn")
KERNEL_ENVIRONMENT = {
    "BNUTILS_PROGRESS": "0",  # no progress bars in stored outputs
    "OMP_NUM_THREADS": "1",  # the same bits on every run
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": str(provenance.ROOT),
}


class Failure(Exception):
    """A notebook could not be executed; the message names the cell."""


class Interrupted(Exception):
    """Ctrl-C came before a notebook had run to its end."""


def chapter(path: Path) -> str:
    """The chapter's number, from the file name: "03"."""
    return path.name[:2]


def is_fresh(path: Path) -> bool:
    """Whether a notebook's outputs were stored from its code as it is now."""
    nb = json.loads(path.read_text("utf8"))
    stored = nb["metadata"].get(provenance.KEY, {})
    return stored.get("code") == provenance.fingerprint(nb, chapter(path))


def record(nb: dict, path: Path) -> dict:
    """What produced the outputs, for the notebook's metadata."""
    versions = {name: version(name).partition("+")[0] for name in LIBRARIES}
    versions["python"] = ".".join(map(str, sys.version_info[:2]))
    return {
        "code": provenance.fingerprint(nb, chapter(path)),
        "data": "MNIST" if provenance.uses_data(nb, chapter(path)) else "none",
        "threads": 1,
        "versions": dict(sorted(versions.items())),
    }


def _check_outputs(nb: dict) -> None:
    """Refuse to store what a reader should not see: anything on stderr."""
    for number, cell in enumerate(nb["cells"], 1):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                first = "".join(output["text"]).strip().splitlines()[0]
                raise Failure(f"cell {number} wrote to stderr: {first}")


def _shrink_figures(nb: dict) -> None:
    """Store figures without what no reader sees."""
    for cell in nb["cells"]:
        for output in cell.get("outputs", []):
            if svg := output.get("data", {}).get(drawing.KIND):
                output["data"][drawing.KIND] = drawing.compact(svg)


def execute(path: Path, timeout: int, stop: threading.Event) -> float:
    """Run one notebook and store its outputs, unless told to stop; seconds it took."""
    start = time.perf_counter()
    nb = nbformat.read(path, as_version=4)
    client = NotebookClient(
        nb,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute(env=os.environ | KERNEL_ENVIRONMENT)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        if stop.is_set():
            raise Interrupted from None
        ran = [c for c in nb["cells"] if c.get("execution_count") or c.get("outputs")]
        number = nb["cells"].index(ran[-1]) + 1 if ran else 1
        raise Failure(f"cell {number} failed\n{error}") from None
    if stop.is_set():
        raise Interrupted
    _check_outputs(nb)
    _shrink_figures(nb)
    nb["metadata"][provenance.KEY] = record(nb, path)
    for remains in path.parent.glob(f".{path.name}.*.tmp"):  # of a killed run
        remains.unlink(missing_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_text(text(normalise(nb)), "utf8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return time.perf_counter() - start


def data_in_use() -> str:
    """Name of the data set that the notebooks would load here."""
    command = "from bnutils import data; print(data.load().name)"
    environment = os.environ | KERNEL_ENVIRONMENT
    run = subprocess.run(
        [sys.executable, "-c", command],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    if run.returncode:
        raise Failure(
            f"the data cannot be loaded: {run.stderr.strip().splitlines()[-1]}"
        )
    return run.stdout.strip()


def _options(arguments: list[str]) -> argparse.Namespace:
    summary = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="execute.py", description=summary)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    parser.add_argument("--force", action="store_true", help="also those still fresh")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--timeout", type=int, default=300, help="seconds for a cell")
    return parser.parse_args(arguments)


def _report(path: Path, timeout: int, stop: threading.Event) -> bool:
    print(f"{path.name} ...", flush=True)
    try:
        seconds = execute(path.resolve(), timeout, stop)
    except Failure as failure:
        print(f"{path.name} FAILED, left as it was: {failure}", flush=True)
        return False
    except Interrupted:
        return False
    print(f"{path.name} stored, {seconds:.1f} s", flush=True)
    return True


def _end(runs: list[Future]) -> None:
    """End the runs: those that wait, and the kernels of those at work.

    A kernel has a session of its own, so that the terminal's Ctrl-C does not reach it.
    """
    for run in runs:
        run.cancel()
    while wait(runs, timeout=0.2).not_done:  # a kernel may be about to start
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()


def _run_all(stale: list[Path], options: argparse.Namespace) -> bool:
    """Run the notebooks; whether all of them were stored."""
    stop = threading.Event()
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        runs = [pool.submit(_report, p, options.timeout, stop) for p in stale]
        try:
            return all([run.result() for run in runs])
        except KeyboardInterrupt:
            stop.set()
            _end(runs)
            raise


def main(arguments: list[str]) -> int:
    """Execute what is stale; 0 when every notebook is fresh afterwards."""
    options = _options(arguments)
    try:
        return _main(options)
    except KeyboardInterrupt:
        print("Interrupted: what had not run to its end is left as it was.", flush=True)
        return 130


def _main(options: argparse.Namespace) -> int:
    paths = sorted(options.notebooks or provenance.NOTEBOOKS.glob("*.ipynb"))
    stale = [p for p in paths if options.force or not is_fresh(p)]
    print(f"{len(paths)} notebooks, {len(stale)} to execute", flush=True)
    readable = (json.loads(p.read_text("utf8")) for p in stale)
    if any(provenance.uses_data(nb, "") for nb in readable):
        try:
            name = data_in_use()
        except Failure as failure:
            name = str(failure)
        if name != "MNIST":
            print(
                f"Stored outputs come from MNIST, but here: {name}. Set BNUTILS_DATA to a "
                "folder that holds it, or connect to a network so that it is downloaded."
            )
            return 1
    return 0 if _run_all(stale, options) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
