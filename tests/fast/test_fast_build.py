"""The kernel's build: kept for who can use it, whole or not at all, with its real error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bnutils import fast
from bnutils.fast import extension

TOOLS = pytest.mark.skipif(
    bool(extension.missing_tool()), reason="no compiler or ninja"
)


# With the real compiler, on sources that take it no time

TINY = {
    "module.cpp": """#include "answer.h"
#include <Python.h>
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "tiny", nullptr, -1, nullptr};
#define INIT_OF_(name) PyInit_##name
#define INIT_OF(name) INIT_OF_(name)
extern "C" PyObject* INIT_OF(TORCH_EXTENSION_NAME)() {
  PyObject* module = PyModule_Create(&definition);
  PyModule_AddIntConstant(module, "answer", ANSWER);
  return module;
}
""",
    "answer.h": "constexpr int ANSWER = 42;\n",
}


@pytest.fixture
def tiny(no_kernel, monkeypatch, tmp_path):
    """Sources of a tiny module in place of the kernel's, in a folder with a space."""
    folder = tmp_path / "my sources"
    folder.mkdir()
    for name, text in TINY.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(extension, "CSRC", folder)
    return folder


@TOOLS
@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links")
def test_spaces_in_paths_are_no_hindrance(tiny, monkeypatch, tmp_path):
    from torch.utils import cpp_extension

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "my kernels"))
    (tmp_path / "my torch").symlink_to(cpp_extension.TORCH_LIB_PATH)
    monkeypatch.setattr(cpp_extension, "TORCH_LIB_PATH", str(tmp_path / "my torch"))
    assert extension.load(build=True).answer == 42
    assert extension.library().is_relative_to(tmp_path / "my kernels")


@TOOLS
def test_what_a_process_builds_second_can_be_imported_by_the_next(
    tiny, monkeypatch, tmp_path
):
    """PyTorch gives the second library of a process another name than the first."""
    assert extension.load(build=True).answer == 42
    first = extension.library()
    other = tmp_path / "other sources"
    other.mkdir()
    for name, text in TINY.items():
        (other / name).write_text(text.replace("42", "43"))
    monkeypatch.setattr(extension, "CSRC", other)
    monkeypatch.setattr(extension, "kernel", None)
    assert extension.load(build=True).answer == 43
    ask = "from bnutils.fast import extension; import sys, pathlib\n"
    ask += "print(extension._import(pathlib.Path(sys.argv[1])).answer)"
    for library, answer in ((first, "42"), (extension.library(), "43")):
        command = [sys.executable, "-c", ask, str(library)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == answer


@TOOLS
@pytest.mark.skipif(sys.platform == "win32", reason="MSVC says it in other words")
def test_the_compilers_first_error_is_the_reason_with_file_and_line(tiny):
    (tiny / "answer.h").write_text("#pragma once\nconstexpr int ANSWER = what;\n")
    reason = fast.build()
    assert f"{tiny / 'answer.h'}:2:" in reason
    assert "error: " in reason and "what" in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (
            "Error building extension 'x': [1/2] c++ -MMD -c module.cpp\n"
            "FAILED: module.o\nc++ -MMD -c module.cpp\n"
            "In file included from module.cpp:9:\n"
            "sums.h:3:10: fatal error: no.h: No such file or directory\n"
            "compilation terminated.\nother.h:1:1: error: a consequence\n"
            "ninja: build stopped: subcommand failed.\n",
            "sums.h:3:10: fatal error: no.h: No such file or directory",
        ),
        (
            "FAILED: x.so\n/usr/bin/ld: cannot find -lc10: No such file or directory\n"
            "collect2: error: ld returned 1 exit status\n",
            "/usr/bin/ld: cannot find -lc10: No such file or directory",
        ),
        ("cl /c\nsums.h(3): error C2065: 'x': undeclared\n", "sums.h(3): error C2065"),
        (
            "FAILED: x.o\ng++-99 -c x\n/bin/sh: 1: g++-99: not found\n"
            "ninja: build stopped: subcommand failed.\n",
            "/bin/sh: 1: g++-99: not found",
        ),
        ("\n cannot compile\n \n", "cannot compile"),
        ("", ""),
    ],
    ids=["include", "linker", "msvc", "shell", "other", "nothing"],
)
def test_the_line_that_matters_is_found_in_the_output(log, line):
    assert extension.first_error(log).startswith(line)
    assert bool(extension.first_error(log)) == bool(line)


# With a compiler that is none


def test_a_failed_build_is_remembered_and_leaves_nothing(
    compiler, no_kernel, monkeypatch
):
    compiler.error = RuntimeError("a.h:1:1: error: what?\na.h:2:1: error: and then")
    assert fast.build() == "a.h:1:1: error: what?"
    compiler.error = None
    assert fast.build() == "a.h:1:1: error: what?"
    assert len(compiler.calls) == 1
    assert not [p for p in no_kernel.iterdir() if p.is_dir()]
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(no_kernel / "elsewhere"))
    assert "error: what?" not in fast.build()  # where there is room, say
    assert len(compiler.calls) == 2


def test_an_error_without_words_is_named(compiler):
    compiler.error = OSError()
    assert fast.build() == "OSError"


def test_a_missing_tool_may_be_installed_in_the_meantime(compiler, monkeypatch):
    with monkeypatch.context() as change:
        change.setattr(extension, "missing_tool", lambda: "there is no compiler")
        assert fast.build() == "there is no compiler"
        assert not compiler.calls
    fast.build()
    assert len(compiler.calls) == 1


def test_a_compiler_that_makes_no_library_is_noticed(compiler):
    compiler.makes = ["notes.txt"]
    assert fast.build() == "the compiler made no library"


def test_a_damaged_library_is_a_reason_and_no_crash(compiler):
    reason = fast.build()  # an empty file is no library
    assert extension.NAME in reason and "\n" not in reason
    assert fast.BatchNorm1d(3).gear == "torch"


def test_what_is_there_is_loaded_once(compiler, monkeypatch):
    loaded = []

    def fake(path):
        loaded.append(path)
        return ModuleType("kernel")

    monkeypatch.setattr(extension, "_import", fake)
    with pytest.raises(extension.NotAvailableError, match="not been compiled yet"):
        extension.load(build=False)
    assert not compiler.calls
    first = extension.load(build=True)
    assert isinstance(first, ModuleType)
    assert extension.load(build=False) is extension.load(build=True) is first
    assert loaded == [extension.library()] and len(compiler.calls) == 1


def test_a_build_is_kept_and_leaves_no_draft(compiler, no_kernel):
    fast.build()
    (draft,) = compiler.calls
    assert draft.parent == no_kernel and draft.name.startswith(extension.NAME)
    assert extension.library() == extension.folder() / f"{extension.NAME}.so"
    found = [p for p in no_kernel.iterdir() if p.is_dir()]
    assert found == [extension.folder()]
    fast.build()
    assert len(compiler.calls) == 1


def test_half_a_build_is_replaced(compiler):
    extension.folder().mkdir(parents=True)
    (extension.folder() / "build.ninja").touch()
    fast.build()
    assert [p.name for p in extension.folder().iterdir()] == compiler.makes


def test_other_processes_wait_until_a_build_is_there(compiler, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    path, inner = extension.folder().with_suffix(".lock"), extension._run_compiler
    now = fcntl.LOCK_EX | fcntl.LOCK_NB

    def run(where):
        with path.open("w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, now)
        inner(where)

    monkeypatch.setattr(extension, "_run_compiler", run)
    fast.build()
    assert len(compiler.calls) == 1
    with path.open("w") as other:
        fcntl.flock(other, now)  # free again


def test_what_another_process_compiled_meanwhile_is_used(compiler, monkeypatch):
    real = extension._locked

    def slow(path):  # the other one holds the lock until it is done
        extension.folder().mkdir()
        (extension.folder() / f"{extension.NAME}.so").touch()
        return real(path)

    monkeypatch.setattr(extension, "_locked", slow)
    fast.build()
    assert extension.library() and not compiler.calls


def test_a_system_without_locks_compiles_all_the_same(compiler, no_kernel, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows: no such module
    fast.build()
    assert list(no_kernel.iterdir()) == [extension.folder()]


def test_a_library_of_windows_is_found(no_kernel):
    extension.folder().mkdir(parents=True)
    library = extension.folder() / f"{extension.NAME}.cp311.pyd"
    library.touch()
    assert extension.library() == library


# Where it lies, and what it needs


def test_another_source_torch_python_or_machine_gets_a_kernel_of_its_own(
    no_kernel, monkeypatch, tmp_path
):
    first = extension.folder()
    assert first.parent == no_kernel and first == extension.folder()
    other = tmp_path / "csrc"
    shutil.copytree(extension.CSRC, other)
    with (other / "sums.h").open("a") as file:
        file.write("// a header is a source, too\n")
    changes = {
        "source": (extension, "CSRC", other),
        "torch": (torch, "__version__", "0.0.1"),
        "python": (sys, "version", "4.0"),
        "machine": (torch.backends.cpu, "get_cpu_capability", lambda: "OTHER"),
    }
    others = set()
    for where, name, value in changes.values():
        with monkeypatch.context() as change:
            change.setattr(where, name, value)
            others.add(extension.folder())
    assert len(others | {first}) == 1 + len(changes)


def test_the_kernel_lies_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert extension.folder().parent == tmp_path / "torch_extensions"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert extension.folder().parent == tmp_path / ".cache" / "torch_extensions"


@pytest.mark.skipif(sys.platform == "win32", reason="programs end in .exe there")
def test_what_is_missing_for_a_build(monkeypatch, tmp_path):
    def program(name):
        (tmp_path / name).touch(mode=0o755)

    monkeypatch.setattr(sys, "executable", str(tmp_path / "env" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "no C++ compiler (c++ not found)" in extension.missing_tool()
    program("ccache")
    monkeypatch.setenv("CXX", "ccache g++ -v")
    assert "no ninja" in extension.missing_tool()
    program("c++")
    monkeypatch.delenv("CXX")
    assert "no ninja" in extension.missing_tool()
    assert extension.missing_compiler() == ""
    (tmp_path / "env").mkdir()
    program("env/ninja")  # as pip installs it
    assert extension.missing_tool() == ""
    (tmp_path / "env" / "ninja").unlink()
    program("ninja")
    assert extension.missing_tool() == ""


@pytest.mark.parametrize("before", ["something", None])
def test_the_compiler_finds_ninja_and_leaves_the_environment_alone(
    before, monkeypatch, tmp_path
):
    from torch.utils import cpp_extension

    def fail(*_, **__):
        seen.update(os.environ)
        raise RuntimeError("enough")

    seen = {}
    monkeypatch.setattr(cpp_extension, "load", fail)
    monkeypatch.setattr(cpp_extension, "TORCH_LIB_PATH", "/my torch")
    for name in ("PATH", "LANGUAGE"):
        monkeypatch.setenv(name, "something")
        if before is None:
            monkeypatch.delenv(name)
    with pytest.raises(RuntimeError, match="enough"):
        extension._run_compiler(str(tmp_path))
    scripts = str(Path(sys.executable).parent)  # where pip puts ninja
    assert seen["PATH"] == f"{before or os.defpath}{os.pathsep}{scripts}"
    assert seen["LANGUAGE"] == "en"  # "error:", and not "错误：" or "Fehler:"
    assert [os.environ.get(name) for name in ("PATH", "LANGUAGE")] == [before, before]
    assert cpp_extension.TORCH_LIB_PATH == "/my torch"


def test_the_sources_are_shipped_with_the_package():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    root = extension.CSRC.parents[2]
    with (root / "pyproject.toml").open("rb") as file:
        data = tomllib.load(file)["tool"]["setuptools"]["package-data"]
    shipped = {
        p for glob in data["bnutils.fast"] for p in extension.CSRC.parent.glob(glob)
    }
    assert {p for p in extension.CSRC.iterdir() if p.is_file()} == shipped
