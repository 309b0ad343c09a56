"""What must hold for the package as a whole: small modules, documented names, lazy imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "bnutils"
MODULES = sorted(PACKAGE.rglob("*.py"))
each = pytest.mark.parametrize(
    "path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE))
)
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def docstring(node: ast.AST) -> ast.Expr | None:
    """The statement that documents a module, class or function."""
    first = node.body[0] if node.body else None
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return first if text and isinstance(first.value.value, str) else None


def code_lines(path: Path) -> set[int]:
    """Numbers of the lines that are neither blank, comment nor docstring."""
    text = path.read_text("utf8")
    lines = {
        i
        for i, line in enumerate(text.splitlines(), 1)
        if line.strip() and line.strip()[0] != "#"
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | DEFINITIONS) and (
            expression := docstring(node)
        ):
            lines -= set(range(expression.lineno, expression.end_lineno + 1))
    return lines


@each
def test_modules_are_short(path):
    assert len(code_lines(path)) <= 150


@each
def test_functions_are_short(path):
    lines = code_lines(path)
    for node in ast.walk(ast.parse(path.read_text("utf8"))):
        if isinstance(node, ast.FunctionDef):
            own = [
                i for i in range(node.body[0].lineno, node.end_lineno + 1) if i in lines
            ]
            assert len(own) <= 30, f"{node.name} has {len(own)} lines"


@each
def test_public_names_are_documented_and_typed(path):
    if path.parent.name == "exercises" and path.name != "__init__.py":
        return  # checkers are reached by number, through check()
    for node in ast.parse(path.read_text("utf8")).body:
        if isinstance(node, DEFINITIONS) and not node.name.startswith("_"):
            assert docstring(node), node.name
            if isinstance(node, ast.FunctionDef):
                assert node.returns, f"{node.name} does not say what it returns"


@each
def test_nothing_prints(path):
    calls = [
        n
        for n in ast.walk(ast.parse(path.read_text("utf8")))
        if isinstance(n, ast.Call)
    ]
    assert not [c for c in calls if getattr(c.func, "id", "") == "print"]


def test_importing_the_package_imports_nothing_else():
    code = "import sys, bnutils; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_plot_needs_no_torch():
    code = "import sys; from bnutils import plot; print('torch' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"
