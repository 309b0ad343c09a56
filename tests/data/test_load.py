"""What ``data.load`` makes of the files, and where it looks for them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small_mnist import N_TEST, N_TRAIN, cache, write

from bnutils import data
from bnutils.data import digits

# What is loaded


def test_pixels_are_normalised_by_mean_and_std_of_the_training_images(folder):
    d = data.load(folder)
    pixels = (d.train.x.double() * d.std + d.mean) * 255
    assert d.train.x.dtype == torch.float32 and d.train.y.dtype == torch.int64
    assert pixels.std(correction=0) / 255 == pytest.approx(d.std, rel=1e-5)
    assert pixels.mean() / 255 == pytest.approx(d.mean, rel=1e-5)
    torch.testing.assert_close(pixels, pixels.round(), atol=1e-3, rtol=0)
    assert d.train.x.mean().abs() < 1e-5
    assert abs(d.train.x.std(correction=0) - 1) < 1e-4


def test_test_images_are_normalised_like_training_images_and_keep_their_order(folder):
    d = data.load(folder)
    expected = (torch.arange(N_TEST) / 255 - d.mean) / d.std
    torch.testing.assert_close(d.test.x, expected[:, None].expand(-1, 784))
    assert d.test.y.tolist() == [n % 10 for n in range(N_TEST)]


def test_every_training_image_is_in_one_of_two_splits_with_its_own_label(folder):
    d = data.load(folder)
    assert (len(d.train), len(d.valid), len(d.test)) == (N_TRAIN - 5_000, 5_000, N_TEST)
    x = torch.cat([d.train.x, d.valid.x])
    pixels = ((x[:, 0] * d.std + d.mean) * 255).round().long()
    pairs = torch.stack([pixels, torch.cat([d.train.y, d.valid.y])]).T.tolist()
    assert sorted(pairs) == sorted([n % 251, n % 10] for n in range(N_TRAIN))


def test_split_is_the_documented_permutation(folder):
    d = data.load(folder)
    order = np.random.RandomState(0).permutation(N_TRAIN)
    assert d.valid.y.tolist() == (order[:5_000] % 10).tolist()
    assert d.train.y.tolist() == (order[5_000:] % 10).tolist()
    assert order[:5].tolist() == [3083, 2076, 1414, 381, 4483]  # pinned
    ink = (order[5_000:] % 251) / 255
    assert (d.mean, d.std) == pytest.approx((ink.mean(), ink.std()), rel=1e-13)


def test_offline_digits_show_the_digits_of_scikit_learn():
    from sklearn.datasets import load_digits

    d = data.load("digits")
    assert (len(d.train), len(d.valid), len(d.test)) == (1_297, 200, 300)
    everything = load_digits()
    order = np.random.RandomState(0).permutation(1_797)
    assert d.train.y.tolist() == everything.target[order[:1_297]].tolist()
    images = (d.test.x * d.std + d.mean).view(-1, 28, 28)
    original = torch.from_numpy(everything.images[order[-300:]] / 16).float()
    # Bilinear resizing by 3.5 keeps every middle of a 7x7 block of pixels: there the
    # weights of two neighbours are a half each.
    blocks = images.unfold(1, 7, 7).unfold(2, 7, 7)[..., 3, 3]  # (300, 4, 4)
    expected = torch.nn.functional.avg_pool2d(original, 2)
    torch.testing.assert_close(blocks, expected, atol=1 / 255, rtol=0)


def test_scikit_learn_is_asked_where_its_file_is_elsewhere(monkeypatch):
    x, y = digits.read()
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    asked_x, asked_y = digits.read()
    assert torch.equal(asked_x, x) and torch.equal(asked_y, y)


def test_str_says_which_data_and_never_a_path(folder, monkeypatch):
    monkeypatch.setenv("BNUTILS_DATA", str(folder))
    text = str(data.load())
    assert text == (
        "MNIST: 60 training, 5,000 validation and 40 test images of 28x28 pixels"
    )
    assert "Offline digits of scikit-learn" in str(data.load("digits"))
    assert "standing in for MNIST" in repr(data.load("digits"))
    assert os.sep not in data.load().source


def test_what_was_verified_is_what_is_used(folder, monkeypatch):
    """A file that changes right after it was read does not matter any more."""
    read, expected = Path.read_bytes, data.load(folder)

    def read_then_spoil(path):
        content = read(path)
        path.write_bytes(bytes(len(content)))
        return content

    monkeypatch.setattr(Path, "read_bytes", read_then_spoil)
    found = data.load(folder)
    assert torch.equal(found.train.x, expected.train.x)
    assert torch.equal(found.test.y, expected.test.y)


def test_data_come_to_the_device_asked_for(folder):
    for root in (folder, "digits"):
        found = data.load(root, device="meta")
        splits = (found.train, found.valid, found.test)
        assert {t.device.type for s in splits for t in (s.x, s.y)} == {"meta"}


# Where it is looked for


@pytest.mark.parametrize("layout", ["MNIST/raw", "raw", "."])
def test_every_layout_is_found(tmp_path, contents, layout):
    write(tmp_path / "root" / layout, contents)
    assert data.load(tmp_path / "root").name == "MNIST"
    assert (
        data.load(str(tmp_path / "root")).source
        == "the folder named by the argument root"
    )


def test_argument_goes_before_environment_before_cache(
    folder, monkeypatch, contents, no_network
):
    write(cache(), contents)
    assert data.load().source == "the user's cache folder"
    monkeypatch.setenv("BNUTILS_DATA", "digits")
    assert data.load().name == "digits"
    assert data.load(folder).source == "the folder named by the argument root"
    monkeypatch.setenv("BNUTILS_DATA", str(folder))
    assert data.load().source == "the folder named by BNUTILS_DATA"
    assert data.load("digits").name == "digits"
    monkeypatch.setenv("BNUTILS_DATA", "")
    assert data.load().source == "the user's cache folder"


def test_relative_environment_path_also_starts_beside_the_package(
    folder, monkeypatch, tmp_path
):
    (tmp_path / "checkout" / "bnutils").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    package = tmp_path / "checkout" / "bnutils"
    monkeypatch.setattr(data, "__file__", str(package / "data" / "__init__.py"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("BNUTILS_DATA", "../mnist")
    assert data.load().name == "MNIST"
    monkeypatch.chdir("/")
    assert data.load().name == "MNIST"
    with pytest.raises(data.DataError, match="there is no folder"):
        data.load("../mnist")


def test_wrong_configuration_never_falls_back(monkeypatch, tmp_path, contents):
    write(cache(), contents)
    monkeypatch.setenv("BNUTILS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(data.DataError, match=r"no folder .*nowhere.*BNUTILS_DATA"):
        data.load()
    with pytest.raises(data.DataError, match=r"no folder .*void.*the argument"):
        data.load(tmp_path / "void")


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-that-name/mnist", "a/b/c"])
@pytest.mark.parametrize("given", ["argument", "environment"])
def test_names_that_cannot_be(tmp_path, monkeypatch, name, given):
    monkeypatch.chdir(tmp_path)
    if given == "environment":
        monkeypatch.setenv("BNUTILS_DATA", name)
    with pytest.raises(data.DataError) as caught:
        data.load(name if given == "argument" else None)
    assert name in str(caught.value) and 'load("digits")' in str(caught.value)


def test_the_cache_has_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data.cache_folder() == tmp_path / "bnutils"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert data.cache_folder() == tmp_path / ".cache" / "bnutils"


# The real files


@pytest.fixture
def real(monkeypatch) -> data.Dataset:
    """MNIST from the folder that the tests were started with, if any."""
    monkeypatch.undo()  # what the fixture above replaced
    if os.environ.get("BNUTILS_DATA", "digits") == "digits":
        pytest.skip("BNUTILS_DATA names no folder with MNIST")
    return data.load()


def test_mnist_itself_has_its_known_numbers(real):
    size = "55,000 training, 5,000 validation and 10,000 test images of 28x28 pixels"
    assert str(real) == f"MNIST: {size}"
    assert real.mean == pytest.approx(0.1307, abs=2e-4)  # of all 60,000, well known
    assert real.std == pytest.approx(0.3081, abs=2e-4)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert real.test.y.bincount().tolist() == counts
    together = torch.cat([real.train.y, real.valid.y]).bincount().tolist()
    assert together == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert real.test.y[:5].tolist() == [7, 2, 1, 0, 4]
