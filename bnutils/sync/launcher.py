"""Start processes with torchrun on this machine, and leave none behind.

Three things end a job that does not end by itself. A process that fails makes torchrun stop
the others. A process that hangs makes a collective of the others time out. And whatever the
reason, :func:`launch` itself kills everything it started when it returns, raises or is
interrupted; should it be killed first, the pipe that it holds open closes, and each process
that entered :func:`process_group` ends on noticing that.
"""

import contextlib
import datetime
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import distributed

LIFELINE = "BNUTILS_LIFELINE"
# Torchrun's report of a rank that failed, and where in stderr its own lines begin.
_EXIT_CODE = r"rank\s*:\s*(\d+) .*\n\s*exitcode\s*:\s*(-?\d+)"
_SAID = (
    r"(\[rank\d+\]): (\w[^\n]*?)(?=\[rank\d|\n)"  # lines of a traceback not indented
)
_REPORT = r"(?m)^[EW]\d{4} .* (?:Sending process|failed \(exitcode)"


class LaunchError(RuntimeError):
    """A job failed or did not end in time; none of its processes is left.

    The message names the ranks at fault and the last thing that each rank said.

    Attributes
    ----------
    exit_codes : dict of int to int
        Of the ranks that failed, as torchrun reports them; minus the signal's number
        for a rank killed by one (-9: killed; -15: stopped by torchrun since another
        rank failed). Empty if torchrun was stopped before its report.
    stdout, stderr : str
        All that the processes wrote.
    """

    def __init__(self, what: str, stdout: str, stderr: str) -> None:
        self.stdout, self.stderr = stdout, stderr
        found = sorted(re.findall(_EXIT_CODE, stderr))
        self.exit_codes = {int(rank): int(code) for rank, code in found}
        killed = [r for r, c in self.exit_codes.items() if c < 0 and c != -15]
        faults = [
            f"rank {r} was killed by signal {-self.exit_codes[r]}" for r in killed
        ]
        last = dict(re.findall(_SAID, stderr))  # the last of several wins
        said = [f"{rank}: {line}" for rank, line in sorted(last.items())]
        said = said or re.split(_REPORT, stderr)[0].strip().splitlines()[-30:]
        super().__init__("\n".join([": ".join([what, *faults]), *said]))


@contextlib.contextmanager
def process_group(timeout: float = 30.0) -> Iterator[torch.device]:
    """Join the other processes that torchrun started; yield this process's device.

    NCCL on the GPUs if this machine has one for each of its processes, else gloo on the
    CPU.

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
    if LIFELINE in os.environ:
        threading.Thread(target=_end_with_launcher, daemon=True).start()
    local = int(os.environ.get("LOCAL_RANK", 0))
    gpus = torch.cuda.device_count() if distributed.is_nccl_available() else 0
    use_gpu = gpus >= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = torch.device("cuda", local) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    patience = datetime.timedelta(seconds=timeout)
    distributed.init_process_group("nccl" if use_gpu else "gloo", timeout=patience)
    distributed.barrier()  # who left now would break off connections the others still make
    yield device  # after an error, what is left of the group ends with the process
    distributed.barrier()  # PyTorch 2.4 may wait for ever for one that has left
    backend = distributed.group.WORLD._get_backend(device)
    distributed.destroy_process_group()
    # The last reference: waits for its threads without the GIL, which PyTorch 2.4's group
    # would hold while they may want it.
    del backend


def _end_with_launcher() -> None:
    """Wait until the pipe from the launcher closes, then end this process."""
    while os.read(0, 1024):
        pass
    os._exit(1)


def launch(
    module: str,
    *arguments: object,
    processes: int = 2,
    timeout: float = 60.0,
    env: dict[str, str] | None = None,
) -> str:
    """Run a module with torchrun, on the CPU or GPUs of this machine.

    The same as ``torchrun --standalone --nproc-per-node PROCESSES -m MODULE ARGUMENTS``
    in a terminal, with one thread per process unless OMP_NUM_THREADS says otherwise. No
    process is left whatever happens: an error, Ctrl-C, the timeout.

    Parameters
    ----------
    module : str
        Name of a module to be run as a script, such as "bnutils.sync.mnist".
    *arguments
        Of the script.
    processes : int
    timeout : float, seconds
        After which all processes are killed, whatever they do.
    env : dict, optional
        More environment variables.

    Returns
    -------
    str
        What the processes wrote to stdout.

    Raises
    ------
    LaunchError
        A process failed, or the time is over.
    NotImplementedError
        On Windows, where processes cannot be stopped in this way.
    """
    if os.name != "posix":
        raise NotImplementedError(
            "launch needs Linux or macOS; on Windows, work in its Linux subsystem (WSL)"
        )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--local-addr=127.0.0.1", f"--nproc-per-node={processes}"]
    command += ["-m", module, *map(str, arguments)]
    with tempfile.TemporaryDirectory(prefix="bnutils-") as folder:
        paths = [Path(folder, name) for name in ("stdout", "stderr")]
        with open(paths[0], "wb") as out, open(paths[1], "wb") as err:
            streams = {"stdin": subprocess.PIPE, "stdout": out, "stderr": err}
            where = _environment(folder) | (env or {})
            agent = subprocess.Popen(
                command, env=where, start_new_session=True, **streams
            )
            try:
                code = agent.wait(timeout)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(agent)
        stdout, stderr = (path.read_text("utf8", "replace") for path in paths)
    if code != 0:
        late = f"did not end within {timeout:g} s and was stopped"
        what = late if code is None else "failed"
        raise LaunchError(f"{module} {what}", stdout, stderr)
    return stdout


def _environment(folder: str) -> dict[str, str]:
    """The environment of the processes: this package, one thread, only this machine."""
    env = dict(os.environ) | {LIFELINE: "1", "TMPDIR": folder}
    env.setdefault("OMP_NUM_THREADS", "1")
    here = Path(__file__).resolve().parents[2]
    if here.name not in ("site-packages", "dist-packages"):
        paths = (env.get("PYTHONPATH"), str(here))
        env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    interfaces = [name for _, name in socket.if_nameindex()]
    for loopback in {"lo", "lo0"}.intersection(interfaces):
        env.setdefault("GLOO_SOCKET_IFNAME", loopback)
    return env


def _end(agent: subprocess.Popen) -> None:
    """Kill torchrun and all that came of it, and wait until it is gone."""
    if agent.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            agent.send_signal(signal.SIGSTOP)  # it starts nothing new
            for pid in [*_descendants(agent.pid), agent.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    agent.stdin.close()
    agent.wait()


def _descendants(ancestor: int) -> list[int]:
    """Process ids of children, their children and so on: torchrun's leave its group."""
    if Path("/proc/self/stat").exists():
        rows = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parent = path.read_text().rpartition(")")[2].split()[1]
                rows.append((int(path.parent.name), int(parent)))
    else:
        command = ["ps", "-A", "-o", "pid=,ppid="]
        table = subprocess.run(command, capture_output=True, text=True).stdout
        rows = [tuple(map(int, line.split())) for line in table.splitlines()]
    found = [ancestor]
    for pid in found:
        found += [child for child, parent in rows if parent == pid]
    return found[1:]
