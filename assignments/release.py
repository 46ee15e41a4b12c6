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

from assignments import notebooks, report

HERE = Path(__file__).parent
ROOT = HERE.parent
UNPACKED = """import importlib.util, os, subprocess, sys, tempfile, zipfile
if not importlib.util.find_spec("flatlab"):
    sys.exit("first install the wheel in your zip: python -m pip install its-name.whl")
with tempfile.TemporaryDirectory() as home:
    zipfile.ZipFile(sys.argv[0]).extractall(home)
    paths = [home, os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ["PYTHONIOENCODING"] = ":backslashreplace"
    words = [sys.executable, "-m", "assignments.check", *sys.argv[1:]]
    sys.exit(subprocess.call(words))
"""
# What a student's copy must never say.
SECRETS = ("BEGIN SOLUTION", "END SOLUTION", "BEGIN HIDDEN TESTS", "END HIDDEN TESTS")


def student_copy(name, folder=notebooks.SOURCE, student=None):
    """Give the notebook that students get, with the numbers of one where named."""
    notebook = nbformat.read(Path(folder) / name / f"{name}.ipynb", as_version=4)
    assignment = notebooks.read(name, folder)
    if student:
        assignment = notebooks.for_student(assignment, student)
    known = {cell.own: cell for cell in assignment.cells}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if cell.id in known:
            cell.source = known[cell.id].released
            cell.metadata.deletable = False
            if known[cell.id].kind not in ("solution", "written"):
                cell.metadata.editable = False
    text = "\n".join(cell.source for cell in notebook.cells)
    if left := [secret for secret in SECRETS if secret in text]:
        raise ValueError(f"{name}: the student's copy still says {', '.join(left)}")
    note, locked = notebooks.note(name), {"editable": False}
    note = nbformat.v4.new_markdown_cell(note, id="note", metadata=locked)
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


def pack(path, texts, files):
    """Pack texts and files, two dicts from the names that they get; give the path."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files.items():
            archive.write(file, name)
        for name, text in texts.items():
            archive.writestr(name, text)
    return path


def grader(*rooms):
    """The grader's files, or some, by the names that they have in an archive."""
    files = [f for f in sorted(HERE.glob("*.*")) if not rooms or f.stem in rooms]
    files += sorted(HERE.glob("sandboxed/*.py"))
    return {f"assignments/{file.relative_to(HERE)}": file for file in files}


def check(path, name, folder):
    """Write the file with which students check a notebook at home."""
    rooms = ("__init__", "check", "collect", "confine", "judge", "notebooks", "run")
    copy = nbformat.writes(student_copy(name, folder))
    texts = {f"assignments/source/{name}/{name}.ipynb": copy, "__main__.py": UNPACKED}
    pack(path, texts, grader(*rooms, "NOTE"))


def gradescope(path, name, package):
    """Write the autograder of one assignment for Gradescope."""
    files = {file.name: file for file in (HERE / "gradescope").iterdir()}
    files[f"source/{name}/{name}.ipynb"] = notebooks.SOURCE / name / f"{name}.ipynb"
    pack(path, {}, grader() | files | {package.name: package})


def release(output, students=()):
    """Write all copies, replacing older ones, and give the paths of the zips.

    Each of the students gets a zip with numbers of their own, where there are any.
    """
    output = Path(output)
    for part in ("student", "instructor", "gradescope"):
        shutil.rmtree(output / part, ignore_errors=True)
    (output / "gradescope").mkdir(parents=True)
    zips = []
    with tempfile.TemporaryDirectory() as folder:
        package = wheel(folder)
        for name in notebooks.names():
            home = output / "student" / name
            home.mkdir(parents=True)
            notebook = home / f"{name}.ipynb"
            nbformat.write(student_copy(name), notebook)
            for file in (package, HERE / "AI-POLICY.md"):
                shutil.copy(file, home)
            check(home / "check.pyz", name, notebooks.SOURCE)
            files = {f"{name}/{file.name}": file for file in sorted(home.iterdir())}
            zips.append(pack(output / "student" / f"{name}.zip", {}, files))
            del files[f"{name}/{name}.ipynb"]
            shared = notebook.read_text("utf-8")
            for student in students if '"VARIANT = ' in shared else ():
                copy = nbformat.writes(student_copy(name, notebooks.SOURCE, student))
                own = output / "student" / f"{name}-{report.slug(student)}.zip"
                pack(own, {f"{name}/{name}.ipynb": copy}, files)
            gradescope(output / "gradescope" / f"{name}.zip", name, package)
            shutil.copytree(notebooks.SOURCE / name, output / "instructor" / name)
    return zips


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the students' copies.")
    parser.add_argument("--output", type=Path, default=Path("_build/assignments"))
    parser.add_argument(
        "--variants", type=Path, help="file with a student per line: own numbers"
    )
    options = parser.parse_args(arguments)
    listed = options.variants.read_text("utf-8") if options.variants else ""
    students = [name.strip() for name in listed.split("\n") if name.strip()]
    for path in release(options.output, students=students):
        print(path)


if __name__ == "__main__":
    main()
