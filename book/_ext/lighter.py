"""Pages that show early: one style sheet, scripts that wait, nothing that is not used.

The theme links eleven style sheets and fourteen scripts before the text, and a browser shows
nothing until it has them. Here the sheets that all pages share become one, and all scripts
but one wait until the text is there.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

BUNDLE = "book.css"
LINK = re.compile(r'\s*<link[^>]*?\bhref="(?P<href>[^"?:]+\.css)[^"]*"[^>]*/?>')
IMPORT = re.compile(r"""@import\s+["'](?P<path>[^"':]+)["'];""")
URL = re.compile(r"""url\((?P<quote>["']?)(?P<path>[^"':#)]+)(?P=quote)\)""")
SCRIPT = r"\s*<script[^>]*\b{}[^>]*></script>"
SYNC = "documentation_options.js"  # the inline scripts after it need it
SEARCH = r"(?:searchtools|language_data|searchindex)\.js"


def lighten(outdir: Path) -> None:
    """Make all pages of a built book lighter, in place.

    After a change Sphinx writes some pages anew and leaves others as they are here: those
    link the bundle already, and the bundle's first line says what is in it.
    """
    pages = {p: p.read_text("utf8") for p in sorted(outdir.rglob("*.html"))}
    pages = {p: text for p, text in pages.items() if "</head>" in text}
    sheets = {p: list(linked(p, text)) for p, text in pages.items()}
    bundle = outdir / "_static" / BUNDLE
    if any(bundle in found for found in sheets.values()):
        names = bundle.read_text("utf8").partition("*/")[0].removeprefix("/*").split()
        joined = [bundle.parent / name for name in names]
    else:
        joined = shared(sheets)
    mark = write(bundle, joined) if joined else ""
    for path, text in pages.items():
        if mark and (bundle in sheets[path] or set(joined) <= set(sheets[path])):
            text = with_bundle(path, text, {bundle, *joined}, bundle, mark)
        path.write_text(lighter(text, search=path.name == "search.html"), "utf8")


def linked(page: Path, text: str):
    """The style sheets of a page, as paths, in order."""
    for link in LINK.finditer(text.partition("</head>")[0]):
        sheet = (page.parent / link["href"]).resolve()
        if (
            sheet.is_file()
        ):  # Sphinx's single page is one folder lower than its links say
            yield sheet


def shared(sheets: dict[Path, list[Path]]) -> list[Path]:
    """Those that every page links, in their order."""
    everywhere = set.intersection(*map(set, sheets.values())) if sheets else set()
    return [s for s in next(iter(sheets.values()), []) if s in everywhere]


def write(bundle: Path, sheets: list[Path]) -> str:
    """Join the sheets; return what makes the address a new one when they change."""
    names = " ".join(Path(*up_to(s, bundle.parent)).as_posix() for s in sheets)
    parts = [f"/* {names} */", *(inlined(s, bundle.parent) for s in sheets)]
    text = "\n".join(parts)
    bundle.write_text(text, "utf8")
    return "?v=" + hashlib.sha256(text.encode()).hexdigest()[:8]


def inlined(sheet: Path, folder: Path) -> str:
    """A style sheet with its imports put in, and its addresses seen from another folder."""

    def moved(url):
        target = (sheet.parent / url["path"]).resolve()
        if not target.is_file():
            return url[0]
        return f"url({Path(*up_to(target, folder)).as_posix()})"

    text = URL.sub(moved, sheet.read_text("utf8"))
    return IMPORT.sub(
        lambda i: inlined((sheet.parent / i["path"]).resolve(), folder), text
    )


def up_to(target: Path, folder: Path) -> tuple[str, ...]:
    """The parts of the way from a folder to a file."""
    while not target.is_relative_to(folder):
        return ("..", *up_to(target, folder.parent))
    return target.relative_to(folder).parts


def with_bundle(page: Path, text: str, sheets: set, bundle: Path, mark: str) -> str:
    """A page that links the bundle in place of the first of the sheets that are in it."""
    way = Path(*up_to(bundle, page.parent)).as_posix()
    links = iter([f'\n    <link rel="stylesheet" href="{way}{mark}" />'])

    def replaced(link):
        if (page.parent / link["href"]).resolve() not in sheets:
            return link[0]
        return next(links, "")

    head, end, body = text.partition("</head>")
    return LINK.sub(replaced, head) + end + body


def lighter(text: str, *, search: bool = False) -> str:
    """A page without what it does not need at once, or at all.

    Font Awesome's script is 1.5 MB, and the style sheet's font draws the same icons. MathJax goes
    where no formula is, the search index where nobody searches. Scripts wait for the text, and
    MathJax, the longest, for the theme's.
    Pictures after the first are fetched when the reader comes near. And the works of the
    bibliography get the role of an item of a list; theirs is on its way out.
    """
    text = text.replace('role="doc-biblioentry"', 'role="listitem"')
    text = re.sub(SCRIPT.format(r"fontawesome\.js"), "", text)
    if 'class="math' not in text:
        text = re.sub(SCRIPT.format(r"mathjax"), "", text)
        text = re.sub(r"\s*<script>window\.MathJax = .*?</script>", "", text)
    if not search:
        text = re.sub(SCRIPT.format(SEARCH), "", text)
    text = re.sub(r'\s*<link rel="preload" as="script"[^>]*>', "", text)
    text = re.sub(rf'<script (?=[^>]*src="(?![^"]*{SYNC}))(?![^>]*\b(?:defer|async|type)\b)',
                  "<script defer ", text)  # fmt: skip
    text = last(text, r"mathjax/[^\"]*")
    head, article, body = text.partition("<article")
    first, picture, rest = body.partition("<img ")
    rest = re.sub(r"<img (?!loading)", '<img loading="lazy" ', rest)
    return head + article + first + picture + rest


def last(text: str, name: str) -> str:
    """A page whose script of that name comes after all others."""
    script = re.search(SCRIPT.format(name), text)
    if script is None:
        return text
    text = text[: script.start()] + text[script.end() :]
    head, end, rest = text.rpartition("</body>")
    return f"{head.rstrip()}{script[0]}\n  {end}{rest}"
