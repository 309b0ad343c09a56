"""Write the edition of the notebooks for Colab, or for any Jupyter without the book.

    python book/_tools/colab.py --out FOLDER [--install REQUIREMENT] [--zip FILE]

Each copy is plain Markdown and code, with the stored outputs. With --install it starts with a
cell that installs `bnutils`, for example from

    git+https://github.com/OWNER/NAME@TAG

and leaves the packages that are there as they are. The folder must be new or empty. With --zip
the copies and the package go into one archive that needs no installation at all.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import zipfile
from pathlib import Path

import plain
from provenance import NOTEBOOKS, ROOT, package_files

INSTALL = """# Installs the book's code; run once per session.
%pip install -q --no-deps "bnutils @ {}"
%pip install -q "cloudpickle>=3.0" "psutil>=5.9" "scikit-learn>=1.4" "tqdm>=4.63"
"""
REQUIREMENT = re.compile(r"(git\+(https|file)://|https://|file://)[^\s\"';|&$`\\]+")
README = """The notebooks of "Batch Normalization from First Principles", with their code.

Unpack, and in this folder:

    pip install torch torchvision numpy matplotlib scikit-learn tqdm cloudpickle psutil jupyterlab
    jupyter lab

Chapter 13 also uses onnx, onnxscript and onnxruntime, if they are installed; chapter 16 a C++
compiler and ninja. The notebooks find the folder bnutils beside them. Chapters that train read
MNIST, which torchvision downloads; with no network they use the digits that scikit-learn ships.
"""


def edition(name: str, book: plain.Book, install: str = "") -> dict:
    """One chapter as a notebook of its own."""
    cells = []
    if install:
        cells.append(_code(INSTALL.format(install), "install", []))
    for cell in book.chapters[name]:
        if cell["cell_type"] == "markdown":
            text = plain.markdown(cell["source"], name, book)
            if text:
                cells.append(_markdown(text, cell["id"]))
            continue
        cells.append(_converted(cell))
        if note := plain.caption(cell, name, book):
            cells.append(_markdown(note, f"{cell['id']}-caption"))
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
    """A code cell; a solution folds in Colab, as it does in Jupyter."""
    source, tags = cell["source"], cell["metadata"].get("tags", [])
    metadata = {}
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


def editions(book: plain.Book, install: str = "") -> dict[str, str]:
    """Every chapter's file name and text."""
    return {
        f"{name}.ipynb": json.dumps(
            edition(name, book, install), indent=1, ensure_ascii=False
        )
        + "\n"
        for name in book.chapters
    }


def load() -> plain.Book:
    """All chapters of this repository."""
    return plain.load(NOTEBOOKS, ROOT / "book" / "references.bib")


def archive(book: plain.Book, path: Path) -> None:
    """Write a zip of all notebooks and the package, the same bytes each time."""
    files = editions(book) | {
        "README.txt": README,
        "LICENSE": (ROOT / "LICENSE").read_text("utf8"),
    }
    for source in package_files():
        files[source.relative_to(ROOT).as_posix()] = source.read_text("utf8")
    with zipfile.ZipFile(path, "w") as target:
        for name, text in files.items():
            info = zipfile.ZipInfo(f"batch-norm-book/{name}")  # dated 1980, always
            info.external_attr, info.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            target.writestr(info, text)


def main(arguments: list[str]) -> int:
    """Write what the command line asks for; 2 for a mistake in it."""
    parser = argparse.ArgumentParser(
        prog="colab.py", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--out", type=Path, help="a new or empty folder for the notebooks"
    )
    parser.add_argument("--install", default="", help="address that pip installs from")
    parser.add_argument(
        "--zip", type=Path, help="write one archive with the package as well"
    )
    options = parser.parse_args(arguments)
    if options.install and not REQUIREMENT.fullmatch(options.install):
        parser.error(
            f"not an address that pip installs from: {options.install!r}; expected git+https://..."
        )
    if not (options.out or options.zip):
        parser.error("nothing to write: give --out or --zip")
    if options.out and options.out.exists() and any(options.out.iterdir()):
        parser.error(f"{options.out} is not empty: give a new folder")
    book = load()
    texts = editions(book, options.install)  # all, before the first is written
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (options.out / name).write_text(text, "utf8")
    if options.zip:
        archive(book, options.zip)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
