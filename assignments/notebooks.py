"""What an assignment asks for.

The source notebooks carry nbgrader's metadata. A code cell is one of:

- set-up (locked, no points): imports and data; runs on both sides of the wall. With the
  tag ``ungraded`` it is an experiment, which grading leaves out;
- solution: the student's;
- test (locked, points): runs outside the sandbox and sees the student's functions and
  variables as plain data. Lines ``### PART words (points)`` cut it into parts with
  points of their own; the tag ``pure`` asks that functions leave their arguments as
  they are, ``any-form`` that answers are not fitted to the model solution's form.

A markdown cell with points is a written answer, graded by hand.
"""

import ast
import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

SOURCE = Path(__file__).parent / "source"
CHAPTERS = (
    "memorization",
    "shortcuts",
    "features",
    "information_bottleneck",
    "flatness",
    "sam",
    "reparameterization",
    "asam",
    "verdict",
)
# What every student's copy says about grading, in a cell of its own.
NOTE = Path(__file__).with_name("NOTE.md")
HIDDEN = "### BEGIN HIDDEN TESTS"
STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")
# A locked line that gives every student numbers of their own, where that is asked for.
VARIANT = re.compile(r"^VARIANT = .*$", re.MULTILINE)


@dataclass(frozen=True)
class Cell:
    """A cell that grading knows."""

    id: str  # nbgrader's ``grade_id``
    own: str  # the id that Jupyter gave it
    kind: str  # "setup", "ungraded", "solution", "test" or "written"
    source: str  # as the instructor has it
    released: str  # as students get it
    points: float | None  # the most that can be had; None where there are none
    tags: tuple
    names: tuple  # functions and variables, two tuples, that the solution defines
    title: str  # the heading that it stands under

    @property
    def section(self):
        """Where in its chapter a lost test is about, as the end of an address."""
        parts = [t.partition(":")[2] for t in self.tags if t.startswith("section:")]
        return f"#{parts[0]}" if parts else ""


@dataclass(frozen=True)
class Assignment:
    """A source notebook."""

    name: str  # of the chapter and of the file
    title: str  # its first heading
    cells: tuple  # of ``Cell``
    texts: dict  # from the id of every other cell to its source
    digest: str  # changes with anything in it

    @property
    def by_id(self):
        """A dict from their ids to the cells."""
        return {cell.id: cell for cell in self.cells}

    @property
    def tasks(self):
        """The cells that give points."""
        return tuple(cell for cell in self.cells if cell.points is not None)

    @property
    def points(self):
        """The most that the whole assignment can give."""
        return sum(task.points for task in self.tasks)


def names(folder=None):
    """The chapters' assignments in the order of the course, then all others."""
    paths = Path(folder or SOURCE).glob("*/*.ipynb")
    there = {p.stem for p in paths if p.stem == p.parent.name}
    chapters = [name for name in CHAPTERS if name in there]
    return [*chapters, *sorted(there.difference(chapters))]


def read(name, folder=None):
    """Read the source of an assignment."""
    text = (Path(folder or SOURCE) / name / f"{name}.ipynb").read_text("utf-8")
    title, heading, cells, texts = "", "", [], {}
    for cell in json.loads(text)["cells"]:
        source, markdown = "".join(cell["source"]), cell["cell_type"] == "markdown"
        if markdown and (found := re.search(r"^##? *(.+)$", source, re.MULTILINE)):
            heading = found[1]
            title = title or heading
        if meta := cell["metadata"].get("nbgrader"):
            tags = tuple(cell["metadata"].get("tags", ()))
            cells.append(_cell(meta, cell["id"], source, markdown, tags, heading))
        else:
            texts[cell["id"]] = source
    if len({cell.id for cell in cells}) < len(cells):
        raise ValueError(f"{name}: two of its cells have one grade_id")
    texts["note"] = note(name)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Assignment(name, title, tuple(cells), texts, digest)


def note(name):
    """What the student's copy of an assignment says about grading."""
    return NOTE.read_text("utf-8").replace("NAME", name).strip()


def _cell(meta, own, source, markdown, tags, heading):
    points = float(meta["points"]) if meta.get("grade") else None
    names = ((), ())
    if markdown:
        kind, released = "written", "YOUR ANSWER HERE"
    elif meta.get("solution"):
        kind, released, names = "solution", without_solution(source), defined(source)
    elif points is None:
        kind, released = "ungraded" if "ungraded" in tags else "setup", source
    else:
        kind, released = "test", source.partition(HIDDEN)[0].rstrip()
    return Cell(
        meta["grade_id"], own, kind, source, released, points, tags, names, heading
    )


def without_solution(source):
    """Give the source of a solution cell as students get it; without marks, nothing."""
    released, cuts = re.subn(
        r"(?ms)^([ \t]*)### BEGIN SOLUTION.*?### END SOLUTION",
        rf"\1{STUB[0]}\n\1{STUB[1]}",
        source,
    )
    return released if cuts else "\n".join(STUB)


def defined(source):
    """Functions and variables that a solution defines, as two tuples of names."""
    functions, variables = [], []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            functions.append(node.name)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                found = ast.walk(target)
                variables += [n.id for n in found if isinstance(n, ast.Name)]
    return tuple(functions), tuple(variables)


def for_student(assignment, student):
    """Give the assignment with the student's own number in a line ``VARIANT = ...``."""
    number = int.from_bytes(hashlib.sha256(student.encode()).digest()[:4])

    def own(source):
        return VARIANT.sub(f"VARIANT = {number}", source)

    cells = [
        replace(cell, source=own(cell.source), released=own(cell.released))
        for cell in assignment.cells
    ]
    return replace(assignment, cells=tuple(cells))


def imported(source):
    """The modules that some code imports, whatever else stands in it."""
    return set(re.findall(r"^\s*(?:import|from) +(\w[\w.]*)", source, re.MULTILINE))
