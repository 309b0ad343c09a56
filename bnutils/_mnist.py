"""The four files of MNIST: located, verified by checksum, downloaded and read.

Used by :mod:`bnutils.data`. Whatever keeps MNIST from being used becomes a
:class:`DataError` that says what was found, what was expected and what to do.
"""

import contextlib
import errno
import hashlib
import logging
import os
import socket
import sys
import tempfile
from http.client import HTTPException
from io import StringIO
from pathlib import Path

from torch import Tensor

from bnutils._torchvision import import_mnist

log = logging.getLogger("bnutils")

# SHA-256, size in bytes and name of the originals (LeCun, Cortes, Burges), unpacked.
_ORIGINALS = """
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db 47040016 train-images
65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5    60008 train-labels
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7  7840016 t10k-images
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2    10008 t10k-labels
"""
_ENDINGS = {"images": "idx3-ubyte", "labels": "idx1-ubyte"}
FILES = {  # name of the file: (size, SHA-256)
    f"{name}-{_ENDINGS[name[-6:]]}": (int(size), digest)
    for digest, size, name in map(str.split, _ORIGINALS.strip().splitlines())
}
LAYOUTS = ("MNIST/raw", "raw", ".")
TIMEOUT = 20  # seconds without an answer after which a mirror counts as out of reach
DIGITS = 'use the offline digits with data.load("digits")'

# What a full disk or a folder without permission raises; anything else that goes wrong
# while downloading is the network's doing.
_DISK = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR}
_DISK |= {errno.ENOTDIR, errno.EEXIST, getattr(errno, "EDQUOT", errno.ENOSPC)}


class DataError(RuntimeError):
    """MNIST cannot be used as configured; the message says why and what to do."""


class NoNetwork(DataError):
    """MNIST could not be downloaded, for a reason that lies outside this machine."""


def find_folder(root: Path) -> Path:
    """Find the raw files below ``root``: in MNIST/raw, in raw or in root itself.

    Raises
    ------
    DataError
        ``root`` is missing, is a file, cannot be listed or holds none of the files.
    """
    wanted = f"a folder with the four MNIST files ({', '.join(FILES)}), unpacked"
    try:
        names = sorted(p.name for p in root.iterdir())
        for folder in (root / layout for layout in LAYOUTS):
            if any((folder / name).exists() for name in FILES):
                return folder
    except NotADirectoryError:
        raise DataError(f"{root} is a file; expected {wanted}") from None
    except FileNotFoundError:
        raise DataError(f"there is no folder {root}; expected {wanted}") from None
    except PermissionError as error:
        raise DataError(f"no permission to read {error.filename}") from error
    packed = [p for layout in LAYOUTS for p in (root / layout).glob("*-ubyte.gz")]
    if packed:
        raise DataError(
            f"the files in {packed[0].parent} are packed: gunzip them first"
        )
    raise DataError(
        f"no MNIST in {root}, nor in its subfolders MNIST/raw and raw; expected "
        f"{wanted}, found {', '.join(names[:5]) or 'nothing'}"
    )


def check_file(path: Path) -> None:
    """Compare one raw file with the original, by SHA-256.

    Raises
    ------
    DataError
        The file is missing, a folder, unreadable, or not the original: the message
        tells a swapped, foreign, truncated, overlong and corrupted file apart.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; expected a file") from None
    except PermissionError as error:
        if path.is_dir():  # what Windows raises for a folder
            raise DataError(f"{path} is a folder; expected a file") from None
        raise DataError(f"no permission to read {path}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != FILES[path.name][1]:
        raise DataError(f"{path} {_difference(path.name, content, digest)}")


def _difference(name: str, content: bytes, digest: str) -> str:
    """Say how a file differs from the original of that name."""
    size = FILES[name][0]
    for other, (_, known) in FILES.items():
        if digest == known:
            return f"holds what belongs in {other}: the files were swapped"
    magic = 2051 if "images" in name else 2049
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


def read(folder: Path) -> dict[str, Tensor]:
    """Verify the four files in ``folder`` and read them with torchvision.

    Returns
    -------
    dict from the four file names to uint8 images (N, 28, 28) and int64 labels (N,)

    Raises
    ------
    DataError
        See :func:`check_file`.
    ImportError
        See :func:`bnutils._torchvision.import_mnist`.
    """
    for name in FILES:
        check_file(folder / name)
    mnist = import_mnist()
    return {
        name: (mnist.read_image_file if "images" in name else mnist.read_label_file)(
            str(folder / name)
        )
        for name in FILES
    }


def download(cache: Path) -> Path:
    """Download MNIST with torchvision into ``cache``; return the folder of its files.

    The files are unpacked and verified in a temporary folder inside ``cache``, then
    moved to their place one by one, each in a single step. A download that fails or is
    interrupted leaves nothing under the names of the data.

    Raises
    ------
    NoNetwork
        No mirror delivered the files; nothing is wrong on this machine.
    DataError
        No space left or no permission to write.
    ImportError
        See :func:`bnutils._torchvision.import_mnist`.
    """
    mnist = import_mnist()
    target = cache / "MNIST" / "raw"
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="incomplete-", dir=cache) as temporary:
            with _quiet(), _timeout(TIMEOUT):
                mnist.MNIST(temporary, download=True)
            new = Path(temporary, "MNIST", "raw")
            for name in FILES:
                check_file(new / name)
            for name in FILES:
                os.replace(new / name, target / name)
    except (RuntimeError, HTTPException, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise DataError(
                f"MNIST could not be stored in {cache} ({error.strerror}): about "
                "140 MB must be free and writable there; make room, or name another "
                f"folder with XDG_CACHE_HOME, or {DIGITS}"
            ) from error
        reason = " ".join(str(error).split())
        raise NoNetwork(f"MNIST could not be downloaded ({reason})") from error
    return target


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
