"""Small promises about files: those of MNIST and of a download."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import test_data
from test_data import LABELS, write

from bnutils import data
from bnutils.data import download as _download
from bnutils.data import mnist as _mnist

alone, contents, folder = test_data.alone, test_data.contents, test_data.folder
DAY = 24 * 60 * 60  # seconds


@pytest.fixture
def vision(monkeypatch, contents):
    """A torchvision that writes the files without a network, or raises; where it did."""

    def fetch(root, download=False):
        if not download:
            raise RuntimeError("Dataset not found")
        fetch.roots.append(Path(root))
        if fetch.error:
            raise fetch.error
        write(Path(root, "MNIST", "raw"), contents)

    fetch.error, fetch.roots = None, []
    module = SimpleNamespace(MNIST=fetch)
    monkeypatch.setattr(_download, "import_mnist", lambda: module)
    return fetch


# MNIST


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
            _mnist.find_folder(tmp_path)
    assert str(caught.value) == f"no permission to read {tmp_path / named}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<ht", "is truncated: 3 bytes instead of"),
        (b"<htm", "starts with the number 1013478509 instead of 2049"),
    ],
)
def test_four_bytes_are_enough_to_tell_a_foreign_file(folder, content, words):
    (folder / LABELS).write_bytes(content)
    with pytest.raises(data.DataError, match=f"{LABELS} {words}"):
        _mnist.check_file(folder / LABELS)


# Downloads


def test_what_a_killed_download_left_is_removed_a_day_later(vision, monkeypatch):
    _download.download(data.cache_folder())
    (left,) = vision.roots
    assert left.parent == data.cache_folder()  # on the same disk: a move is one step
    left.mkdir()  # as if it had been killed
    os.utime(left, (DAY, DAY))
    for age in (DAY - 1, DAY + 1):
        clock = SimpleNamespace(time=lambda age=age: DAY + age)
        monkeypatch.setattr(_download, "time", clock)
        _download.download(data.cache_folder())
        assert left.exists() == (age < DAY)


def test_a_leftover_that_cannot_be_removed_is_no_hindrance(vision):
    data.cache_folder().mkdir(parents=True)
    path = data.cache_folder() / "incomplete-and-no-folder"
    path.touch()
    os.utime(path, (0, 0))
    assert data.load().source == "a download, now in the user's cache folder"
    assert path.exists()


@pytest.mark.skipif(not hasattr(errno, "EDQUOT"), reason="no quotas on this system")
def test_a_used_up_quota_is_a_full_disk_and_not_a_missing_network(vision):
    vision.error = OSError(errno.EDQUOT, "Disk quota exceeded")
    with pytest.raises(data.DataError, match=r"be stored .*quota.*: about 70 MB must"):
        data.load()
