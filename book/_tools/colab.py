"""Write the edition of the notebooks for running them: JupyterLab, Colab, VS Code, GitHub.

    python book/_tools/colab.py --out FOLDER [--install REQUIREMENT] [--keep-outputs]
    python book/_tools/colab.py --lab FOLDER
    python book/_tools/colab.py --zip FILE

Each copy is plain Markdown and code with the stored outputs, but for those that a reader is
asked to predict. Solutions fold, in code and in words. With --install a copy starts with a cell
that installs `bnutils`, for example from

    git+https://github.com/OWNER/NAME@TAG

and leaves the packages that are there as they are. The folder of --out must be new or empty.
That of --lab is the reader's own: what is there already stays as it is. With --zip the copies
and the package go into one archive that needs no installation at all. Where BOOK_ADDRESS says
where the web edition stands, the copies lead to it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import normalise
import plain
from provenance import NOTEBOOKS, ROOT, package_files

INSTALL = """# Installs the book's code; run once per session.
%pip install -q --no-deps "bnutils @ {}"
%pip install -q "cloudpickle>=3.0" "psutil>=5.9" "scikit-learn>=1.4" "tqdm>=4.63"
"""
REQUIREMENT = re.compile(r"(git\+(https|file)://|https://|file://)[^\s\"';|&$`\\]+")
HEADING = re.compile(r"^#{1,6} ", re.M)  # where what a question covers ends
CONTENTS = "00_contents"
START = """# Batch Normalization from First Principles

Run a chapter from top to bottom (*Run*, *Run All Cells*), or cell by cell with Shift+Enter.
An output that you are asked to predict is not there yet: it comes when you run the cell.

{chapters}

An exercise is a cell with `...` in it. Replace the dots and run the cell; `exercises.check` says
whether the answer is right or what is off. After a restart of the kernel, run the first code
cell of the chapter again. Hints and solutions fold.

Text and figures: CC BY 4.0. Code: MIT.
"""
READ = "> To read, [the page of this chapter]({}) is better; this copy is for running."
README = """The notebooks of "Batch Normalization from First Principles", with their code.

Unpack, and in this folder:

    pip install torch torchvision numpy matplotlib scikit-learn tqdm cloudpickle psutil jupyterlab
    jupyter lab

Chapter 13 also uses onnx, onnxscript and onnxruntime, if they are installed; chapter 16 a C++
compiler and ninja. The notebooks find the folder bnutils beside them. Chapters that train read
MNIST, which torchvision downloads; with no network they use the digits that scikit-learn ships.
"""


def edition(
    name: str,
    book: plain.Book,
    install: str = "",
    keep_outputs: bool = False,
    note: str = "",
) -> dict:
    """One chapter as a notebook of its own; a note stands above it."""
    page = book.page(name)
    cells = [_markdown(READ.format(page), "read")] if page else []
    if note:
        cells.append(_markdown(note, "note"))
    if install:
        cells.append(_code(INSTALL.format(install), "install", []))
    asked = solution = False  # to predict what comes next; inside a solution
    for cell in book.chapters[name]:
        if cell["cell_type"] == "markdown":
            over = HEADING.search(cell["source"])
            asked = "```{predict}" in cell["source"] or (asked and not over)
            text, solution = plain.around_solutions(
                cell["source"], solution, name, book
            )
            if text:
                cells.append(_markdown(text, cell["id"]))
            continue
        hidden = asked and not keep_outputs
        cells.append(_converted(cell | {"outputs": []} if hidden else cell))
        if words := plain.caption(cell, name, book):
            cells.append(_markdown(words, f"{cell['id']}-caption"))
    return _notebook(cells, name)


def contents(book: plain.Book) -> dict:
    """A notebook that lists the chapters and says how to go on."""
    chapters = [
        f"- [{int(name[:2])} {plain.title(cells)}]({name}.ipynb)"
        for name, cells in book.chapters.items()
    ]
    text = START.format(chapters="\n".join(chapters))
    return _notebook([_markdown(text, "contents")], CONTENTS)


def _notebook(cells: list[dict], name: str) -> dict:
    metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
        "colab": {"name": f"{name}.ipynb", "toc_visible": True},
    }
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _converted(cell: dict) -> dict:
    """A code cell: what folds on the page folds in Jupyter, a solution in Colab as well."""
    source, tags = cell["source"], cell["metadata"].get("tags", [])
    metadata = {}
    if {"hide-input", "hide-cell"} & {*tags}:
        metadata = {"jupyter": {"source_hidden": True}}
    if "solution" in tags:
        source = f"# @title Solution: open it to see the code\n{source}"
        metadata = {"cellView": "form", "jupyter": {"source_hidden": True}}
    return {**_code(source, cell["id"], cell["outputs"]), "metadata": metadata}


def _code(source: str, name: str, outputs: list[dict]) -> dict:
    lines = source.rstrip().splitlines(keepends=True)
    cell = {"cell_type": "code", "id": name, "metadata": {}, "source": lines}
    return {
        **cell,
        "execution_count": None,
        "outputs": [_renumbered(o) for o in outputs],
    }


def _renumbered(output: dict) -> dict:
    return (
        {**output, "execution_count": None} if "execution_count" in output else output
    )


def _markdown(text: str, name: str) -> dict:
    lines = text.splitlines(keepends=True)
    return {"cell_type": "markdown", "id": name[:64], "metadata": {}, "source": lines}


def editions(
    book: plain.Book, install: str = "", keep_outputs: bool = False
) -> dict[str, str]:
    """File name and text of every chapter, and of the contents."""
    notebooks = {CONTENTS: contents(book)}
    for name in book.chapters:
        notebooks[name] = edition(name, book, install, keep_outputs)
    return {f"{name}.ipynb": normalise.text(nb) for name, nb in notebooks.items()}


def load() -> plain.Book:
    """All chapters of this repository."""
    address = os.environ.get("BOOK_ADDRESS", "").strip()
    if address:
        address = f"{address.rstrip('/')}/"
    return plain.load(NOTEBOOKS, ROOT / "book" / "references.bib", address)


def dated() -> tuple[int, ...]:
    """When this copy of the book was last changed, as a zip wants it; 1980 if nobody knows."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    if not seconds:
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds = done.stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return (1980, 1, 1, 0, 0, 0)
    return time.gmtime(int(seconds))[:6]


def archive(book: plain.Book, path: Path) -> None:
    """Write a zip of all notebooks and the package, the same bytes for the same commit."""
    files = editions(book) | {
        "README.txt": README,
        "LICENSE": (ROOT / "LICENSE").read_text("utf8"),
        "LICENSE-text": (ROOT / "LICENSE-text").read_text("utf8"),
    }
    date = dated()
    for source in package_files():
        files[source.relative_to(ROOT).as_posix()] = source.read_text("utf8")
    with zipfile.ZipFile(path, "w") as target:
        for name, text in files.items():
            info = zipfile.ZipInfo(f"batch-norm-book/{name}", date)
            info.external_attr, info.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            target.writestr(info, text)


def fill(folder: Path, texts: dict[str, str]) -> str:
    """Write the notebooks that a reader's folder lacks; what was done, in a line."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in texts if not (folder / name).exists()]
    for name in missing:
        (folder / name).write_text(texts[name], "utf8")
    kept = len(texts) - len(missing)
    told = f"{len(missing)} notebooks written to {folder}"
    if kept:
        told += f", {kept} kept as they were; to have one anew, delete or rename it"
    return told


def main(arguments: list[str]) -> int:
    """Write what the command line asks for; 2 for a mistake in it."""
    parser = argparse.ArgumentParser(
        prog="colab.py", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--out", type=Path, help="a new or empty folder for the notebooks"
    )
    parser.add_argument(
        "--lab", type=Path, help="a folder of the reader's: write what it lacks"
    )
    parser.add_argument(
        "--keep-outputs", action="store_true", help="also those to be predicted"
    )
    parser.add_argument("--install", default="", help="address that pip installs from")
    parser.add_argument(
        "--zip", type=Path, help="write one archive with the package as well"
    )
    options = parser.parse_args(arguments)
    if options.install and not REQUIREMENT.fullmatch(options.install):
        parser.error(
            f"not an address that pip installs from: {options.install!r}; expected for example "
            "git+https://..., without spaces (write %20) and characters of the shell"
        )
    if not (options.out or options.zip or options.lab):
        parser.error("nothing to write: give --out, --lab or --zip")
    if options.out and options.out.exists() and any(options.out.iterdir()):
        parser.error(f"{options.out} is not empty: give a new folder")
    book = load()
    # All of them, before the first is written.
    texts = editions(book, options.install, options.keep_outputs)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (options.out / name).write_text(text, "utf8")
        print(f"{len(texts)} notebooks written to {options.out}")
        if not options.install:
            print(
                "They install nothing: for Colab name the package, for example "
                "make colab INSTALL=git+https://github.com/OWNER/NAME@TAG"
            )
    if options.lab:
        print(fill(options.lab, texts))
    if options.zip:
        archive(book, options.zip)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
