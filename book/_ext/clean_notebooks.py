"""Keep notebooks in the form in which they are committed.

A committed notebook holds what its author wrote: sources, cell ids, tags
and alt texts. It holds an output only in a cell tagged
``nbval-check-output``, where the tests compare it with a fresh run, and
then as text alone. A difference between two versions is then always a
change that somebody made. Its first code cell is that of
``first_cell.py``.

    python book/_ext/clean_notebooks.py book             clean in place
    python book/_ext/clean_notebooks.py --check book     only tell
    python book/_ext/clean_notebooks.py --execute A.ipynb
                            run it and keep the fresh compared outputs
"""

import argparse
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

sys.path.insert(0, str(Path(__file__).parent))
import first_cell

COMPARED = "nbval-check-output"
KEPT_METADATA = ("tags", "mystnb", "nbgrader")
METADATA = {
    "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}


def text_only(outputs):
    """Printed text and text representations, without anything else."""
    kept = []
    for output in outputs:
        if output.output_type == "stream":
            if output.name == "stdout":
                kept.append(output)
        elif "text/plain" in output.get("data", {}):
            output.data = {"text/plain": output.data["text/plain"]}
            output.metadata = {}
            if output.output_type == "execute_result":
                output.execution_count = 1
            kept.append(output)
    return kept


def put_first_cell(notebook):
    """Make the first code cell the one that installs flatlab."""
    cells = notebook.cells
    graded = any("nbgrader" in cell.metadata for cell in cells)
    tags = ["remove-cell", *(["ungraded"] if graded else [])]
    own = new_code_cell(first_cell.text(graded=graded), id=first_cell.ID)
    own.metadata = nbformat.from_dict({"tags": tags})
    if graded:
        own.metadata.nbgrader = nbformat.from_dict(
            {
                "schema_version": 3,
                "grade_id": first_cell.ID,
                "grade": False,
                "solution": False,
                "task": False,
                "locked": True,
            }
        )
    cells[:] = [cell for cell in cells if cell.get("id") != first_cell.ID]
    at = next((i for i, c in enumerate(cells) if c.cell_type == "code"), None)
    if at is not None:
        cells.insert(at, own)


def clean(notebook, name="notebook"):
    """Change a notebook to its committed form; ``ValueError`` if it has none."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    put_first_cell(notebook)
    ids = [cell.get("id") for cell in notebook.cells]
    if None in ids or len(set(ids)) < len(ids):
        raise ValueError(f"{name}: every cell needs an id of its own")
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {k: cell.metadata[k] for k in KEPT_METADATA if cell.metadata.get(k)}
        )
        cell.pop("attachments", None)
        if cell.cell_type != "code":
            continue
        compared = COMPARED in cell.metadata.get("tags", [])
        cell.outputs = text_only(cell.outputs) if compared else []
        # nbval compares an output only where a count says that it was run.
        cell.execution_count = 1 if cell.outputs else None
        if compared and not cell.outputs:
            raise ValueError(
                f"{name}: cell {cell.id} is tagged {COMPARED} but keeps no text "
                "output; run this script with --execute, or print something"
            )
    return notebook


def committed_form(path, execute=False):
    """The text that the file should have."""
    notebook = nbformat.read(path, as_version=4)
    if execute:
        from nbclient import NotebookClient

        NotebookClient(
            notebook,
            timeout=3600,  # of a cell: stored experiments take their time
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
        ).execute()
    return nbformat.writes(clean(notebook, path.name)) + "\n"


def main(arguments=None):
    """Clean or check; the exit status is 1 where something is amiss."""
    parser = argparse.ArgumentParser(description="Clean notebooks.")
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing")
    parser.add_argument("--execute", action="store_true", help="run them first")
    options = parser.parse_args(arguments)
    status = 0
    for path in options.paths:
        for notebook in sorted(path.rglob("*.ipynb")) if path.is_dir() else [path]:
            if ".ipynb_checkpoints" in notebook.parts:
                continue
            try:
                wanted = committed_form(notebook, options.execute)
            except ValueError as error:
                print(error)
                status = 1
                continue
            if wanted == notebook.read_text("utf-8"):
                continue
            if options.check:
                print(f"{notebook}: not clean; run `make clean-notebooks`")
                status = 1
            else:
                notebook.write_text(wanted, "utf-8")
                print(f"{notebook}: cleaned")
    return status


if __name__ == "__main__":
    sys.exit(main())
