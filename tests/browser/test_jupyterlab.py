"""The edition for running, in JupyterLab as a reader has it: run, answer, interrupt."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = (
    60_000  # a minute, in Playwright's unit, for JupyterLab to start on a busy machine
)
# All cells stand in the page, those out of sight too, so that their text can be read.
SETTINGS = Path("@jupyterlab/notebook-extension/tracker.jupyterlab-settings")
# `make lab` itself, with options of its own.
LINE = re.search(r"\$\(LAB\)/bin/jupyter lab (.*)", (ROOT / "Makefile").read_text())[1]
NOTEBOOK = "window.jupyterapp.shell.currentWidget"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that shows what `make lab` writes."""
    pytest.importorskip("jupyterlab")
    home = tmp_path_factory.mktemp("a home with spaces")
    chapters, settings = home / "lab", home / "settings"
    subprocess.run(
        [sys.executable, ROOT / "book/_tools/colab.py", "--lab", chapters], check=True
    )
    (settings / SETTINGS).parent.mkdir(parents=True)
    (settings / SETTINGS).write_text('{"windowingMode": "none"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "BNUTILS_DATA": "digits",
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    options = ["--no-browser", f"--port={port}", "--allow-root"]
    options += ["--expose-app-in-browser"]
    options += ["--IdentityProvider.token=", "--ServerApp.port_retries=0"]
    line = LINE.replace("$(LABFLAGS)", " ".join(options)).split()
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *line],
            cwd=home,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            address = f"http://127.0.0.1:{port}/lab"
            wait_for(address, server, home / "log")
            yield address
        finally:
            server.terminate()
            server.wait(30)


def wait_for(address: str, server: subprocess.Popen, log: Path):
    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            urlopen(address).close()
            return
        except URLError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


class Notebook:
    """A notebook that is open in JupyterLab."""

    def __init__(self, page):
        self.page = page

    def cells(self) -> list[dict]:
        return self.page.evaluate(f"{NOTEBOOK}.content.model.toJSON().cells")

    def place(self, text: str) -> int:
        """Of the first code cell with that text."""
        return next(
            i
            for i, cell in enumerate(self.cells())
            if cell["cell_type"] == "code" and text in "".join(cell["source"])
        )

    def run_all(self):
        self.page.evaluate(
            "window.jupyterapp.commands.execute('notebook:run-all-cells')"
        )

    def run(self, place: int, source: str | None = None) -> str:
        """Run one cell, with other code if it is given; the text of its outputs."""
        self.page.evaluate(
            f"""async ([place, source]) => {{
              const book = {NOTEBOOK}.content;
              if (source) book.widgets[place].model.sharedModel.setSource(source);
              book.activeCellIndex = place;
              await window.jupyterapp.commands.execute('notebook:run-cell');
            }}""",
            [place, source],
        )
        return text_of(self.cells()[place])


def text_of(cell: dict) -> str:
    parts = []
    for output in cell["outputs"]:
        parts.append(output.get("text", ""))
        parts.append(output.get("data", {}).get("text/plain", ""))
        parts.append(output.get("evalue", ""))
    return "\n".join("".join(part) for part in parts)


@pytest.fixture
def open_notebook(lab, browser):
    contexts = []

    def open_notebook(name: str) -> Notebook:
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS)
        page.goto(f"{lab}/tree/{name}.ipynb?reset")  # nothing of the notebook before
        page.wait_for_function(
            f"""(name) => window.jupyterapp && {NOTEBOOK}?.context?.path === name
              && {NOTEBOOK}.sessionContext?.session?.kernel?.status === 'idle'""",
            arg=f"{name}.ipynb",
        )
        return Notebook(page)

    yield open_notebook
    for context in contexts:
        context.close()


def test_a_chapter_runs_reads_and_takes_answers(open_notebook):
    notebook = open_notebook("04_batchnorm1d_from_scratch")
    notebook.run_all()
    kinds = [
        (cell["id"], output.get("name") or output["output_type"])
        for cell in notebook.cells()
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    ]
    assert len(kinds) > 20
    assert not [kind for kind in kinds if kind[1] in ("stderr", "error")]

    texts = notebook.page.locator(".jp-RenderedMarkdown").all_inner_texts()
    assert len(texts) > 20
    for raw in ("```{", "{ref}", "{cite}", ":::", "{eq}", "\\begin{"):
        assert not [text for text in texts if raw in text], raw
    broken = "[...document.images].filter((image) => !image.naturalWidth).length"
    assert notebook.page.evaluate(broken) == 0

    place = notebook.place('exercises.check("04.1"')
    source = "".join(notebook.cells()[place]["source"])
    assert "not answered yet" in text_of(notebook.cells()[place])
    solution = "".join(
        next(
            cell["source"]
            for cell in notebook.cells()[place + 1 :]
            if cell["cell_type"] == "code"
        )
    )
    wrong = source.replace("...", "return 0")
    assert wrong != source
    said = notebook.run(place, wrong)
    assert "right" not in said and "not answered" not in said
    assert "right" in notebook.run(place, solution)


def test_a_training_can_be_interrupted_and_says_what_is_missing(open_notebook):
    notebook = open_notebook("08_mnist")
    search = notebook.place("RATES = (0.03, 0.1, 0.3, 1.0)")
    for place, cell in enumerate(notebook.cells()[:search]):
        if cell["cell_type"] == "code":
            notebook.run(place)
    source = "".join(notebook.cells()[search]["source"])
    notebook.page.evaluate(
        f"""([place, source]) => {{
          const book = {NOTEBOOK}.content;
          book.widgets[place].model.sharedModel.setSource(source);
          book.activeCellIndex = place;
          window.stopped = false;
          window.jupyterapp.commands.execute('notebook:run-cell')
            .then(() => {{ window.stopped = true; }});
        }}""",
        [search, f"epochs = 300  # long enough to be interrupted\n{source}"],
    )
    # The bar says that a run is in work; its spaces are not plain ones.
    bar = f"{NOTEBOOK}.content.widgets[{search}].outputArea.node.textContent"
    notebook.page.wait_for_function(rf"() => /run\s[1-7]\sof\s8/.test({bar})")
    start = time.monotonic()
    notebook.page.evaluate("window.jupyterapp.commands.execute('kernelmenu:interrupt')")
    notebook.page.wait_for_function("() => window.stopped")
    assert time.monotonic() - start < 15
    said = text_of(notebook.cells()[search])
    assert re.search(r"interrupted after [0-7] of 8 runs", said), said
    # The table needs all eight runs: it says why one is missing.
    said = notebook.run(notebook.place("chosen, rows = {}, []"))
    assert "no result for" in said, said
    assert re.search(r"interrupted after [0-7] of 8 runs", said), said


def test_a_plate_is_shown_as_a_picture(open_notebook):
    page = open_notebook("18_where_it_goes").page
    picture = page.locator('.jp-RenderedMarkdown img[src^="data:image/png"]').first
    picture.scroll_into_view_if_needed()
    assert picture.evaluate("e => e.decode().then(() => e.naturalWidth > 2 * 700)")
    assert picture.bounding_box()["width"] < 800
    assert picture.get_attribute("alt").startswith("MLP. Two columns")
