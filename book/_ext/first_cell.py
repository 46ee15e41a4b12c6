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
# Installs flatlab where it is missing, as on Colab. From the wheel or
# the clone that this notebook lies in, else from the package index; what
# is installed of torch and NumPy stays as it is.
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

if installed("flatlab") != "{version}":
    here = pathlib.Path.cwd()
    found = [f"{wheel}[course]" for wheel in here.glob("flatlab-{version}-*.whl")]
    clones = [p for p in here.parents if (p / "flatlab/loss.py").is_file()]
    found += [f"{clone}[course]" for clone in clones]
    found += ["flatlab[course]=={version}"]
    kept = [f"{n}=={installed(n)}" for n in ("torch", "numpy") if installed(n)]
    pins = pathlib.Path(tempfile.mkdtemp()) / "kept.txt"
    pins.write_text("\\n".join(kept))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "-c", str(pins)]
    subprocess.run([*pip, found[0]], check=True)
"""


def text():
    """Source of the cell, for the version that the project has."""
    version = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["version"]
    return TEXT.replace("{version}", version).strip()
