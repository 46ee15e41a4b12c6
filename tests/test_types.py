"""The type hints of the core: pyright has nothing to complain about."""

import subprocess
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pyright(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_core_type_checks():
    if find_spec("pyright") is None or pyright("--version").returncode:
        pytest.skip("pyright is not installed; its first run fetches it with npm")
    result = pyright()
    assert result.returncode == 0, result.stdout


def test_the_hints_are_for_users_too():
    assert files("flatlab").joinpath("py.typed").is_file()
