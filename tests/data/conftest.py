"""No configuration, an empty cache, small files as the originals, a mirror or none."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import socket
import threading
from pathlib import Path

import pytest
import small_mnist

from bnutils.data import mnist as mnist_files
from bnutils.data.vision import import_mnist


@pytest.fixture(scope="session")
def contents() -> dict[str, bytes]:
    return small_mnist.make_contents()


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path, contents):
    """No configuration, an empty cache, and the small files as the originals."""
    monkeypatch.delenv("BNUTILS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    originals = {
        n: (len(c), hashlib.sha256(c).hexdigest()) for n, c in contents.items()
    }
    monkeypatch.setattr(
        mnist_files, "FILES", {n: originals[n] for n in mnist_files.FILES}
    )


@pytest.fixture
def folder(tmp_path, contents) -> Path:
    """A folder with the four files in it."""
    return small_mnist.write(tmp_path / "mnist", contents)


@pytest.fixture
def mirror(monkeypatch, contents):
    """Let torchvision download, as it does, from a server on this machine."""
    served = {f"/{n}.gz": gzip.compress(c, 1, mtime=0) for n, c in contents.items()}

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
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    mnist = import_mnist().MNIST
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

    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
