"""Download and cache: all four files or none, and clear words where neither is possible."""

from __future__ import annotations

import contextlib
import errno
import gzip
import http.server
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_mnist import IMAGES, LABELS, cache, stored, write

from bnutils import data
from bnutils.data import mnist as mnist_files
from bnutils.data.vision import import_mnist

posix = pytest.mark.skipif(os.name != "posix", reason="links to nowhere")
DAY = 24 * 60 * 60  # seconds


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
    mnist = import_mnist()
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
    monkeypatch.setitem(mnist_files.FILES, IMAGES, (1, "0" * 64))
    assert data.load().name == "digits"
    assert stored() == []


def test_interrupted_download_leaves_nothing(mirror, monkeypatch, contents):
    mnist = import_mnist()
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


# Mirrors with something wrong


class Liar(http.server.BaseHTTPRequestHandler):
    """Answers each GET as the server's ``answer`` does; HEAD always succeeds."""

    def do_GET(self):
        with contextlib.suppress(OSError):
            self.server.answer(self)
        self.close_connection = True

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def head(self, code: int, **headers) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *args):
        pass


def half(handler):
    handler.head(200, Content_Length=100_000)
    handler.wfile.write(b"\x1f\x8b" + bytes(50_000))


def reset(handler):
    half(handler)
    handler.connection.setsockopt(1, 13, (1).to_bytes(4, "little") + bytes(4))  # linger


def stall(handler):
    half(handler)
    handler.server.over.wait(5)


def other_data(handler):
    body = gzip.compress(b"something else")
    handler.head(200, Content_Length=len(body))
    handler.wfile.write(body)


ANSWERS = {
    "404": lambda h: h.head(404, Content_Length=0),
    "503": lambda h: h.head(503, Content_Length=0),
    "no answer": lambda h: None,
    "garbage": lambda h: h.wfile.write(os.urandom(500)),
    "empty": lambda h: h.head(200, Content_Length=0),
    "log-in page": lambda h: h.head(200) or h.wfile.write(b"<html>Please log in"),
    "no length": lambda h: h.head(200, Content_Length="many") or h.wfile.write(b"x"),
    "bad chunks": lambda h: (
        h.head(200, Transfer_Encoding="chunked") or h.wfile.write(b"zz\r\nx\r\n")
    ),
    "redirect to itself": lambda h: h.head(302, Location=h.path),
    "redirect to a file": lambda h: h.head(302, Location="file:///etc/hostname"),
    "redirect to nonsense": lambda h: h.head(302, Location="http://[::1"),
    "half of it": half,
    "reset": reset,
    "stalls": stall,
    "other data": other_data,
}


@pytest.fixture(params=ANSWERS)
def liar(request, monkeypatch):
    """The address of a mirror with something wrong, the only one that there is."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    server.answer, server.over = ANSWERS[request.param], threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(mnist_files, "TIMEOUT", 0.3)
    monkeypatch.setattr(import_mnist().MNIST, "mirrors", [address])
    yield address
    server.over.set()
    server.shutdown()
    server.server_close()


def test_a_bad_mirror_costs_nothing(liar, contents, capfd):
    assert data.load().name == "digits"
    assert stored() == []
    write(emptied(cache()), contents | {LABELS: b"damaged"})
    with pytest.raises(data.DataError, match=r"damaged and could not be replaced"):
        data.load()
    assert stored() == sorted(contents)
    assert (cache() / IMAGES).read_bytes() == contents[IMAGES]
    assert capfd.readouterr() == ("", "")


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def test_silent_server_is_given_up(monkeypatch):
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        mnist = import_mnist().MNIST
        port = server.getsockname()[1]
        monkeypatch.setattr(mnist, "mirrors", [f"http://127.0.0.1:{port}/"])
        monkeypatch.setattr(mnist_files, "TIMEOUT", 0.1)
        assert data.load().name == "digits"
    assert socket.getdefaulttimeout() is None


# Disks and damaged caches


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "No space left on device"), (errno.EACCES, "Permission denied")],
)
def test_disk_that_takes_no_download_is_an_error(mirror, monkeypatch, code, words):
    mnist = import_mnist()

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


def test_intact_cache_is_only_read(contents, no_network):
    write(cache(), contents)
    before = {p: p.stat().st_mtime_ns for p in data.cache_folder().rglob("*")}
    assert data.load().name == "MNIST"
    assert {p: p.stat().st_mtime_ns for p in data.cache_folder().rglob("*")} == before


def test_folder_in_the_place_of_a_cached_file(mirror, contents):
    write(cache(), contents)
    (cache() / LABELS).unlink()
    (cache() / LABELS).mkdir()
    with pytest.raises(data.DataError, match=f"Is a directory: .*{LABELS}"):
        data.load()


def test_damaged_cache_on_a_disk_that_takes_nothing(mirror, contents, monkeypatch):
    """Both what is wrong with the cache and why it stays so are said."""
    write(cache(), contents | {LABELS: b"damaged"})

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    words = rf"damaged .*{LABELS} starts with .* could not be stored .*Read-only"
    with pytest.raises(data.DataError, match=words):
        data.load()


@posix
def test_links_to_themselves_in_the_cache(mirror, contents, tmp_path):
    cache().mkdir(parents=True)
    for name in contents:
        (cache() / name).symlink_to(name)
    assert data.load().source == "a download, now in the user's cache folder"
    assert (cache() / IMAGES).read_bytes() == contents[IMAGES]
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").symlink_to("cache")
    with pytest.raises(data.DataError, match=r"be stored in .*XDG_CACHE_HOME"):
        data.load()


def test_full_disk_leaves_nothing(mirror, contents):
    """The limit on a file's size makes a real write fail in the middle."""
    resource = pytest.importorskip("resource")  # POSIX only
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(data.DataError, match=r"could not be stored .* make room"):
            data.load()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert stored() == []
    assert data.load().name == "MNIST"


# Downloads that were killed


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
    monkeypatch.setattr(mnist_files, "import_mnist", lambda: module)
    return fetch


def test_what_a_killed_download_left_is_removed_a_day_later(vision, monkeypatch):
    mnist_files.download(data.cache_folder())
    (left,) = vision.roots
    assert left.parent == data.cache_folder()  # on the same disk: a move is one step
    left.mkdir()  # as if it had been killed
    os.utime(left, (DAY, DAY))
    for age in (DAY - 1, DAY + 1):
        clock = SimpleNamespace(time=lambda age=age: DAY + age)
        monkeypatch.setattr(mnist_files, "time", clock)
        mnist_files.download(data.cache_folder())
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
