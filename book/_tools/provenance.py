"""What a notebook's stored outputs depend on, as one fingerprint.

The fingerprint covers the notebook's own code cells and every module of ``bnutils`` that they
import, directly or through other modules. The C++ counts for those notebooks only that ask for it.
``execute.py`` writes it into the notebook's metadata next to the versions that produced the
outputs; a test fails when it no longer fits.

It is taken of what the code *does*: of its syntax tree, without comments, docstrings, annotations,
formatting and the order of neighbouring imports. To explain code better therefore costs no
execution, which for all chapters takes most of an hour. Where a cell prints a piece of source
text, comments and all, the fingerprint does not see a new comment: such cells carry
``nbval-check-output``, so that every test run compares what they print. The cells that check an
exercise carry it too, so the checkers do not count: whatever they say is compared at every run.
Nor does the reader of the offline digits: stored outputs come from MNIST, and ``execute.py``
refuses to make them from anything else.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from itertools import groupby
from pathlib import Path

from pygments.lexers.c_cpp import CppLexer
from pygments.token import Comment, String

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
KEY = "bnutils"  # in the notebook's metadata
NEVER_COUNT = ("bnutils.exercises", "bnutils.data.digits")
CPP_SUFFIXES = {".h", ".hpp", ".cpp"}


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
    for node in ast.walk(_without_types(ast.parse(source))):
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
    """Every module of ``bnutils`` that a notebook uses, by name, but for NEVER_COUNT."""
    pending = imports("\n".join(code_cells(nb)))
    done: dict[str, Path] = {}
    while pending:
        name = pending.pop()
        if name in done or name.startswith(NEVER_COUNT):
            continue
        path = done[name] = module_file(name)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        pending |= imports(path.read_text("utf8"), package)
        if "." in name:
            pending.add(name.rpartition(".")[0])
    return dict(sorted(done.items()))


def asks_for_cpp(nb: dict) -> bool:
    """Whether a notebook may load the kernel: it names ``bnutils.fast``, or an engine.

    Most chapters import the fast layer by way of ``bnutils.train``, which loads the kernel for
    ``engine="fused"`` only. A test holds the package to that.
    """
    code = "\n".join(code_cells(nb))
    named = {
        node.arg for node in ast.walk(ast.parse(code)) if isinstance(node, ast.keyword)
    }
    return "engine" in named or "bnutils.fast" in imports(code)


def cpp_files(used: Iterable[Path]) -> list[Path]:
    """The C++ that modules compile: all that stands in a folder ``csrc`` beside one of them."""
    folders = {path.parent / "csrc" for path in used}
    files = (file for folder in folders for file in folder.glob("*"))
    return sorted(file for file in files if file.suffix in CPP_SUFFIXES)


def package_files() -> list[Path]:
    """All that the package consists of: its modules and their C++."""
    files = (ROOT / "bnutils").rglob("*")
    return sorted(file for file in files if file.suffix in {".py", *CPP_SUFFIXES})


def fingerprint(nb: dict, chapter: str) -> str:
    """SHA-256 over what the code cells and the modules they use do."""
    used = modules(nb, chapter)
    parts = [python_meaning(source) for source in code_cells(nb)]
    for name, path in used.items():
        parts += [name, python_meaning(path.read_text("utf8"), documented=True)]
    for path in cpp_files(used.values()) if asks_for_cpp(nb) else []:
        parts += [path.name, cpp_meaning(path.read_text("utf8"))]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


@cache  # most chapters use the same modules
def python_meaning(source: str, *, documented: bool = False) -> str:
    """The syntax tree of Python code as text, without what changes no output.

    Parameters
    ----------
    source : str
        A module or a cell. IPython's own syntax (``%magic``, ``!command``) is an error; the
        chapters have none.
    documented : bool
        Whether the first string is a docstring, as in a module. In a cell it is not: a string
        in the last line of a cell is shown.
    """
    tree = _without_types(ast.parse(source))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            _drop_docstring(node)
        if isinstance(node, ast.JoinedStr):
            node.values = [part for part in node.values if not _is_empty_text(part)]
        for field, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                setattr(node, field, _with_sorted_imports(value))
    if documented:
        _drop_docstring(tree)
        tree.body = [node for node in tree.body if not _is_answer_of_last_resort(node)]
    return _dump(tree)


def _is_answer_of_last_resort(node: ast.stmt) -> bool:
    """Whether a statement only answers what raised an AttributeError before, or lists names."""
    return isinstance(node, ast.FunctionDef) and node.name in {"__getattr__", "__dir__"}


class _Untyped(ast.NodeTransformer):
    """Takes out what only a type checker reads.

    What is said of a field of a class stays a field, since dataclasses ask which there are.
    """

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and not _is_special(field.annotation):
                field.annotation = None
        fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
        self._kept.update(map(id, fields))
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        if id(node) in self._kept:
            return node
        return node.value and ast.Assign([node.target], node.value)

    def visit_Assign(self, node: ast.Assign) -> ast.stmt | None:
        names = [getattr(target, "id", "") for target in node.targets]
        return None if names == ["TYPE_CHECKING"] else node

    def visit_If(self, node: ast.If) -> ast.stmt | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt | None:
        if node.module == "__future__":
            node.names = [one for one in node.names if one.name != "annotations"]
        if node.module == "typing":
            node.names = [one for one in node.names if one.name != "TYPE_CHECKING"]
        return node if node.names else None

    def __init__(self) -> None:
        self._kept: set[int] = set()


def _without_types(tree: ast.Module) -> ast.Module:
    return _Untyped().visit(tree)


def _is_special(annotation: ast.expr) -> bool:
    """Whether a dataclass treats a field otherwise for its annotation."""
    return any(
        name in ast.dump(annotation) for name in ("ClassVar", "InitVar", "KW_ONLY")
    )


def _drop_docstring(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> None:
    """Remove the statement that documents a module, class or function."""
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]


def _with_sorted_imports(statements: list[ast.stmt]) -> list[ast.stmt]:
    """Put imports that follow each other in one order, one name a statement.

    ruff sorts and joins them anew when one is added, which changes nothing that is printed.
    """
    result: list[ast.stmt] = []
    for are_imports, group in groupby(statements, _is_import):
        if are_imports:
            single = (one for statement in group for one in _single_imports(statement))
            result += sorted(single, key=_dump)
        else:
            result += group
    return result


def _is_import(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Import | ast.ImportFrom)


def _single_imports(statement: ast.Import | ast.ImportFrom) -> list[ast.stmt]:
    """Split ``from a import b, c`` into a statement for each name."""
    if isinstance(statement, ast.Import):
        return [ast.Import([name]) for name in statement.names]
    module, level = statement.module, statement.level
    return [ast.ImportFrom(module, [name], level) for name in statement.names]


def _dump(value: object) -> str:
    """``ast.dump`` in a form that all Pythons share.

    ast.dump itself will not do: newer Pythons have new fields, empty in older code, and leave
    out empty ones. Here none is shown.
    """
    if isinstance(value, ast.AST):
        fields = (
            (name, field) for name, field in ast.iter_fields(value) if name != "kind"
        )
        shown = (f"{n}={_dump(v)}" for n, v in fields if v is not None and v != [])
        return f"{type(value).__name__}({', '.join(shown)})"
    if isinstance(value, list):
        return f"[{', '.join(map(_dump, value))}]"
    return repr(value)


def _is_empty_text(node: ast.expr) -> bool:
    """Whether a part of an f-string is empty: Python 3.12 ends some of them so."""
    return isinstance(node, ast.Constant) and node.value == ""


@cache
def cpp_meaning(source: str) -> str:
    """C++ without comments, and without whitespace except in strings."""
    kept = []
    for kind, text in CppLexer().get_tokens(source):
        if kind in String:
            kept.append(text)
        elif (
            kind not in Comment
            or kind in Comment.Preproc
            or kind in Comment.PreprocFile
        ):
            kept.append("".join(text.split()))
    return "".join(kept)


def uses_data(nb: dict, chapter: str) -> bool:
    """Whether a notebook's outputs come from the data set."""
    return "bnutils.data" in imports("\n".join(code_cells(nb)))
