"""What others read of the site: previews of links, search engines, and addresses without a page.

Where the site's address is known (``BOOK_ADDRESS=https://...``), pages name it as theirs, there is
a sitemap, and a preview has a picture. The page for addresses that lead nowhere has the search.
``index.html`` is the first page itself, since a page that only forwards is a blank one.
"""

from __future__ import annotations

import os
import posixpath
import re
from html import escape
from pathlib import Path
from urllib.parse import urlsplit

LINK = re.compile(r'\b(href|src|action|data-content_root)="([^"]*)"')
VIEWPORT = re.compile(r'<meta\b[^>]*name="viewport"[^>]*>\s*')
PREVIEW = "_static/screenshot.png"
COLOURS = {"light": "#ffffff", "dark": "#14181e"}  # the theme's grounds
# Where a reader follows the system, the theme's script at the end of the page finds out whether
# it is dark, and all that has been drawn by then is drawn again. Its script at the head takes
# what stands in the browser's store: the right answer stands there by then.
LIGHT_OR_DARK = """<script>
if ((localStorage.getItem("mode") || "auto") === "auto")
  localStorage.setItem("theme", matchMedia("(prefers-color-scheme: dark)").matches
    ? "dark" : "light");
</script>"""
NOT_FOUND = "404"


def address() -> str:
    """Where the site will stand, with a slash at the end, or ""."""
    given = os.environ.get("BOOK_ADDRESS", "").strip()
    if given and not given.startswith(("https://", "http://")):
        raise ValueError(f"BOOK_ADDRESS must begin with https://, but got {given!r}")
    return f"{given.rstrip('/')}/" if given else ""


def configure(app, config):
    """Tell Sphinx the address; it then links each page's own."""
    config.html_baseurl = config.html_baseurl or address()
    config.html_additional_pages |= {NOT_FOUND: "404.html"}


def add_metadata(app, pagename, templatename, context, doctree):
    """What previews of a link show, and the colour of a phone's frame."""
    given = VIEWPORT.sub(
        "", context.get("metatags", "")
    )  # the layout has one of its own
    found = re.search(r'name="description" content="([^"]*)"', given)
    title = re.sub(r"<[^>]+>", "", context.get("title") or context["project"])
    tags = {
        "og:title": title,
        "og:type": "website" if pagename == app.config.root_doc else "article",
        "og:site_name": escape(context["project"]),
        "og:description": found[1] if found else "",
    }
    if base := app.config.html_baseurl:
        tags["og:url"] = f"{base}{pagename}.html"
        tags["og:image"] = f"{base}{PREVIEW}"
        tags["og:image:alt"] = "A page of the book"
    lines = [f'<meta property="{k}" content="{v}" />' for k, v in tags.items() if v]
    lines += [
        f'<meta name="theme-color" content="{colour}" media="(prefers-color-scheme: {mode})" />'
        for mode, colour in COLOURS.items()
    ]
    context["metatags"] = given + "\n".join([*lines, LIGHT_OR_DARK])


def moved(text: str, folder: str, root: str = "") -> str:
    """A page's text with its links as they are elsewhere.

    Parameters
    ----------
    text : str
        The page.
    folder : str
        Where it lies, seen from the site's root, such as "book".
    root : str
        What comes before the links in the new place: "" at the site's root itself.
    """

    def link(match: re.Match) -> str:
        name, old = match.groups()
        if re.match(r"[a-z]+:|//|#", old) or not old:
            return match[0]
        path, rest = re.fullmatch(r"([^?#]*)(.*)", old).groups()
        new = posixpath.normpath(posixpath.join(folder, path))
        new += "/" if path.endswith("/") else ""
        return f'{name}="{root}{new}{rest}"'

    return LINK.sub(link, text)


def sitemap(pages: list[str], base: str) -> str:
    """The list of pages that search engines read."""
    places = "\n".join(f"<url><loc>{base}{name}.html</loc></url>" for name in pages)
    space = "http://www.sitemaps.org/schemas/sitemap/0.9"
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    return f'{head}\n<urlset xmlns="{space}">\n{places}\n</urlset>\n'


def finish(app, exception):
    """Write the pages at the root, once all others are there."""
    if exception is not None or app.builder.name != "html":
        return
    out, base = Path(app.outdir), app.config.html_baseurl
    first = out / f"{app.config.root_doc}.html"
    folder = posixpath.dirname(app.config.root_doc)
    (out / "index.html").write_text(moved(first.read_text("utf8"), folder), "utf8")
    if base:
        lost = out / f"{NOT_FOUND}.html"  # shown at any address, so its links are whole
        text = moved(lost.read_text("utf8"), "", urlsplit(base).path)
        lost.write_text(text, "utf8")
        pages = sorted(app.env.found_docs)
        (out / "sitemap.xml").write_text(sitemap(pages, base), "utf8")


def setup(app):
    """Connect the above to Sphinx."""
    app.connect("config-inited", configure)
    app.connect(
        "html-page-context", add_metadata, priority=600
    )  # after the description
    app.connect("build-finished", finish, priority=995)  # after the bundle
    return {"parallel_read_safe": True, "parallel_write_safe": True}
