"""Print the book that was built as a single page to one PDF file, with Chromium.

    python book/_ext/print_book.py _build/singlehtml _build/flatlab-book.pdf

Formulas are drawn first, closed boxes are opened, and figures are waited for. A formula
that is wider than the paper is printed smaller; code wraps (see book.css).
"""

import argparse
import shutil
import sys
from pathlib import Path

# Printed a little smaller than on the screen. The width is that of A4 between the
# margins, in CSS pixels of a 96th of an inch.
SCALE = 0.8
MARGIN = "12mm"
WIDTH = round((210 - 2 * 12) / 25.4 * 96 / SCALE)

# Chromium as distributions call it; without one, the one that Playwright brought.
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]

PREPARE = """async () => {
  await window.MathJax?.startup?.promise;
  for (const box of document.querySelectorAll("details")) box.open = true;
  for (const image of document.images) {
    image.loading = "eager";
    await image.decode().catch(() => {});
  }
  let shrunk = 0;
  for (const formula of document.querySelectorAll("mjx-container[display=true]"))
    if (formula.scrollWidth > formula.clientWidth + 1) {
      formula.style.fontSize = `${(95 * formula.clientWidth) / formula.scrollWidth}%`;
      shrunk += 1;
    }
  return shrunk;
}"""

# What would be cut off on paper: boxes wider inside than out, and missing figures.
CUT = """() => {
  const wide = (e) => e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1;
  const boxes = "pre, .cell_input, .cell_output, mjx-container[display=true], table";
  return {
    boxes: [...document.querySelectorAll(`article :is(${boxes})`)]
      .filter(wide).map((e) => e.textContent.trim().slice(0, 60)),
    figures: [...document.images]
      .filter((i) => i.closest("article") && !i.naturalWidth).map((i) => i.src),
    errors: document.querySelectorAll("mjx-merror").length,
  };
}"""


def front_page(folder):
    """The single page, put where the paths in it are right."""
    inner = folder / "book" / "index.html"
    if not inner.is_file():
        raise FileNotFoundError(f"{folder} holds no book as a single page")
    # Sphinx writes the page into a folder, with paths as if it lay above it.
    page = folder / "print.html"
    shutil.copy(inner, page)
    return page


def print_book(folder, target):
    """Write the PDF.

    Args:
        folder: of the book as a single page.
        target: file to write.

    Returns:
        A dict: ``shrunk`` formulas, and ``boxes``, ``figures`` and ``errors`` (in
        formulas) that would not be whole on paper.
    """
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, NAMES)), None)
    page_file = front_page(Path(folder))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        page = browser.new_page(
            viewport={"width": WIDTH, "height": 1000}, color_scheme="light"
        )
        page.set_default_timeout(300_000)
        page.emulate_media(media="print")
        page.goto(page_file.resolve().as_uri(), wait_until="load")
        shrunk = page.evaluate(PREPARE)
        report = {"shrunk": shrunk, **page.evaluate(CUT)}
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        page.pdf(
            path=str(target),
            format="A4",
            scale=SCALE,
            margin=dict.fromkeys(("top", "bottom", "left", "right"), MARGIN),
            print_background=True,
            outline=True,
            tagged=True,
        )
        browser.close()
    page_file.unlink()
    return report


def main(arguments=None):
    """Print, and say what is not whole; the exit status is 1 where something is not."""
    parser = argparse.ArgumentParser(description="Print the book.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(arguments)
    report = print_book(options.folder, options.target)
    size = options.target.stat().st_size / 1e6
    print(f"{options.target}: {size:.1f} MB, {report['shrunk']} formulas made smaller")
    for what in ("boxes", "figures"):
        for found in report[what]:
            print(f"cut off ({what}): {found}")
    return int(bool(report["boxes"] or report["figures"] or report["errors"]))


if __name__ == "__main__":
    sys.exit(main())
