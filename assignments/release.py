"""Write what goes to students and what stays with the instructor: ``make assignments``.

Below the output folder, ``student/<name>/`` holds the notebook without solutions and
hidden tests, the wheel of flatlab that it was made with, a check to run at home and the
course's policy on assistants; ``student/<name>.zip`` the same; ``instructor/`` the
notebooks with everything; ``gradescope/`` the same grader for Gradescope.
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

from assignments import notebooks, report

HERE = Path(__file__).parent
ROOT = HERE.parent
UNPACKED = """import os, subprocess, sys, tempfile, zipfile
with tempfile.TemporaryDirectory() as home:
    zipfile.ZipFile(sys.argv[0]).extractall(home)
    paths = [home, os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    words = [sys.executable, "-m", "assignments.check", *sys.argv[1:]]
    sys.exit(subprocess.call(words))
"""
SETUP = """#!/bin/sh
apt-get update && apt-get install -y python3-pip util-linux
pip install torch --index-url https://download.pytorch.org/whl/cpu
pip install "/autograder/source/{wheel}[course]" ipython nbformat
"""
# Gradescope's containers allow no sandbox of ours: the code runs as nobody there, and
# the tests belong to root.
AUTOGRADER = """#!/bin/sh
cd /autograder/source && mkdir -p /autograder/in && chmod go-rwx source /autograder/in
cp -r /autograder/submission /autograder/in/student
FLATLAB_CONFINE=container python3 -m assignments.grade /autograder/in --source source \\
    --output /autograder/out --results /autograder/results/results.json
test -s /autograder/results/results.json
"""
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


def student_copy(name, folder=notebooks.SOURCE, student=None):
    """Give the notebook that students get, as an nbformat notebook.

    Args:
        name: of the assignment.
        folder: of the assignments.
        student: whose own numbers it holds; by default everybody's.
    """
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
    if student:
        for cell in notebook.cells:
            cell.source = notebooks.variant(cell.source, student)
    note = notebooks.NOTE.format(name=name)
    note = nbformat.v4.new_markdown_cell(note, id="note", metadata={"editable": False})
    notebook.cells.insert(1, note)
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


def check(path, name, folder):
    """Write the file with which students check a notebook at home."""
    rooms = ("__init__", "check", "collect", "confine", "judge", "notebooks", "run")
    files = [HERE / f"{room}.py" for room in rooms]
    files += sorted((HERE / "sandboxed").glob("*.py"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"assignments/{file.relative_to(HERE)}")
        inside = f"assignments/source/{name}/{name}.ipynb"
        archive.writestr(inside, nbformat.writes(student_copy(name, folder)))
        archive.writestr("__main__.py", UNPACKED)


def gradescope(path, name, package):
    """Write the autograder of one assignment for Gradescope."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted([*HERE.glob("*.py"), *HERE.glob("sandboxed/*.py")]):
            archive.write(file, f"assignments/{file.relative_to(HERE)}")
        inside = f"source/{name}/{name}.ipynb"
        archive.write(notebooks.SOURCE / name / f"{name}.ipynb", inside)
        archive.write(package, package.name)
        archive.writestr("setup.sh", SETUP.format(wheel=package.name))
        archive.writestr("run_autograder", AUTOGRADER)


def release(output, names=None, students=()):
    """Write all copies.

    Args:
        output: folder; what it held before is replaced.
        names: of assignments; by default all of them.
        students: who get a zip each with their own numbers.

    Returns:
        The paths of the zip files.
    """
    output = Path(output)
    names = names or notebooks.names()
    for part in ("student", "instructor", "gradescope"):
        shutil.rmtree(output / part, ignore_errors=True)
    (output / "gradescope").mkdir(parents=True)
    zips = []
    with tempfile.TemporaryDirectory() as folder:
        package = wheel(folder)
        for name in names:
            home = output / "student" / name
            home.mkdir(parents=True)
            notebook = home / f"{name}.ipynb"
            nbformat.write(student_copy(name), notebook)
            for file in (package, HERE / "AI-POLICY.md"):
                shutil.copy(file, home)
            check(home / "check.pyz", name, notebooks.SOURCE)
            zips.append(packed(home, output / "student" / f"{name}.zip"))
            for student in students:
                copy = student_copy(name, notebooks.SOURCE, student)
                nbformat.write(copy, notebook)
                packed(home, output / "student" / f"{name}-{report.slug(student)}.zip")
            gradescope(output / "gradescope" / f"{name}.zip", name, package)
            keep = output / "instructor" / name
            shutil.copytree(notebooks.SOURCE / name, keep)
    return zips


def packed(home, path):
    """Pack a folder and give the path of the zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(home.iterdir()):
            archive.write(file, f"{home.name}/{file.name}")
    return path


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the students' copies.")
    parser.add_argument("--output", type=Path, default=Path("_build/assignments"))
    parser.add_argument(
        "--variants", type=Path, help="file with a student per line: own numbers"
    )
    options = parser.parse_args(arguments)
    students = ()
    if options.variants:
        students = options.variants.read_text("utf-8").split("\n")
        students = [name.strip() for name in students if name.strip()]
    for path in release(options.output, students=students):
        print(path)


if __name__ == "__main__":
    main()
