"""What must hold for every notebook: fresh outputs, shown code = shipped code, house style."""

from __future__ import annotations

import ast
import json
import re
import zlib
from functools import cache
from pathlib import Path

import nbformat
import pytest
from execute import chapter
from normalise import normalise, text
from provenance import KEY, NOTEBOOKS, fingerprint, module_file

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
each = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.stem)
FIGURE = "image/svg+xml"
CHECKED = re.compile(r'exercises\.check\("(\d\d\.\d+)"')


@cache
def read(path: Path) -> dict:
    return json.loads(path.read_text("utf8"))


def code(path: Path) -> list[dict]:
    return [c for c in read(path)["cells"] if c["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def test_there_are_notebooks():
    assert PATHS


@each
def test_outputs_come_from_this_code(path):
    stored = read(path)["metadata"].get(KEY, {}).get("code")
    assert stored == fingerprint(read(path), chapter(path)), (
        f"{path.name}: a code cell or a module it imports changed since its outputs were stored; "
        "run `make notebooks`"
    )


@each
def test_outputs_come_from_mnist_where_data_is_used(path):
    loads = any("data.load(" in source(c) for c in code(path))
    assert read(path)["metadata"][KEY]["data"] == ("MNIST" if loads else "none")


@each
def test_every_cell_was_run_once_in_order(path):
    counts = [c["execution_count"] for c in code(path)]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_notebook_is_in_stored_form(path):
    assert path.read_text("utf8") == text(normalise(read(path))), (
        "run book/_tools/normalise.py"
    )
    nbformat.validate(nbformat.read(path, as_version=4))


@each
def test_checked_cells_have_something_to_check(path):
    for cell in code(path):
        if "nbval-check-output" in tags(cell):
            kinds = {k for o in cell["outputs"] for k in (o.get("data") or {"text": 1})}
            # nbval would compare a drawing letter by letter, and machines draw otherwise.
            assert kinds and FIGURE not in kinds, source(cell)


@each
def test_what_checkers_say_is_compared_since_they_do_not_count_in_the_fingerprint(path):
    for cell in code(path):
        if re.search(r"\bexercises\.", source(cell)):
            assert "nbval-check-output" in tags(cell), source(cell)


@each
def test_no_output_a_reader_should_not_see(path):
    for cell in code(path):
        for output in cell["outputs"]:
            assert output.get("name") != "stderr", source(cell)
            if "raises-exception" not in tags(cell):
                assert output["output_type"] != "error", source(cell)
            address = re.search(r"0x[0-9a-f]{6,}", str(output.get("text")))
            assert not address, f"an address of memory in the output of: {source(cell)}"


@each
def test_figures_can_be_cited_and_heard(path):
    for cell in code(path):
        if any(FIGURE in o.get("data", {}) for o in cell["outputs"]):
            myst = cell["metadata"].get("mystnb", {})
            figure, image = myst.get("figure", {}), myst.get("image", {})
            assert figure.get("name", "").startswith(f"fig-{chapter(path)}-"), source(
                cell
            )
            assert len(figure.get("caption", "").split()) >= 5, source(cell)
            assert len(image.get("alt", "").split()) >= 5, source(cell)


@each
def test_figures_are_small_enough(path):
    for cell in code(path):
        for output in cell["outputs"]:
            assert "image/png" not in output.get("data", {}), source(cell)
            svg = "".join(output.get("data", {}).get(FIGURE, ""))
            size = len(zlib.compress(svg.encode())) / 1024
            assert size <= 60 and len(svg) <= 300 * 1024, (
                f"{size:.0f} KB: {source(cell)}"
            )


@each
def test_cells_keep_the_house_style(path):
    streak = 0
    for cell in read(path)["cells"]:
        streak = streak + 1 if cell["cell_type"] == "code" else 0
        assert streak < 3, f"three code cells in a row: {source(cell)}"
        if cell["cell_type"] == "code":
            lines = [line for line in source(cell).splitlines() if line.strip()]
            assert len(lines) <= 25, source(cell)
            assert max(map(len, lines), default=0) <= 88, source(cell)
            assert not any(line.startswith(("%", "!")) for line in lines), source(cell)


@each
def test_chapter_has_its_sections(path):
    words = "\n".join(
        source(c) for c in read(path)["cells"] if c["cell_type"] == "markdown"
    )
    headings = re.findall(r"^## (.+)$", words, re.M)
    assert headings[0] == "Setup"
    assert headings[-3:] == ["Summary", "Exercises", "References"]
    assert "**You will**" in words
    assert "**You need**" in words


@each
def test_first_result_comes_early(path):
    words = 0
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "markdown":
            # At a prediction the reader acts, and a table on top is a result itself.
            text = re.sub(r"```{predict}.*?```", "", source(cell), flags=re.S)
            lines = [x for x in text.splitlines() if not x.startswith("|")]
            words += sum(len(line.split()) for line in lines)
        elif cell["outputs"]:
            break
    assert words <= 250


@each
def test_exercises_have_checker_hint_and_solution(path):
    words = "\n".join(
        source(c) for c in read(path)["cells"] if c["cell_type"] == "markdown"
    )
    labels = re.findall(r"\{exercise\}.*\n:label: (ex-\S+)", words)
    assert len(labels) >= 3
    assert len(re.findall(r"\{hint\}", words)) >= len(labels)
    solved = re.findall(r"\{solution(?:-start)?\} (ex-\S+)", words)
    assert sorted(solved) == sorted(labels)
    with_checker = [
        CHECKED.search(source(c))[1] for c in code(path) if "exercise" in tags(c)
    ]
    assert len(with_checker) >= len(labels) - 1
    assert all(n.startswith(f"{chapter(path)}.") for n in with_checker)


@each
def test_the_books_own_solutions_pass_their_checkers(path):
    """The stored verdict is one of this code, by the fingerprint; nbval compares it at each run."""
    asked, solved = [], []
    for cell in code(path):
        (number,) = CHECKED.findall(source(cell)) or [""]
        if number and "exercise" in tags(cell):
            asked.append(number)
        if number and "solution" in tags(cell):
            solved.append(number)
            assert "nbval-check-output" in tags(cell), number
            verdict = "".join(cell["outputs"][-1]["data"]["text/plain"])
            assert verdict == f"Exercise {number}: right"
    assert asked
    assert solved == asked


def definition(node: ast.AST) -> str:
    """Syntax tree of a definition without docstring and annotations."""
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.ClassDef):
            first = part.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                part.body = part.body[1:] or [ast.Pass()]
        if isinstance(part, ast.FunctionDef):
            part.returns = None
        if isinstance(part, ast.arg):
            part.annotation = None
    return ast.dump(node)


def definitions(tree: ast.Module) -> dict[str, str]:
    """Every function, method and class attribute of a module, by qualified name."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            owner = "BatchNorm1d." if node.args.args[0].arg == "self" else ""
            found[owner + node.name] = definition(node)
        elif isinstance(node, ast.ClassDef):
            # `class A(A)`: a notebook lets a class grow, since no cell holds all of it.
            if [ast.unparse(base) for base in node.bases] != [node.name]:
                bases = ast.Tuple([*node.bases, *node.decorator_list])
                found[node.name] = ast.dump(bases)
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    found[f"{node.name}.{part.name}"] = definition(part)
                elif isinstance(part, ast.Assign):
                    found[f"{node.name}.{part.targets[0].id}"] = ast.dump(part)
    return found


# Where the definitions shown in a chapter are shipped; Part I and II build the first two.
FOUNDATION = ("arrays", "norm")
SHIPPED_IN = {
    "13": ("deploy.arithmetic",),
    "14": ("relatives.functional", "relatives.layers"),
    "15": ("sync", "sync.functional"),
}


def shipped_definitions(modules: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for module in modules:
        path = module_file(f"bnutils.{module}")
        found |= definitions(ast.parse(path.read_text("utf8")))
    return found


def shown_definitions(path: Path) -> dict[str, str]:
    found = {}
    for cell in code(path):
        if "shipped" in tags(cell):
            for name, tree in definitions(ast.parse(source(cell))).items():
                assert name not in found, f"{name} is shown twice"
                found[name] = tree
    return found


@each
def test_code_shown_is_code_shipped(path):
    shipped = shipped_definitions(SHIPPED_IN.get(chapter(path), FOUNDATION))
    for name, tree in shown_definitions(path).items():
        assert tree == shipped.get(name), f"{name} differs from what is shipped"


@pytest.mark.parametrize("number", sorted(SHIPPED_IN))
def test_a_chapter_with_a_module_of_its_own_shows_some_of_it(number):
    (path,) = [p for p in PATHS if chapter(p) == number]
    assert shown_definitions(path)


def test_part_one_and_two_show_all_of_the_foundation():
    shown = [
        name
        for path in PATHS
        if chapter(path) not in SHIPPED_IN
        for name in shown_definitions(path)
    ]
    assert sorted(shown) == sorted(shipped_definitions(FOUNDATION))
