"""The built book that the browser tests open, and a server for it."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HTML = Path(os.environ.get("BOOK_HTML", "_build/html")).resolve()
# Resolves once all letters and formulas are drawn.
READY = """async () => {
  await document.fonts.ready;
  if (window.MathJax) await MathJax.startup.promise;
}"""


def pages() -> list[str]:
    """Every page of the built book, relative to its root."""
    folders = (sorted((HTML / d).glob("*.html")) for d in ("book", "notebooks"))
    return [p.relative_to(HTML).as_posix() for folder in folders for p in folder]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *args):
        pass


@contextmanager
def served(handler=Quiet, folder=HTML):
    """Serve the built book, or another folder, for a while; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
