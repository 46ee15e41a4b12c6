"""Committed notebooks are clean, and the cleaner keeps what authors wrote."""

import importlib.util

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from .conftest import ROOT

SCRIPT = ROOT / "book" / "_ext" / "clean_notebooks.py"
spec = importlib.util.spec_from_file_location("clean_notebooks", SCRIPT)
cleaner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cleaner)


def test_committed_notebooks_are_clean(capsys):
    folders = [str(ROOT / n) for n in ("book", "assignments") if (ROOT / n).is_dir()]
    assert cleaner.main(["--check", *folders]) == 0, capsys.readouterr().out


def test_a_folded_cell_says_what_it_holds():
    silent = []
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            tags = cell.metadata.get("tags", [])
            # what a claim's cell prints is not shown either
            if "hide-input" in tags and "remove-output" not in tags:
                shown = cell.metadata.get("mystnb", {}).get("code_prompt_show")
                silent += [] if shown else [(path.name, cell.id)]
    assert not silent


def dirty():
    png = {"image/png": "aGVsbG8=", "text/plain": "<Figure>"}
    return new_notebook(
        metadata={
            "kernelspec": {"name": "my-own", "display_name": "Mine", "language": "x"},
            "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}},
        },
        cells=[
            new_markdown_cell("# Title", id="title", metadata={"collapsed": True}),
            new_code_cell(
                "plot()",
                id="plot",
                execution_count=7,
                metadata={"execution": {"iopub": "now"}, "tags": ["hide-input"]},
                outputs=[new_output("display_data", data=png)],
            ),
            new_code_cell(
                "print(1)",
                id="compared",
                execution_count=8,
                metadata={"tags": ["nbval-check-output"]},
                outputs=[
                    new_output("stream", name="stdout", text="1\n"),
                    new_output("stream", name="stderr", text="warning\n"),
                    new_output("execute_result", data=png, execution_count=8),
                ],
            ),
        ],
    )


def test_the_cleaner_keeps_compared_text_and_nothing_else():
    cleaned = cleaner.clean(dirty())
    nbformat.validate(cleaned)
    title, first, plot, compared = cleaned.cells
    assert first.source == cleaner.first_cell.text()
    assert first.metadata == {"tags": ["remove-cell"]}
    assert (title.id, plot.id, compared.id) == ("title", "plot", "compared")
    assert plot.outputs == [] and plot.execution_count is None
    assert plot.metadata == {"tags": ["hide-input"]} and title.metadata == {}
    assert compared.execution_count == 1
    assert [o.output_type for o in compared.outputs] == ["stream", "execute_result"]
    assert compared.outputs[1].data == {"text/plain": "<Figure>"}
    assert cleaned.metadata.kernelspec.name == "python3"
    assert "widgets" not in cleaned.metadata


def test_cleaning_twice_changes_nothing(tmp_path):
    path = tmp_path / "a.ipynb"
    nbformat.write(dirty(), path)
    assert cleaner.main(["--check", str(path)]) == 1
    assert cleaner.main([str(path)]) == 0
    once = path.read_bytes()
    assert cleaner.main(["--check", str(path)]) == 0
    assert cleaner.main([str(tmp_path)]) == 0
    assert path.read_bytes() == once


def test_a_compared_cell_without_an_output_is_refused():
    notebook = dirty()
    notebook.cells[2].outputs = []
    with pytest.raises(ValueError, match="compared is tagged nbval-check-output"):
        cleaner.clean(notebook)


def test_cells_need_ids_of_their_own():
    notebook = dirty()
    notebook.cells[1].id = "title"
    with pytest.raises(ValueError, match="id of its own"):
        cleaner.clean(notebook)


def test_executing_fills_in_the_compared_outputs(tmp_path):
    path = tmp_path / "a.ipynb"
    cell = new_code_cell("print(6 * 7)", metadata={"tags": ["nbval-check-output"]})
    nbformat.write(new_notebook(cells=[cell]), path)
    assert cleaner.main(["--execute", str(path)]) == 0
    assert nbformat.read(path, 4).cells[-1].outputs[0].text == "42\n"
