"""The first code cell of every notebook: makes it run elsewhere.

``clean_notebooks.py`` puts it there. Readers of the book do not see it,
and where flatlab is installed, as in the book's own environment, it does
nothing.
"""

import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
ID = "install"

TEXT = """\
# Installs flatlab where it is missing, as on Colab: from the wheel or
# the clone that this notebook lies in, else from the package index.
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


if installed("flatlab") != "{version}":
    here = pathlib.Path.cwd()
    found = [*here.glob("flatlab-{version}-*.whl"), *here.parents]
    found = list(filter(usable, found)) or ["flatlab"]
    end = "" if isinstance(found[0], pathlib.Path) else "=={version}"
    names = [name for name in ("torch", "numpy") if installed(name)]
    kept = [f"{name}=={installed(name)}" for name in names]
    pins = pathlib.Path(tempfile.mkdtemp()) / "kept.txt"
    pins.write_text("\\n".join(kept))
    source = f"{found[0]}[course]{end}"
    pip = ["-m", "pip", "install", "-q", "-c", str(pins)]
    subprocess.run([sys.executable, *pip, source], check=True)
"""


def text():
    """Source of the cell, for the version that the project has."""
    version = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["version"]
    return TEXT.replace("{version}", version).strip()
