"""Ruff has nothing to say: lint, docstring rules and layout."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("command", [("check",), ("format", "--check")])
def test_ruff(command):
    process = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--output-format", "concise", "."]
        if command == ("check",)
        else [sys.executable, "-m", "ruff", *command, "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
