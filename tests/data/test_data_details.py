"""Small promises of the data module, without any data on the disk."""

from pathlib import Path

import torch

from bnutils import data
from bnutils.data import mnist as _mnist


def split(n=1_234):
    return data.Split(torch.zeros(n, 9), torch.zeros(n, dtype=torch.long))


def test_a_split_says_how_many_images_and_of_which_shape():
    assert repr(split()) == "1,234 images of shape (9,)"


def test_data_that_were_not_scaled_say_so():
    found = data.Dataset("mine", "a list", split(), split(2), split(3))
    assert (found.mean, found.std) == (0.0, 1.0)


def test_the_cache_has_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data.cache_folder() == tmp_path / "bnutils"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert data.cache_folder() == tmp_path / ".cache" / "bnutils"


def test_files_that_were_named_come_to_the_device_asked_for(monkeypatch, tmp_path):
    files = {
        name: torch.arange(n).view(-1, *shape).to(torch.uint8)
        for name, n, shape in zip(
            _mnist.FILES, (5_010 * 4, 5_010, 16, 4), ((2, 2), (), (2, 2), ())
        )
    }
    monkeypatch.setattr(_mnist, "find_folder", lambda folder: folder)
    monkeypatch.setattr(_mnist, "read", lambda folder: files)
    found = data.load(tmp_path, device="meta")
    assert found.train.x.device.type == found.test.y.device.type == "meta"
