"""The folder of the assignments is no installed package: found from the root."""

import os
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]


@pytest.fixture(scope="session")
def confined():
    """Where code cannot be confined, tests skip; where CI=true, they fail."""
    from assignments import sandbox

    try:
        sandbox.require()
    except SystemExit as refusal:
        word = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        word(str(refusal))
