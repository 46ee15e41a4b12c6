"""The book builds without a warning, and its set-up keeps its promises."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
import yaml

from .conftest import ROOT, Visit, jupyter_book


def test_the_book_builds_without_a_warning(built):
    process, _ = built
    lines = process.stdout.splitlines()
    wrong = [line for line in lines if "WARNING" in line or "ERROR" in line]
    assert process.returncode == 0, "\n".join(wrong or lines[-40:])


def test_every_page_of_the_table_of_contents_is_there(html):
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = [toc["root"]] + [
        chapter["file"] for part in toc["parts"] for chapter in part["chapters"]
    ]
    for page in listed:
        assert (html / f"{page}.html").is_file()
    assert (html / "index.html").is_file()


def test_every_page_in_the_folder_of_the_book_is_in_its_table_of_contents():
    listed = re.findall(r"file: (\S+)", (ROOT / "_toc.yml").read_text())
    listed.append(yaml.safe_load((ROOT / "_toc.yml").read_text())["root"])
    present = [
        path.relative_to(ROOT).with_suffix("").as_posix()
        for suffix in ("md", "ipynb")
        for path in (ROOT / "book").rglob(f"*.{suffix}")
        if ".ipynb_checkpoints" not in path.parts
    ]
    assert sorted(listed) == sorted(present)


# -- a small book with the settings of the real one, built again and again -----------

TOY = """\
import os, sys; sys.path.insert(0, '../flatlab')
import anywidget, traitlets, value
class Hello(anywidget.AnyWidget):
    _esm = '''export function render({ model, el }) {
        el.textContent = `${model.get("name")} lives`; }'''
    name = traitlets.Unicode('widget').tag(sync=True)
print(value.VALUE, os.environ['FLATLAB_SCALE'])
Hello(name='number 7')"""
URL = "https://github.com/someone/somewhere"
BINDER = "mybinder.org/v2/gh/someone/somewhere/main?urlpath=lab/tree/book/toy.ipynb"
COLAB = "colab.research.google.com/github/someone/somewhere/blob/main/book/toy"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The folder of the small book, which reads a package."""
    root = tmp_path_factory.mktemp("toy")
    (root / "book").mkdir()
    for name in ("_ext", "_static", "references.bib"):
        source = ROOT / "book" / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, root / "book" / name)
    for name in ("_config.yml", "CITATION.cff"):
        shutil.copy(ROOT / name, root)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/toy\n")
    (root / "flatlab/course/explorers").mkdir(parents=True)
    sheet = "flatlab/course/explorers/explorers.css"
    shutil.copy(ROOT / sheet, root / sheet)
    (root / "flatlab" / "value.py").write_text('"""Value."""\nVALUE = "first"\n')
    write_notebook(root, TOY)
    return root


def write_notebook(toy, code, title="# Toy"):
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(title, id="title"),
            nbformat.v4.new_code_cell(code, id="code"),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, toy / "book" / "toy.ipynb")


def build(toy, scale="laptop", url=""):
    """What a build said, its exit status, and the page."""
    process = jupyter_book(toy, toy, FLATLAB_SCALE=scale, FLATLAB_REPOSITORY=url)
    page = toy / "_build" / "html" / "book" / "toy.html"
    return process.stdout, process.returncode, page.read_text("utf-8")


def run_side_by_side(toy):
    script = toy / "book" / "_ext" / "run_notebooks.py"
    environment = {**os.environ, "FLATLAB_SCALE": "laptop"}
    subprocess.run([sys.executable, script], env=environment, check=True)


@pytest.fixture(scope="module")
def built_toy(toy):
    """What was said as the toy was run side by side and then built, and its page."""
    run_side_by_side(toy)
    said, status, page = build(toy)
    assert status == 0, said
    return said, page


def test_notebooks_that_were_run_side_by_side_are_not_run_again(built_toy):
    said, page = built_toy
    assert "Executing notebook" not in said
    assert "first laptop" in page


def test_without_a_repository_there_are_no_launch_buttons(built_toy):
    _, page = built_toy
    assert not [w for w in ("colab", "binder", "github.com", "thebe") if w in page]


def test_a_widget_of_a_notebook_lives_in_the_built_page(built_toy, toy, browser):
    with Visit(browser) as visit:
        page = visit.open((toy / "_build" / "html" / "book" / "toy.html").as_uri())
        assert page.locator(".static-widget").all_text_contents() == ["number 7 lives"]
        assert all(url.startswith(("file:", "blob:")) for url in visit.requested)


def test_a_build_follows_package_scale_assets_and_repository(built_toy, toy):
    # An edit of the package changes no notebook, and still must change its outputs;
    # an edit of a style sheet alone reaches the page.
    (toy / "flatlab" / "value.py").write_text('"""Value."""\nVALUE = "second"\n')
    (toy / "book" / "_static" / "book.css").write_text("/* changed */")
    said, status, page = build(toy, "smoke", url=URL)
    assert status == 0, said
    assert "second smoke" in page
    copied = toy / "_build" / "html" / "_static" / "book.css"
    assert copied.read_text() == "/* changed */"
    # Colab opens the notebook alone, which knows the configured place and no other.
    assert BINDER in page and "colab" not in page

    config = (toy / "_config.yml").read_text()
    assert 'url: ""' in config
    (toy / "_config.yml").write_text(config.replace('url: ""', f'url: "{URL}"'))
    said, status, page = build(toy, "smoke")
    assert status == 0, said
    assert BINDER in page and COLAB in page
    assert "Executing notebook" not in said

    said, _, _ = build(toy, "smoke")
    assert "no targets are out of date" in said


def test_what_fails_fails_the_build_and_again_when_repeated(built_toy, toy):
    write_notebook(toy, "1 / 0")
    run_side_by_side(toy)  # leaves it to the build, which says why
    said, status, _ = build(toy)
    assert status != 0 and "ZeroDivisionError" in said

    write_notebook(toy, "1", title="# Toy\n\n{eq}`nowhere`")
    for _ in range(2):
        said, status, _ = build(toy)
        assert status != 0
        assert "equation not found: nowhere" in said


# -- sources -------------------------------------------------------------------------


def test_sources_label_equations_in_the_way_that_the_page_can_resolve():
    # \eqref leaves "(???)" in the page without a warning, \label no target.
    sources = [*(ROOT / "book").rglob("*.md"), *(ROOT / "book").rglob("*.ipynb")]
    assert sources
    wrong = [p.name for p in sources if re.search(r"\\(eqref|label)\b", p.read_text())]
    assert not wrong


def test_the_bibliography_keeps_no_private_notes():
    assert not re.search(r"\bnote\s*=", (ROOT / "book/references.bib").read_text())
