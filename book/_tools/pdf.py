"""Print the book as one PDF: the single-page build, through a headless Chromium.

    python book/_tools/pdf.py [--out FILE] [--address https://...]

Equations, figures and exercises keep their numbers, headings become bookmarks, and folded hints
and solutions are printed open. Of an interactive part a picture stays, with a link to the
playground of the HTML book at the address; without one, to the playground's section. The file is
written only when the book was built without warnings.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import browsers
from provenance import ROOT

STYLE = Path(__file__).with_name("pdf.css")
MINUTES = 3
OPEN = """async () => {
  document.querySelectorAll("details").forEach(e => e.open = true);
  document.querySelectorAll("img[loading]").forEach(e => e.loading = "eager");
  await Promise.all([...document.images].map(i => i.decode().catch(() => 0)));
  await document.fonts.ready;
  if (window.MathJax) await MathJax.startup.promise;
  return document.querySelectorAll("mjx-merror").length;
}"""
LINK = """(address) => document.querySelectorAll(".playground").forEach((part) => {
  const link = document.createElement("a"), line = document.createElement("p");
  link.href = address ? `${address}/book/playground.html` : "#document-book/playground";
  link.textContent = "the page Playground of the HTML book";
  line.className = "pg-link";
  line.append("To move it, open ", link, ".");
  part.append(line);
})"""
FOOTER = """<div style="font: 8px sans-serif; width: 100%; text-align: center">
<span class="pageNumber"></span></div>"""


def build(folder: Path) -> Path:
    """Build the book as a single page in a folder; the page."""
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", str(ROOT)]
    command += ["--builder", "singlehtml", "--path-output", str(folder), "-W", "-n"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the single-page build failed:\n{done.stdout}{done.stderr}")
    html = folder / "_build" / "singlehtml"
    (first,) = (html / "book").glob("*.html")
    page = html / "index.html"  # the builder writes its links as seen from here
    shutil.copyfile(first, page)
    return page


def render(page: Path, target: Path, address: str = "") -> None:
    """Print a page into a file; interactive parts link to the HTML book at an address."""
    from playwright.sync_api import sync_playwright

    browser = browsers.needed()
    with sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu"]
        tab = play.chromium.launch(executable_path=browser, args=flags).new_page(
            color_scheme="light"
        )
        tab.set_default_timeout(MINUTES * 60_000)
        tab.goto(page.as_uri(), wait_until="load")
        tab.add_style_tag(content=STYLE.read_text("utf8"))
        tab.emulate_media(media="print")
        tab.evaluate(LINK, address)
        wrong = tab.evaluate(OPEN)
        if wrong:
            raise SystemExit(f"{wrong} formulas could not be drawn")
        tab.pdf(
            path=target,
            prefer_css_page_size=True,
            print_background=True,
            outline=True,
            tagged=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
        )


def main(arguments: list[str]) -> int:
    """Build, print, and put the file in its place."""
    parser = argparse.ArgumentParser(prog="pdf.py", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "_build" / "batch-normalization.pdf"
    )
    parser.add_argument("--address", default="", help="where the HTML book stands")
    given = parser.parse_args(arguments)
    out, address = given.out, given.address.rstrip("/")
    if address and not address.startswith(("https://", "http://")):
        parser.error(f"--address must begin with https://, but got {address!r}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder) / "book.pdf"
        render(build(Path(folder)), printed, address)
        scratch = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        shutil.copyfile(printed, scratch)
        os.replace(scratch, out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
