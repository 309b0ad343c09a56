"""Plant one bug at a time in a module and see whether its tests notice.

    python tests/mutation.py --sample 30 bnutils/sweep.py tests/train/test_sweep.py

Each mutant runs in a forked process (Linux, macOS) that imports the changed module in
place of the file, which stays as it is, and only the tests that reach the changed line,
quick ones first. What a test starts in another process sees no mutant. Printed are the
mutants that no test noticed: kill them with a test, or know why they are equivalent.

Why no ready-made tool: mutmut changes the bodies of functions only, in a copy of the tree
where it did not get a failure of its own noticed; cosmic-ray starts a Python, and so an
import of torch, for each mutant.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.machinery
import importlib.util
import os
import pickle
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from mutants import mutants


class Planted(importlib.machinery.SourceFileLoader):
    """Imports a file as another tree says."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        super().__init__(name, path)
        self.tree = tree

    def get_code(self, fullname):
        return compile(self.tree, self.path, "exec")

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            return importlib.util.spec_from_file_location(name, self.path, loader=self)
        return None


class Watch:
    """Pytest plugin: which tests reach which lines of a file, and how long they take."""

    def __init__(self, path: str, notes: str) -> None:
        self.path, self.notes, self.lines, self.seconds = path, notes, {}, {}

    def pytest_sessionfinish(self):
        Path(self.notes).write_bytes(pickle.dumps((self.lines, self.seconds)))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        seen = self.lines[item.nodeid] = set()

        def trace(frame, event, arg):
            if frame.f_code.co_filename != self.path:
                return None
            seen.add(frame.f_lineno)
            return trace

        start = time.perf_counter()
        sys.settrace(trace)
        yield
        sys.settrace(None)
        self.seconds[item.nodeid] = time.perf_counter() - start


class Only:
    """Pytest plugin: the tests named, in that order."""

    def __init__(self, names: list[str]) -> None:
        self.rank = {name: i for i, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted(
            (i for i in items if i.nodeid in self.rank),
            key=lambda i: self.rank[i.nodeid],
        )


def run(tests: list[str], plugins: list, limit: float = 1e9) -> int:
    """Exit status of pytest in a fork of this process; -1 if it took too long."""
    child = os.fork()
    if not child:
        os.setsid()
        with open(os.devnull, "w") as nothing:
            for number in (1, 2):
                os.dup2(nothing.fileno(), number)
        sys.meta_path[:0] = [p for p in plugins if isinstance(p, Planted)]
        options = ["-x", "-q", "-p", "no:cacheprovider"]
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # a second saved
        status = 3
        with contextlib.suppress(BaseException):
            status = int(pytest.main([*options, *tests], plugins=plugins))
        os._exit(status)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--sample", type=int, help="so many, drawn with seed 0")
    args = parser.parse_args()
    # A shell's background job ignores Ctrl-C, which some tests press.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:0] = [str(Path.cwd()), str(Path(__file__).parent)]
    for heavy in ("torch._dynamo", "sklearn.datasets", "matplotlib.pyplot"):
        importlib.import_module(heavy)  # once here and not in each fork

    path = str(args.module.resolve())
    name = ".".join(args.module.with_suffix("").parts).removesuffix(".__init__")
    planted = list(mutants(args.module.read_text()))
    if args.sample and args.sample < len(planted):
        planted = random.Random(0).sample(planted, args.sample)
    planted.sort(key=lambda mutant: mutant[0])
    with tempfile.NamedTemporaryFile() as notes:
        if status := run(args.tests, [Watch(path, notes.name)]):
            sys.exit(f"the tests do not pass as they are: pytest says {status}")
        reached, seconds = pickle.load(notes)

    alive = []
    for line, what, tree in planted:
        names = [n for n in seconds if line in reached[n]] or list(seconds)
        names.sort(key=seconds.get)
        limit = 20 + 3 * sum(seconds[n] for n in names)
        if run(args.tests, [Planted(name, path, tree), Only(names)], limit) == 0:
            alive.append(what)
            print(f"{args.module}:{line}  {what}  [{len(names)} tests]", flush=True)
    killed = len(planted) - len(alive)
    print(f"{args.module}: {len(planted)} mutants, {killed} killed")
    return bool(alive)


if __name__ == "__main__":
    sys.exit(main())
