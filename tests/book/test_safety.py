"""No code from data, no shell, nothing unpinned: a reader runs what the repository holds."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYTHON = [
    p for d in ("bnutils", "book", "benchmarks") for p in (ROOT / d).rglob("*.py")
]
SOURCES = sorted([*PYTHON, *(ROOT / "notebooks").glob("*.ipynb")])
each = pytest.mark.parametrize(
    "path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix()
)

# These run whatever the bytes that they read say.
UNPICKLING = {"_pickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
CODE = {"__import__", "compile", "eval", "exec", "runpy"}
SHELL = {"commands", "pty", "popen", "system"}
# What stands above is needed here, and harmless, for this reason.
ALLOWED = {
    ("bnutils/sync/processes.py", "cloudpickle"): "the caller's function, on its way",
    ("bnutils/sync/processes.py", "pickle"): "what that function returned",
    ("bnutils/sync/processes.py", "pickle.loads"): "the same",
    ("bnutils/sync/processes.py", "runpy"): "the module that the caller named",
    ("bnutils/sync/worker.py", "cloudpickle"): "what the caller's function returned",
    ("bnutils/sync/worker.py", "pickle"): "the caller's function, where it arrives",
    ("bnutils/sync/worker.py", "pickle.loads"): "the same",
    ("notebooks/22_when_the_data_moves.ipynb", "pickle"): "a model made in that cell",
    ("notebooks/22_when_the_data_moves.ipynb", "pickle.loads"): "the same",
}
# Other programs are started here, without a shell: a list of words, none from data.
PROGRAMS = {
    "benchmarks/book.py": "make's commands, timed",
    "benchmarks/memory.py": "itself, with other settings of the allocator",
    "bnutils/sync/processes.py": "Python, for each process",
    "book/_ext/bookext.py": "git, for the address of the repository",
    "book/_tools/colab.py": "git, for the date of the last change",
    "book/_tools/execute.py": "Python, for the name of the data set",
    "book/_tools/pdf.py": "jupyter-book",
    "notebooks/16_make_it_fast.ipynb": "Python, with other settings of the allocator",
}


@cache
def tree(path: Path) -> ast.Module:
    """The code of a module, or of a notebook's cells."""
    text = path.read_text("utf8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        code = ("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        text = "\n".join(code)
    return ast.parse(text)


def keyword(call: ast.Call, name: str) -> object:
    found = [k.value for k in call.keywords if k.arg == name]
    return getattr(found[0], "value", found[0]) if found else None


def imported(node: ast.AST) -> set[str]:
    """First part of the modules' names, and the names taken from them."""
    if isinstance(node, ast.Import):
        return {a.name.partition(".")[0] for a in node.names}
    names = {a.name for a in node.names} if isinstance(node, ast.ImportFrom) else set()
    return names | {(getattr(node, "module", "") or "").partition(".")[0]}


def dangers(code: ast.Module) -> set[str]:
    """Names of what code uses that could run code or commands made from data."""
    found = set()
    for node in ast.walk(code):
        found |= imported(node) & (UNPICKLING | SHELL | {"runpy"})
        if {"torch", "load"} <= imported(node):
            found.add("load from torch")
        if isinstance(node, ast.Name) and node.id in CODE:
            found.add(node.id)
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            short = name.rpartition(".")[2]
            if name == "torch.load" and keyword(node, "weights_only") is not True:
                found.add("torch.load without weights_only=True")
            if short in {"load", "loads"} and name.partition(".")[0] in UNPICKLING:
                found.add(name)
            if keyword(node, "allow_pickle") or keyword(node, "shell"):
                found.add(f"{name} with allow_pickle or shell")
            if re.match(r"os\.(system|popen|exec|spawn|startfile)", name):
                found.add(name)
            if short in {"system", "getoutput", "run_cell", "run_line_magic"}:
                found.add(name)
            if name.startswith(("yaml.", "torch.hub.")) and short != "safe_load":
                found.add(name)
    return found - {"platform.system"}


@each
def test_nothing_runs_code_or_commands_made_from_data(path):
    file = path.relative_to(ROOT).as_posix()
    assert dangers(tree(path)) == {name for f, name in ALLOWED if f == file}


@each
def test_other_programs_are_started_in_few_places_and_without_a_shell(path):
    calls = [
        node
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and re.match(r"subprocess\.|asyncio\.create_sub", ast.unparse(node.func))
    ]
    assert bool(calls) == (path.relative_to(ROOT).as_posix() in PROGRAMS)
    assert not [c for c in calls if isinstance(c.args[0], ast.Constant | ast.JoinedStr)]


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "torch.load('x.pt')",
        "from torch import load",
        "torch.load('x.pt', weights_only=False)",
        "eval('1')",
        "run = exec",
        "__import__('os')",
        "os.system('ls')",
        "from os import system",
        "subprocess.run('ls', shell=True)",
        "np.load('x.npy', allow_pickle=True)",
        "yaml.load('x')",
        "get_ipython().system('ls')",
        "torch.hub.load('a', 'b')",
    ],
)
def test_each_danger_is_found(code):
    assert dangers(ast.parse(code))


@pytest.mark.parametrize(
    "code", ["model.eval()", "torch.load('x', weights_only=True)", "data.load()"]
)
def test_the_harmless_is_not_taken_for_a_danger(code):
    assert not dangers(ast.parse(code))


def test_tests_say_how_they_load():
    calls = [
        (path.name, node.lineno)
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and not any(k.arg in {"weights_only", None} for k in node.keywords)
    ]
    assert calls == []


# Workflows


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_actions_are_pinned_by_commit(path):
    text = path.read_text("utf8")
    used = re.findall(r"^\s*(?:- )?uses: *(.+)$", text, re.M)
    assert used
    for line in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_workflows_may_do_little_and_take_no_words_of_strangers(path):
    text = path.read_text("utf8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in text
    commands = [s.get("run", "") for j in workflow["jobs"].values() for s in j["steps"]]
    assert not [c for c in commands if "${{" in c]  # a title could hold a command
    for job in workflow["jobs"].values():
        if {"write"} & set(job.get("permissions", {}).values()):
            assert "github.event_name != 'pull_request'" in job["if"]


# Dependencies


def pins() -> dict[str, set[str]]:
    """The versions in constraints.txt that are meant for this Python and system."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text("utf8").splitlines():
        if line and not line.startswith(("#", " ")):
            one = Requirement(line)
            if one.marker is None or one.marker.evaluate():
                found.setdefault(canonicalize_name(one.name), set()).add(
                    str(one.specifier).removeprefix("==")
                )
    return found


def wanted(folder: str) -> list[Requirement]:
    lines = (ROOT / folder / "requirements.txt").read_text("utf8").splitlines()
    texts = (line.partition("#")[0].strip() for line in lines)
    return [Requirement(text) for text in texts if text]


def test_whatever_gets_installed_is_pinned_to_one_version():
    """Dependencies of dependencies, as far as they are installed here."""
    project = re.findall(
        r'^ +"([\w-]+>=[\d.]+)"', (ROOT / "pyproject.toml").read_text("utf8"), re.M
    )
    open_ = [*map(Requirement, project), *wanted("book"), *wanted("tests")]
    open_ += wanted("tests/browser")
    known, pinned = {}, pins()
    while open_:
        one = open_.pop()
        name, extras = canonicalize_name(one.name), frozenset(one.extras)
        if known.get(name, frozenset()) >= extras and name in known:
            continue
        known[name] = known.get(name, frozenset()) | extras
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            marker = need.marker
            if marker is None or any(
                marker.evaluate({"extra": e}) for e in ("", *known[name])
            ):
                open_.append(need)
    by_cuda = re.compile("cuda|nvidia|triton")  # pinned by PyTorch itself
    names = {n for n in known if not by_cuda.match(n)}
    assert len(names) > 80
    assert names <= pinned.keys()
    assert all(len(pinned[n]) == 1 for n in names)
