"""What must hold for the pages as they are written: contents, citations, numbers, settings."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import bookext
import exerciseindex
import pytest
import yaml
from provenance import NOTEBOOKS, ROOT

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))
LISTED = [c for part in TOC["parts"] for c in part["chapters"]]
ENTRIES = [TOC["root"]]
ENTRIES += [one["file"] for c in LISTED for one in (c, *c.get("sections", ()))]
PAGES = sorted((ROOT / "book").rglob("*.md"))
HERE = re.compile(r"/(?:root|home|Users|tmp|work|opt)/\w")


@cache
def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text("utf8"))["cells"]


def prose(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text("utf8")
    return "\n\n".join(
        "".join(c["source"]) for c in cells(path) if c["cell_type"] == "markdown"
    )


def source(entry: str) -> Path | None:
    files = (ROOT / f"{entry}{suffix}" for suffix in (".md", ".ipynb"))
    return next((f for f in files if f.is_file()), None)


def test_every_entry_of_the_toc_has_a_file():
    assert [e for e in ENTRIES if source(e) is None] == []


def test_every_notebook_and_page_is_in_the_toc():
    written = [
        p.relative_to(ROOT).with_suffix("")
        for p in (*PAGES, *NOTEBOOKS.glob("*.ipynb"))
    ]
    assert sorted(ENTRIES) == sorted(p.as_posix() for p in written)


def test_chapters_stand_in_the_order_of_their_numbers():
    chapters = [e for e in ENTRIES if e.startswith("notebooks/")]
    assert chapters == sorted(chapters)


def section_numbers(chapter: Path) -> dict[str, str]:
    """The number that the book prints before each labelled heading, by label."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", prose(chapter), flags=re.M | re.S)
    counts, found = [int(chapter.name[:2])], {}
    for label, level in re.findall(r"(?:^\(([\w-]+)\)=\n+)?^(##+) ", text, re.M):
        depth = len(level)
        counts = (counts + [0] * depth)[:depth]
        counts[-1] += 1
        found[label] = ".".join(map(str, counts))
    return found


@pytest.mark.parametrize(
    "chapter", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem
)
def test_a_section_is_called_by_its_number(chapter):
    numbers = section_numbers(chapter)
    named = re.findall(r"`Section ([\d.]+) <([\w-]+)>`", prose(chapter))
    assert [(numbers.get(label), label) for _, label in named] == named


def test_settings_name_no_address_of_the_repository():
    assert "repository" not in CONFIG
    assert "://" not in (ROOT / "_config.yml").read_text("utf8")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("git@github.com:ada/book.git", "https://github.com/ada/book"),
        ("ssh://git@github.com/ada/book.git", "https://github.com/ada/book"),
        ("https://user:secret@github.com/ada/book", "https://github.com/ada/book"),
        ("https://gitlab.com/ada/book.git/", "https://gitlab.com/ada/book"),
        ("/srv/git/book.git", ""),
        ("https://example.org/ada/book", ""),
    ],
)
def test_repository_address_is_public_or_absent(monkeypatch, given, shown):
    monkeypatch.setenv("BOOK_REPOSITORY_URL", given)
    assert bookext.repository_url() == shown


def texts(path: Path) -> str:
    """All that a page says, a notebook's code and outputs included, pictures left out."""
    if path.suffix == ".md":
        return path.read_text("utf8")
    outputs = [
        output
        for cell in cells(path)
        for output in cell.get("outputs", [])
        if "image/svg+xml" not in output.get("data", {})
    ]
    return json.dumps([[cell["source"] for cell in cells(path)], outputs])


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_page_names_a_path_of_a_machine(entry):
    assert HERE.findall(texts(source(entry))) == []


def test_every_cited_work_is_in_the_bibliography():
    known = set(
        re.findall(
            r"^@\w+\{([^,]+),", (ROOT / "book/references.bib").read_text("utf8"), re.M
        )
    )
    cited = {
        key.strip()
        for entry in ENTRIES
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", prose(source(entry)))
        for key in keys.split(",")
    }
    assert cited
    assert cited <= known


def test_every_module_is_in_the_api_reference():
    shown = {page.stem for page in (ROOT / "book/api").glob("*.md")}
    for name in shown:
        assert f"autoapimodule:: bnutils.{name}\n" in prose(
            ROOT / f"book/api/{name}.md"
        )
        assert f"{{ref}}`api-{name}`" in prose(ROOT / "book/api.md")
    modules = {p.stem for p in (ROOT / "bnutils").glob("[!_]*.py")}
    packages = {p.parent.name for p in (ROOT / "bnutils").glob("*/__init__.py")}
    assert shown == modules | packages


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "book/setup.md"])
def test_every_make_command_is_a_target(name):
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf8"), re.M)
    )
    used = set(
        re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / name).read_text("utf8"), re.M)
    )
    assert used
    assert used <= targets


def test_every_dependency_is_pinned():
    names = set()
    for line in (ROOT / "constraints.txt").read_text("utf8").splitlines():
        if not line.startswith(("#", " ")):
            assert re.match(r"[\w.-]+==[\w.]+( ; .+)?$", line), line
            names.add(line.split("==")[0])
    wanted = re.findall(
        r'^ +"([\w-]+)>=', (ROOT / "pyproject.toml").read_text("utf8"), re.M
    )
    files = [*ROOT.glob("*/*requirements.txt"), ROOT / "tests/browser/requirements.txt"]
    for file in files:
        text = file.read_text("utf8")
        wanted += re.findall(r"^([\w-]+)[>=]=", text, re.M)
    assert len(wanted) > 10
    assert set(wanted) <= names


def test_exercise_index_lists_every_exercise():
    chapters = sorted((ROOT / "notebooks").glob("*.ipynb"))
    index = exerciseindex.page(chapters)
    for path in chapters:
        labels = re.findall(r":label: (ex-\S+)", prose(path))
        assert labels, path.name
        for label in labels:
            assert index.count(f"<{label}>`") == 1, label


def answers(entry: str) -> list[str]:
    """The questions or the rows of a page."""
    text = prose(source(entry))
    parts = re.split(r"^### ", text, flags=re.M)[1:] or re.findall(
        r"^\| (?!Claim|---).+", text, re.M
    )
    assert len(parts) >= 20
    return parts


EVIDENCE = {  # a chapter; for a question also an answer elsewhere, or a public source
    "book/faq": r"\.ipynb#|\{ref\}`[^`]*<(ch|ex|use)-|\]\((error|symptom)-|\]\(https://|\{cite",
    "book/claims": r"\.ipynb#|\{ref\}`[^`]*<ch-",
}


@pytest.mark.parametrize("entry", EVIDENCE)
def test_every_answer_is_linked_to_its_evidence(entry):
    for part in answers(entry):
        assert re.search(EVIDENCE[entry], part), part


def printed(path: Path) -> str:
    """All that the cells of a notebook say and print."""
    texts = [c["source"] for c in cells(path)]
    for output in (o for c in cells(path) for o in c.get("outputs", ())):
        texts += [output.get("text", ()), output.get("data", {}).get("text/plain", ())]
    return "\n".join(map("".join, texts))


@pytest.mark.parametrize("entry", ["book/faq", "book/claims"])
def test_decimals_of_an_answer_stand_in_the_chapter_that_it_names(entry):
    for part in answers(entry):
        linked = re.findall(r"notebooks/(\w+)\.ipynb", part)
        evidence = "".join(printed(NOTEBOOKS / f"{name}.ipynb") for name in linked)
        if "<use-it>" in part:
            evidence += prose(ROOT / "book" / "use_it.md")
        # Addresses, and the numbers of versions and exercises, are no results.
        part = re.sub(
            r"\]\(https?://[^)]*\)|(?:arXiv:|PyTorch |Keras |Exercise )[\d.]+", "", part
        )
        for number in re.findall(r"\b\d+\.\d+\b", part):
            assert re.search(rf"\b{re.escape(number)}\b", evidence), (number, part)


def shown(path: Path) -> str:
    """What the cells of a notebook print, without their sources."""
    texts = []
    for output in (o for c in cells(path) for o in c.get("outputs", ())):
        texts += [output.get("text", ()), output.get("data", {}).get("text/plain", ())]
    return "\n".join(map("".join, texts))


@pytest.mark.parametrize("entry", ["book/faq", "book/claims"])
def test_whole_percentages_of_an_answer_round_what_its_chapter_prints(entry):
    for part in answers(entry):
        linked = re.findall(r"notebooks/(\w+)\.ipynb", part)
        evidence = "".join(shown(NOTEBOOKS / f"{name}.ipynb") for name in linked)
        numbers = [float(n) for n in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", evidence)]
        for percent in re.findall(r"(?<![\d.,])(\d+)(?= ?%| to \d+ ?%)", part):
            close = [n for n in numbers if abs(n - int(percent)) <= 0.5]
            assert close or not linked, (percent, part)


@pytest.mark.parametrize("entry", ["book/faq", "book/claims"])
def test_counts_and_networks_of_an_answer_stand_in_its_chapter(entry):
    for part in answers(entry):
        linked = re.findall(r"notebooks/(\w+)\.ipynb", part)
        if not linked:
            continue
        evidence = "".join(printed(NOTEBOOKS / f"{name}.ipynb") for name in linked)
        evidence = re.sub(r"(?<=\d)[,_](?=\d{3}\b)", "", evidence)  # 8,192 and 8_192
        evidence = evidence.replace("batch_size=", " ")
        for count in re.findall(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d.])", part):
            plain = count.replace(",", "")
            assert re.search(rf"\b{plain}\b", evidence), (count, part)
        for network in re.findall(r"\b\d+(?:-\d+){2,}\b", part):
            written = f"({network.replace('-', ', ')})"
            assert network in evidence or written in evidence, (network, part)


def test_measured_claims_say_what_they_were_measured_on():
    """Network, images or labels, seeds: a row of four cells has them in the third."""
    measured = [p.split(" | ") for p in answers("book/claims") if p.count(" | ") == 3]
    assert len(measured) >= 15
    for claim, _, on, evidence in measured:
        assert re.search(r"\b(three|five|ten) seeds\b", on), claim
        assert re.search(r"\d+(-\d+){2,}|(layers?|blocks) of \d+|\d+ convol", on), claim
        assert ".ipynb#" in evidence, claim
