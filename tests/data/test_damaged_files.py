"""Files that are not the originals: each error says what is wrong and what to do."""

from __future__ import annotations

import errno
import gzip
import itertools
import os
import shutil
from pathlib import Path

import pytest
from small_mnist import IMAGES, LABELS, write

from bnutils import data
from bnutils.data import mnist as mnist_files

posix = pytest.mark.skipif(os.name != "posix", reason="links to nowhere, pipes, holes")
T10K = "t10k-images-idx3-ubyte"
MANY_LINKS = "Too many levels of symbolic links"


def loop(path: Path) -> None:
    """A symbolic link to itself."""
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def shortened(path: Path, n: int) -> None:
    path.write_bytes(path.read_bytes()[:-n])


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def foreign(path: Path) -> None:
    path.write_bytes(b"<htm" + path.read_bytes()[4:])


def swapped(one: Path, other: Path) -> None:
    first = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(first)


def in_its_place(path: Path, make) -> None:
    path.unlink()
    make(path)


SPOILT = {
    "truncated": (
        lambda f: shortened(f / IMAGES, 100),
        f"{IMAGES} is truncated: 3,966,956 bytes instead of 3,967,056",
    ),
    "empty": (lambda f: (f / LABELS).write_bytes(b""), f"{LABELS} is truncated: 0 "),
    "nearly empty": (
        lambda f: (f / LABELS).write_bytes(b"<ht"),
        f"{LABELS} is truncated: 3 bytes instead of",
    ),
    "too long": (
        lambda f: lengthened(f / LABELS),
        "is too long: 5,072 bytes instead of 5,068",
    ),
    "one bit": (lambda f: flipped(f / T10K, 1_000), f"{T10K} is corrupted"),
    "another format": (
        lambda f: foreign(f / LABELS),
        f"{LABELS} starts with the number 1013478509 instead of 2049",
    ),
    "four bytes of another format": (
        lambda f: (f / IMAGES).write_bytes(b"<htm"),
        f"{IMAGES} starts with the number 1013478509 instead of 2051",
    ),
    "swapped": (
        lambda f: swapped(f / IMAGES, f / LABELS),
        f"{IMAGES} holds what belongs in {LABELS}: the files were swapped",
    ),
    "missing": (lambda f: (f / LABELS).unlink(), f"{LABELS} is missing. "),
    "a folder": (
        lambda f: in_its_place(f / LABELS, Path.mkdir),
        f"{LABELS} is a folder; expected a file",
    ),
    "packed": (
        lambda f: (f / LABELS).write_bytes(gzip.compress((f / LABELS).read_bytes())),
        f"{LABELS} is packed (gzip): expected the unpacked file, so gunzip it",
    ),
    "packed beside the others": (
        lambda f: (f / LABELS).rename(f / f"{LABELS}.gz"),
        f"{LABELS} is missing, but {LABELS}.gz is there: gunzip it",
    ),
    "all named as if packed": (
        lambda f: [p.rename(f"{p}.gz") for p in list(f.iterdir())],
        "are packed: gunzip them first",
    ),
}
SPOILT_ON_POSIX = {
    "a link to itself": (lambda f: loop(f / LABELS), MANY_LINKS),
    "links to themselves": (lambda f: [loop(p) for p in f.iterdir()], MANY_LINKS),
    "a link to nowhere": (
        lambda f: in_its_place(f / LABELS, lambda p: p.symlink_to("void")),
        f"{LABELS} is missing",
    ),
    "a pipe does not make it wait": (
        lambda f: in_its_place(f / LABELS, os.mkfifo),
        f"{LABELS} is a pipe or a device; expected a file",
    ),
    "larger than the memory": (
        lambda f: os.truncate(f / LABELS, 1 << 42),  # 4 TiB of holes
        f"{LABELS} is too long: 4,398,046,511,104 bytes",
    ),
}
ROWS = [pytest.param(*row, id=name) for name, row in SPOILT.items()]
ROWS += [pytest.param(*r, id=n, marks=posix) for n, r in SPOILT_ON_POSIX.items()]


def refused(root: Path, words: str) -> None:
    with pytest.raises(data.DataError) as caught:
        data.load(root)
    message = str(caught.value)
    assert words in message and str(root) in message, message
    assert "argument root: put the original files there" in message
    assert 'load("digits")' in message


@pytest.mark.parametrize(("spoil", "words"), ROWS)
def test_a_file_that_is_not_the_original_is_refused(folder, spoil, words):
    spoil(folder)
    refused(folder, words)


def test_a_folder_that_is_none(tmp_path, folder):
    write(tmp_path / "photos", {"cat.jpg": b""})
    (tmp_path / "empty").mkdir()
    refused(folder / IMAGES, f"{IMAGES} is a file; expected a folder")
    refused(tmp_path / "void", "there is no folder")
    refused(tmp_path / "photos", "no MNIST in")
    refused(tmp_path / "photos", "found cat.jpg")
    refused(tmp_path / "empty", "found nothing")


@posix
def test_a_folder_that_is_a_link_to_itself(tmp_path):
    loop(tmp_path / "loop")
    refused(tmp_path / "loop", MANY_LINKS)


def test_a_flipped_bit_is_noticed_wherever_it_is(folder, contents):
    for name, content in contents.items():
        for at in (0, 3, 4, 8, len(content) // 2, len(content) - 1):
            flipped(folder / name, at)
            words = "starts with" if at < 4 else "is corrupted"  # the magic number
            with pytest.raises(data.DataError, match=f"{name} {words}"):
                mnist_files.check_file(folder / name)
            flipped(folder / name, at)
    assert data.load(folder).name == "MNIST"


@pytest.mark.parametrize("name", ["t10k-labels-idx1-ubyte", LABELS, T10K])
def test_truncation_at_every_kilobyte_is_noticed(folder, contents, name):
    size = len(contents[name])
    for length in range((size - 1) // 1024 * 1024, -1, -1024):
        os.truncate(folder / name, length)
        words = f"{name} is truncated: {length:,} bytes instead of {size:,}"
        with pytest.raises(data.DataError, match=words):
            mnist_files.check_file(folder / name)


@pytest.mark.parametrize(
    ("one", "other"),
    list(itertools.permutations(mnist_files.FILES, 2)),
    ids=lambda n: n[:10],
)
def test_any_file_in_the_place_of_another(folder, one, other):
    shutil.copy(folder / other, folder / one)
    with pytest.raises(data.DataError, match=f"{one} holds what belongs in {other}"):
        mnist_files.check_file(folder / one)


# Permissions and disks


def test_unreadable_file(folder, monkeypatch):
    """Root reads everything: the refusal is made by hand."""
    original = Path.read_bytes

    def refuse(path):
        if path.name == LABELS:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(data.DataError, match=f"no permission to read .*{LABELS}"):
        data.load(folder)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every folder"
)
def test_unreadable_folder(folder):
    folder.chmod(0)
    try:
        with pytest.raises(data.DataError, match="no permission to read"):
            data.load(folder)
    finally:
        folder.chmod(0o700)


def test_failing_disk(folder, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(data.DataError, match=r"cannot be read .Input/output error"):
        data.load(folder)


@pytest.mark.parametrize(
    ("rights", "named"),
    [(os.R_OK | os.X_OK, "MNIST/raw"), (os.R_OK, "."), (os.X_OK, "."), (0, ".")],
)
def test_the_folder_that_lacks_a_permission_is_named(
    rights, named, monkeypatch, tmp_path
):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as change:  # root itself may do everything
        change.setattr(os, "listdir", refuse)
        change.setattr(os, "access", lambda path, wanted: not wanted & ~rights)
        with pytest.raises(data.DataError) as caught:
            mnist_files.find_folder(tmp_path)
    assert str(caught.value) == f"no permission to read {tmp_path / named}"
