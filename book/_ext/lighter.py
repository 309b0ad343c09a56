"""Pages that show early: one style sheet, scripts that wait, nothing that is not used.

The theme links eleven style sheets and fourteen scripts before the text, and a browser shows
nothing until it has them. Here the sheets that all pages share become one, the bundle, and all
scripts but one wait until the text is there.

Nothing is rewritten afterwards: Sphinx is told what to link before it writes a page, by the lists
of style sheets and scripts here and by the templates in ``book/_templates``, which replace those
parts of the theme that link files by themselves.
"""

from __future__ import annotations

import os
import re
import zlib
from operator import attrgetter
from pathlib import Path

import formulas
from docutils import nodes
from fontTools import subset

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = "_static/book.css"
# The theme links these by itself, before all others.
THEME_SHEETS = ["_static/styles/theme.css", "_static/styles/pydata-sphinx-theme.css"]
NOT_DEFERRED = "_static/documentation_options.js"  # inline scripts after it need it
IMPORT = re.compile(r"""@import\s+["'](?P<path>[^"':]+)["'];""")
CLASSES = re.compile(r'\bclass="([^"]*)"')
WORD = re.compile(r"-?[A-Za-z_][\w-]*")
RULE = re.compile(r"(?P<selectors>[^{}@;/]+)\{(?P<body>[^{}]*)\}")
# Bootstrap's script adds the side on which the box stands.
PUT_TOGETHER = ("bs-tooltip-", "bs-popover-")
# What stands in brackets says what else must, or must not, be so: `:not(.open)`.
BRACKETS = re.compile(r"\([^()]*\)")
EMPTY = re.compile(r"@(?:media|supports)[^{}]*\{\s*\}")
# An icon font of the theme, as WOFF2 and, which is read here, as TrueType.
ICON_FONT = re.compile(
    r"""src:url\([^)]+/fa-[\w-]+\.woff2\) format\("woff2"\),"""
    r"""url\((?P<font>[^)]+\.ttf)\) format\("truetype"\)"""
)
ICON = re.compile(r"""["']\\(?P<code>[0-9a-f]{2,5})["']""")  # as in `content: "\f185"`
URL = re.compile(r"""url\((?P<quote>["']?)(?P<path>[^"':#)]+)(?P=quote)\)""")


def use_templates(app, config):
    """Let our templates come before the theme's."""
    config.templates_path.insert(0, str(ROOT / "book" / "_templates"))


def link_the_bundle(app, pagename, templatename, context, doctree):
    """Take out the style sheets that all pages share and link the bundle in their place.

    Thebe's is left out: it is unused, and its script names a CDN. This runs before a page adds
    sheets of its own. The list is Sphinx's, which it restores for
    each page, so it is emptied in place: a page's own sheets are added to the same list.
    """
    shared = [sheet for sheet in context["css_files"] if not is_of(sheet, "thebe")]
    shared.sort(key=attrgetter("priority"))
    app.builder.bundled = THEME_SHEETS + [str(sheet.filename) for sheet in shared]
    context["css_files"][:] = []
    context["bundle"], context["bundle_version"] = BUNDLE, version_of_styles(app)


def version_of_styles(app) -> str:
    """What makes the bundle's address a new one for the browser when the styles change.

    The bundle itself is written after the pages, since some extensions bring their style sheets
    at the very end. It changes with the book's own sheets, with its formulas and with the
    extensions' versions.
    """
    sheets = sorted((ROOT / "book" / "_static").glob("*.css"))
    own = [sheet.read_text("utf8") for sheet in sheets]
    extensions = sorted((name, one.version) for name, one in app.extensions.items())
    drawn = sorted(
        {one for page in formulas.formulas(app.env).values() for one in page}
    )
    return f"{zlib.crc32(repr((own, extensions, drawn)).encode()):08x}"


def defer_scripts(app, pagename, templatename, context, doctree):
    """Let scripts wait for the text, and MathJax, where it has to run in the page, for the others.

    Sphinx loads MathJax on the first page as well, since the pages below it have formulas.
    """
    math = [s for s in context["script_files"] if is_of(s, "mathjax")]
    others = [s for s in context["script_files"] if not is_of(s, "mathjax", "thebe")]
    with_formulas = doctree is not None and any(doctree.findall(is_formula))
    context["script_files"] = [deferred(script) for script in others]
    context["last_scripts"] = [deferred(s) for s in math] if with_formulas else []


def is_formula(node) -> bool:
    """Whether a piece of a page is for MathJax to draw."""
    return isinstance(node, nodes.math | nodes.math_block)


def deferred(script):
    """The same script, run when the page has been read; those inside a page stay as they are."""
    at_once = not script.filename or script.filename == NOT_DEFERRED
    if at_once or {"defer", "async"} & script.attributes.keys():
        return script
    attributes = script.attributes | {"defer": "defer"}
    return type(script)(script.filename, priority=script.priority, **attributes)


def is_of(file, *names: str) -> bool:
    """Whether a script or style sheet is of one of these programs, by its address or its text."""
    text = f"{file.filename}{file.attributes.get('body', '')}".lower()
    return any(name in text for name in names)


def load_pictures_late(app, doctree, docname):
    """Fetch pictures after the first when the reader comes near."""
    for picture in list(doctree.findall(nodes.image))[1:]:
        picture["loading"] = "lazy"


def visit_citation(self, node):
    """Write a work of the bibliography as an item of a list.

    docutils gives it the role doc-biblioentry, which ARIA deprecates and axe reports.
    """
    type(self).visit_citation(self, node)
    old, new = 'role="doc-biblioentry"', 'role="listitem"'
    self.body[-1] = self.body[-1].replace(old, new)


def depart_citation(self, node):
    """Close it as docutils does."""
    type(self).depart_citation(self, node)


def write_bundle(app, exception):
    """Join the style sheets, once the last extension has brought its own."""
    names = getattr(app.builder, "bundled", None)  # none where no page was out of date
    if exception is None and names:
        folder = Path(app.outdir)
        bundle = folder / BUNDLE
        text = joined(
            [folder / name for name in names], bundle.parent, words_of(folder)
        )
        bundle.write_text(with_few_icons(text, bundle.parent), "utf8")


def words_of(folder: Path) -> set[str]:
    """What may be a class on some page: what its elements have, and all words of the scripts."""
    found = set()
    for page in folder.rglob("*.html"):
        for classes in CLASSES.findall(page.read_text("utf8")):
            found.update(classes.split())
    for script in folder.rglob("*.js"):
        found.update(WORD.findall(script.read_text("utf8")))
    return found


def without_unused(text: str, known: set[str]) -> str:
    """A style sheet without the rules for classes that no page has and no script names.

    Most of the theme is Bootstrap, colours of terminals and 1,900 icons, of which the book uses
    few; a browser reads all of it before it shows a word.
    """

    def possible(name: str) -> bool:
        return name in known or name.startswith(PUT_TOGETHER)

    def needed(selector: str) -> bool:
        names = re.findall(r"\.(-?[A-Za-z_][\w-]*)", bare(selector))
        return all(map(possible, names))

    def kept(rule):
        selectors = split(rule["selectors"])
        if all(map(needed, selectors)):
            return rule[0]
        left = ",".join(filter(needed, selectors))
        return f"{left}{{{rule['body']}}}" if left else ""

    return EMPTY.sub("", RULE.sub(kept, text))


def bare(selector: str) -> str:
    """A selector without what stands in brackets."""
    while (shorter := BRACKETS.sub("", selector)) != selector:
        selector = shorter
    return selector


def split(selectors: str) -> list[str]:
    """The selectors of a list, at the commas that do not stand in brackets."""
    found, depth = [""], 0
    for letter in selectors:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return found


def with_few_icons(text: str, folder: Path) -> str:
    """The bundle with fonts that hold only the icons that it names, written beside it.

    Each of the theme's three fonts of icons has hundreds, 150 kB of which every page would fetch.
    """
    codes = {int(code, 16) for code in ICON.findall(text)}
    codes |= {ord(letter) for letter in text if "\ue000" <= letter <= "\uf8ff"}

    def fewer(sources):
        small = folder / f"{Path(sources['font']).stem}.woff"
        options = subset.Options(flavor="woff", layout_features=["*"])
        font = subset.load_font(folder / sources["font"], options)
        subsetter = subset.Subsetter(options)
        subsetter.populate(unicodes=codes)
        subsetter.subset(font)
        subset.save_font(font, small, options)
        return f'src:url({small.name}) format("woff")'

    return ICON_FONT.sub(fewer, text)


def joined(sheets: list[Path], folder: Path, known: set[str]) -> str:
    """Style sheets as one, with the addresses seen from a folder; the book's own as they are."""
    own = {sheet.name for sheet in (ROOT / "book" / "_static").glob("*.css")}
    texts = []
    for sheet in sheets:
        text = inlined(sheet, folder)
        text = text if sheet.name in own else without_unused(text, known)
        texts.append(f"/* {sheet.name} */\n{text}")
    return "\n".join(texts)


def inlined(sheet: Path, folder: Path) -> str:
    """A style sheet with its imports put in, and its addresses seen from another folder."""

    def moved(url):
        target = (sheet.parent / url["path"]).resolve()
        if not target.is_file():  # a picture inside the sheet itself
            return url[0]
        return f"url({Path(os.path.relpath(target, folder)).as_posix()})"

    def imported(statement):
        return inlined((sheet.parent / statement["path"]).resolve(), folder)

    return IMPORT.sub(imported, URL.sub(moved, sheet.read_text("utf8")))


def setup(app):
    """Connect the above to Sphinx."""
    app.connect("config-inited", use_templates)
    app.connect("html-page-context", link_the_bundle, priority=0)
    app.connect("html-page-context", defer_scripts, priority=900)
    app.connect("doctree-resolved", load_pictures_late)
    app.add_node(nodes.citation, override=True, html=(visit_citation, depart_citation))
    app.connect("build-finished", write_bundle, priority=990)  # after the theme's
    return {"parallel_read_safe": True, "parallel_write_safe": True}
