"""What a notebook's stored outputs depend on, as one fingerprint.

The fingerprint covers the notebook's own code cells and every module of ``bnutils`` that they
import, directly or through other modules. ``execute.py`` writes it into the notebook's metadata
next to the versions that produced the outputs; a test fails when it no longer fits.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
KEY = "bnutils"  # in the notebook's metadata


def code_cells(nb: dict) -> list[str]:
    """Sources of the code cells of a notebook, in order."""
    sources = (c["source"] for c in nb["cells"] if c["cell_type"] == "code")
    return ["".join(s) for s in sources]


def module_file(name: str) -> Path | None:
    """File of a module of the package, None for any other name."""
    if name.split(".")[0] != "bnutils":
        return None
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


def imports(source: str, package: str = "") -> set[str]:
    """Names of the modules of ``bnutils`` that a piece of code may import.

    ``package`` is the package the code belongs to, for its relative imports.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base]).strip(".")
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return {name for name in found if module_file(name)}


def modules(nb: dict, chapter: str) -> dict[str, Path]:
    """Every module of ``bnutils`` that a notebook uses, by name.

    The checkers of a chapter's exercises are imported by number when an answer is checked; they
    count as imported by the notebook of that chapter.
    """
    pending = imports("\n".join(code_cells(nb)))
    if "bnutils.exercises" in pending and module_file(f"bnutils.exercises.ch{chapter}"):
        pending.add(f"bnutils.exercises.ch{chapter}")
    done: dict[str, Path] = {}
    while pending:
        name = pending.pop()
        if name in done:
            continue
        path = done[name] = module_file(name)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        pending |= imports(path.read_text("utf8"), package)
        if "." in name:
            pending.add(name.rpartition(".")[0])
    return dict(sorted(done.items()))


def fingerprint(nb: dict, chapter: str) -> str:
    """SHA-256 over the code cells and the modules they use."""
    digest = hashlib.sha256()
    for source in code_cells(nb):
        digest.update(source.encode() + b"\0")
    for name, path in modules(nb, chapter).items():
        text = path.read_text("utf8").replace("\r\n", "\n")
        digest.update(name.encode() + b"\0" + text.encode() + b"\0")
    return digest.hexdigest()


def uses_data(nb: dict, chapter: str) -> bool:
    """Whether a notebook's outputs come from the data set."""
    return "bnutils.data" in imports("\n".join(code_cells(nb)))
