"""What must hold for the book: its pages, settings and built HTML."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import bookext
import exerciseindex
import lighter
import pytest
import yaml
from provenance import NOTEBOOKS, ROOT

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))
ENTRIES = [TOC["root"], *(c["file"] for p in TOC["parts"] for c in p["chapters"])]
PAGES = sorted((ROOT / "book").glob("*.md"))
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


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_page_names_a_path_of_a_machine(entry):
    path = source(entry)
    text = (
        path.read_text("utf8")
        if path.suffix == ".md"
        else json.dumps(
            [
                [
                    c["source"],
                    [
                        o
                        for o in c.get("outputs", [])
                        if "image/png" not in o.get("data", {})
                    ],
                ]
                for c in cells(path)
            ]
        )
    )
    assert HERE.findall(text) == []


@pytest.mark.parametrize(
    "path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem
)
def test_every_figure_has_caption_name_and_alternative_text(path):
    for cell in cells(path):
        if any("image/png" in o.get("data", {}) for o in cell.get("outputs", [])):
            figure = cell["metadata"].get("mystnb", {})
            where = f"{path.name}, cell {cell['id']}"
            assert figure.get("figure", {}).get("caption"), f"{where}: no caption"
            assert figure["figure"].get("name", "").startswith("fig-"), where
            assert figure.get("image", {}).get("alt"), f"{where}: no alternative text"


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
    shown = set(
        re.findall(r"autoapimodule:: bnutils\.(\w+)", prose(ROOT / "book/api.md"))
    )
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
    for file in ("book", "tests", "tests/browser"):
        text = (ROOT / file / "requirements.txt").read_text("utf8")
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


@pytest.mark.parametrize("entry", ["book/faq", "book/claims"])
def test_every_answer_is_linked_to_a_chapter(entry):
    for part in answers(entry):
        assert re.search(r"\.ipynb#|\{ref\}`[^`]*<ch-", part), part


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
        for number in re.findall(r"\b\d+\.\d+\b", part):
            assert re.search(rf"\b{re.escape(number)}\b", evidence), (number, part)


class Links(HTMLParser):
    """Ids, links and loaded files of one page."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(path.read_text("utf8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
        if tag == "a" and attrs.get("href"):
            self.links.add(attrs["href"])
        loads = (
            tag == "link"
            and "stylesheet icon preload".find((attrs.get("rel") or "-").split()[-1])
            >= 0
        )
        if loads or attrs.get("src"):
            self.loads.add(attrs.get("src") or attrs["href"])


@pytest.fixture(scope="module")
def html() -> Path:
    """The book, built as `make book` builds it: warnings are errors."""
    target = ROOT / "_build" / "strict"
    shutil.rmtree(target, ignore_errors=True)  # what an extension does, it does anew
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(ROOT)]
    command += ["--path-output", str(target), "-W", "-n", "--keep-going"]
    environment = os.environ | {"BOOK_REPOSITORY_URL": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    warnings = [x for x in done.stderr.splitlines() if "WARNING" in x or "ERROR" in x]
    assert done.returncode == 0, (
        "\n".join(warnings) or done.stdout[-2000:] + done.stderr[-2000:]
    )
    return target / "_build" / "html"


@pytest.fixture(scope="module")
def pages(html) -> dict[Path, Links]:
    folders = (html, html / "book", html / "notebooks")
    found = {p: Links(p) for folder in folders for p in folder.glob("*.html")}
    assert len(found) > len(ENTRIES)
    return found


def test_strict_build_makes_every_page(html):
    assert [e for e in ENTRIES if not (html / f"{e}.html").is_file()] == []


def test_pages_load_nothing_from_elsewhere(html, pages):
    for path, page in pages.items():
        assert [x for x in page.loads if re.match(r"(?:\w+:)?//", x)] == [], path.name
        missing = [
            x
            for x in page.loads
            if not x.startswith("data:")
            and not (path.parent / unquote(x.split("?")[0])).is_file()
        ]
        assert missing == [], path.name
    for sheet in html.rglob("*.css"):
        assert not re.search(
            r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", sheet.read_text("utf8")
        ), sheet.name


def test_internal_links_lead_somewhere(pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"\w+:", link) or link.startswith("//"):
                continue
            file, anchor = urldefrag(unquote(link))
            target = (path.parent / file.split("?")[0]).resolve() if file else path
            if not target.is_file() or (
                anchor and target in pages and anchor not in pages[target].ids
            ):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_math_and_its_licence_come_with_the_pages(html):
    mathjax = html / "_static" / "mathjax"
    assert (mathjax / "tex-chtml-full.js").stat().st_size > 1_000_000
    assert len(list((mathjax / "output/chtml/fonts/woff-v2").glob("*.woff"))) > 20
    assert "Apache License" in (mathjax / "LICENSE").read_text("utf8")


def test_pages_carry_no_unused_scripts(pages):
    loads = {x for page in pages.values() for x in page.loads}
    assert [x for x in loads if "fontawesome.js" in x or "thebe" in x] == []


def test_api_reference_shows_every_public_function_and_class(html):
    page = (html / "book" / "api.html").read_text("utf8")
    modules = re.findall(r"autoapimodule:: (bnutils\.\w+)", prose(ROOT / "book/api.md"))
    for module in modules:
        names = {n for n in bookext.exported(module) if not n.isupper()}
        assert names or module == "bnutils.plot", module
        for name in names:
            assert f'id="{module}.{name}"' in page, f"{module}.{name}"


def test_every_page_has_a_description(html):
    for entry in ENTRIES:
        page = (html / f"{entry}.html").read_text("utf8")
        (words,) = re.findall(r'<meta name="description" content="([^"]*)"', page)
        assert 20 <= len(words) <= 200, entry


def test_mathjax_comes_with_the_pages_that_have_formulas(html):
    with_formula = {"math" in p for p in map(page_parts, html.glob("*/*.html"))}
    assert with_formula == {True, False}
    for path in html.glob("*/*.html"):
        parts = page_parts(path)
        assert ("math" in parts) == ("script" in parts), path.name


def page_parts(path: Path) -> set[str]:
    """Which of a formula and MathJax's script a page contains."""
    text = path.read_text("utf8")
    marks = {"math": 'class="math', "script": "tex-chtml-full.js"}
    return {name for name, mark in marks.items() if mark in text}


# What makes pages light


def test_pages_wait_for_one_style_sheet_and_one_script(html, pages):
    for path in pages:
        head = path.read_text("utf8").partition("</head>")[0]
        if not head.strip().startswith("<!DOCTYPE") or "<title>" not in head:
            continue  # the page that forwards to the first
        sheets = [p.name for p in lighter.linked(path, head)]
        assert sheets[0] == "book.css" and set(sheets[1:]) <= {"playground.css"}
        scripts = re.findall(r"<script (?![^>]*\b(?:defer|type))[^>]*src=[^>]*", head)
        assert len(scripts) == 1 and "documentation_options" in scripts[0]
        searches = "searchindex.js" in path.read_text("utf8")
        assert searches == (path.name == "search.html")


def test_the_style_sheet_holds_what_its_parts_hold_in_the_end(html):
    """The theme writes one of them at the very end of the build."""
    bundle = html / "_static" / "book.css"
    names = bundle.read_text("utf8").partition("*/")[0].removeprefix("/*").split()
    assert len(names) > 5 and "custom.css" in names and "pygments.css" in names
    sheets = [html / "_static" / name for name in names]
    found = bundle.read_text("utf8")
    lighter.write(bundle, sheets)
    assert bundle.read_text("utf8") == found
    fonts = re.findall(r"url\((vendor/[^)]+)\)", found)
    assert fonts and all((bundle.parent / font).is_file() for font in fonts)


PAGE = """<html><head>{}
<script src="_static/documentation_options.js"></script><script src="_static/a.js"></script>
<script src="searchindex.js"></script></head><body><article><img src="a"><img src="b">
<p class="math"></p><script defer src="_static/mathjax/tex.js"></script>
<script defer src="_static/theme.js"></script></article></body></html>"""


def small_book(folder: Path) -> list[str]:
    """Two sheets, one of which imports a third, and one picture."""
    (folder / "_static" / "deep").mkdir(parents=True)
    (folder / "sub").mkdir()
    (folder / "_static" / "dot.png").write_bytes(b"")
    files = {
        "deep/a.css": '@import "../b.css";\na { background: url("../dot.png") }',
        "b.css": "b { background: url(data:x) url(nowhere.png) }",
        "c.css": "c { color: red }",
    }
    for name, text in files.items():
        (folder / "_static" / name).write_text(text)
    return ["_static/deep/a.css", "_static/c.css"]


def write_page(path: Path, sheets: list[str]) -> None:
    up = "../" * (path.parent.name == "sub")
    links = "".join(f'\n<link rel="stylesheet" href="{up}{s}?v=1" />' for s in sheets)
    path.write_text(PAGE.format(links))


def test_shared_sheets_become_one(tmp_path):
    sheets = small_book(tmp_path)
    one, two = tmp_path / "one.html", tmp_path / "sub" / "two.html"
    write_page(one, sheets)
    write_page(two, [*sheets, "_static/own.css"])
    (tmp_path / "_static" / "own.css").write_text("")
    lighter.lighten(tmp_path)
    css = (tmp_path / "_static" / "book.css").read_text()
    order = [css.index(part) for part in ("b {", "a {", "c {")]
    assert order == sorted(order) and "@import" not in css
    assert "url(dot.png)" in css and "url(nowhere.png)" in css and "url(data:x)" in css
    assert [p.name for p in lighter.linked(one, one.read_text())] == ["book.css"]
    found = [p.name for p in lighter.linked(two, two.read_text())]
    assert (
        found == ["book.css", "own.css"]
        and '"../_static/book.css?v=' in two.read_text()
    )


def test_a_page_written_anew_joins_the_others(tmp_path):
    sheets = small_book(tmp_path)
    one, two = tmp_path / "one.html", tmp_path / "sub" / "two.html"
    for page in (one, two):
        write_page(page, [*sheets, "_static/missing.css"])
    lighter.lighten(tmp_path)
    before = two.read_text()
    lighter.lighten(tmp_path)
    assert two.read_text() == before
    (tmp_path / "_static" / "c.css").write_text("c { color: blue }")
    write_page(one, sheets)
    lighter.lighten(tmp_path)
    assert "blue" in (tmp_path / "_static" / "book.css").read_text()
    marks = {re.search(r"book.css(\S+)", p.read_text())[1] for p in (one, two)}
    assert len(marks) == 1 and marks.pop() not in before


def test_scripts_wait_and_mathjax_comes_last(tmp_path):
    text = lighter.lighter(PAGE.format(""))
    assert '<script src="_static/documentation_options.js">' in text
    assert '<script defer src="_static/a.js">' in text and "searchindex" not in text
    assert text.index("theme.js") < text.index("mathjax/") < text.index("</body>")
    assert text.count("mathjax/") == 1 and text.count('loading="lazy"') == 1
    assert "searchindex" in lighter.lighter(PAGE.format(""), search=True)
    assert "mathjax" not in lighter.lighter(text.replace('class="math"', ""))
