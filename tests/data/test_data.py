"""MNIST found, verified, downloaded and replaced; every failure has its message."""

from __future__ import annotations

import errno
import hashlib
import http.server
import logging
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from bnutils import data
from bnutils.data import download as _download
from bnutils.data import mnist as _mnist
from bnutils.data import vision as _torchvision

N_TRAIN, N_TEST = 5_060, 40  # of the small stand-in for MNIST
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    """Write the IDX format: magic number, sizes, bytes."""
    head = np.array([0x0800 + array.ndim, *array.shape], dtype=">i4")
    return head.tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="session")
def contents() -> dict[str, bytes]:
    """Four small files: image i of either set is filled with i modulo 251."""
    files = {}
    for prefix, n in (("train", N_TRAIN), ("t10k", N_TEST)):
        number = np.arange(n)
        images = np.broadcast_to((number % 251)[:, None, None], (n, 28, 28))
        files[f"{prefix}-images-idx3-ubyte"] = idx(images)
        files[f"{prefix}-labels-idx1-ubyte"] = idx(number % 10)
    return files


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path, contents):
    """No configuration, an empty cache, and the small files as the originals."""
    monkeypatch.delenv("BNUTILS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    originals = {
        n: (len(c), hashlib.sha256(c).hexdigest()) for n, c in contents.items()
    }
    monkeypatch.setattr(_mnist, "FILES", {n: originals[n] for n in _mnist.FILES})


@pytest.fixture
def folder(tmp_path, contents) -> Path:
    """A folder with the four files in it."""
    return write(tmp_path / "mnist", contents)


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def cache() -> Path:
    return data.cache_folder() / "MNIST" / "raw"


def stored() -> list[str]:
    """Every file below the cache folder."""
    return sorted(p.name for p in data.cache_folder().rglob("*") if p.is_file())


@pytest.fixture
def mirror(monkeypatch, contents):
    """Let torchvision download, as it does, from a server on this machine."""
    import gzip

    served = {f"/{n}.gz": gzip.compress(c, mtime=0) for n, c in contents.items()}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in served else 404)
            self.send_header("Content-Length", str(len(served.get(self.path, b""))))
            self.end_headers()
            self.wfile.write(served.get(self.path, b""))

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    mnist = _torchvision.import_mnist().MNIST
    md5 = {n: hashlib.md5(c).hexdigest() for n, c in served.items()}
    order = [n for n in (f"/{name}.gz" for name in contents)]
    monkeypatch.setattr(mnist, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(mnist, "resources", [(n[1:], md5[n]) for n in order])
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_network(monkeypatch):
    """Every name is unknown, as without a network."""
    import socket

    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)


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


def test_str_says_which_data_and_never_a_path(folder, monkeypatch):
    monkeypatch.setenv("BNUTILS_DATA", str(folder))
    text = str(data.load())
    assert text == (
        "MNIST: 60 training, 5,000 validation and 40 test images of 28x28 pixels"
    )
    assert "Offline digits of scikit-learn" in str(data.load("digits"))
    assert "standing in for MNIST" in repr(data.load("digits"))
    assert os.sep not in data.load().source


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
    monkeypatch.setattr(
        data, "__file__", str(tmp_path / "checkout" / "bnutils" / "data.py")
    )
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


# What can be wrong with it


def test_truncated_file(folder):
    path = folder / IMAGES
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        data.DataError, match="is truncated: 3,966,956 bytes instead of"
    ):
        data.load(folder)


@pytest.mark.parametrize("content", [b"", b"\0\0"])
def test_empty_or_nearly_empty_file_is_truncated(folder, content):
    (folder / LABELS).write_bytes(content)
    with pytest.raises(
        data.DataError, match=rf"{LABELS} is truncated: {len(content)} "
    ):
        data.load(folder)


def test_overlong_file(folder):
    with (folder / LABELS).open("ab") as file:
        file.write(b"more")
    with pytest.raises(
        data.DataError, match="is too long: 5,072 bytes instead of 5,068"
    ):
        data.load(folder)


def test_one_flipped_bit(folder):
    path = folder / "t10k-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[1_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=r"t10k-images.* is corrupted.*SHA-256"):
        data.load(folder)


def test_wrong_magic_number(folder):
    path = folder / LABELS
    path.write_bytes(b"<htm" + path.read_bytes()[4:])
    number = int.from_bytes(b"<htm", "big")
    with pytest.raises(
        data.DataError, match=f"starts with the number {number} instead"
    ):
        data.load(folder)


@pytest.mark.parametrize("other", ["t10k-images-idx3-ubyte", LABELS])
def test_swapped_files(folder, other):
    first, second = (folder / IMAGES).read_bytes(), (folder / other).read_bytes()
    (folder / IMAGES).write_bytes(second)
    (folder / other).write_bytes(first)
    with pytest.raises(data.DataError, match=f"holds what belongs in {other}: .*swap"):
        data.load(folder)


def test_missing_file(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(
        data.DataError, match=r"t10k-labels-idx1-ubyte is missing. .*argument root: put"
    ):
        data.load(folder)


def test_folder_where_a_file_is_expected(folder):
    (folder / LABELS).unlink()
    (folder / LABELS).mkdir()
    with pytest.raises(data.DataError, match=f"{LABELS} is a folder; expected a file"):
        data.load(folder)


def test_file_where_the_folder_is_expected(folder):
    with pytest.raises(data.DataError, match=f"{IMAGES} is a file; expected a folder"):
        data.load(folder / IMAGES)


def test_folder_without_mnist(tmp_path):
    write(tmp_path / "photos", {"cat.jpg": b""})
    with pytest.raises(data.DataError, match=r"no MNIST in .*photos.*found cat\.jpg"):
        data.load(tmp_path / "photos")


def test_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(data.DataError, match=r"no MNIST in .*found nothing"):
        data.load(tmp_path / "empty")


def test_packed_files(tmp_path, contents):
    write(tmp_path / "gz", {f"{n}.gz": b"" for n in contents})
    with pytest.raises(data.DataError, match="are packed: gunzip them first"):
        data.load(tmp_path / "gz")


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


# Download and cache


def test_download_is_stored_verified_and_used_again(mirror, contents, capfd):
    assert data.load().source == "a download, now in the user's cache folder"
    assert stored() == sorted(contents)
    assert all((cache() / n).read_bytes() == c for n, c in contents.items())
    mirror.clear()
    assert data.load().source == "the user's cache folder"
    assert capfd.readouterr() == ("", "")


def test_no_network_falls_back_says_so_and_leaves_nothing(no_network, capfd, caplog):
    caplog.set_level(logging.INFO, logger="bnutils")
    d = data.load()
    assert d.name == "digits" and "standing in for MNIST" in str(d)
    assert d.source == "scikit-learn, since MNIST could not be downloaded"
    assert "MNIST could not be downloaded" in caplog.text
    assert stored() == []
    assert capfd.readouterr() == ("", "")


def test_what_torchvision_prints_while_downloading_is_not_shown(
    mirror, monkeypatch, capfd
):
    mnist = _torchvision.import_mnist()
    original = mnist.download_and_extract_archive

    def talk(*args, **kwargs):
        print("Downloading http://...")  # as its older versions do
        print("100%", file=sys.stderr)
        original(*args, **kwargs)

    monkeypatch.setattr(mnist, "download_and_extract_archive", talk)
    assert data.load().name == "MNIST"
    assert capfd.readouterr() == ("", "")


def test_download_false_never_asks_the_network(mirror):
    assert data.load(download=False).name == "digits"
    assert stored() == []


def test_download_that_breaks_off_leaves_nothing(mirror):
    del mirror["/t10k-labels-idx1-ubyte.gz"]
    assert data.load().name == "digits"
    assert stored() == []


def test_download_of_something_else_leaves_nothing(mirror):
    mirror[f"/{IMAGES}.gz"] = b"<html>Please log in</html>"
    assert data.load().name == "digits"
    assert stored() == []


def test_download_that_unpacks_to_other_data_leaves_nothing(mirror, monkeypatch):
    monkeypatch.setitem(_mnist.FILES, IMAGES, (1, "0" * 64))
    assert data.load().name == "digits"
    assert stored() == []


def test_interrupted_download_leaves_nothing(mirror, monkeypatch, contents):
    mnist = _torchvision.import_mnist()
    original = mnist.download_and_extract_archive

    def interrupt(url, *args, **kwargs):
        if "t10k" in url:
            raise KeyboardInterrupt
        original(url, *args, **kwargs)

    monkeypatch.setattr(mnist, "download_and_extract_archive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        data.load()
    assert stored() == []
    monkeypatch.setattr(mnist, "download_and_extract_archive", original)
    assert data.load().name == "MNIST"


def test_killed_download_is_not_taken_for_data(no_network, contents):
    remains = data.cache_folder() / "incomplete-abc" / "MNIST" / "raw"
    write(remains, contents)
    write(cache(), {IMAGES: contents[IMAGES]})  # killed between two moves
    assert data.load().name == "digits"


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "No space left on device"), (errno.EACCES, "Permission denied")],
)
def test_disk_that_takes_no_download_is_an_error(mirror, monkeypatch, code, words):
    mnist = _torchvision.import_mnist()

    def fail(url, download_root, **kwargs):
        Path(download_root, "part.gz").write_bytes(b"half")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(mnist, "download_and_extract_archive", fail)
    with pytest.raises(data.DataError, match=rf"could not be stored .*{words}.*make"):
        data.load()
    assert stored() == []


def test_cache_that_is_a_file_is_an_error(mirror, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(data.DataError, match="could not be stored"):
        data.load()


def test_damaged_cache_is_downloaded_again(mirror, contents):
    write(cache(), contents | {LABELS: contents[LABELS][:-1]})
    assert data.load().source == "a download, now in the user's cache folder"
    assert (cache() / LABELS).read_bytes() == contents[LABELS]


def test_damaged_cache_without_network_is_an_error(no_network, contents):
    write(cache(), contents | {LABELS: contents[LABELS][:-1]})
    with pytest.raises(data.DataError, match=r"cached .* is truncated.*Remove .*cache"):
        data.load()


def test_silent_server_is_given_up(monkeypatch):
    """A server that accepts and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        mnist = _torchvision.import_mnist().MNIST
        port = server.getsockname()[1]
        monkeypatch.setattr(mnist, "mirrors", [f"http://127.0.0.1:{port}/"])
        monkeypatch.setattr(_download, "TIMEOUT", 0.1)
        assert data.load().name == "digits"
    assert socket.getdefaulttimeout() is None


# torchvision


def fake_torchvision(folder: Path, init: str) -> dict[str, str]:
    """An environment in which ``import torchvision`` runs the code given."""
    package = folder / "torchvision" / "datasets"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text(textwrap.dedent(init))
    (package / "__init__.py").write_text("")
    (package / "mnist.py").write_text("answer = 42\n")
    root = str(Path(data.__file__).parents[2])
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), root])}


def run(code: str, env: dict[str, str]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_torchvision_of_another_torch_is_imported_all_the_same(tmp_path):
    env = fake_torchvision(
        tmp_path,
        """
        import torch, warnings
        warnings.warn("Failed to load image Python extension")
        for name in ("nms", "qnms"):
            @torch.library.register_fake(f"torchvision::{name}")
            def shape(dets, scores, iou_threshold):
                return dets
        """,
    )
    done = run(
        """
        from bnutils.data.vision import import_mnist
        print(import_mnist().answer, import_mnist().answer)
        """,
        env,
    )
    assert (done.stdout, done.stderr) == ("42 42\n", "")


def test_only_missing_operators_are_declared(tmp_path):
    init = """
        import torch
        torch.library.register_fake("torchvision::qnms")(lambda dets: dets)
        """
    done = run(
        """
        import torch
        torch.library.define("torchvision::nms", "(Tensor mine) -> Tensor")
        from bnutils.data.vision import import_mnist
        print(import_mnist().answer, torch.ops.torchvision.nms.default._schema)
        """,
        fake_torchvision(tmp_path, init),
    )
    assert done.stdout == "42 torchvision::nms(Tensor mine) -> Tensor\n"


def test_fitting_torchvision_gets_no_operator_declared(tmp_path):
    env = fake_torchvision(tmp_path, "")
    done = run(
        """
        import torch
        from bnutils.data.vision import import_mnist
        print(import_mnist().answer, hasattr(torch.ops.torchvision, "nms"))
        """,
        env,
    )
    assert (done.stdout, done.stderr) == ("42 False\n", "")


@pytest.mark.parametrize(
    "init", ["raise RuntimeError('another CUDA')", "raise ImportError('no such file')"]
)
def test_broken_torchvision_is_an_import_error_that_says_what_to_do(tmp_path, init):
    env = fake_torchvision(tmp_path, init)
    env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    done = run("from bnutils import data; data.load()", env)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: torchvision cannot be imported")
    assert "another CUDA" in last or "no such file" in last
    assert f"belongs to torch {torch.__version__}" in last


def test_importing_the_module_imports_neither_torchvision_nor_sklearn():
    root = str(Path(data.__file__).parents[2])
    code = """
        import sys
        import bnutils.data
        print({"torchvision", "sklearn"} & set(sys.modules))
        """
    assert run(code, os.environ | {"PYTHONPATH": root}).stdout == "set()\n"


# Batches


@pytest.fixture
def small() -> data.Dataset:
    split = data.Split(torch.arange(10.0)[:, None].expand(10, 784), torch.arange(10))
    return data.Dataset("small", "made here", split, split, split)


def test_batches_hold_every_image_once_with_its_label(small):
    found = list(small.batches(small.train, 4, generator=torch.Generator()))
    assert [len(y) for _, y in found] == [4, 4, 2]
    assert all(torch.equal(x[:, 0], y.float()) for x, y in found)
    order = torch.cat([y for _, y in found]).tolist()
    assert sorted(order) == list(range(10)) and order != list(range(10))


def test_order_of_batches_comes_from_the_generator(small):
    def order(seed):
        g = torch.Generator().manual_seed(seed)
        return [y.tolist() for _, y in small.batches(small.train, 4, generator=g)]

    assert order(1) == order(1) != order(2)
    g = torch.Generator().manual_seed(1)
    first, second = ([*small.batches(small.train, 10, generator=g)] for _ in range(2))
    assert not torch.equal(first[0][1], second[0][1])


def test_drop_last_leaves_the_incomplete_batch_out(small):
    sizes = [len(y) for _, y in small.batches(small.train, 4, drop_last=True)]
    assert sizes == [4, 4] and data.number_of_batches(small.train, 4, True) == 2
    assert data.number_of_batches(small.train, 4) == 3
    assert data.number_of_batches(small.train, 5) == 2


def test_without_shuffling_the_order_is_kept(small):
    found = [y.tolist() for _, y in small.batches(small.train, 6, shuffle=False)]
    assert found == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9]]


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "words"),
    [(0, False, "at least 1, but got 0"), (11, True, "larger than the split")],
)
def test_senseless_batches_are_refused_at_once(small, batch_size, drop_last, words):
    with pytest.raises(ValueError, match=words):
        small.batches(small.train, batch_size, drop_last=drop_last)


def test_empty_split_is_refused(small):
    with pytest.raises(ValueError, match="the split is empty"):
        small.batches(data.Split(torch.empty(0, 784), torch.empty(0).long()), 4)


def test_data_move_to_a_device(small):
    moved = small.to("meta")
    assert {s.x.device.type for s in (moved.train, moved.valid, moved.test)} == {"meta"}
    assert data.load("digits", device="meta").train.y.device.type == "meta"


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
