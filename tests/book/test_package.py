"""The package as a whole: documented names, no prints, imports that bring little along."""

from __future__ import annotations

import ast
import json
import pkgutil
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import bnutils

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "bnutils"
MODULES = sorted(PACKAGE.rglob("*.py"))
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
each = pytest.mark.parametrize(
    "path", MODULES, ids=lambda p: p.relative_to(PACKAGE).as_posix()
)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf8"))


@each
def test_public_names_are_documented_and_typed(path):
    if path.parent.name == "exercises" and path.name != "__init__.py":
        return  # checkers are reached by number, through check()
    for node in tree(path).body:
        if isinstance(node, DEFINITIONS) and not node.name.startswith("_"):
            if any("finding(" in ast.unparse(d) for d in node.decorator_list):
                continue  # reached by code; the entry above the function tells
            assert ast.get_docstring(node), node.name
            if isinstance(node, ast.FunctionDef):
                assert node.returns, f"{node.name} does not say what it returns"


def test_the_map_names_every_module_and_folder():
    told = ast.get_docstring(tree(PACKAGE / "__init__.py"))
    assert sorted(re.findall(r"^``([a-z]\w*)``", told, re.M)) == sorted(PUBLIC)


def test_a_module_is_there_after_importing_the_package_alone():
    code = (
        "import sys, bnutils; assert 'bnutils.doctor' not in sys.modules; "
        "assert 'doctor' in dir(bnutils); bnutils.doctor.examine"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(AttributeError, match=r"'docter'; its modules: .*doctor, "):
        bnutils.docter  # noqa: B018


@each
def test_nothing_prints(path):
    calls = (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call))
    assert not [c for c in calls if getattr(c.func, "id", "") == "print"]


# What an import brings along: by lists of modules, since times depend on the machine.

PUBLIC = [m.name for m in pkgutil.iter_modules([str(PACKAGE)]) if m.name[0] != "_"]
WITHOUT_TORCH = ["arrays", "exercises", "progress", "sweep", "plot"]
WITH_TORCH = [name for name in PUBLIC if name not in WITHOUT_TORCH]
# Costly, and needed by a few functions only, which import them when called.
LAZY = {"IPython", "PIL", "matplotlib", "onnx", "pandas", "scipy", "sklearn"}
LAZY |= {"torch._dynamo", "torch._inductor", "torch.testing", "torchvision"}
LAZY |= {"tqdm.auto"}
# Small, and what a module is about: processes.
NEEDED = {"sync": {"cloudpickle", "psutil"}}

IMPORT_IN_TURN = """
import importlib, json, sys
brought = {}
for name in sys.argv[1:]:
    before = set(sys.modules)
    importlib.import_module(name)
    brought[name] = sorted(set(sys.modules) - before)
print(json.dumps(brought))
"""


@cache
def brought_in_turn(*names: str) -> dict[str, set[str]]:
    """What each module loads that those before it have not, in one fresh process."""
    command = [sys.executable, "-c", IMPORT_IN_TURN, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name: set(found) for name, found in json.loads(done.stdout).items()}


def light() -> dict[str, set[str]]:
    """What the modules bring that need no torch; the package itself comes first."""
    names = ["bnutils", *(f"bnutils.{name}" for name in WITHOUT_TORCH)]
    return brought_in_turn("json", *names)


def heavy() -> dict[str, set[str]]:
    """What the others bring that torch has not."""
    return brought_in_turn("torch", *(f"bnutils.{name}" for name in WITH_TORCH))


def foreign(modules: set[str]) -> set[str]:
    """Top-level names that belong to neither the standard library nor the package.

    Compiled extensions register helpers of their own (``_cython_...``): not counted.
    """
    known = {*sys.stdlib_module_names, "bnutils", "cython_runtime"}
    names = {name.partition(".")[0] for name in modules} - known
    return {name for name in names if not name.startswith("_cython")}


def test_the_package_alone_imports_only_itself():
    assert light()["bnutils"] == {"bnutils"}


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_modules_that_need_no_torch_import_none(name):
    brought = light()[f"bnutils.{name}"]
    assert not {"torch", "sklearn"} & brought
    if name != "plot":
        assert foreign(brought) <= {"numpy"}


@pytest.mark.parametrize("name", WITH_TORCH)
def test_modules_that_need_torch_import_nothing_else_that_costs(name):
    brought = heavy()[f"bnutils.{name}"]
    assert foreign(brought) <= {"numpy"} | NEEDED.get(name, set())
    assert not LAZY & brought


def test_the_check_sees_what_is_imported():
    assert "torch" in heavy()["torch"]
    assert "matplotlib" in foreign(light()["bnutils.plot"])
    assert set(WITHOUT_TORCH) < set(PUBLIC)
