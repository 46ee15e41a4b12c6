"""The first code cell makes a notebook run where flatlab is not installed."""

import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import nbformat
import pytest
import torch

from .conftest import ROOT
from .test_notebooks import cleaner

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    sys.path.insert(0, str(ROOT))
    from assignments.release import wheel

    return wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def elsewhere(tmp_path):
    """An environment with everything but flatlab, and a way to run the cell in it."""
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")],
        check=True,
    )
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "flatlab" not in entry.name and not entry.name.endswith(".pth"):
            (site / entry.name).symlink_to(entry)
    work = tmp_path / "work"
    work.mkdir()

    def run(after="", before="", cell=None):
        cell = cleaner.first_cell.text(graded=True) if cell is None else cell
        # as a notebook runs it, with its % and !
        code = (
            f"{before}\nfrom IPython.core.interactiveshell import InteractiveShell\n"
            f"InteractiveShell().run_cell({cell!r}).raise_error()\n{after}"
        )
        return subprocess.run(
            [str(tmp_path / "env" / "bin" / "python"), "-c", code],
            cwd=work,
            capture_output=True,
            text=True,
            # Nothing may be fetched: what is needed is there.
            env={
                "PIP_NO_INDEX": "1",
                "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as "no isolation"
                "PATH": "/usr/bin:/bin",
            },
        )

    run.site, run.work = site, work
    return run


SHOW = """
import torch, flatlab
print(flatlab.__version__, flatlab.__file__, torch.__version__)"""


def installed_in(run, wheel):
    (run.work / wheel.name).symlink_to(wheel)
    after = run(after=SHOW)
    assert after.returncode == 0, after.stderr
    version, file, found = after.stdout.splitlines()[-1].split()
    assert version == VERSION
    assert file.startswith(str(run.site))
    assert found == torch.__version__
    assert (run.site / "torch").is_symlink()


def test_a_missing_flatlab_is_installed_and_torch_left_alone(elsewhere, wheel):
    found = elsewhere()
    assert found.returncode == 1
    assert "AssertionError: put that wheel beside this" in found.stderr
    assert f"flatlab-{VERSION}-py3-none-any.whl" in found.stdout + found.stderr
    found = elsewhere(cell=cleaner.first_cell.text())
    assert found.returncode == 1
    assert f"flatlab {VERSION} is not installed: open this notebook" in found.stderr
    installed_in(elsewhere, wheel)


@pytest.mark.slow
def test_a_wrong_version_is_replaced(elsewhere, wheel):
    old = elsewhere.site / "flatlab-0.0.1.dist-info"
    old.mkdir()
    (old / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: flatlab\nVersion: 0.0.1\n"
    )
    (old / "RECORD").write_text(
        "flatlab-0.0.1.dist-info/METADATA,,\nflatlab/__init__.py,,\n"
    )
    (elsewhere.site / "flatlab").mkdir()
    (elsewhere.site / "flatlab" / "__init__.py").write_text("__version__ = '0.0.1'\n")
    installed_in(elsewhere, wheel)


@pytest.mark.parametrize("graded", [True, False])
def test_where_the_right_version_is_nothing_happens(graded):
    code = (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell()\n"
        "shell.system = shell.run_line_magic = None  # neither ! nor %\n"
        f"shell.run_cell({cleaner.first_cell.text(graded=graded)!r}).raise_error()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "book")


@pytest.mark.slow
def test_where_a_repository_is_configured_it_is_cloned(elsewhere, tmp_path):
    origin = tmp_path / "origin"
    shutil.copytree(ROOT / "flatlab", origin / "flatlab")
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"):
        shutil.copy(ROOT / name, origin)
    (origin / "book").mkdir()
    shutil.copy(ROOT / "book" / "claims.toml", origin / "book")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(origin)]
    for command in (["init", "-qb", "main"], ["add", "."], ["commit", "-qm", "All"]):
        subprocess.run([*git, *command], check=True)
    config = tmp_path / "_config.yml"
    config.write_text(f"repository: {{url: '{origin.as_uri()}', branch: main}}")
    cell = cleaner.first_cell.text(config)
    show = "import flatlab\nfrom flatlab.course.store import book_root\n"
    after = f"{show}print(flatlab.__file__, book_root())"
    first = elsewhere(after, cell=cell)
    assert first.returncode == 0, first.stderr
    *_, file, root = first.stdout.split()
    clone = elsewhere.work / "flatlab-book"
    assert file.startswith(str(elsewhere.site)) or file.startswith(str(clone))
    assert root == str(clone)
    # in a kernel that was started again nothing is left to do
    (clone / ".git").rename(clone / "elsewhere")
    again = elsewhere(after, cell=cell)
    assert again.returncode == 0 and again.stdout.split()[-1] == root


def test_every_notebook_has_it():
    paths = [p for n in ("book", "assignments") for p in (ROOT / n).rglob("*.ipynb")]
    assert len(paths) > 3
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        graded = path.is_relative_to(ROOT / "assignments")
        assert code[0].source == cleaner.first_cell.text(graded=graded), path
        assert len([line for line in code[0].source.splitlines() if line]) <= 6
        assert "remove-cell" in code[0].metadata.tags, path
