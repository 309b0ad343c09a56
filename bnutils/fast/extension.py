"""Compile the C++ kernel of :mod:`bnutils.fast` once, keep it, and load it."""

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

from bnutils.fast.binding import AUTOGRAD, ENTRY
from bnutils.fast.passes import PASSES
from bnutils.fast.source import BACKWARD, FORWARD
from bnutils.fast.step import STEP

NAME = "bnutils_batch_norm"
SOURCE = PASSES + FORWARD + BACKWARD + AUTOGRAD + STEP + ENTRY
_loaded: dict[str, ModuleType | str] = {}  # the module, or why there is none


def flags() -> list[str]:
    """Options of the compiler: the instructions that PyTorch itself found to be safe."""
    kinds = {
        "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"],
        "AVX2": ["-mavx2", "-mfma"],
    }
    found = kinds.get(torch.backends.cpu.get_cpu_capability(), [])
    if "-mavx512f" in found:
        found = [*found, "-mprefer-vector-width=512"]
    openmp = ["-fopenmp"] if sys.platform.startswith("linux") else []
    return ["-O3", *found, *openmp]


def folder() -> Path:
    """Where the compiled kernel lies: another one for other sources, PyTorch or Python."""
    parts = (SOURCE, torch.__version__, sys.version, *flags())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    if root is None:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(cache) / "torch_extensions"
    return Path(root) / f"{NAME}_{key}"


def missing() -> str:
    """What stands in the way of compiling, or an empty text."""
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        return (
            f"there is no C++ compiler ({Path(compiler).name} not found): install g++"
        )
    ninja = Path(sys.executable).with_name("ninja")
    if shutil.which("ninja") is None and not ninja.exists():
        return "there is no ninja, which runs the compiler: pip install ninja"
    return ""


def library() -> Path | None:
    """The compiled kernel, if it is there."""
    found = sorted(folder().glob(f"{NAME}*.so")) + sorted(folder().glob(f"{NAME}*.pyd"))
    return found[0] if found else None


def load(*, build: bool) -> ModuleType | str:
    """Return the kernel's module, or a text that says why there is none.

    With ``build`` it is compiled if need be (about half a minute, once); without, only
    what was compiled before is loaded.
    """
    if isinstance(_loaded.get("kernel"), ModuleType):
        return _loaded["kernel"]
    path = library()
    if path is None and not build:
        return "the kernel has not been compiled yet: call fast.build()"
    try:
        if path is None:
            path = _compile()
        _loaded["kernel"] = _import(path)
    except (OSError, RuntimeError, ImportError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return _loaded["kernel"]


def _import(path: Path) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(path))
    spec = importlib.util.spec_from_loader(NAME, loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _compile() -> Path:
    """Compile in a folder of its own, then move: nobody ever sees half a file."""
    if reason := missing():
        raise RuntimeError(reason)
    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.with_suffix(".lock")):
        if library() is None:
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
    from torch.utils import cpp_extension

    scripts = str(Path(sys.executable).parent)  # ninja from pip lies there
    before = os.environ.get("PATH")
    os.environ["PATH"] = os.pathsep.join([before or os.defpath, scripts])
    try:
        cpp_extension.load_inline(
            NAME,
            cpp_sources=SOURCE,
            extra_cflags=flags(),  # for the linker not: PyTorch brings its OpenMP
            build_directory=where,
            is_python_module=False,  # pybind11 allows one import: ours, from its place
        )
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time; the system frees the lock of a process that dies."""
    try:
        import fcntl
    except ImportError:  # not on Windows: there two processes may both compile
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
