"""The four files of MNIST: located, read and verified by checksum.

Used by :mod:`bnutils.data`; :mod:`bnutils.data.download` fetches them.
Whatever keeps MNIST from being used becomes a :class:`DataError` that says what was found,
what was expected and what to do.
"""

import hashlib
import logging
import os
import stat
from pathlib import Path

import torch
from torch import Tensor

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
DIGITS = 'use the offline digits with data.load("digits")'


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
    names, packed = [], []
    for folder in (root / layout for layout in LAYOUTS):
        try:
            names = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError) as error:
            if folder != root:
                continue
            is_file = isinstance(error, NotADirectoryError)
            what = f"{root} is a file" if is_file else f"there is no folder {root}"
            raise DataError(f"{what}; expected {wanted}") from None
        except PermissionError as error:
            where = folder if os.access(root, os.R_OK | os.X_OK) else root
            raise DataError(f"no permission to read {where}") from error
        except OSError as error:
            reason = f"{folder} cannot be read ({error.strerror})"
            raise DataError(f"{reason}; expected {wanted}") from error
        if FILES.keys() & names:
            return folder
        packed += [folder / name for name in names if name[:-3] in FILES]
    if packed:
        raise DataError(
            f"the files in {packed[0].parent} are packed: gunzip them first"
        )
    raise DataError(
        f"no MNIST in {root}, nor in its subfolders MNIST/raw and raw; expected "
        f"{wanted}, found {', '.join(names[:5]) or 'nothing'}"
    )


def check_file(path: Path) -> bytes:
    """Read one raw file and compare it with the original, by SHA-256.

    Returns
    -------
    bytes
        The content; what was verified is what is to be used.

    Raises
    ------
    DataError
        The file is missing, a folder, unreadable, or not the original: the message
        tells a swapped, packed, foreign, truncated, overlong and corrupted file apart.
    """
    try:
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise DataError(f"{path} is a folder; expected a file")
        if not stat.S_ISREG(info.st_mode):  # reading a pipe might never end
            raise DataError(f"{path} is a pipe or a device; expected a file")
        if info.st_size > 2 * max(size for size, _ in FILES.values()):
            raise DataError(f"{path} {_too_long(path.name, info.st_size)}")
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


def _too_long(name: str, length: int) -> str:
    return f"is too long: {length:,} bytes instead of {FILES[name][0]:,}"


def _difference(name: str, content: bytes, digest: str) -> str:
    """Say how a file differs from the original of that name."""
    size = FILES[name][0]
    for other, (_, known) in FILES.items():
        if digest == known:
            return f"holds what belongs in {other}: the files were swapped"
    if content[:2] == b"\x1f\x8b":
        return "is packed (gzip): expected the unpacked file, so gunzip it"
    magic = 2051 if "images" in name else 2049
    found = int.from_bytes(content[:4], "big")
    if found != magic and len(content) >= 4:
        return f"starts with the number {found} instead of {magic}: not an MNIST file"
    if len(content) < size:
        return f"is truncated: {len(content):,} bytes instead of {size:,}"
    if len(content) > size:
        return _too_long(name, len(content))
    return (
        "is corrupted: its size is right but its SHA-256 checksum is "
        f"{digest[:12]}... instead of {FILES[name][1][:12]}..."
    )


def read(folder: Path) -> dict[str, Tensor]:
    """Read the four files in ``folder``, each verified.

    Returns
    -------
    dict from the four file names to uint8 images (N, 28, 28) and int64 labels (N,)

    Raises
    ------
    DataError
        See :func:`check_file`.
    """
    found = {}
    for name in FILES:
        content = bytearray(check_file(folder / name))
        head = 16 if "images" in name else 8  # magic number and sizes, just verified
        values = torch.frombuffer(content, dtype=torch.uint8, offset=head)
        found[name] = values.view(-1, 28, 28) if head == 16 else values.long()
    return found
