"""Print the book that was built as a single page to one PDF file, with Chromium.

    python book/_ext/print_book.py [--code] _build/singlehtml _build/flatlab-book.pdf

A title page and a table of contents come first. Formulas are drawn, closed boxes are
opened, and figures are waited for. Folded code is left out unless it is asked for, and
so is what the reference says of each function beyond its tables. A formula that is
wider than the paper is printed smaller; code wraps (see book.css).
"""

import argparse
import io
import shutil
import sys
from pathlib import Path

from pypdf import PdfReader

# Printed a little smaller than on the screen. The width is that of A4 between the
# margins, in CSS pixels of a 96th of an inch.
SCALE = 0.7
MARGIN = 13  # mm
WIDTH = round((210 - 2 * MARGIN) / 25.4 * 96 / SCALE)

# Chromium as distributions call it; without one, the one that Playwright brought.
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
PATIENCE = 300_000  # milliseconds, also on a machine that is busy

STYLE = """
@page { @bottom-center { content: counter(page); font: 9pt sans-serif; } }
@page :first { @bottom-center { content: none; } }
#jb-print-docs-body { display: none !important; }
.title-page { height: 230mm; padding-top: 70mm; text-align: center; }
.bd-main .bd-content .bd-article h1:first-of-type { display: block; }
.title-page p { font-size: 1.2rem; margin: 0 auto 3rem; max-width: 32rem; }
.title-page p.title { font-size: 3rem; line-height: 1.2; max-width: none; }
.title-page p.book-foot { font-size: 0.9rem; }
.toc-page, .chapter { break-before: page; }
.toc-page ol { columns: 2; list-style: none; margin: 0; padding: 0; }
.toc-page li { break-inside: avoid; display: flex; font-size: 0.8rem; gap: 0.5rem; }
.toc-page li { justify-content: space-between; margin: 0; padding-left: 1rem; }
.toc-page li.of-chapter { font-size: 1rem; font-weight: 600; padding: 0.6rem 0 0; }
.toc-page li.of-chapter { break-after: avoid; }
.toc-page li::after { content: attr(data-page); }
.bd-article { line-height: 1.37; }
.bd-article pre { font-size: 0.8rem; line-height: 1.3; padding: 0.4rem 0.6rem; }
.bd-article :is(h2, h3, h4) { margin-top: 1.2rem; }
.bd-article .cell { margin-block: 0.5rem; }
.bd-article .cell_output img { max-height: 95mm; width: auto; }
.bd-article dl.py { font-size: 0.8rem; line-height: 1.3; }
.bd-article dl.py :is(p, dl, ul, table) { font-size: inherit; margin-bottom: 0.3rem; }
.bd-article dl.py pre { font-size: 0.72rem; padding: 0.3rem; }
.toc-page a { color: inherit; text-decoration: none; }
"""

# Pages of the book that use one id alike, as each has "exercises": on the single page
# all but the first get names of their own, and so do the links that mean them.
RENAME = """() => {
  const taken = new Set();
  const pages = document.querySelectorAll("span[id^='document-'] + section");
  [document.documentElement, ...pages].forEach((page, number) => {
    const inner = [...page.querySelectorAll("span[id^='document-'] + section")];
    const own = (e) => !inner.some((other) => other.contains(e));
    const names = new Map();
    for (const e of [page, ...page.querySelectorAll("[id]")].filter(own)) {
      if (!e.id) continue;
      let name = e.id;
      for (let k = number; taken.has(name); k += pages.length + 1)
        name = `${e.id}--${k}`;
      names.set(e.id, name);
      taken.add((e.id = name));
    }
    const links = "a[href^='#'], [for], [aria-labelledby], [aria-describedby]";
    for (const e of [...page.querySelectorAll(links)].filter(own))
      for (const key of ["href", "for", "aria-labelledby", "aria-describedby"]) {
        const [, hash, old] = /^(#?)(.*)/.exec(e.getAttribute(key) ?? "");
        if (names.has(old)) e.setAttribute(key, hash + names.get(old));
      }
  });
}"""

# The title page, and the contents as yet without numbers.
FRONT = """() => {
  const make = (tag, name, text = "") =>
    Object.assign(document.createElement(tag), { className: name, textContent: text });
  const words = (e) => {
    const copy = e.cloneNode(true);
    for (const link of copy.querySelectorAll(".headerlink")) link.remove();
    return copy.textContent.trim();
  };
  const article = document.querySelector("article");
  const chapters = [...article.querySelectorAll("span[id^='document-'] + section")]
    .filter((e) => !e.parentElement.closest("span[id^='document-'] + section"));
  const title = make("section", "title-page");
  title.append(make("p", "title", words(article.querySelector("h1"))));
  const about = document.querySelector("meta[name=description]");
  title.append(make("p", "", about?.content));
  const foot = document.querySelector(".book-foot");
  if (foot) title.append(foot.cloneNode(true));
  const contents = make("nav", "toc-page");
  const list = make("ol", "");
  contents.append(make("h2", "", "Contents"), list);
  const enter = (heading, name) => {
    heading.id = `heading-${list.children.length}`;
    const [entry, link] = [make("li", name), make("a", "", words(heading))];
    link.href = `#${heading.id}`;
    entry.append(link);
    list.append(entry);
  };
  for (const chapter of chapters) {
    chapter.classList.add("chapter");
    const [first, ...others] = chapter.querySelectorAll(
      ":is(h1, h2, h3):not(.claim *)");
    enter(first, "of-chapter");
    for (const heading of others) enter(heading, "of-section");
  }
  const front = article.querySelector("section");
  front.classList.add("chapter");
  front.before(title, contents);
}"""

PREPARE = """async (code) => {
  if (!code)
    for (const box of document.querySelectorAll("details.hide.above-input, dl.py"))
      box.remove();
  for (const box of document.querySelectorAll("details")) box.open = true;
  await window.MathJax?.startup?.promise;
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

NUMBER = """(pages) => {
  const entries = document.querySelectorAll(".toc-page li");
  for (const [i, page] of Object.entries(pages)) entries[i].dataset.page = page;
}"""

# What would be cut off on paper: boxes wider inside than out, and missing figures.
CUT = """() => {
  const wide = (e) => e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1;
  const boxes = "pre, .cell_input, .cell_output, mjx-container[display=true], table";
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  return {
    twice: [...new Set(ids.filter((id, i) => ids.indexOf(id) < i))],
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


def entries(pdf):
    """On which page each heading of the contents is, by its place there."""
    reader = PdfReader(io.BytesIO(pdf))
    pages = enumerate(reader.pages, 1)
    numbers = {page.indirect_reference.idnum: i for i, page in pages}
    return {
        name.removeprefix("/heading-"): numbers[target.page.idnum]
        for name, target in reader.named_destinations.items()
        if name.startswith("/heading-")
    }


def print_book(folder, target, code=False):
    """Write the PDF.

    Args:
        folder: of the book as a single page.
        target: file to write.
        code: print folded code and the whole reference too.

    Returns:
        A dict: ``shrunk`` formulas; ``boxes``, ``figures`` and ``errors`` (in formulas)
        that would not be whole on paper; ids that stand ``twice``.
    """
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, NAMES)), None)
    page_file = front_page(Path(folder))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=FLAGS, timeout=PATIENCE
        )
        page = browser.new_page(
            viewport={"width": WIDTH, "height": 1000}, color_scheme="light"
        )
        page.set_default_timeout(PATIENCE)
        page.emulate_media(media="print")
        page.goto(page_file.resolve().as_uri(), wait_until="load")
        page.add_style_tag(content=STYLE)
        page.evaluate(RENAME)
        page.evaluate(FRONT)
        shrunk = page.evaluate(PREPARE, code)
        report = {"shrunk": shrunk, **page.evaluate(CUT)}
        # Once to see on which page each heading lands, and once with the numbers.
        page.evaluate(NUMBER, entries(paper(page)))
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_bytes(paper(page))
        browser.close()
    page_file.unlink()
    return report


def paper(page):
    """The page as a PDF."""
    return page.pdf(
        format="A4",
        scale=SCALE,
        margin=dict.fromkeys(("top", "bottom", "left", "right"), f"{MARGIN}mm"),
        print_background=True,
        outline=True,
        tagged=True,
    )


def main(arguments=None):
    """Print, and say what is not whole; the exit status is 1 where something is not."""
    parser = argparse.ArgumentParser(description="Print the book.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    told = "print folded code and the whole reference too"
    parser.add_argument("--code", action="store_true", help=told)
    options = parser.parse_args(arguments)
    report = print_book(options.folder, options.target, options.code)
    size = options.target.stat().st_size / 1e6
    print(f"{options.target}: {size:.1f} MB, {report['shrunk']} formulas made smaller")
    wrong = {"boxes": "cut off", "figures": "missing", "twice": "an id used twice"}
    for what, words in wrong.items():
        for found in report[what]:
            print(f"{words}: {found}")
    return int(any(report[what] for what in (*wrong, "errors")))


if __name__ == "__main__":
    sys.exit(main())
