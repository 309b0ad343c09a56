"""Broken files, mirrors and disks, and kills at any moment: a clear error, or data as they were."""

from __future__ import annotations

import contextlib
import errno
import gzip
import http.server
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
import test_data
import torch
from test_data import IMAGES, LABELS, cache, stored, write

from bnutils import data
from bnutils.data import download as _download
from bnutils.data import mnist as _mnist
from bnutils.data import vision as _torchvision

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals, links and limits")
ROOT = Path(__file__).resolve().parents[2]
alone, contents, folder = test_data.alone, test_data.contents, test_data.folder
mirror, no_network = test_data.mirror, test_data.no_network
SMALL = ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte")


def refused(root: Path, *words: str) -> str:
    """The message of the error, which says what is wrong, what to do, and no more."""
    with pytest.raises(data.DataError) as caught:
        data.load(root)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "put the original files there" in message and 'load("digits")' in message
    return message


# Files


def test_any_flipped_bit_is_noticed(folder, contents):
    rng = random.Random(0)
    places = [(name, at) for name in contents for at in range(8)]
    places += [
        (n, rng.randrange(len(c))) for n, c in contents.items() for _ in "x" * 15
    ]
    for name, at in places:
        broken = bytearray(contents[name])
        broken[at] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(broken)
        foreign = at < 4  # the magic number
        refused(folder, name, "starts with" if foreign else "is corrupted")
        (folder / name).write_bytes(contents[name])
    assert data.load(folder).name == "MNIST"


@pytest.mark.parametrize("name", [*SMALL, "t10k-images-idx3-ubyte"])
def test_truncation_at_every_kilobyte_is_noticed(folder, contents, name):
    size = len(contents[name])
    for length in range((size - 1) // 1024 * 1024, -1, -1024):
        os.truncate(folder / name, length)
        words = f"{name} is truncated: {length:,} bytes instead of {size:,}"
        with pytest.raises(data.DataError, match=words):
            _mnist.check_file(folder / name)
    refused(folder, f"{name} is truncated: 0 bytes")


@pytest.mark.parametrize(
    ("one", "other"),
    list(itertools.permutations(_mnist.FILES, 2)),
    ids=lambda n: n[:10],
)
def test_any_file_in_the_place_of_another(folder, one, other):
    shutil.copy(folder / other, folder / one)
    refused(folder, f"{one} holds what belongs in {other}")


def test_packed_where_raw_is_expected(folder, contents):
    (folder / LABELS).write_bytes(gzip.compress(contents[LABELS]))
    refused(folder, LABELS, "is packed (gzip)", "gunzip it")


def test_packed_beside_the_others(folder, contents):
    (folder / LABELS).rename(folder / f"{LABELS}.gz")
    refused(folder, f"{LABELS} is missing, but {LABELS}.gz is there: gunzip it")


def test_all_named_as_if_packed(folder):
    for path in list(folder.iterdir()):
        path.rename(f"{path}.gz")
    refused(folder, str(folder), "packed")


def loop(path: Path) -> Path:
    """A symbolic link to itself."""
    path.symlink_to(path.name)
    return path


def test_links_that_lead_nowhere(folder, tmp_path):
    (folder / LABELS).unlink()
    loop(folder / LABELS)
    refused(folder, LABELS, "Too many levels of symbolic links")
    (folder / LABELS).unlink()
    (folder / LABELS).symlink_to("void")
    refused(folder, f"{LABELS} is missing")
    refused(loop(tmp_path / "loop"), "loop", "Too many levels of symbolic links")


def test_nothing_but_links_to_themselves(tmp_path):
    (tmp_path / "loops").mkdir()
    for name in _mnist.FILES:
        loop(tmp_path / "loops" / name)
    refused(tmp_path / "loops", IMAGES, "Too many levels of symbolic links")


def test_a_pipe_does_not_make_it_wait(folder):
    (folder / LABELS).unlink()
    os.mkfifo(folder / LABELS)
    refused(folder, f"{LABELS} is a pipe or a device; expected a file")


def test_a_file_larger_than_memory_is_not_read(folder):
    os.truncate(folder / LABELS, 1 << 42)  # 4 TiB of holes
    refused(folder, f"{LABELS} is too long: 4,398,046,511,104 bytes")


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-that-name/mnist", "a/b/c"])
@pytest.mark.parametrize("given", ["argument", "environment"])
def test_names_that_cannot_be(tmp_path, monkeypatch, name, given):
    monkeypatch.chdir(tmp_path)
    if given == "environment":
        monkeypatch.setenv("BNUTILS_DATA", name)
    refused(name if given == "argument" else None, name)


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


# Mirrors


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
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(_download, "TIMEOUT", 0.3)
    monkeypatch.setattr(_torchvision.import_mnist().MNIST, "mirrors", [address])
    yield address
    server.over.set()
    server.shutdown()
    server.server_close()


def test_a_bad_mirror_costs_nothing(liar, contents, capfd):
    assert data.load().name == "digits"
    assert stored() == []
    write(cache_again(), contents | {LABELS: b"damaged"})
    with pytest.raises(data.DataError, match=r"damaged and could not be replaced"):
        data.load()
    assert stored() == sorted(contents)
    assert (cache() / IMAGES).read_bytes() == contents[IMAGES]
    assert capfd.readouterr() == ("", "")


def cache_again() -> Path:
    """The cache's folder, to be made anew."""
    shutil.rmtree(cache(), ignore_errors=True)
    return cache()


# Disks


def test_intact_cache_is_only_read(contents, no_network):
    write(cache(), contents)
    before = {p: p.stat().st_mtime_ns for p in data.cache_folder().rglob("*")}
    assert data.load().name == "MNIST"
    assert {p: p.stat().st_mtime_ns for p in data.cache_folder().rglob("*")} == before


def test_cache_that_is_a_link_to_itself(mirror, tmp_path):
    loop(tmp_path / "cache")
    with pytest.raises(
        data.DataError, match=r"could not be stored in .*XDG_CACHE_HOME"
    ):
        data.load()


def test_cached_links_to_themselves_are_replaced(mirror, contents):
    cache().mkdir(parents=True)
    for name in contents:
        loop(cache() / name)
    assert data.load().source == "a download, now in the user's cache folder"
    assert (cache() / IMAGES).read_bytes() == contents[IMAGES]


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


def test_full_disk_leaves_nothing(mirror, contents):
    """The limit on a file's size makes a real write fail in the middle."""
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


def test_abandoned_downloads_are_removed_but_not_running_ones(mirror, contents):
    old, new = (data.cache_folder() / f"incomplete-{n}" for n in ("old", "new"))
    for path in (old, new):
        write(path / "MNIST" / "raw", contents)
    long_ago = time.time() - _download.STALE - 60
    os.utime(old, (long_ago, long_ago))
    assert data.load().name == "MNIST"
    assert new.exists() and not old.exists()


# Kills


def environment(where: Path) -> dict[str, str]:
    """Home, cache and temporary files inside the folder."""
    homes = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(where))
    return os.environ | homes | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


# Forks once everything is imported, kills the copies, and then runs to the end itself.
KILLS = """
    import json, os, signal, sys, time
    from pathlib import Path
    from bnutils import data, models, sweep, train
    from bnutils.data import mnist as _mnist
    from bnutils.data import vision as _torchvision
    {definitions}
    def moment(after):
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        files = [str(p) for p in Path.cwd().rglob("*") if p.is_file()]
        return os.waitstatus_to_exitcode(status), check(files)
    before = undisturbed()
    moments = [moment(after) for after in {moments}]
    print(json.dumps([before, moments, undisturbed()]))
    """


def kills(definitions: str, moments: list[float], where: Path) -> list:
    where.mkdir(exist_ok=True)
    text = textwrap.indent(textwrap.dedent(definitions), "    ")
    code = textwrap.dedent(KILLS.format(definitions=text.strip(), moments=moments))
    command = [sys.executable, "-W", "ignore", "-c", code]
    options = {"env": environment(where), "capture_output": True, "text": True}
    run = subprocess.run(command, cwd=where, timeout=280, **options)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_killed_download(mirror, contents, tmp_path):
    mnist = _torchvision.import_mnist().MNIST
    where = tmp_path / "cache"
    definitions = f"""
        import hashlib, shutil, threading
        from tqdm import tqdm
        tqdm.set_lock(threading.RLock())  # its own is shared with the forks, killed or not
        os.environ.pop("BNUTILS_DATA", None)
        _mnist.FILES.update({dict(_mnist.FILES)})
        mnist = _torchvision.import_mnist().MNIST
        mnist.mirrors, mnist.resources = {mnist.mirrors}, {mnist.resources}
        def undisturbed():
            return data.load().name
        def work():
            shutil.rmtree(data.cache_folder())
            data.load()
        def check(files):
            wrong = []
            for path in (p for p in map(Path, files) if "incomplete-" not in str(p)):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if digest != _mnist.FILES[path.name][1]:
                    wrong.append(path.name)
            return wrong
        """
    before, moments, after = kills(definitions, [0.005, 0.02, 0.04, 0.07], where)
    assert before == after == "MNIST"
    assert [wrong for _, wrong in moments] == [[], [], [], []]
    assert moments[0][0] == -signal.SIGKILL
    assert all((cache() / n).read_bytes() == c for n, c in contents.items())


def test_killed_training_and_sweep_leave_nothing_and_change_nothing(tmp_path):
    definitions = """
        digits = data.load("digits")
        def experiment(seed, epochs):
            train.seed_all(seed)
            net = models.mlp((784, 32, 10))
            return train.fit(net, digits, epochs=epochs, threads=1).loss
        def work(epochs=500):
            return sweep.run(experiment, [(1, epochs), (2, epochs)], progress=False)
        def undisturbed():
            return list(work(1).values())
        def check(files):
            return files
        """
    before, moments, after = kills(definitions, [0, 0.05, 0.2], tmp_path / "run")
    assert moments == [[-signal.SIGKILL, []]] * 3
    assert before == after and len(before) == 2


def notebook(path: Path, number: int) -> bytes:
    """Store a notebook with two cells and no outputs."""
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": text}
        | {"outputs": [], "execution_count": None}
        for i, text in enumerate(["x = 6", f"print({number} * x)"])
    ]
    nb = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(nb), "utf8")
    return path.read_bytes()


def execute(path: Path) -> list[str]:
    return [sys.executable, str(ROOT / "book" / "_tools" / "execute.py"), str(path)]


def printed(path: Path) -> str:
    cells = json.loads(path.read_text("utf8"))["cells"]
    return "".join("".join(o["text"]) for c in cells for o in c["outputs"])


def test_killed_execution_of_a_notebook(tmp_path):
    path = tmp_path / "99_try.ipynb"
    before = notebook(path, 7)
    for after in (0.3, 1.2, 2.0):
        run = subprocess.Popen(execute(path), stdout=subprocess.DEVNULL)
        time.sleep(after)
        run.kill()
        run.wait()
        assert path.read_bytes() == before or printed(path) == "42\n"
    subprocess.run(execute(path), check=True, capture_output=True)
    assert printed(path) == "42\n"
    assert os.listdir(tmp_path) == [path.name]


def test_execution_killed_while_it_writes(tmp_path):
    """Whatever lies beside the notebook then is gone after the next run."""
    path = tmp_path / "99_try.ipynb"
    before = notebook(path, 7)
    code = f"""
        import os, runpy, signal, sys
        sys.argv = {execute(path)[1:]}
        sys.path.insert(0, {str(ROOT / "book" / "_tools")!r})
        os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
        runpy.run_path(sys.argv[0], run_name="__main__")
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    subprocess.run(execute(path), check=True, capture_output=True)
    assert printed(path) == "42\n"
    assert os.listdir(tmp_path) == [path.name]
