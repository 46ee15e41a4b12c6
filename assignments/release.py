"""Write what goes to students and what stays with the instructor: ``make assignments``.

Below the output folder, ``student/<name>/`` holds the notebook without solutions and
hidden tests, ``student/<name>.zip`` the same with the wheel of flatlab that it was made
with, and ``instructor/`` the notebooks with everything.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nbformat
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
)

from assignments import notebooks

ROOT = Path(__file__).parents[1]
# In the order in which nbgrader itself applies them.
PREPROCESSORS = (
    LockCells,
    ClearSolutions,
    ClearOutput,
    CheckCellMetadata,
    ClearHiddenTests,
    ComputeChecksums,
)
# What a student's copy must never say.
SECRETS = ("BEGIN SOLUTION", "END SOLUTION", "BEGIN HIDDEN TESTS", "END HIDDEN TESTS")


def student_copy(name, folder=notebooks.SOURCE):
    """Give the notebook that students get, as an nbformat notebook."""
    notebook = nbformat.read(Path(folder) / name / f"{name}.ipynb", as_version=4)
    resources = {}
    for preprocessor in PREPROCESSORS:
        notebook, resources = preprocessor().preprocess(notebook, resources)
    left = [
        secret
        for secret in SECRETS
        if any(secret in cell.source for cell in notebook.cells)
    ]
    if left:
        raise ValueError(f"{name}: the student's copy still says {', '.join(left)}")
    return notebook


def wheel(folder):
    """Build the wheel of flatlab in a folder and give its path."""
    with tempfile.TemporaryDirectory() as clean:
        # A copy: setuptools would pack what older builds left behind.
        shutil.copytree(ROOT / "flatlab", Path(clean) / "flatlab")
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, clean)
        options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir")
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", *options, str(folder), clean],
            check=True,
        )
    (path,) = Path(folder).glob("flatlab-*.whl")
    return path


def release(output, names=None):
    """Write all copies.

    Args:
        output: folder; what it held before is replaced.
        names: of assignments; by default all of them.

    Returns:
        The paths of the zip files.
    """
    output = Path(output)
    names = names or notebooks.names()
    for part in ("student", "instructor"):
        shutil.rmtree(output / part, ignore_errors=True)
    zips = []
    with tempfile.TemporaryDirectory() as folder:
        package = wheel(folder)
        for name in names:
            home = output / "student" / name
            home.mkdir(parents=True)
            notebook = home / f"{name}.ipynb"
            nbformat.write(student_copy(name), notebook)
            shutil.copy(package, home)
            path = output / "student" / f"{name}.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(home.iterdir()):
                    archive.write(file, f"{name}/{file.name}")
            zips.append(path)
            keep = output / "instructor" / name
            shutil.copytree(notebooks.SOURCE / name, keep)
    return zips


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the students' copies.")
    parser.add_argument("--output", type=Path, default=Path("_build/assignments"))
    options = parser.parse_args(arguments)
    for path in release(options.output):
        print(path)


if __name__ == "__main__":
    main()
