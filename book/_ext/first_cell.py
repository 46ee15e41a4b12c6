"""The first code cell of every notebook: makes it run elsewhere.

``clean_notebooks.py`` puts it there. Readers of the book do not see it, and where
flatlab is installed, as in the book's own environment, it does nothing. Elsewhere a
notebook of the book, as Colab opens it, fetches the repository of ``_config.yml``; the
students' notebooks install the wheel that comes with them.
"""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
ID = "install"

MISSING = """\
from importlib.metadata import distributions

if "{version}" not in [found.version for found in distributions(name="flatlab")]:
"""
FETCH = (
    """\
# Fetches the book where flatlab is missing, as on Colab; elsewhere it does nothing.
"""
    + MISSING
    + """\
    !git clone -q -b {branch} {url} flatlab-book
    %pip install -q "./flatlab-book[course]"
"""
)
SAY = (
    """\
# Says how to get flatlab where it is missing.
"""
    + MISSING
    + """\
    how = "open this notebook in a clone of the book, after `pip install -e .[course]`"
    raise ModuleNotFoundError(f"flatlab {version} is not installed: {how}")
"""
)
UNPACK = (
    """\
# Installs flatlab where it is missing, from the wheel that came with this notebook.
"""
    + MISSING.replace("\n\n", "\nfrom pathlib import Path\n\n")
    + """\
    assert Path("{wheel}").exists(), "put that wheel beside this"
    %pip install -q "{wheel}[course]"
"""
)


def text(config=ROOT / "_config.yml", graded=False):
    """Source of the cell, for the project's version and the configured repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    repository = yaml.safe_load(config.read_text("utf-8"))["repository"]
    filled = UNPACK if graded else FETCH if repository["url"] else SAY
    values = {
        "version": project["version"],
        "wheel": f"flatlab-{project['version']}-py3-none-any.whl",
        "branch": repository["branch"],
        "url": repository["url"],
    }
    for name, value in values.items():
        filled = filled.replace("{" + name + "}", value)
    return filled.strip()
