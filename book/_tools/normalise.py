"""Bring notebooks into the one form in which they are stored.

    python book/_tools/normalise.py [notebook ...]     # default: all; exit 1 if one changed

Keeps sources, outputs and tags; drops what changes from run to run or from editor to editor
(timings, front-end state, kernel details) and gives each cell a stable id.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import provenance

CELL_METADATA = ("tags", "mystnb", "jupyter")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def text(nb: dict) -> str:
    """A notebook as it is stored: one-space indent, sorted keys, newline at the end."""
    return json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _lines(value: str | list[str]) -> list[str]:
    return "".join(value).splitlines(keepends=True)


def _cell(cell: dict, seen: set[str]) -> dict:
    source = "".join(cell["source"]).rstrip()
    kept = {k: v for k, v in cell["metadata"].items() if k in CELL_METADATA and v}
    name = cell.get("id", "")
    if not name or name in seen:
        name = hashlib.sha256(f"{len(seen)}{source}".encode()).hexdigest()[:8]
    seen.add(name)
    new = {"id": name, "cell_type": cell["cell_type"], "metadata": kept}
    new["source"] = _lines(source)
    if cell["cell_type"] == "code":
        new["execution_count"] = cell.get("execution_count")
        new["outputs"] = _merged([_output(o) for o in cell.get("outputs", [])])
    return new


def _merged(outputs: list[dict]) -> list[dict]:
    """Join neighbouring pieces of one stream: how it was cut depends on timing."""
    merged: list[dict] = []
    for output in outputs:
        last = merged[-1] if merged else {}
        stream = output["output_type"] == "stream"
        if stream and last.get("name") == output["name"]:
            last["text"] = _lines("".join(last["text"] + output["text"]))
        else:
            merged.append(output)
    return merged


def _output(output: dict) -> dict:
    output = dict(output)
    if "text" in output:
        output["text"] = _lines(output["text"])
    if "data" in output:
        output["data"] = {
            kind: value if kind == "application/json" else _lines(value)
            for kind, value in output["data"].items()
        }
    return output


def normalise(nb: dict) -> dict:
    """The stored form of a notebook."""
    seen: set[str] = set()
    metadata = {
        "kernelspec": KERNEL,
        "language_info": {"name": "python", "file_extension": ".py"},
    }
    if provenance.KEY in nb["metadata"]:
        metadata[provenance.KEY] = nb["metadata"][provenance.KEY]
    cells = [_cell(cell, seen) for cell in nb["cells"]]
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def main(arguments: list[str]) -> int:
    """Rewrite the notebooks that are not in the stored form; 1 if there were any."""
    paths = map(Path, arguments) if arguments else provenance.NOTEBOOKS.glob("*.ipynb")
    changed = 0
    for path in sorted(paths):
        old = path.read_text("utf8")
        new = text(normalise(json.loads(old)))
        if new != old:
            path.write_text(new, "utf8")
            print(f"normalised {path.name}")
            changed = 1
    return changed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
