"""Search that leads to the section which answers, by its heading.

Sphinx's own search indexes whole pages, so a word in the text leads to the top of a long chapter.
It cuts Chinese at punctuation only, so that most Chinese words are not found. And its snippets show
raw TeX. Here every section is an entry of its own, and so is every exercise, every term of the
glossary and every object of the API. Entries made with ``{index}`` count as much as a heading:
words that a reader would type and the heading has not.

The index is a script, because a page opened from the disk may fetch nothing. The ranking is in
``book/_static/search``.
"""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import yaml
from docutils import nodes
from sphinx import addnodes

ROOT = Path(__file__).resolve().parents[2]
GENERATED = "sections.js"
SKIPPED = (nodes.math, nodes.math_block, nodes.raw, nodes.comment, nodes.system_message)
SKIPPED += (nodes.substitution_definition, addnodes.toctree)
OTHERS = (
    nodes.section,
    nodes.title,
    nodes.citation,
    addnodes.desc,
)  # entries themselves
# sphinx-exercise puts what an exercise says into a section without a heading.
EXERCISE, SOLUTION = "exercise-content", "solution-content"
WITH_WORKS = {"book/bibliography"}
# What a page is, for the ranking: answers come before chapters, chapters before reference.
KINDS = {
    "book/use_it": "answer",
    "book/use_it_zh": "chinese",
    "book/trouble_zh": "chinese",
    "book/errors": "message",
    "book/symptoms": "answer",
    "book/faq": "answer",
    "book/api": "api",
    "book/bibliography": "reference",
    "book/exercises": "reference",
    "book/notation": "reference",
}


def entries(doctree: nodes.document) -> list[dict]:
    """The sections, terms and objects of a page, in order: heading, anchor, text, code."""
    found = []
    for section in doctree.findall(nodes.section):
        first = section["ids"][0]
        if SOLUTION in first:
            continue  # nobody should come upon one by a search
        if EXERCISE in first:
            box = section.parent  # it has the heading, and can be linked to
            heading = re.sub(r"^Exercise\s*", "Exercise: ", title_of(box))
            found.append(entry(heading, box["ids"][0], Gathered(section), "exercise"))
        else:
            found.append(entry(title_of(section), first, Gathered(section)))
    for item in doctree.findall(nodes.definition_list_item):
        for term in item.findall(nodes.term):
            if term["ids"]:  # a term of the glossary; others cannot be linked to
                definition = Gathered(item.next_node(nodes.definition))
                found.append(entry(term.astext(), term["ids"][0], definition, "term"))
    for work in doctree.findall(nodes.citation):
        text = " ".join(p.astext() for p in work.findall(nodes.paragraph))
        heading = textwrap.shorten(text, 90, placeholder=" …")
        found.append(entry(heading, work["ids"][0], Gathered(work), "reference"))
    for signature in doctree.findall(addnodes.desc_signature):
        if signature["ids"]:
            name = signature["ids"][0]
            found.append(entry(name, name, Gathered(signature.parent), "api"))
    return found


def entry(heading: str, anchor: str, gathered: Gathered, kind: str = "") -> dict:
    """One entry of the index; the keys are short because each stands there a thousand times."""
    text = re.sub(r"\s+", " ", " ".join(gathered.words)).strip()
    code = set(re.findall(r"[A-Za-z_]\w{2,}", " ".join(gathered.code)))
    more = {"t": text, "c": " ".join(sorted(code)), "i": gathered.index}
    more = {key: value for key, value in more.items() if value}
    return {"h": heading, "a": anchor, "k": kind} | more


def title_of(section: nodes.Element) -> str:
    """The heading, without formulas."""
    titles = [c for c in section.children if isinstance(c, nodes.title)]
    return readable(titles[0]) if titles else ""


def readable(node) -> str:
    """The words of a piece of text; a formula in it becomes an ellipsis."""
    if isinstance(node, nodes.Text):
        return node.astext()
    if isinstance(node, nodes.math):
        return "…"
    if isinstance(node, SKIPPED):
        return ""
    return "".join(readable(child) for child in node.children)


class Gathered:
    """What belongs to a section itself, and not to the sections inside it.

    Code is kept apart: it counts for less, and no snippet shows it. What cells printed is left out,
    since most of it is numbers.
    """

    def __init__(self, node: nodes.Element):
        self.words: list[str] = []
        self.code: list[str] = []
        self.index: list[str] = []
        self.gather(node)

    def gather(self, node: nodes.Element) -> None:
        """Go through what is inside a node."""
        for child in node.children:
            if isinstance(child, OTHERS + SKIPPED):
                continue
            classes = getattr(child, "attributes", {}).get("classes", ())
            if "contents" in classes or "predict-answer" in classes:
                continue  # a list of the page's own headings; what the reader is to guess
            if isinstance(child, addnodes.index):
                self.index += [words for _, words, *_ in child["entries"]]
            elif "cell_output" in classes:
                self.words += [
                    caption.astext() for caption in child.findall(nodes.caption)
                ]
            elif isinstance(child, nodes.literal_block):
                self.code.append(child.astext())
            elif isinstance(child, nodes.TextElement):
                self.words.append(readable(child))
            elif isinstance(child, nodes.Element):
                self.gather(child)


def names_in_the_contents() -> dict[str, str]:
    """The short names of chapters, which readers see at the side, by page."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))
    chapters = [c for part in contents["parts"] for c in part["chapters"]]
    return {c["file"]: c["title"] for c in chapters if "title" in c}


def page_of(app, name: str) -> nodes.document:
    """What is on a page, with the titles of other pages where it refers to them.

    As Sphinx keeps a page, its references name labels, and a bibliography is still to be made.
    """
    if name in WITH_WORKS:
        return app.env.get_and_resolve_doctree(name, app.builder)
    page = app.env.get_doctree(name)
    for reference in list(page.findall(addnodes.pending_xref)):
        if not reference.get("refexplicit") and (
            words := words_for(app.env, reference)
        ):
            reference.children[:] = [nodes.Text(words)]
    return page


def words_for(env, reference: addnodes.pending_xref) -> str:
    """What a reference will say on the page: a title, or the number of a figure or equation."""
    kind, target = reference["reftype"], reference["reftarget"]
    standard = env.get_domain("std")
    if kind == "ref" and target in standard.labels:
        return standard.labels[target][2]
    if kind in ("ref", "numref") and target in standard.anonlabels:
        page, name, *_ = standard.anonlabels[target]
        return "Fig. " + number_of(env, page, name)
    if kind == "eq" and target in env.get_domain("math").equations:
        page, _ = env.get_domain("math").equations[target]
        return f"({number_of(env, page, nodes.make_id(f'equation-{target}'))})"
    return ""


def number_of(env, page: str, name: str) -> str:
    """The number of something by its id, such as 2.1, whatever it is; "…" for what has none."""
    for numbers in env.toc_fignumbers.get(page, {}).values():
        if name in numbers:
            return ".".join(map(str, numbers[name]))
    return "…"


def kind_of(page: str) -> str:
    """What a page is; those inside a folder are what the page of that name is."""
    return KINDS.get(page) or KINDS.get(page.rpartition("/")[0], "chapter")


def index_of(app) -> dict:
    """The whole index: pages, and entries that say by number on which page they are."""
    env = app.env
    short = names_in_the_contents()
    pages, sections = [], []
    for name in sorted(env.found_docs):
        title = env.titles[name].astext()
        pages.append([f"{name}.html", title, short.get(name, "")])
        for one in entries(page_of(app, name)):
            kind = one["k"] or kind_of(name)
            sections.append(one | {"k": kind, "p": len(pages) - 1})
    return {"pages": pages, "sections": sections}


def write_index(app, exception):
    """Write the index as a script."""
    if exception is None and app.builder.format == "html":
        folder = Path(app.outdir) / "_static" / "search"
        folder.mkdir(parents=True, exist_ok=True)
        index = json.dumps(index_of(app), ensure_ascii=False, separators=(",", ":"))
        script = f"(window.bnSearch = window.bnSearch || {{}}).index = {index};\n"
        (folder / GENERATED).write_text(script, "utf8")


def use_templates(app, config):
    """Let our page of results come before the theme's."""
    folder = str(ROOT / "book" / "_templates")
    if folder not in config.templates_path:
        config.templates_path.insert(0, folder)


def setup(app):
    """Connect the above to Sphinx."""
    app.add_css_file("answers.css")  # the pages that answer, and the results
    app.connect("config-inited", use_templates)
    app.connect("build-finished", write_index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
