"""The book builds without a warning, and its set-up keeps its promises."""

import os
import re
import subprocess
import sys

import nbformat
import pytest
import yaml

from .conftest import ROOT, build, write_notebook


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


def test_notebooks_that_were_run_side_by_side_are_not_run_again(toy):
    def run():
        script = toy / "book" / "_ext" / "run_notebooks.py"
        environment = {**os.environ, "FLATLAB_SCALE": "laptop"}
        return subprocess.run([sys.executable, script], env=environment).returncode

    assert run() == 0
    process, page = build(toy)
    assert "Executing notebook" not in process.stdout
    assert "first laptop" in page.read_text()
    # what fails is left to the build, which says why
    write_notebook(toy, "1 / 0")
    assert run() == 0
    process, _ = build(toy)
    assert process.returncode != 0 and "ZeroDivisionError" in process.stdout


def test_outputs_follow_the_package_and_the_scale_and_assets_are_copied_again(toy):
    process, page = build(toy)
    assert process.returncode == 0, process.stdout
    assert "first laptop" in page.read_text()

    # An edit of the package changes no notebook, and still must change its outputs.
    (toy / "flatlab" / "value.py").write_text('"""Value."""\nVALUE = "second"\n')
    assert build(toy)[0].returncode == 0
    assert "second laptop" in page.read_text()

    process, _ = build(toy, FLATLAB_SCALE="smoke")
    assert "second smoke" in page.read_text()

    # An edit of a style sheet alone reaches the page, and executes nothing.
    (toy / "book" / "_static" / "book.css").write_text("/* changed */")
    process, _ = build(toy, FLATLAB_SCALE="smoke")
    copied = toy / "_build" / "html" / "_static" / "book.css"
    assert copied.read_text() == "/* changed */"
    assert "Executing notebook" not in process.stdout

    process, _ = build(toy, FLATLAB_SCALE="smoke")
    assert "no targets are out of date" in process.stdout


def test_a_failing_cell_fails_the_build(toy):
    write_notebook(toy, "1 / 0")
    process, _ = build(toy)
    assert process.returncode != 0
    assert "ZeroDivisionError" in process.stdout


def test_a_build_with_warnings_fails_again_when_repeated(toy):
    notebook = nbformat.read(toy / "book" / "toy.ipynb", 4)
    notebook.cells[0].source += "\n\n{eq}`nowhere`"
    nbformat.write(notebook, toy / "book" / "toy.ipynb")
    for _ in range(2):
        process, _ = build(toy)
        assert process.returncode != 0
        assert "equation not found: nowhere" in process.stdout


URL = "https://github.com/someone/somewhere"


# The notebook that Colab opens can fetch the book from the configured place alone.
@pytest.mark.parametrize("url, environment", [("", ""), (URL, ""), ("", URL)])
def test_launch_buttons_need_a_repository(toy, url, environment):
    config = (toy / "_config.yml").read_text()
    assert 'url: ""' in config
    (toy / "_config.yml").write_text(config.replace('url: ""', f'url: "{url}"'))
    process, page = build(toy, FLATLAB_REPOSITORY=environment)
    assert process.returncode == 0, process.stdout
    text = page.read_text()
    binder = "mybinder.org/v2/gh/someone/somewhere/main?urlpath=lab/tree/book/toy.ipynb"
    colab = "colab.research.google.com/github/someone/somewhere/blob/main/book/toy"
    assert (colab in text) == ("colab" in text) == bool(url)
    assert (binder in text) == ("github.com" in text) == bool(url or environment)
    assert "thebe" not in text.lower()


def test_sources_label_equations_in_the_way_that_the_page_can_resolve():
    # \eqref leaves "(???)" in the page without a warning, \label no target.
    sources = [*(ROOT / "book").rglob("*.md"), *(ROOT / "book").rglob("*.ipynb")]
    assert sources
    wrong = [p.name for p in sources if re.search(r"\\(eqref|label)\b", p.read_text())]
    assert not wrong


def test_the_bibliography_keeps_no_private_notes():
    assert not re.search(r"\bnote\s*=", (ROOT / "book/references.bib").read_text())
