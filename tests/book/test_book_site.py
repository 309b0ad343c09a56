"""What must hold for the built book: a strict build, whole links, light pages, no network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import bookext
import formulas
import head
import lighter
import pytest
import yaml
from provenance import ROOT

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))
ENTRIES = [TOC["root"], *(c["file"] for p in TOC["parts"] for c in p["chapters"])]


class Page(HTMLParser):
    """What a page links, loads and holds."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.sheets: list[str] = []
        self.at_once: list[str] = []  # scripts that the text waits for
        self.deferred: list[str] = []
        self.pictures: list[str] = []  # how each is loaded
        self.formulas = 0
        self.description = ""
        self.feed(path.read_text("utf8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs[k] for k in ("id", "name") if attrs.get(k)}
        self.formulas += "math" in (attrs.get("class") or "").split()
        if tag == "a" and attrs.get("href"):
            self.links.add(attrs["href"])
        if tag == "link" and attrs.get("rel") in {"stylesheet", "icon", "preload"}:
            self.loads.add(attrs["href"])
        if tag == "link" and attrs.get("rel") == "stylesheet":
            self.sheets.append(attrs["href"])
        if tag == "meta" and attrs.get("name") == "description":
            self.description += attrs["content"]
        if attrs.get("src"):
            self.loads.add(attrs["src"])
        if tag == "script" and attrs.get("src"):
            waits = "defer" in attrs or "async" in attrs
            (self.deferred if waits else self.at_once).append(attrs["src"])
        if tag == "img":
            self.pictures.append(attrs.get("loading", "at once"))


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
def pages(html) -> dict[Path, Page]:
    """Every page, those at the root included."""
    folders = (html, html / "book", html / "notebooks")
    found = {p: Page(p) for folder in folders for p in folder.glob("*.html")}
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
    assert (mathjax / "tex-chtml-full.js").exists() != formulas.available()
    assert len(list((mathjax / "output/chtml/fonts/woff-v2").glob("*.woff"))) > 20
    assert "Apache License" in (mathjax / "LICENSE").read_text("utf8")


def test_api_reference_shows_every_public_function_and_class(html):
    for source in sorted((ROOT / "book" / "api").glob("*.md")):
        page = (html / "book" / "api" / f"{source.stem}.html").read_text("utf8")
        module = f"bnutils.{source.stem}"
        names = {n for n in bookext.exported(module) if not n.isupper()}
        assert names or module == "bnutils.plot", module
        for name in names:
            assert f'id="{module}.{name}"' in page, f"{module}.{name}"


def test_a_chapter_is_downloaded_as_the_copy_for_running(html):
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = (html / "_sources" / "notebooks" / path.name).read_text("utf8")
        assert "This notebook uses the package" in text
        assert "{predict}" not in text and "{exercise}" not in text


def test_every_page_has_a_description(html, pages):
    for entry in ENTRIES:
        words = pages[html / f"{entry}.html"].description
        assert 20 <= len(words) <= 200, entry


def test_pages_say_what_a_preview_of_a_link_shows(html):
    text = (html / "notebooks" / "02_forward.html").read_text("utf8")
    for name in ("title", "type", "site_name", "description"):
        assert len(re.findall(f'property="og:{name}" content="[^"]+"', text)) == 1, name
    assert 'rel="canonical"' not in text  # nobody said where the site will stand


def test_the_first_page_stands_at_the_root(html, pages):
    text = (html / "index.html").read_text("utf8")
    assert "Refresh" not in text and "Find your way" in text
    assert not re.search(r'(?:href|src)="\.\./', text)


def test_index_of_the_search_shows_no_label(html):
    index = (html / "_static" / "search" / "sections.js").read_text("utf8")
    assert re.findall(r'(?<!"a":")\b(?:eq|fig)-\d\d-\w+', index) == []


@pytest.mark.parametrize(
    ("link", "folder", "root", "new"),
    [
        ('href="../_static/a.css?v=1"', "book", "", 'href="_static/a.css?v=1"'),
        ('href="use_it.html#ten"', "book", "", 'href="book/use_it.html#ten"'),
        ('data-content_root="../"', "book", "", 'data-content_root="./"'),
        ('src="_static/a.js"', "", "/name/", 'src="/name/_static/a.js"'),
        ('href="#here"', "book", "/name/", 'href="#here"'),
        ('href="https://a.org/x"', "book", "/", 'href="https://a.org/x"'),
    ],
)
def test_links_of_a_page_that_is_shown_elsewhere(link, folder, root, new):
    assert head.moved(link, folder, root) == new


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("", ""),
        ("https://a.org/book", "https://a.org/book/"),
        ("https://a.org/", "https://a.org/"),
    ],
)
def test_address_of_the_site_ends_with_a_slash(monkeypatch, given, known):
    monkeypatch.setenv("BOOK_ADDRESS", given)
    assert head.address() == known


def test_address_of_the_site_is_one(monkeypatch):
    monkeypatch.setenv("BOOK_ADDRESS", "a.org/book")
    with pytest.raises(
        ValueError, match="must begin with https://, but got 'a.org/book'"
    ):
        head.address()


def test_sitemap_names_every_page():
    text = head.sitemap(["book/a", "b"], "https://a.org/")
    assert re.findall("<loc>(.+?)</loc>", text) == [
        "https://a.org/book/a.html",
        "https://a.org/b.html",
    ]


# What makes pages light


def test_pages_wait_for_one_style_sheet_and_one_script(pages):
    for path, page in pages.items():
        first, *others = [sheet.split("/")[-1].split("?")[0] for sheet in page.sheets]
        assert first == "book.css", path.name
        assert set(others) <= {"playground.css"}, path.name
        (script,) = page.at_once
        assert "documentation_options.js" in script, path.name


def test_all_pages_link_the_same_style_sheet(pages):
    """Its address changes with its content, so that browsers do not show an old one."""
    addresses = {page.sheets[0].replace("../", "") for page in pages.values()}
    (address,) = addresses
    assert re.fullmatch(r"_static/book\.css\?v=[0-9a-f]{8}", address)


@pytest.mark.skipif(not formulas.available(), reason="formulas are drawn in the page")
def test_formulas_are_there_before_any_script_runs(pages):
    with_formulas = [path for path, page in pages.items() if page.formulas]
    assert 10 < len(with_formulas) < len(pages)
    for path in with_formulas:
        text = path.read_text("utf8")
        assert text.count("<mjx-container ") == pages[path].formulas, path.name
        assert text.count("<mjx-assistive-mml ") == pages[path].formulas, path.name
        assert not any("mathjax" in script for script in pages[path].deferred), (
            path.name
        )


@pytest.mark.skipif(not formulas.available(), reason="formulas are drawn in the page")
def test_style_sheet_has_the_fonts_of_the_formulas(html):
    sheet = (html / "_static" / "book.css").read_text("utf8")
    fonts = re.findall(r"url\(([^)]*MathJax_\w+[^)]*)\)", sheet)
    assert len(fonts) > 5
    assert all((html / "_static" / font.strip("'\"")).is_file() for font in fonts)


@pytest.mark.skipif(formulas.available(), reason="formulas are drawn beforehand")
def test_mathjax_comes_last_and_with_the_pages_that_have_formulas(pages):
    with_formulas = {path for path, page in pages.items() if page.formulas}
    with_script = {
        path
        for path, page in pages.items()
        if any("mathjax" in script for script in page.deferred)
    }
    assert 10 < len(with_formulas) < len(pages)
    assert with_script == with_formulas
    assert all("mathjax" in pages[path].deferred[-1] for path in with_script)


def test_pages_carry_no_script_without_use(pages):
    for path, page in pages.items():
        scripts = " ".join(page.deferred + page.at_once)
        assert "fontawesome" not in scripts and "thebe" not in scripts
        assert ("search/sections.js" in scripts) == (path.name == "search.html"), (
            path.name
        )
        assert len(page.deferred) == len(set(page.deferred)), path.name


def test_pictures_after_the_first_load_when_the_reader_comes_near(pages):
    shown = [page.pictures for page in pages.values() if len(page.pictures) > 1]
    assert shown
    for loading in shown:
        assert loading == ["at once", *["lazy"] * (len(loading) - 1)]


def test_the_style_sheet_holds_what_its_parts_hold_in_the_end(html):
    """Some of them are written, or written anew, at the very end of the build."""
    static = html / "_static"
    bundle = (static / "book.css").read_text("utf8")
    for name in ("custom.css", "predict.css", "print.css"):
        assert (static / name).read_text("utf8") in bundle, name
    known = lighter.words_of(html)
    for name in ("pygments.css", "exercise.css", "togglebutton.css"):
        whole = (static / name).read_text("utf8")
        assert lighter.without_unused(whole, known) in bundle, name
    for rule in (".highlight .k ", ".exercise", ".toggle-hidden", ".navbar", "mjx-c"):
        assert rule in bundle, rule  # of others: what the pages use
    fonts = re.findall(r"url\((fa-[^)]+)\)", bundle)
    assert len(fonts) == 3 and all((static / font).is_file() for font in fonts)
    assert "@import" not in bundle


def test_style_sheets_are_joined_in_order_with_their_imports_and_addresses(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "dot.png").write_bytes(b"")
    files = {
        "deep/a.css": '@import "../b.css";\na { background: url("../dot.png") }',
        "b.css": "b { background: url(data:x) url(nowhere.png) }",
        "c.css": "c { color: red }",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    css = lighter.joined([tmp_path / "deep/a.css", tmp_path / "c.css"], tmp_path, set())
    order = [css.index(rule) for rule in ("b {", "a {", "c {")]
    assert order == sorted(order) and "@import" not in css
    assert "url(dot.png)" in css and "url(nowhere.png)" in css and "url(data:x)" in css
