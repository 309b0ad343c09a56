"""MNIST downloaded with torchvision into the user's cache: completely or not at all."""

import contextlib
import errno
import os
import shutil
import socket
import sys
import tempfile
import time
from http.client import HTTPException
from io import StringIO
from pathlib import Path
from urllib.error import URLError

from bnutils.data import mnist as _mnist
from bnutils.data.vision import import_mnist

TIMEOUT = 20  # seconds without an answer after which a mirror counts as out of reach
STALE = 24 * 3600  # seconds after which an unfinished download counts as abandoned

# What a full or failing disk raises without naming a file. That, and any error that names
# one, is not the network's doing.
_DISK = {errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}
_DISK |= {getattr(errno, "EDQUOT", errno.ENOSPC)}


def download(cache: Path) -> Path:
    """Download MNIST with torchvision into ``cache``; return the folder of its files.

    The files are unpacked and verified in a temporary folder inside ``cache``, then
    moved to their place one by one, each in a single step. A download that fails or is
    interrupted leaves nothing under the names of the data, and what a killed one left
    is removed by the first download a day later.

    Raises
    ------
    NoNetwork
        No mirror delivered the files; nothing is wrong on this machine.
    DataError
        No space left or no permission to write.
    ImportError
        See :func:`bnutils.data.vision.import_mnist`.
    """
    mnist = import_mnist()
    target = cache / "MNIST" / "raw"
    try:
        target.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache)
        with tempfile.TemporaryDirectory(prefix="incomplete-", dir=cache) as temporary:
            with _quiet(), _timeout(TIMEOUT):
                mnist.MNIST(temporary, download=True)
            new = Path(temporary, "MNIST", "raw")
            for name in _mnist.FILES:
                _mnist.check_file(new / name)
            for name in _mnist.FILES:
                os.replace(new / name, target / name)
    except (RuntimeError, HTTPException, EOFError, ValueError, OSError) as error:
        if _is_disk(error):
            where = error.filename2 or error.filename or ""
            raise _mnist.DataError(
                f"MNIST could not be stored in {cache} ({error.strerror}"
                f"{where and f': {where}'}): about 70 MB must be free and "
                "writable there; make room, or name another folder with "
                f"XDG_CACHE_HOME, or {_mnist.DIGITS}"
            ) from error
        reason = " ".join(str(error).split())
        raise _mnist.NoNetwork(f"MNIST could not be downloaded ({reason})") from error
    return target


def _is_disk(error: Exception) -> bool:
    """Whether a download failed for a reason that lies on this machine."""
    if not isinstance(error, OSError) or isinstance(error, URLError):
        return False
    return error.errno in _DISK or error.filename is not None


def _remove_abandoned(cache: Path) -> None:
    """Remove what downloads left that were killed, not what another one is writing."""
    for path in cache.glob("incomplete-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE:
                shutil.rmtree(path)


@contextlib.contextmanager
def _quiet():
    """Keep torchvision's messages out of notebooks; a terminal keeps its bar."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(StringIO()))
        if not sys.stderr.isatty():
            stack.enter_context(contextlib.redirect_stderr(StringIO()))
        yield


@contextlib.contextmanager
def _timeout(seconds: float):
    """Give up on a silent server: torchvision itself would wait for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
