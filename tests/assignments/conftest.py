"""The folder of the assignments is no installed package: found from the root."""

import contextlib
import csv
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]


@pytest.fixture(scope="session")
def confined():
    """Where code cannot be confined, tests skip; where CI=true, they fail."""
    from assignments import confine

    try:
        confine.require()
    except SystemExit as refusal:
        word = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        word(str(refusal))


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    """A folder of assignments with the toy alone."""
    import toy

    folder = tmp_path_factory.mktemp("source")
    (folder / "toy").mkdir()
    nbformat.write(toy.source(), folder / "toy" / "toy.ipynb")
    return folder


class Inside:
    """A student's side without walls, for answers that are known to be harmless.

    Values still cross as plain data, as they do in grading.
    """

    def __init__(self):
        self.space, self.ends, self.failed = {}, [], []

    def step(self, kind, id):
        return contextlib.nullcontext()

    def run(self, cell):
        try:
            exec(cell, self.space)
        except Exception as error:
            self.failed.append(error)
            raise

    def call(self, name, args, kwargs):
        from assignments.sandboxed import plain

        content = plain.encode((list(args), kwargs))
        args, kwargs = plain.decode(content)
        found = plain.decode(plain.encode(self.space[name](*args, **kwargs)))
        return found, plain.encode((args, kwargs)) != content

    def value(self, name):
        from assignments.sandboxed import plain

        return plain.decode(plain.encode(self.space[name]))


class Command:
    """The command that an instructor gives, and what it wrote."""

    def __init__(self, folder, source=None):
        self.hand_in, self.out, self.source = folder / "in", folder / "out", source
        self.hand_in.mkdir(exist_ok=True)

    def put(self, student, content, name="toy.ipynb"):
        path = os.path.join(
            os.fsencode(self.hand_in), os.fsencode(student), os.fsencode(name)
        )
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return path

    def arguments(self, *more):
        words = [sys.executable, "-m", "assignments.grade", str(self.hand_in)]
        words += ["--output", str(self.out), "--workers", "2", *more]
        return words + (["--source", str(self.source)] if self.source else [])

    def __call__(self, *more, code=(0, 3)):
        done = subprocess.run(
            self.arguments(*more),
            cwd=ROOT,
            env=os.environ | {"FLATLAB_PROGRESS": "0", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        self.said = done.stdout + done.stderr
        assert done.returncode in code, self.said
        return {r["student"]: r for r in self.table("grades")}

    def table(self, name):
        with (self.out / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def command(toys, tmp_path, confined):
    return Command(tmp_path, toys)
