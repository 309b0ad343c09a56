"""The four files of MNIST: where they are, whether they are the originals, their download.

Whatever keeps MNIST from being used becomes a :class:`DataError` that says what was found,
what was expected and what to do. Nothing here is ever used unverified.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPException
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

import torch
from torch import Tensor

from bnutils.data.vision import import_mnist

if TYPE_CHECKING:
    from typing import TypeGuard

log = logging.getLogger("bnutils")

# Name, size in bytes and SHA-256 of the originals (LeCun, Cortes, Burges), unpacked.
FILES = {
    "train-images-idx3-ubyte": (
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
LAYOUTS = ("MNIST/raw", "raw", ".")  # the first is torchvision's
DIGITS = 'use the offline digits with data.load("digits")'  # ends many a message

TIMEOUT = 20  # seconds without an answer after which a mirror counts as out of reach
STALE = 24 * 3600  # seconds after which an unfinished download counts as abandoned

# What a full or failing disk raises without naming a file. That, and any error that names
# one, is not the network's doing.
_DISK = {errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}
_DISK |= {getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows knows no quotas


class DataError(RuntimeError):
    """MNIST cannot be used as configured; the message says why and what to do."""


class NoNetwork(DataError):
    """MNIST could not be downloaded, for a reason that lies outside this machine."""


def find_folder(root: Path) -> Path:
    """Find the raw files below ``root``: in MNIST/raw, in raw or in root itself."""
    wanted = f"a folder with the four MNIST files ({', '.join(FILES)}), unpacked"
    names, packed = [], []
    # root itself is the last of the layouts, so that its names end up in `names`.
    for layout in LAYOUTS:
        folder = root / layout
        names = _names_in(folder, root, wanted)
        if FILES.keys() & names:
            return folder
        packed += [folder / name for name in names if name[: -len(".gz")] in FILES]
    if packed:
        raise DataError(
            f"the files in {packed[0].parent} are packed: gunzip them first"
        )
    raise DataError(
        f"no MNIST in {root}, nor in its subfolders MNIST/raw and raw; expected "
        f"{wanted}, found {', '.join(names[:5]) or 'nothing'}"
    )


def _names_in(folder: Path, root: Path, wanted: str) -> list[str]:
    """List a folder; one below ``root`` may be missing, ``root`` itself may not."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError) as error:
        if folder != root:
            return []
        is_file = isinstance(error, NotADirectoryError)
        what = f"{root} is a file" if is_file else f"there is no folder {root}"
        raise DataError(f"{what}; expected {wanted}") from None
    except PermissionError as error:
        where = folder if os.access(root, os.R_OK | os.X_OK) else root
        raise DataError(f"no permission to read {where}") from error
    except OSError as error:
        reason = f"{folder} cannot be read ({error.strerror})"
        raise DataError(f"{reason}; expected {wanted}") from error


def check_file(path: Path) -> bytes:
    """Read one raw file and compare it with the original, by SHA-256.

    The content is returned, so that what was verified is what is used.
    """
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise DataError(f"{path} is a folder; expected a file")
        if not stat.S_ISREG(info.st_mode):  # reading a pipe might never end
            raise DataError(f"{path} is a pipe or a device; expected a file")
        # A file far too long may not fit into the memory: not read, only named. One that
        # is a little too long is read, since it can be another of the four files.
        if info.st_size > 2 * max(size for size, _ in FILES.values()):
            size = FILES[path.name][0]
            raise DataError(
                f"{path} is too long: {info.st_size:,} bytes instead of {size:,}"
            )
        content = path.read_bytes()
    except FileNotFoundError:
        there = path.with_name(f"{path.name}.gz").exists()
        hint = f", but {path.name}.gz is there: gunzip it" if there else ""
        raise DataError(f"{path} is missing{hint}") from None
    except PermissionError as error:
        raise DataError(f"no permission to read {path}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != FILES[path.name][1]:
        raise DataError(f"{path} {_difference(path.name, content, digest)}")
    return content


def _difference(name: str, content: bytes, digest: str) -> str:
    """Say how a file differs from the original of that name."""
    size = FILES[name][0]
    for other, (_, known) in FILES.items():
        if digest == known:
            return f"holds what belongs in {other}: the files were swapped"
    if content[:2] == b"\x1f\x8b":
        return "is packed (gzip): expected the unpacked file, so gunzip it"
    magic = 2051 if "images" in name else 2049  # 0x0803: bytes, 3 axes; 0x0801: 1 axis
    found = int.from_bytes(content[:4], "big")
    if found != magic and len(content) >= 4:
        return f"starts with the number {found} instead of {magic}: not an MNIST file"
    if len(content) < size:
        return f"is truncated: {len(content):,} bytes instead of {size:,}"
    if len(content) > size:
        return f"is too long: {len(content):,} bytes instead of {size:,}"
    return (
        "is corrupted: its size is right but its SHA-256 checksum is "
        f"{digest[:12]}... instead of {FILES[name][1][:12]}..."
    )


def read(folder: Path) -> tuple[Tensor, ...]:
    """Read the four files in ``folder``, each verified: x, y, test_x, test_y.

    uint8 images of shape (N, 28, 28) and int64 labels of shape (N,).
    """
    return tuple(_parsed(name, check_file(folder / name)) for name in FILES)


def _parsed(name: str, content: bytes) -> Tensor:
    """Make a tensor of a file; its head, a magic number and sizes, was just verified."""
    head = 16 if "images" in name else 8
    # A bytearray, since PyTorch warns about tensors in memory that is read-only.
    values = torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=head)
    return values.view(-1, 28, 28) if "images" in name else values.long()


def read_cached(cache: Path, allow_download: bool) -> tuple[tuple[Tensor, ...], str]:
    """Read the files of the cache, downloaded where need be; say which of the two it was.

    :class:`NoNetwork` means that nothing is there; damaged files that could not be
    replaced are a :class:`DataError`.
    """
    folder = cache / "MNIST" / "raw"
    damage = None
    if all(os.path.lexists(folder / name) for name in FILES):
        try:
            return read(folder), "the user's cache folder"
        except DataError as error:
            damage = error
    try:
        if not allow_download:
            raise NoNetwork("MNIST is not in the cache and download=False")
        folder = download(cache)
    except DataError as error:
        if damage is None:
            raise
        # No silent change to the digits: whoever has a cache expects MNIST.
        raise DataError(
            f"the cached MNIST is damaged and could not be replaced: {damage}; "
            f"{error}. Remove {folder}, connect to the network, or {DIGITS}"
        ) from error
    return read(folder), "a download, now in the user's cache folder"


def download(cache: Path) -> Path:
    """Download MNIST with torchvision into ``cache``; return the folder of its files.

    The files are unpacked and verified in a temporary folder inside ``cache``, then
    moved to their place one by one, each in a single step. A download that fails or is
    interrupted leaves nothing under the names of the data, and what a killed one left
    is removed by the first download a day later.
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
            for name in FILES:
                check_file(new / name)
            for name in FILES:
                os.replace(new / name, target / name)
    # All that torchvision and urllib let through, and DataError of a wrong file (it is a
    # RuntimeError): a mirror that delivers something else is as good as none.
    except (RuntimeError, HTTPException, EOFError, ValueError, OSError) as error:
        if _is_disk(error):
            where = error.filename2 or error.filename or ""
            raise DataError(
                f"MNIST could not be stored in {cache} ({error.strerror}"
                f"{where and f': {where}'}): about 70 MB must be free and "
                "writable there; make room, or name another folder with "
                f"XDG_CACHE_HOME, or {DIGITS}"
            ) from error
        reason = " ".join(str(error).split())
        raise NoNetwork(f"MNIST could not be downloaded ({reason})") from error
    return target


def _is_disk(error: Exception) -> TypeGuard[OSError]:
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
def _quiet() -> Iterator[None]:
    """Keep torchvision's messages out of notebooks; a terminal keeps its bar."""
    errors = sys.stderr if sys.stderr.isatty() else StringIO()
    with contextlib.redirect_stdout(StringIO()), contextlib.redirect_stderr(errors):
        yield


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Give up on a silent server: torchvision itself would wait for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
