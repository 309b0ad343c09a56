"""What an import brings along: by lists of modules, since times depend on the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = sorted(p.stem for p in (ROOT / "bnutils").glob("*.py") if p.stem[0] != "_")
WITHOUT_TORCH = {"arrays", "exercises", "plot", "progress", "sweep"}
# Costly, and needed by a few functions only, which import them when called.
LAZY = {"IPython", "PIL", "matplotlib", "sklearn", "scipy", "pandas", "torchvision"}
LAZY |= {"torch._dynamo", "torch._inductor", "torch.testing", "tqdm.auto"}


@cache
def loaded(statement: str) -> frozenset[str]:
    """Names of all modules after a statement in a fresh process."""
    code = f"{statement}; import json, sys; print(json.dumps(list(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return frozenset(json.loads(run.stdout))


def foreign(modules: frozenset[str]) -> set[str]:
    """Top-level names that belong to neither the standard library nor the package.

    Compiled extensions register helpers of their own (``_cython_...``): not counted.
    """
    start = {name.partition(".")[0] for name in loaded("pass")}
    own = {*sys.stdlib_module_names, *start, "bnutils", "cython_runtime"}
    names = {name.partition(".")[0] for name in modules} - own
    return {name for name in names if not name.startswith("_cython")}


def test_the_package_alone_imports_only_itself():
    assert loaded("import bnutils") - loaded("pass") == {"bnutils"}


@pytest.mark.parametrize("name", sorted(WITHOUT_TORCH))
def test_modules_that_need_no_torch_import_none(name):
    names = loaded(f"import bnutils.{name}")
    assert "torch" not in names and "sklearn" not in names
    if name != "plot":
        assert foreign(names) <= {"numpy"}


@pytest.mark.parametrize("name", sorted({*PUBLIC} - WITHOUT_TORCH))
def test_modules_that_need_torch_import_nothing_else_that_costs(name):
    brought = loaded(f"import bnutils.{name}") - loaded("import torch")
    assert foreign(brought) <= {"numpy"}, foreign(brought)
    assert not brought & LAZY


def test_the_check_sees_what_is_imported():
    assert "torch" in loaded("import bnutils.norm")
    assert "matplotlib" in foreign(loaded("import bnutils.plot"))
    assert foreign(loaded("import sklearn")) >= {"numpy", "sklearn"}
