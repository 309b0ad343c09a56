"""torchvision's reader of MNIST, imported beside a torch that it was not built for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import bnutils

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

# One process imports torch, as it is before any torchvision, and forks for each case: a
# declared operator cannot be taken back.
CASES = """
    import json, os, sys, traceback, warnings
    import torch
    import bnutils.data
    warnings.simplefilter("error")
    found = {}
    for name, (folder, before) in json.loads(sys.argv[1]).items():
        reader, writer = os.pipe()
        if not os.fork():
            sys.path.insert(0, folder)
            try:
                exec(before)
                from bnutils.data.vision import import_mnist
                answer = [import_mnist().answer, import_mnist().answer]
                nms = getattr(torch.ops.torchvision, "nms", None)
                answer.append(str(nms and nms.default._schema))
            except BaseException as error:
                answer = [type(error).__name__, str(error)]
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
        os.wait()
        found[name] = json.loads(os.read(reader, 10_000))
    print(json.dumps(found))
    """
REGISTERS_BOTH = """
    import torch, warnings
    warnings.warn("Failed to load image Python extension")
    for name in ("nms", "qnms"):
        torch.library.register_fake(f"torchvision::{name}")(lambda *args: args[0])
    """
REGISTERS_ONE = """
    import torch
    torch.library.register_fake("torchvision::qnms")(lambda *args: args[0])
    """
DECLARED = 'torch.library.define("torchvision::nms", "(Tensor mine) -> Tensor")'
INITS = {  # torchvision/__init__.py, and what happens before it is imported
    "of another torch": (REGISTERS_BOTH, ""),
    "one operator is there": (REGISTERS_ONE, DECLARED),
    "fitting": ("", ""),
    "broken": ("raise RuntimeError('another CUDA')", ""),
    "incomplete": ("raise ImportError('no such file')", ""),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, list]:
    """For each case what the module says, twice, and how ``nms`` is declared; or the error."""
    cases = {}
    for name, (init, before) in INITS.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        package = folder / "torchvision" / "datasets"
        package.mkdir(parents=True)
        (package.parent / "__init__.py").write_text(textwrap.dedent(init))
        (package / "__init__.py").write_text("")
        (package / "mnist.py").write_text("answer = 42\n")
        cases[name] = (str(folder), before)
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CASES), json.dumps(cases)],
        env=os.environ | {"PYTHONPATH": str(Path(bnutils.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_one_of_another_torch_is_imported_all_the_same_and_warns_of_nothing(found):
    first, second, schema = found["of another torch"]
    assert first == second == 42
    assert "Tensor scores, float threshold) -> Tensor" in schema


def test_only_missing_operators_are_declared(found):
    schema = "torchvision::nms(Tensor mine) -> Tensor"
    assert found["one operator is there"] == [42, 42, schema]


def test_a_fitting_one_gets_no_operator_declared(found):
    assert found["fitting"] == [42, 42, "None"]


@pytest.mark.parametrize(
    ("case", "reason"), [("broken", "another CUDA"), ("incomplete", "no such file")]
)
def test_a_broken_one_is_an_import_error_that_says_what_to_do(found, case, reason):
    kind, message = found[case]
    assert kind == "ImportError"
    assert message.startswith(f"torchvision cannot be imported ({reason})")
    assert f"belongs to torch {torch.__version__}" in message
    assert 'data.load("digits")' in message
