"""The edition of the notebooks for Colab: plain Markdown, the same code, runnable anywhere."""

from __future__ import annotations

import ast
import builtins
import json
import os
import re
import shutil
import subprocess
import zipfile

import colab
import nbformat
import plain
import pytest
from execute import KERNEL_ENVIRONMENT
from nbclient import NotebookClient
from provenance import NOTEBOOKS, ROOT, package_files

BOOK = colab.load()
ADDRESS = "git+https://example.org/ada/book@v1"
each = pytest.mark.parametrize("name", sorted(BOOK.chapters))
MYST = {
    "a role": r"\{[\w:]+\}`",
    "a directive": r"^(`{3,}|:{3,})\{",
    "a target": r"^\([\w-]+\)=$",
    "a label behind an equation": r"\$\$[ \t]*\([\w-]+\)",
    "an option": r"^:(label|class|name):",
    "a substitution": r"\{\{ \w+ \}\}",
}


def cells(name: str, kind: str, install: str = "") -> list[dict]:
    found = colab.edition(name, BOOK, install)["cells"]
    return [
        c | {"source": "".join(c["source"])} for c in found if c["cell_type"] == kind
    ]


@each
def test_nothing_that_only_myst_reads_is_left(name):
    for cell in cells(name, "markdown"):
        for what, pattern in MYST.items():
            found = re.search(pattern, cell["source"], re.M)
            assert not found, f"{what} is left: {found[0]!r}\n{cell['source']}"


def hidden(name: str) -> set[str]:
    """The cells that follow a question, up to the next heading."""
    found, asked = set(), False
    for cell in BOOK.chapters[name]:
        if cell["cell_type"] == "markdown":
            lines = cell["source"].splitlines()
            asked &= not any(line.startswith("#") for line in lines)
            asked |= "```{predict}" in lines
        elif asked:
            found.add(cell["id"])
    return found


@each
def test_code_and_outputs_are_the_chapters_own(name):
    chapter = [c for c in BOOK.chapters[name] if c["cell_type"] == "code"]
    copies = cells(name, "code")
    assert len(copies) == len(chapter)
    for copy, cell in zip(copies, chapter, strict=True):
        assert (
            copy["source"].removeprefix("# @title Solution: open it to see the code\n")
            == cell["source"].rstrip()
        )
        wanted = [] if cell["id"] in hidden(name) else cell["outputs"]
        kinds = [o["output_type"] for o in wanted]
        assert [o["output_type"] for o in copy["outputs"]] == kinds


def test_outputs_to_be_predicted_are_there_when_asked_for():
    ids = hidden("02_forward")
    assert len(ids) > 3
    copy = colab.edition("02_forward", BOOK, keep_outputs=True)
    assert all(cell["outputs"] for cell in copy["cells"] if cell["id"] in ids)


def test_solutions_fold_in_words_as_in_code():
    for name, chapter in BOOK.chapters.items():
        text = "\n".join(cells_text(c) for c in colab.edition(name, BOOK)["cells"])
        for cell in chapter:
            for words in re.findall(
                r"\{solution-start\}[^`]*```\n+([^`\n{$]{40,}?)[`{$\n]", cell["source"]
            ):
                before = text.partition(words)[0]
                assert before.count("<details>") > before.count("</details>"), words


def cells_text(cell: dict) -> str:
    return "".join(cell["source"]) if cell["cell_type"] == "markdown" else ""


def names(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell defines, and those that it uses."""
    defined, used = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
    return defined, used


@each
def test_an_exercise_needs_the_first_cell_alone_and_says_so(name):
    first, *others = cells(name, "code")
    given = names(first["source"])[0] | set(dir(builtins))
    tagged = {
        c["id"]
        for c in BOOK.chapters[name]
        if "exercise" in c["metadata"].get("tags", [])
    }
    for cell in (c for c in others if c["id"] in tagged):
        defined, used = names(cell["source"])
        assert used <= given | defined, cell["source"]
    text = "\n".join(c["source"] for c in cells(name, "markdown"))
    assert text.count(plain.FRESH_KERNEL) == (1 if tagged else 0)


def test_copies_lead_to_the_web_edition_where_its_address_is_known(monkeypatch):
    monkeypatch.setenv("BOOK_ADDRESS", "https://example.org/bn")
    page = "https://example.org/bn/notebooks/02_forward.html"
    chapter = colab.edition("02_forward", colab.load())["cells"]
    assert page in cells_text(chapter[0])
    figures = [c for c in chapter if "interactive figure" in cells_text(c)]
    assert len(figures) == 2
    assert all(page in cells_text(c) for c in figures)


def test_the_contents_lead_to_every_chapter():
    text = "".join(colab.contents(BOOK)["cells"][0]["source"])
    linked = re.findall(r"\((\d\d_\w+)\.ipynb\)", text)
    assert linked == list(BOOK.chapters)
    assert "Going deeper" not in text


def test_a_readers_folder_gets_what_it_lacks_and_keeps_the_rest(tmp_path, capsys):
    lab = tmp_path / "lab"
    assert colab.main(["--lab", str(lab)]) == 0
    written = sorted(p.name for p in lab.iterdir())
    assert "00_contents.ipynb" in written and len(written) == len(BOOK.chapters) + 1
    (lab / written[2]).write_text("my answers")
    (lab / written[3]).unlink()
    assert colab.main(["--lab", str(lab)]) == 0
    assert "1 notebooks written" in capsys.readouterr().out
    assert (lab / written[2]).read_text() == "my answers"
    assert (lab / written[3]).exists()


@each
def test_links_between_chapters_lead_to_chapters(name):
    text = "\n".join(c["source"] for c in cells(name, "markdown"))
    targets = set(re.findall(r"\]\((\d\d_\w+)\.ipynb\)", text))
    assert targets <= BOOK.chapters.keys()
    assert name not in targets


@each
def test_every_exercise_and_caption_is_there(name):
    text = "\n".join(c["source"] for c in cells(name, "markdown"))
    own = "".join(
        c["source"] for c in BOOK.chapters[name] if c["cell_type"] == "markdown"
    )
    assert len(re.findall(r"^### Exercise \d+\.\d+: ", text, re.M)) == own.count(
        "{exercise}"
    )
    captions = [label for c in BOOK.chapters[name] for label in plain.figures(c)]
    assert len(re.findall(r"^\*Figure \d+\.\d+: ", text, re.M)) == len(captions)


@each
def test_copy_is_a_valid_notebook(name):
    nbformat.validate(nbformat.from_dict(colab.edition(name, BOOK, ADDRESS)))


def test_a_plate_is_a_picture_inside_the_text():
    (cell,) = [
        c for c in cells("18_where_it_goes", "markdown") if "<img" in c["source"]
    ]
    picture, caption = cell["source"].split("\n\n")[-2:]
    start = '<img width="736" alt="MLP. Two columns'
    assert picture.startswith(start) and '" src="data:image/png;base64,' in picture
    assert caption.startswith("*Figure 18.1: Where the norm")
    assert "Figure 18.1 shows" in cell["source"]
    drawn = BOOK.numbers["fig-18-active"]  # by code, after the plate
    assert drawn == ("18_where_it_goes", "18.2")


def test_install_cell_comes_first_and_only_when_asked_for():
    assert ADDRESS in cells("02_forward", "code", ADDRESS)[0]["source"]
    assert not any("pip install" in c["source"] for c in cells("02_forward", "code"))


def test_known_pieces_of_myst_become_markdown():
    def shown(text):
        return plain.markdown(text, "02_forward", BOOK)

    assert shown("(ch-forward)=\n# The forward pass") == "# The forward pass"
    assert shown("See {ref}`Chapter 3 <ch-backward>`.") == (
        "See [Chapter 3](03_backward.ipynb)."
    )
    assert shown("{cite}`ioffe2015`") == (
        "([Ioffe and Szegedy, 2015](https://arxiv.org/abs/1502.03167))"
    )
    number = BOOK.numbers["eq-02-scale"][1]
    assert number.startswith("2.")
    assert shown("{eq}`eq-02-scale`") == f"({number})"
    assert shown("```{note}\nMind the gap.\n```") == "> **Note**\n>\n> Mind the gap."
    assert "<summary><b>Hint</b></summary>" in shown(
        "```{hint}\n:class: dropdown\nThink.\n```"
    )


@pytest.mark.parametrize("text", ["```{mermaid}\na\n```", "{kbd}`x`"])
def test_unknown_syntax_is_an_error_that_names_the_chapter(text):
    with pytest.raises(plain.UnknownSyntax, match="02_forward"):
        plain.markdown(text, "02_forward", BOOK)


def test_archive_is_the_same_each_time_and_holds_all(tmp_path):
    colab.archive(BOOK, tmp_path / "a.zip")
    colab.archive(BOOK, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    names = zipfile.ZipFile(tmp_path / "a.zip").namelist()
    package = {p.relative_to(ROOT).as_posix() for p in package_files()}
    wanted = package | {p.name for p in NOTEBOOKS.glob("*.ipynb")}
    assert {f"batch-norm-book/{name}" for name in wanted} <= set(names)
    assert all(name.startswith("batch-norm-book/") for name in names)


IMPORT_ALL = """import importlib, pkgutil
import bnutils
for found in pkgutil.walk_packages(bnutils.__path__, "bnutils."):
    importlib.import_module(found.name)
print(bnutils.__file__)"""


def test_archive_runs_in_an_empty_folder(tmp_path):
    colab.archive(BOOK, tmp_path / "a.zip")
    zipfile.ZipFile(tmp_path / "a.zip").extractall(tmp_path)
    folder = tmp_path / "batch-norm-book"
    nb = nbformat.read(folder / "02_forward.ipynb", as_version=4)
    code = [cell for cell in nb["cells"] if cell["cell_type"] == "code"]
    nb["cells"] = [*code[:3], nbformat.v4.new_code_cell(IMPORT_ALL)]
    environment = os.environ | KERNEL_ENVIRONMENT
    del environment["PYTHONPATH"]
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(nb, timeout=120, kernel_name="python3", resources=where)
    client.execute(env=environment)
    assert str(folder) in nb["cells"][-1]["outputs"][0]["text"]


@pytest.mark.skipif(not shutil.which("unzip"), reason="Colab has unzip")
def test_colabs_first_cell_may_be_run_again(tmp_path):
    """A cell cannot be asked whether to overwrite: it would wait for ever."""
    colab.archive(BOOK, tmp_path / "batch-norm-notebooks.zip")
    text = (ROOT / "book" / "_ext" / "bookext.py").read_text("utf8")
    (command,) = re.findall(r"^!(unzip .+)$", text, re.M)
    for _ in range(2):
        run = {"shell": True, "cwd": tmp_path, "stdin": subprocess.DEVNULL}
        subprocess.run(command, check=True, timeout=60, **run)
        assert (tmp_path / "bnutils" / "norm.py").exists()
        assert not (tmp_path / "bnutils" / "bnutils").exists()


@pytest.mark.parametrize(("install", "said"), [([], True), (["--install"], False)])
def test_copies_that_install_nothing_say_so(tmp_path, capsys, install, said):
    options = [*install, ADDRESS] if install else []
    assert colab.main(["--out", str(tmp_path / "new"), *options]) == 0
    printed = capsys.readouterr().out
    assert f"notebooks written to {tmp_path / 'new'}" in printed
    assert ("make colab INSTALL=" in printed) == said


def test_command_writes_all_notebooks(tmp_path):
    out = tmp_path / "new"
    assert colab.main(["--out", str(out), "--install", ADDRESS]) == 0
    written = sorted(p.name for p in out.iterdir())
    chapters = sorted(p.name for p in NOTEBOOKS.glob("*.ipynb"))
    assert written == ["00_contents.ipynb", *chapters]
    first = json.loads((out / chapters[0]).read_text("utf8"))["cells"][0]
    assert ADDRESS in "".join(first["source"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --out, --lab or --zip"),
        (("--out", "{full}"), "is not empty"),
        (("--out", "{new}", "--install", "rm -rf; x"), "not an address"),
        (("--out", "{new}", "--install", "https://a.org/$(x)"), "not an address"),
    ],
)
def test_mistakes_on_the_command_line_write_nothing(
    tmp_path, capsys, arguments, message
):
    full, new = tmp_path / "full", tmp_path / "new"
    full.mkdir()
    (full / "mine.txt").write_text("keep")
    with pytest.raises(SystemExit) as stop:
        colab.main([a.format(full=full, new=new) for a in arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not new.exists()
    assert [p.name for p in full.iterdir()] == ["mine.txt"]
