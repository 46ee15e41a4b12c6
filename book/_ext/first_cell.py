"""The first code cell of every notebook: makes it run elsewhere.

``clean_notebooks.py`` puts it there. Readers of the book do not see it,
and where flatlab is installed, as in the book's own environment, it does
nothing.
"""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
ID = "install"

TEXT = """\
# Installs flatlab where it is missing, as on Colab: from the wheel or
# the clone that this notebook lies in, else from the book's repository.
# What is installed of torch and NumPy stays as it is.
import importlib.metadata
import pathlib
import subprocess
import sys
import tempfile


def installed(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def usable(path):
    return path.is_file() or (path / "flatlab").is_dir()


def run(*command):
    subprocess.run([str(part) for part in command], check=True)


if installed("flatlab") != "{version}":
    here, repository = pathlib.Path.cwd(), {repository}
    found = [*here.glob("flatlab-{version}-*.whl"), *here.parents]
    found = list(filter(usable, [*found, here / "flatlab-book"]))
    if not found and not repository:
        raise RuntimeError(
            "flatlab {version} is not installed: put its wheel beside "
            "this notebook, or open it in a clone of the book"
        )
    place = found[0] if found else here / "flatlab-book"
    if not found:
        run("git", "clone", "-q", "-b", *repository, place)
    names = [name for name in ("torch", "numpy") if installed(name)]
    kept = [f"{name}=={installed(name)}" for name in names]
    pins = pathlib.Path(tempfile.mkdtemp()) / "kept.txt"
    pins.write_text("\\n".join(kept))
    pip = [sys.executable, "-m", "pip", "install", "-q", "-c", pins]
    if place.is_dir():  # stay there: claims and results are beside it
        sys.path.insert(0, str(place))
        pip.append("-e")
    run(*pip, f"{place}[course]")
"""


def text(config=ROOT / "_config.yml"):
    """Source of the cell, for the project's version and the configured repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    repository = yaml.safe_load(config.read_text("utf-8"))["repository"]
    origin = [repository["branch"], repository["url"]] if repository["url"] else []
    filled = TEXT.replace("{version}", project["version"])
    return filled.replace("{repository}", repr(origin).replace("'", '"')).strip()
