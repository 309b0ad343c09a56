"""Start processes on this machine, connect them, and leave none behind.

:func:`run` and :func:`launch` put a job into a folder and start one process per rank, as
``python -m bnutils.sync.worker FOLDER``. Each process calls the job, and leaves in the
folder what it returned or raised. :func:`process_group` is what connects them.

When a process fails, the launcher kills the others. When one hangs, a collective of the
others times out, and they fail. Whatever the reason, the launcher kills all that it started
when it returns, raises or is interrupted. Should it be killed itself, the pipe that it
holds open closes, and each process ends on noticing that.

The environment is that of ``torchrun``, whose own launcher (``start_processes`` in
``torch.distributed.elastic``) does not fit into a notebook: it replaces the handlers of
four signals, Ctrl-C's among them, and does not put them back; in PyTorch 2.4 it fails
outside of the main thread; it warns on stderr; and it waits 30 s for a process that is
stopped. Of that package we take how a traceback travels: its ``record`` writes it into a
file, as JSON.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pickle
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import torch
from torch import distributed

# After a first failure the other ranks get so many seconds to fail too, and to say of what.
GRACE = 3.0


class LaunchError(RuntimeError):
    """A job failed or did not end in time; none of its processes is left.

    The message names the ranks that failed, the cause first, with the error of each and
    the traceback of the first.

    Attributes
    ----------
    exit_codes : dict of int to int
        Of the ranks that failed by themselves: 1 for an exception; minus the signal's
        number for a rank killed by one (-9: killed). The launcher ended the others.
    stdout, stderr : str
        All that the processes wrote, rank by rank.
    """

    def __init__(
        self, message: str, exit_codes: dict[int, int], stdout: str, stderr: str
    ) -> None:
        super().__init__(message)
        self.exit_codes = exit_codes
        self.stdout = stdout
        self.stderr = stderr


# In each process


@contextlib.contextmanager
def process_group(timeout: float = 30.0) -> Iterator[torch.device]:
    """Join the other processes that torchrun started; yield this process's device.

    Those of :func:`launch` count as started by torchrun; :func:`run` has joined them
    already. If this machine has a GPU for each of its processes, tensors on them go by NCCL
    (``BNUTILS_DEVICE=cpu`` in the environment leaves them alone); tensors on the CPU always
    go by gloo.

    Parameters
    ----------
    timeout : float, seconds
        How long a collective waits for the others before it raises, and at the end the
        first for the last.

    Raises
    ------
    ValueError
        The process was not started by torchrun.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    gpus = torch.cuda.device_count() if distributed.is_nccl_available() else 0
    use_gpu = gpus >= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    use_gpu = use_gpu and os.environ.get("BNUTILS_DEVICE") != "cpu"
    device = torch.device("cuda", local) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    patience = datetime.timedelta(seconds=timeout)
    # NCCL refuses tensors on the CPU, and `run` may be given a function that has some
    backend = "cpu:gloo,cuda:nccl" if use_gpu else "gloo"
    distributed.init_process_group(backend, timeout=patience)
    distributed.barrier()  # who left now would break off connections the others still make
    yield device  # after an error, what is left of the group ends with the process
    distributed.barrier()  # PyTorch 2.4 may wait for ever for one that has left
    devices = {torch.device("cpu"), device}
    backends = [distributed.group.WORLD._get_backend(each) for each in devices]
    distributed.destroy_process_group()
    # The last references: wait for their threads without the GIL, which PyTorch 2.4's group
    # would hold while they may want it.
    del backends


def _call_in_group(function: Callable[..., Any], *arguments: Any) -> Any:
    torch.set_num_threads(1)  # the processes share the machine's cores
    with process_group():
        return function(*arguments)


def _run_as_script(module: str, *arguments: str) -> None:
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


# In the process that starts them


def run(
    function: Callable[..., Any],
    *arguments: Any,
    processes: int = 2,
    timeout: float = 60.0,
) -> list[Any]:
    """Call a function in each of several new processes that form a process group.

    The function may come from a notebook: it travels with the functions, classes and
    values of the notebook that it uses, copied as they are at this moment (by
    cloudpickle). What it uses of a module is imported there.

    Parameters
    ----------
    function : callable
    *arguments
        Whatever cloudpickle can copy: numbers, strings, tensors, arrays, functions, and
        lists, tuples or dicts of them; no open file, no process group.
    processes, timeout
        As of :func:`launch`.

    Returns
    -------
    list
        What the function returned on rank 0, 1, ...

    Raises
    ------
    ValueError
        The function, or an argument, cannot be sent.
    LaunchError
        The function failed, or the time is over.
    """
    if not callable(function):
        raise ValueError(f"expected a function, got {function!r}")
    name = getattr(function, "__name__", repr(function))
    try:
        job = cloudpickle.dumps(partial(_call_in_group, function, *arguments))
    except (TypeError, pickle.PicklingError) as error:
        raise ValueError(
            f"{name} cannot be sent to another process: {error}"
        ) from error
    with _ended_well(name, job, processes, timeout, {}) as folder:
        files = [folder / f"{rank}.result" for rank in range(processes)]
        return [pickle.loads(file.read_bytes()) for file in files]


def launch(
    module: str,
    *arguments: object,
    processes: int = 2,
    timeout: float = 60.0,
    env: dict[str, str] | None = None,
) -> str:
    """Run a module as a script in several processes, on the CPU or GPUs of this machine.

    The same as ``torchrun --standalone --nproc-per-node PROCESSES -m MODULE ARGUMENTS``
    in a terminal, with one thread per process unless OMP_NUM_THREADS says otherwise. No
    process is left whatever happens: an error, Ctrl-C, the timeout.

    Parameters
    ----------
    module, *arguments
        Name of the module, such as "bnutils.sync.mnist", and the script's arguments.
    processes : int
    timeout : float, seconds
        After which all processes are killed, whatever they do.
    env : dict, optional
        More environment variables.

    Returns
    -------
    str
        What the processes wrote to stdout, rank by rank.

    Raises
    ------
    LaunchError
        A process failed, or the time is over.
    NotImplementedError
        On Windows, where processes cannot be stopped in this way.
    """
    job = cloudpickle.dumps(partial(_run_as_script, module, *map(str, arguments)))
    with _ended_well(module, job, processes, timeout, env or {}) as folder:
        return _read_all(folder, "stdout", processes)


@contextlib.contextmanager
def _ended_well(
    name: str, job: bytes, processes: int, timeout: float, env: dict[str, str]
) -> Iterator[Path]:
    """Run a job to its end, and yield the folder with what it left, for a moment."""
    if os.name != "posix":
        raise NotImplementedError(
            "launch needs Linux or macOS; on Windows, work in its Linux subsystem (WSL)"
        )
    with tempfile.TemporaryDirectory(prefix="bnutils-") as path:
        folder = Path(path)
        (folder / "job").write_bytes(job)
        # Where the ranks find each other. Port 0 is a free one, found and taken in one go:
        # jobs that start at the same time do not collide.
        store = distributed.TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False
        )
        shared = _environment(folder, processes, store.port) | env
        workers: list[_Worker] = []
        try:
            for rank in range(processes):
                workers.append(_start(folder, rank, shared))
            in_time = _wait(workers, timeout)
            codes = {worker.rank: worker.code() for worker in workers}
        finally:
            _end(workers)
            del store  # closes the port, now: an error's traceback keeps this frame
        failed = {rank: code for rank, code in codes.items() if code}
        if failed or not in_time:
            late = f"{name} did not end within {timeout:g} s and was stopped"
            lines = _describe(f"{name} failed" if in_time else late, workers, failed)
            stdout = _read_all(folder, "stdout", processes)
            stderr = _read_all(folder, "stderr", processes)
            if len(lines) == 1:  # no exception told more
                lines += stderr.strip().splitlines()[-30:]
            raise LaunchError("\n".join(lines), failed, stdout, stderr)
        yield folder


@dataclass
class _Worker:
    """A process, and what is known of its end."""

    rank: int
    process: subprocess.Popen[bytes]
    error_file: Path

    def error(self) -> dict[str, Any] | None:
        """What ``record`` wrote about its exception; None if there was none, or not yet."""
        try:
            return json.loads(self.error_file.read_text("utf8"))["message"]
        except (FileNotFoundError, ValueError):  # ValueError: half of it is written
            return None

    def code(self) -> int | None:
        """Its exit code; None while it runs.

        From an exception to the end of a process with gloo's threads seconds can pass:
        the code is known before.
        """
        return 1 if self.error() else self.process.poll()


def _environment(folder: Path, processes: int, port: int) -> dict[str, str]:
    """What all processes have in common: their number, a meeting place, one thread."""
    env = os.environ | {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the launcher has the store, not rank 0
        "TORCHELASTIC_RESTART_COUNT": "0",  # older versions of PyTorch read it with that
        "TMPDIR": str(folder),  # what a killed process leaves goes with the folder
        # As multiprocessing does: what this process can import, the others can.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    env.setdefault("OMP_NUM_THREADS", "1")
    # Gloo looks its address up under the machine's name, which on a laptop may lead to
    # an address that is not there, or that a firewall guards.
    interfaces = [name for _, name in socket.if_nameindex()]
    for loopback in {"lo", "lo0"}.intersection(interfaces):
        env.setdefault("GLOO_SOCKET_IFNAME", loopback)
    return env


def _start(folder: Path, rank: int, shared: dict[str, str]) -> _Worker:
    error_file = folder / f"{rank}.error"
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    own["TORCHELASTIC_ERROR_FILE"] = str(error_file)  # where record looks for it
    with (
        open(folder / f"{rank}.stdout", "wb") as stdout,
        open(folder / f"{rank}.stderr", "wb") as stderr,
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", "bnutils.sync.worker", str(folder)],
            env=shared | own,
            stdin=subprocess.PIPE,  # closes when this process ends, however it ends
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is for this process; it kills the others
        )
    return _Worker(rank, process, error_file)


def _wait(workers: list[_Worker], timeout: float) -> bool:
    """Wait until all have ended, or one has failed; return False if it takes too long."""
    end = time.monotonic() + timeout
    failed = False
    while time.monotonic() < end:
        codes = [worker.code() for worker in workers]
        if None not in codes:
            return True
        if any(codes) and not failed:
            failed = True
            end = min(end, time.monotonic() + GRACE)
        time.sleep(0.02)
    return failed


def _end(workers: list[_Worker]) -> None:
    """Kill the processes and all that they have started, and wait until they are gone."""
    for process in [worker.process for worker in workers]:
        if process.poll() is None:
            known = psutil.Process(process.pid)
            known.suspend()  # so that it starts nothing new
            kill_descendants(known)
            process.kill()
        process.stdin.close()
        process.wait()


def kill_descendants(process: psutil.Process) -> None:
    """Kill the children of a process, their children and so on."""
    for descendant in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            descendant.kill()


def _read_all(folder: Path, stream: str, processes: int) -> str:
    files = [folder / f"{rank}.{stream}" for rank in range(processes)]
    return "".join(file.read_text("utf8", "replace") for file in files)


def _describe(what: str, workers: list[_Worker], failed: dict[int, int]) -> list[str]:
    """The message of a LaunchError: who failed, and of what; the first in full."""
    raised = [worker for worker in workers if worker.error()]
    raised.sort(key=lambda worker: worker.error_file.stat().st_mtime_ns)
    causes = []  # without an exception, and so the reason for those of the others
    for rank in sorted(failed.keys() - {worker.rank for worker in raised}):
        code = failed[rank]
        end = f"was killed by signal {-code}" if code < 0 else f"left with code {code}"
        causes.append(f"rank {rank} {end}")
    lines = [f"{what}: {', '.join(causes)}" if causes else what]
    for worker in raised:
        first_line = worker.error()["message"].splitlines()[0]
        lines.append(f"[rank{worker.rank}]: {first_line}")
    if raised and not causes:
        lines += ["", raised[0].error()["extraInfo"]["py_callstack"].strip()]
    return lines
