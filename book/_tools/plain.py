"""Turn the MyST of a chapter into Markdown that Colab and Jupyter show well.

Cross-references become links between the notebooks, citations links to the works, equations
carry their number as a tag, captions stand below their figures, hints and the like fold. A plate
is the picture of it, inside the text.
"""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import plates
from pybtex.database import BibliographyData, Person, parse_string

TARGET = re.compile(r"^\(([\w-]+)\)=\n+(?=#+ (.+))", re.M)
LABEL = re.compile(r"^\([\w-]+\)=\n+", re.M)
EQUATION = re.compile(r"\$\$(.+?)\$\$[ \t]*\(([\w-]+)\)", re.S)
FENCE = re.compile(
    r"^(`{3,}|:{3,})\{([\w-]+)\}[ \t]*([^\n]*)\n(.*?)^\1[ \t]*$", re.S | re.M
)
PLATE = re.compile(r"^`{3,}\{plate\}.*\n:name: ([\w-]+)$", re.M)
HEADING = re.compile(r"^# (.+)$", re.M)
EXERCISES = re.compile(r"^## Exercises$", re.M)
FRESH_KERNEL = """> In a fresh kernel, run the first code cell of this notebook first:
> it imports what the exercises use. A solution may also use what the chapter defines above."""
SOLUTION = re.compile(r"^(```\{solution-(?:start|end)\}.*?^```)[ \t]*$", re.S | re.M)
ROLE = re.compile(r"\{([\w:]+)\}`([^`]+)`")
TITLED = re.compile(r"(.+?)\s*<([\w-]+)>", re.S)


class UnknownSyntax(ValueError):
    """A directive or role that this module cannot translate."""


@dataclass
class Book:
    """What the chapters refer to, collected from all of them.

    Attributes
    ----------
    chapters : dict
        For each notebook's name, like "03_backward", its cells' sources and metadata.
    bibliography : str
        The text of references.bib.
    address : str
        Where the web edition stands, with a slash at the end, or "".
    """

    chapters: dict[str, list[dict]]
    bibliography: str
    address: str = ""
    titles: dict[str, tuple[str, str]] = field(default_factory=dict)  # name, title
    numbers: dict[str, tuple[str, str]] = field(default_factory=dict)  # name, number

    def __post_init__(self) -> None:
        for name, cells in self.chapters.items():
            text = "\n".join(c["source"] for c in cells if c["cell_type"] == "markdown")
            for label, title in TARGET.findall(text):
                self.titles[label] = (
                    name,
                    re.sub(r"\{[\w:]+\}`([^`<]+).*?`", r"\1", title),
                )
            self._count(name, [label for _, label in EQUATION.findall(text)])
            exercises = re.findall(r"\{exercise\}.*\n:label: ([\w-]+)", text)
            self._count(name, exercises)
            self._count(name, [label for cell in cells for label in figures(cell)])

    def _count(self, name: str, labels: list[str]) -> None:
        chapter = int(name[:2])
        for i, label in enumerate(labels, 1):
            self.numbers[label] = name, f"{chapter}.{i}"

    @cached_property
    def works(self) -> BibliographyData:
        """The works cited."""
        return parse_string(self.bibliography, "bibtex")

    def page(self, name: str) -> str:
        """The address of a chapter's page in the web edition, or ""."""
        return self.address and f"{self.address}notebooks/{name}.html"

    def cite(self, key: str) -> str:
        """Authors and year, linked to the work's page where it has one."""
        entry = self.works.entries[key]
        names = [surname(person) for person in entry.persons["author"]]
        who = names[0]
        if len(names) > 1:
            who = (
                f"{names[0]} and {names[1]}"
                if len(names) == 2
                else f"{names[0]} et al."
            )
        fields = entry.fields
        url = fields.get("url")
        if "doi" in fields:
            url = f"https://doi.org/{fields['doi']}"
        if "eprint" in fields:
            url = f"https://arxiv.org/abs/{fields['eprint']}"
        text = f"{who}, {fields['year']}"
        return f"[{text}]({url})" if url else text


def surname(person: Person) -> str:
    """The family name, without BibTeX's braces."""
    return re.sub(r"[{}]", "", " ".join(person.prelast_names + person.last_names))


def title(cells: list[dict]) -> str:
    """The title of a chapter: its first heading."""
    texts = (c["source"] for c in cells if c["cell_type"] == "markdown")
    return next(m[1] for m in map(HEADING.search, texts) if m)


def figure(cell: dict) -> dict:
    """The caption and name of a code cell's figure."""
    return cell["metadata"].get("mystnb", {}).get("figure", {})


def figures(cell: dict) -> list[str]:
    """The names of a cell's figures: plates in a text, and what code draws."""
    if cell["cell_type"] == "markdown":
        return PLATE.findall(cell["source"])
    return [figure(cell)["name"]] if figure(cell) else []


def markdown(text: str, name: str, book: Book) -> str:
    """A markdown cell of the chapter ``name`` without MyST's own syntax."""
    text = LABEL.sub("", text)
    text = EQUATION.sub(lambda m: equation(m, book), text)
    text = blocks(text, name, book)
    text = ROLE.sub(lambda m: role(m[1], m[2], name, book), text)
    text = EXERCISES.sub(lambda m: f"{m[0]}\n\n{FRESH_KERNEL}", text)
    return text.strip()


def around_solutions(
    text: str, inside: bool, name: str, book: Book
) -> tuple[str, bool]:
    """A markdown cell, with what belongs to a solution folded.

    ``inside`` says whether the cell begins inside a solution. Returns the text, and whether the
    cell ends inside one: a solution has code cells in the middle.
    """
    parts = []
    for piece in SOLUTION.split(text):
        shown = markdown(piece, name, book)
        if piece.startswith("```{solution-"):
            inside = piece.startswith("```{solution-start}")
        elif inside and shown:
            shown = folded("Solution, in words", shown)
        parts.append(shown)
    return "\n\n".join(part for part in parts if part), inside


def equation(match: re.Match, book: Book) -> str:
    """A display equation with its number inside."""
    body, label = match[1].strip(), match[2]
    return f"$$ {body} \\tag{{{book.numbers[label][1]}}} $$"


def blocks(text: str, name: str, book: Book) -> str:
    """Replace the fenced directives, the inner ones too."""
    return FENCE.sub(lambda m: directive(m[2], m[3], m[4], name, book), text)


def directive(kind: str, title: str, body: str, name: str, book: Book) -> str:
    """One directive as plain Markdown."""
    options, body = split_options(body)
    body = blocks(body, name, book).strip()
    if kind == "exercise":
        number = book.numbers[options["label"]][1]
        return f"### Exercise {number}: {title}\n\n{body}"
    if kind == "solution-end":
        return ""
    if kind in ("hint", "dropdown") or (kind == "solution"):
        return folded(title if kind == "dropdown" else kind.capitalize(), body)
    if kind == "solution-start":
        return f"**Solution of Exercise {book.numbers[title][1]}**, in the next cell:"
    if kind in ("admonition", "note", "tip", "warning", "important", "seealso"):
        if "dropdown" in options.get("class", ""):
            return folded(title or kind.capitalize(), body)
        heading = title if kind == "admonition" else kind.capitalize()
        inner = body if kind == "admonition" or not title else f"{title}\n{body}"
        return quoted(f"**{heading}**\n\n{inner}")
    if kind == "predict":
        return prediction(options, body)
    if kind == "plate":
        return plate(title, options["name"], body, book)
    if kind == "playground":
        where, page = "The web edition of the book", book.page(name)
        if page:
            where = f"[{where}]({page})"
        return quoted(f"*{where} has an interactive figure here.*")
    raise UnknownSyntax(f"{name}: no translation for the directive {{{kind}}}")


def plate(name: str, label: str, caption: str, book: Book) -> str:
    """The picture of a plate, inside the text, and its caption below."""
    one = plates.Plate(name)
    width, _ = one.size
    data = base64.b64encode(one.picture.read_bytes()).decode()
    source, alt = f"data:image/png;base64,{data}", html.escape(one.alt)
    picture = f'<img width="{width}" alt="{alt}" src="{source}">'
    words = " ".join(caption.split())
    return f"{picture}\n\n*Figure {book.numbers[label][1]}: {words}*"


def prediction(options: dict[str, str], body: str) -> str:
    """A question with lettered answers, and the right one folded below."""
    question, answers, more = [], [], []
    for line in body.split("\n"):
        if line.startswith("- "):
            answers.append(line[2:])
        elif answers and line.startswith("  ") and not more:
            answers[-1] += f" {line.strip()}"  # the answer goes on
        elif answers:
            more.append(line)
        else:
            question.append(line)
    if not answers:
        # A number: the first paragraph is the question, the others tell the answer
        first, *others = "\n".join(question).strip().split("\n\n")
        question, more = [first], ["", "\n\n".join(others)]
    letters = [f"- **{letter}** {words}" for letter, words in zip("ABCD", answers)]
    folding = folded("Answer", "\n".join([f"{options['answer']}.", *more]).strip())
    asked = "**Predict.** " + "\n".join(question).strip()
    return "\n\n".join(part for part in (asked, "\n".join(letters), folding) if part)


def split_options(body: str) -> tuple[dict[str, str], str]:
    """The leading ``:option: value`` lines of a directive, and the rest."""
    options, lines = {}, body.split("\n")
    while lines and (m := re.match(r":([\w-]+):[ \t]*(.*)", lines[0])):
        options[m[1]] = m[2].strip()
        lines.pop(0)
    return options, "\n".join(lines)


def folded(title: str, body: str) -> str:
    """A block that opens on a click."""
    return f"<details><summary><b>{title}</b></summary>\n\n{body}\n\n</details>"


def quoted(text: str) -> str:
    """A block quote."""
    return "\n".join(f"> {line}".rstrip() for line in text.strip().split("\n"))


def role(kind: str, content: str, name: str, book: Book) -> str:
    """One inline role as plain Markdown."""
    if kind == "eq":
        return f"({book.numbers[content][1]})"
    if kind == "cite":
        return f"({'; '.join(book.cite(key.strip()) for key in content.split(','))})"
    if kind == "cite:t":
        return "; ".join(book.cite(key.strip()) for key in content.split(","))
    titled = TITLED.fullmatch(content)
    label = titled[2] if titled else content
    if kind == "numref" and label in book.numbers:
        return f"Figure {book.numbers[label][1]}"
    if kind in ("ref", "numref") and label in book.titles:
        where, title = book.titles[label]
        shown = titled[1] if titled else title
        return shown if where == name else f"[{shown}]({where}.ipynb)"
    if kind == "ref" and label in book.numbers:
        where, number = book.numbers[label]
        what = "Figure" if label.startswith("fig-") else "Exercise"
        shown = titled[1] if titled else f"{what} {number}"
        return shown if where == name else f"[{shown}]({where}.ipynb)"
    if kind in ("ref", "doc", "term"):  # a page of the web edition
        return titled[1] if titled else content
    raise UnknownSyntax(f"{name}: no translation for {{{kind}}}`{content}`")


def caption(cell: dict, name: str, book: Book) -> str:
    """The caption of a code cell's figure as a paragraph, or an empty text."""
    data = figure(cell)
    if not data:
        return ""
    number = book.numbers[data["name"]][1]
    return f"*Figure {number}: {markdown(data['caption'], name, book)}*"


def load(folder: Path, bibliography: Path, address: str = "") -> Book:
    """Read all chapters of a folder and the works they cite."""
    chapters = {}
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        cells = json.loads(path.read_text("utf8"))["cells"]
        for cell in cells:
            cell["source"] = "".join(cell["source"])
        chapters[path.stem] = cells
    return Book(chapters, bibliography.read_text("utf8"), address)
