"""Build the C++ in ``bnutils/fast/csrc`` once, keep the result, and load it.

PyTorch's own builder does the work: it writes a file for ninja, which calls the compiler.
Added here are a folder of its own for every combination of sources, PyTorch, Python and
processor; a build that other processes see as a whole or not at all; and, where there can
be no kernel, the reason in one line.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

NAME = "bnutils_batch_norm"
CSRC = Path(__file__).with_name("csrc")

kernel: ModuleType | None = None  # once it is loaded
# Why a build of this process failed, by the folder that it was for.
_failed: dict[Path, str] = {}


class NotAvailableError(RuntimeError):
    """There is no kernel here; the text says why, in one line."""


def load(*, build: bool) -> ModuleType:
    """Return the compiled kernel; with ``build``, compile it if need be (half a minute).

    A build that failed is not tried again in this process: it would fail again half a
    minute later.
    """
    global kernel
    if kernel is None:
        path = library()
        if path is None and not build:
            raise NotAvailableError(
                "the kernel has not been compiled yet: call fast.build()"
            )
        try:
            kernel = _import(path or _build_once())
        except ImportError as error:  # a damaged file; no setuptools for the builder
            raise NotAvailableError(str(error).splitlines()[0]) from error
    return kernel


def library() -> Path | None:
    """Return the file of the compiled kernel, None if there is none yet."""
    suffixes = (".so", ".pyd")  # Linux and macOS; Windows
    return next((p for p in folder().glob(f"{NAME}*") if p.suffix in suffixes), None)


def folder() -> Path:
    """Return where the compiled kernel lies, or will lie.

    It may be used by exactly this Python and PyTorch, and for these sources, so all of
    them are part of the folder's name.
    """
    parts = (_digest(CSRC), torch.__version__, sys.version, *flags())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    root: str | Path | None = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root is None:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(cache) / "torch_extensions"
    return Path(root) / f"{NAME}_{key}"


def sources(csrc: Path) -> list[Path]:
    """Return the C++ files: module.cpp, and the headers that it includes."""
    return sorted([*csrc.glob("*.cpp"), *csrc.glob("*.h")])


@functools.cache  # each new layer asks for it
def _digest(csrc: Path) -> str:
    digest = hashlib.sha256()
    for path in sources(csrc):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def flags() -> list[str]:
    """Return the compiler's options: the instructions that PyTorch found to be safe.

    ``-march=native`` would do the same on most machines, but in a virtual machine the
    compiler may name a processor with instructions that are switched off.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    found = ["-O3"]
    if capability == "AVX512":
        found += ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]
        found += ["-mprefer-vector-width=512"]  # else GCC stays at 256 bits
    elif capability == "AVX2":
        found += ["-mavx2", "-mfma"]
    if sys.platform.startswith("linux"):
        # for the compiler only: PyTorch brings the library, and two would fight
        found.append("-fopenmp")
    return found


def missing_compiler() -> str:
    """Return what to do about a missing C++ compiler, or an empty text."""
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        name = Path(compiler).name
        return f"there is no C++ compiler ({name} not found): install g++"
    return ""


def missing_tool() -> str:
    """Return which tool a build lacks, compiler or ninja, or an empty text."""
    reason = missing_compiler()
    if not reason and shutil.which("ninja", path=_path_with_scripts()) is None:
        reason = "there is no ninja, which runs the compiler: pip install ninja"
    return reason


def _path_with_scripts() -> str:
    """$PATH and the folder of this Python, where pip puts ninja."""
    scripts = str(Path(sys.executable).parent)
    return os.pathsep.join([os.environ.get("PATH", os.defpath), scripts])


def obstacle() -> str:
    """Return what stands between here and a kernel, without compiling; or an empty text."""
    if library() is not None:
        return ""
    # The tools first: someone may have installed them since a build failed.
    return missing_tool() or _failed.get(folder(), "")


def _build_once() -> Path:
    """Build, or repeat why the last try failed."""
    if obstacle():
        raise NotAvailableError(obstacle())
    where = folder()
    try:
        return _build(where)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        # a full disk, say; the compiler's errors; no MSVC on Windows
        _failed[where] = first_error(str(error)) or type(error).__name__
        raise NotAvailableError(_failed[where]) from error


def _build(target: Path) -> Path:
    """Build in a folder of its own, then move it: nobody ever sees half a kernel."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_suffix(".lock")):
        if library() is None:  # else another process was faster
            draft = tempfile.mkdtemp(prefix=f"{NAME}_", dir=target.parent)
            try:
                _run_compiler(draft)
                shutil.rmtree(target, ignore_errors=True)
                os.replace(draft, target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    found = library()
    if found is None:
        raise RuntimeError("the compiler made no library")
    return found


def _run_compiler(where: str) -> None:
    """Compile and link ``csrc/module.cpp`` in the folder ``where``."""
    from torch.utils import cpp_extension  # takes a second to import

    changes = {
        "PATH": _path_with_scripts(),
        "LANGUAGE": "en",  # of the compiler's messages, in which we look for "error"
    }
    before = {name: os.environ.get(name) for name in changes}
    libraries = cpp_extension.TORCH_LIB_PATH
    os.environ.update(changes)
    # PyTorch 2.13 quotes every path but this one. With a space in it, as in
    # "My Projects/.venv/...", the linker would look for two files.
    cpp_extension.TORCH_LIB_PATH = shlex.quote(libraries)
    try:
        cpp_extension.load(
            NAME,
            [str(CSRC / "module.cpp")],
            extra_cflags=flags(),
            build_directory=where,
            # pybind11 allows one import of a module: ours, from its last place
            is_python_module=False,
        )
    finally:
        cpp_extension.TORCH_LIB_PATH = libraries
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def first_error(log: str) -> str:
    """Return the line of a build's output that says what went wrong.

    The output repeats every command, and goes on for screens after the first error, of
    which the rest is often nothing but a consequence.
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for line in lines:
        # "sums.h:3:1: error: ...", "fatal error: ...", "error C2065: ...", "ld: ..."
        if re.search(r"\berror( \w+)?: |\bld: |undefined reference", line):
            return line
    others = [line for line in lines if not line.startswith("ninja: ")]
    return others[-1] if others else ""


def _import(path: Path) -> ModuleType:
    # The file tells the name. PyTorch counts what a process builds and calls the second
    # kernel NAME_v1, inside as well: Python looks there for PyInit_NAME_v1.
    name = path.name.split(".")[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the system frees the lock of a process that dies."""
    try:
        import fcntl
    except ImportError:  # not on Windows: there two processes may both compile
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
