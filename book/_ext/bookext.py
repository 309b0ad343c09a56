"""What the book needs beyond Jupyter Book's settings.

Local MathJax, pages without scripts from elsewhere, and repository buttons that appear only
where the repository's address is known.
"""

from __future__ import annotations

import ast
import gc
import os
import re
import shutil
import subprocess
import sys
import textwrap
from functools import cache
from html import escape
from importlib.metadata import distribution
from pathlib import Path

from docutils import nodes

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "book" / "_static"
sys.path.append(str(ROOT / "book" / "_tools"))
import colab as edition  # noqa: E402
import formulas  # noqa: E402
import normalise  # noqa: E402

ARCHIVE = "batch-norm-notebooks.zip"
LINK = (
    f'<a class="reference download" href="../_static/{ARCHIVE}" download>{ARCHIVE}</a>'
)
COLAB_LAUNCH = """The rocket at the top of a chapter opens a copy of it in Colab. The copy starts
with a cell that installs `bnutils` and leaves Colab's own packages as they are:

```text
%pip install -q --no-deps "bnutils @ git+{url}@{branch}"
```
"""
COLAB_UPLOAD = """Colab has PyTorch, NumPy and Matplotlib, and lacks `bnutils`. Unpack the archive
above and upload a notebook to Colab. Then upload the archive itself in Colab's file panel, and
run this in a new first cell:

```text
!unzip -qo batch-norm-notebooks.zip "batch-norm-book/bnutils/*" && cp -r batch-norm-book/bnutils .
```

(This copy of the book was built without the address of its repository. Where that is known, a
button at the top of each chapter does all of this.)"""
NOTE = f"""> This notebook uses the package `bnutils`. Put it beside that folder: both are in the
> archive `{ARCHIVE}` on the page *Set up* of the book. Or run `make lab` in a copy of
> the repository."""
COLAB_BRANCH = "colab"  # the generated notebooks; a workflow keeps it in step with main


def repository_url() -> str:
    """Address of the repository: $BOOK_REPOSITORY_URL, else git's origin, else ""."""
    url = os.environ.get("BOOK_REPOSITORY_URL", "").strip()
    if not url:
        command = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return ""
        url = done.stdout.strip()
    return public_url(url)


def public_url(url: str) -> str:
    """The https form of a git address on GitHub or GitLab, without credentials, else ""."""
    url = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", url)
    url = re.sub(r"^https://[^@/]+@", "https://", url)
    url = re.sub(r"(\.git)?/?$", "", url)
    return url if re.fullmatch(r"https://git(hub|lab)\.com/[^/]+/[^/]+", url) else ""


def configure(app, config):
    """Set what depends on the environment or must come after Jupyter Book's own settings."""
    config.html_static_path.append(str(STATIC))
    options = config.html_theme_options
    for key in (
        "repository_url",
        "launch_buttons",
    ):  # Jupyter Book's, if none are given
        options.pop(key, None)
    url, branch = repository_url(), os.environ.get("BOOK_REPOSITORY_BRANCH", "main")
    launch = "github.com" in url
    colab = COLAB_LAUNCH.format(url=url, branch=branch) if launch else COLAB_UPLOAD
    config.myst_substitutions |= {"colab": colab, "archive": LINK}
    if url:
        options["repository_url"], options["repository_branch"] = url, COLAB_BRANCH
        options["use_repository_button"] = options["use_issues_button"] = True
        if launch:
            address = "https://colab.research.google.com"
            options["launch_buttons"] = {"colab_url": address}


def share_html_visitors(app):
    """Give singlehtml the html visitors; sphinx-exercise's own would hide them."""
    handlers = app.registry.translation_handlers
    if "singlehtml" in handlers:
        handlers["singlehtml"] = {**handlers["html"], **handlers["singlehtml"]}


@cache
def exported(module: str) -> set[str]:
    """The names in a module's ``__all__``, with those that ``+=`` adds."""
    path = ROOT.joinpath(*module.split("."))
    file = next(
        f for f in (path / "__init__.py", path.with_suffix(".py")) if f.exists()
    )
    names = set()
    for node in ast.parse(file.read_text("utf8")).body:
        if isinstance(node, ast.Assign | ast.AugAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if getattr(target, "id", "") == "__all__":
                names.update(ast.literal_eval(node.value))
    return names


def skip_member(app, what, name, obj, skip, options):
    """Leave out what a module imports for its own use, and attributes without a text.

    The latter stand in the list of attributes in their class's docstring.
    """
    parent, _, short = obj.id.rpartition(".")
    module = app.env.autoapi_all_objects.get(parent)
    if getattr(module, "all", None) is not None and short not in exported(parent):
        return True
    return True if obj.type == "attribute" and not obj.docstring else None


def copy_mathjax(outdir: Path):
    """Copy the fonts that the pages use, and the one script where formulas are drawn there."""
    package = distribution("sphinx-mathjax-offline")
    source = Path(package.locate_file("sphinx-mathjax-offline/static/mathjax"))
    target = outdir / "_static" / "mathjax"
    fonts = "output/chtml/fonts/woff-v2"
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
    if not formulas.available():
        shutil.copy2(source / "tex-chtml-full.js", target)


def write_downloads(outdir: Path, book: edition.plain.Book):
    """Let the download button of a chapter give the copy for running, not the source."""
    for name in book.chapters:
        text = normalise.text(edition.edition(name, book, note=NOTE))
        (outdir / "_sources" / "notebooks" / f"{name}.ipynb").write_text(text, "utf8")


def describe(app, pagename, templatename, context, doctree):
    """Give each page a description for search engines: its first paragraph."""
    if doctree and (found := list(doctree.findall(nodes.paragraph))):
        words = textwrap.shorten(found[0].astext(), 160, placeholder=" ...")
        context["metatags"] += f'<meta name="description" content="{escape(words)}" />'


def finish(app, exception):
    """Complete the HTML after Sphinx has written it."""
    if exception is None and app.builder.format == "html":
        copy_mathjax(Path(app.outdir))
        book = edition.load()
        edition.archive(book, Path(app.outdir) / "_static" / ARCHIVE)
        if app.builder.name == "html":  # the single page, which is printed, has none
            write_downloads(Path(app.outdir), book)


def setup(app):
    """Connect the above to Sphinx."""
    # A build makes millions of small objects and drops few. Python's habit of looking through
    # all of them again and again took a third of its time, to save 0.2 GB of memory.
    gc.set_threshold(100_000, 50, 1000)
    app.add_css_file("custom.css")
    app.add_css_file("forced.css", priority=900)  # after the sheets that it corrects
    app.connect("config-inited", configure, priority=1)
    app.connect("builder-inited", share_html_visitors)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("html-page-context", describe)
    app.connect("build-finished", finish)
    app.setup_extension("lighter")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
