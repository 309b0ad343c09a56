"""What Python imports of this project, it can import on Windows too: tests as well.

Code that needs POSIX stands in functions, and tests of it are skipped there by name.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("bnutils", "tests", "book", "benchmarks")
SOURCES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))
# Of the standard library, on POSIX only.
MODULES = {"crypt", "fcntl", "grp", "nis", "ossaudiodev", "posix", "pty", "pwd"}
MODULES |= {"readline", "resource", "spwd", "syslog", "termios", "tty"}
NAMES = {
    *("os.fork", "os.getpgid", "os.getuid", "os.geteuid", "os.killpg"),
    *("os.mkfifo", "os.sched_getaffinity", "os.setsid", "os.uname", "os.wait"),
    *("signal.SIGALRM", "signal.SIGHUP", "signal.SIGKILL", "signal.SIGUSR1"),
    *("signal.alarm", "signal.pthread_kill", "signal.setitimer"),
}


def run_at_import(node: ast.AST):
    """The parts of a module that its import runs: bodies of functions are not.

    What stands in ``try``, or asks first whether a name is there, is taken to be careful.
    """
    yield node
    careful = isinstance(node, ast.Try)
    if isinstance(node, ast.expr | ast.If):
        careful = "hasattr" in ast.unparse(node)
    if careful or isinstance(node, ast.Lambda):
        return
    parts = ast.iter_child_nodes(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        parts = [*node.decorator_list, *node.args.defaults]
    for part in parts:
        yield from run_at_import(part)


def posix_only(code: str) -> set[str]:
    """What a module needs of POSIX as soon as it is imported."""
    found = set()
    for node in run_at_import(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= MODULES & {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{name.name}" for name in node.names}
            found |= (MODULES & {node.module}) | (NAMES & full)
        if isinstance(node, ast.Attribute):
            found |= NAMES & {ast.unparse(node)}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_import_of_a_module_needs_no_posix(path):
    assert posix_only(path.read_text("utf8")) == set()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import resource", {"resource"}),
        ("from fcntl import flock", {"fcntl"}),
        ("import os\nroot = os.geteuid() == 0", {"os.geteuid"}),
        ("from os import fork", {"os.fork"}),
        ("@mark.skipif(os.getuid() == 0)\ndef test():\n    pass", {"os.getuid"}),
        ("class A:\n    limit = signal.SIGKILL", {"signal.SIGKILL"}),
        ("def f():\n    import resource\n    os.fork()", set()),
        ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None", set()),
        ("root = hasattr(os, 'geteuid') and os.geteuid() == 0", set()),
        ("stop = lambda: os.kill(1, 9)", set()),
    ],
)
def test_what_needs_posix_is_found(code, found):
    assert posix_only(code) == found
