"""``python -m bnutils`` says what is here and what will not run; the ready-made environments."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from bnutils import __main__ as environment

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text("utf8")


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    monkeypatch.setenv("BNUTILS_DATA", "digits")


def test_it_asks_for_the_packages_and_versions_of_pyproject():
    listed = re.search(r"^dependencies = \[(.*?)^\]", PYPROJECT, re.M | re.S).group(1)
    assert dict(re.findall(r'"([\w-]+)>=([\d.]+)"', listed)) == environment.REQUIRED


def test_where_all_is_here_the_status_is_0(capsys):
    assert environment.main() == 0
    said = capsys.readouterr().out
    assert "All that every chapter needs is here." in said
    assert f"torch         {metadata.version('torch')}" in said
    assert "the offline digits, as BNUTILS_DATA asks" in said


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch, capsys):
    known = metadata.version

    def version(name):
        if name == "psutil":
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "version", version)
    assert environment.main() == 1
    said = capsys.readouterr().out
    assert 'psutil        MISSING: pip install "psutil>=5.9"' in said
    assert "will not all run: see psutil." in said


@pytest.mark.parametrize(
    ("version", "too_old"),
    [("2.3.1+cpu", True), ("2.4.0", False), ("2.13.0+cu128", False), ("1.13", True)],
)
def test_versions_are_compared_as_numbers(monkeypatch, version, too_old):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert ("TOO OLD" in environment._package_problem("torch")) == too_old


def test_without_a_torch_that_loads_there_is_a_report_and_no_traceback(
    monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "torch", None)  # what makes an import fail
    assert environment.main() == 1
    said = capsys.readouterr().out
    assert re.search(r"^torch +\S+ BROKEN: ", said, re.M)
    assert "chapter 16" not in said


def test_a_folder_without_mnist_is_a_problem_and_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setenv("BNUTILS_DATA", str(ROOT / "tests" / "norm"))
    assert environment.main() == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "data PROBLEM: no MNIST in" in said
    assert 'or use the offline digits with data.load("digits")' in said


def test_what_one_chapter_lacks_is_said_and_leaves_the_status_0(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))  # nothing compiled yet
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    find = environment.importlib.util.find_spec
    monkeypatch.setattr(
        environment.importlib.util,
        "find_spec",
        lambda name: None if name == "onnxruntime" else find(name),
    )
    assert environment.main() == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "chapter 16 without its C++: there is no C++ compiler" in said
    assert "chapter 13 without its export: pip install onnxruntime" in said


def test_the_report_fits_one_screen():
    command = [sys.executable, "-m", "bnutils"]
    there = {**os.environ, "PYTHONIOENCODING": "ascii"}  # the poorest of terminals
    done = subprocess.run(
        command, cwd=ROOT, env=there, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) < 80
    assert not done.stderr


# The ready-made environments. What they install is tried by hand: it takes minutes.

EXTRAS = re.findall(r"^(\w+) = \{ file", PYPROJECT, re.M)
CONTAINER = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text("utf8"))
READY_MADE = {
    "devcontainer": CONTAINER["postCreateCommand"],
    "binder": (ROOT / ".binder/postBuild").read_text("utf8"),
}


@pytest.mark.parametrize("commands", READY_MADE.values(), ids=READY_MADE)
def test_a_ready_made_environment_asks_for_files_and_extras_that_are_here(commands):
    files = re.findall(r"(?<!\S)[\w/]+\.(?:py|txt)(?!\S)", commands)
    assert {"constraints.txt", "book/_tools/colab.py"} <= set(files)
    assert not [name for name in files if not (ROOT / name).is_file()]
    (extras,) = re.findall(r"\.\[([\w,]+)\]", commands)
    assert set(extras.split(",")) <= set(EXTRAS)


def test_ready_made_environments_have_a_python_that_is_tested():
    workflow = (ROOT / ".github/workflows/check.yml").read_text("utf8")
    tested = re.findall(r"3\.\d+", re.search(r"python: \[.*\]", workflow).group())
    binder = (ROOT / ".binder/runtime.txt").read_text("utf8")
    assert re.fullmatch(r"python-(3\.\d+)\n", binder).group(1) in tested
    assert re.search(r":1-(3\.\d+)-", CONTAINER["image"]).group(1) in tested
