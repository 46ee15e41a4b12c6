"""The book as a single page, and on paper."""

import importlib.util
import re
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import nbformat
import pytest
from pypdf import PdfReader

from .conftest import CHROMIUM, ROOT, jupyter_book

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "book" / "_ext" / "print_book.py"
spec = importlib.util.spec_from_file_location("print_book", SCRIPT)
printer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(printer)

PAGE = """# Toy

Before the formula.

$$
f(x) = x^2
$$ (eq-toy)

```{exercise} Compute
:label: ex-toy
What is {eq}`eq-toy` at 2?
```

```{solution} ex-toy
:class: dropdown
The hidden answer is four.
```

```{dropdown} A question
The hidden reply.
```
"""

WIDE = "$$\n" + " + ".join(f"a_{{{i}}}" for i in range(90)) + "\n$$"

CODE = f"""\
import matplotlib.pyplot as plt
import numpy as np
print("{"long line " * 20}the end")
fig, ax = plt.subplots()
ax.plot([1, 2])
plt.show()
"""

EXPLORER = """\
fig, ax = plt.subplots()
ax.plot([2, 1])
plt.show()
panel = explorers.lines([1, 2], {"a": [[1, 2]]}, xlabel="x", ylabel="y")
explorers.explore({"s": [1]}, [panel], title="Title of the explorer")"""


@pytest.fixture(scope="module")
def printed(request, tmp_path_factory):
    """A small book of two pages: its PDF, what the printer said, the PDF with code."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed, so nothing is printed")
    folder = tmp_path_factory.mktemp("print")
    (folder / "book").mkdir()
    for name in ("_ext", "_static", "references.bib"):
        (folder / "book" / name).symlink_to(ROOT / "book" / name)
    for name in ("_config.yml", "CITATION.cff", "flatlab"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n- file: book/second\n"
    )
    (folder / "book" / "index.md").write_text("# Front\n\nThe first page.\n")
    alt = {"mystnb": {"image": {"alt": "A line that rises from one to two."}}}
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(PAGE, id="page"),
            nbformat.v4.new_markdown_cell(WIDE, id="wide"),
            nbformat.v4.new_code_cell(CODE, id="code", metadata=alt),
            nbformat.v4.new_code_cell(
                "from flatlab.course import explorers",
                id="import",
                metadata={"tags": ["hide-input"]},
            ),
            nbformat.v4.new_code_cell(EXPLORER, id="explorer", metadata=alt),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, folder / "book" / "second.ipynb")
    process = jupyter_book(
        folder, folder, "--builder", "singlehtml", FLATLAB_SCALE="smoke"
    )
    assert process.returncode == 0, process.stdout
    target, whole = folder / "book.pdf", folder / "whole.pdf"
    # In a thread of its own: playwright may hold a browser for other tests in this one.
    with ThreadPoolExecutor(1) as thread:
        source = folder / "_build" / "singlehtml"
        report = thread.submit(printer.print_book, source, target).result()
        thread.submit(printer.print_book, source, whole, code=True).result()
    return PdfReader(target), report, PdfReader(whole)


def words_of(*pages):
    """The text of pages, without spaces."""
    # Some fonts draw two letters as one, and a reader of the file finds that one.
    text = "".join(page.extract_text() for page in pages)
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", text))


def test_everything_is_on_paper(printed):
    reader, _, _ = printed
    text = words_of(*reader.pages)
    for words in (
        "The first page.",
        "Before the formula.",
        "The hidden answer is four.",  # closed boxes are opened
        "A question",
        "The hidden reply.",
        "the end",  # of a line that is wider than the paper
        "(1)",
    ):
        assert words.replace(" ", "") in text, words
    assert "Clicktohide" not in text and "Showcodecell" not in text
    # An explorer cannot be played with on paper: its figure stands there.
    assert "Titleoftheexplorer" not in text.replace('title="Titleoftheexplorer"', "")
    pictures = [image for page in reader.pages for image in page.images]
    assert len(pictures) == 2


def test_nothing_is_cut_off(printed):
    # The formula of ninety terms breaks.
    _, report, _ = printed
    assert report == {
        "shrunk": report["shrunk"],
        "boxes": [],
        "figures": [],
        "errors": 0,
        "twice": [],
    }


def test_folded_code_is_printed_when_it_is_asked_for(printed):
    reader, _, whole = printed
    folded = "fromflatlab.courseimportexplorers"
    assert folded not in words_of(*reader.pages)
    assert folded in words_of(*whole.pages)


def test_a_title_then_contents_with_the_numbers_of_the_pages(printed):
    reader, _, _ = printed
    title, contents, front, *chapters = map(words_of, reader.pages)
    assert title.startswith("Front") and "Version" in title
    assert not re.search(r"^1|1$", title)  # no number on the title page
    start = next(i for i, text in enumerate(chapters, 4) if "Toy" in text)
    assert f"Toy{start}" in contents
    assert "Thefirstpage." in front and "Beforetheformula." not in front
    for number, text in enumerate([contents, front, *chapters], 2):
        assert re.search(rf"^{number}|{number}$", text), text


def test_pages_can_be_found_again(printed):
    reader, _, _ = printed
    titles = [entry.title for entry in reader.outline if not isinstance(entry, list)]
    assert "Front" in titles


def test_a_folder_without_a_single_page_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no book as a single page"):
        printer.print_book(tmp_path, tmp_path / "book.pdf")
