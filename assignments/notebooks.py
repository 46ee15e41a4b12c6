"""What an assignment asks for, and a submission fitted into it.

The source notebooks carry nbgrader's metadata. A code cell is one of:

- set-up (locked, no points): imports and data; runs on both sides of the wall. With the
  tag ``ungraded`` it is an experiment, which grading leaves out;
- solution: the student's;
- test (locked, points): runs outside the sandbox and sees the student's functions and
  variables as plain data.

A markdown cell with points is a written answer, graded by hand.
"""

import ast
from dataclasses import dataclass
from pathlib import Path

import nbformat

SOURCE = Path(__file__).parent / "source"
CHAPTERS = (
    "memorization",
    "shortcuts",
    "information_bottleneck",
    "flatness",
    "sam",
    "reparameterization",
    "asam",
    "verdict",
)


@dataclass(frozen=True)
class Task:
    """What points are given for.

    Attributes:
        id: nbgrader's ``grade_id``.
        points: the most that can be had.
        written: whether a person grades it.
    """

    id: str
    points: float
    written: bool


@dataclass(frozen=True)
class Step:
    """One cell of a submission in the order in which it is graded.

    Attributes:
        kind: "setup", "student", "test" or "written".
        id: nbgrader's ``grade_id``; of a cell that the student added, "".
        source: of the cell.
        names: functions and variables, as two tuples, that the solution has to define.
    """

    kind: str
    id: str
    source: str
    names: tuple = ((), ())


@dataclass(frozen=True)
class Assignment:
    """A source notebook.

    Attributes:
        name: of the chapter and of the file.
        title: its first heading.
        cells: nbformat cells that carry nbgrader's metadata.
        tasks: a tuple of ``Task``.
    """

    name: str
    title: str
    cells: tuple
    tasks: tuple

    @property
    def points(self):
        """The most that the whole assignment can give."""
        return sum(task.points for task in self.tasks)


@dataclass(frozen=True)
class Submission:
    """A student's notebook, fitted into its assignment.

    Attributes:
        steps: a tuple of ``Step``.
        notes: what a person should know about it, as sentences.
    """

    steps: tuple
    notes: tuple = ()


def names(folder=SOURCE):
    """The chapters' assignments in the order of the course, then all others."""
    there = {p.stem for p in Path(folder).glob("*/*.ipynb") if p.stem == p.parent.name}
    chapters = [name for name in CHAPTERS if name in there]
    return [*chapters, *sorted(there.difference(chapters))]


def read(name, folder=SOURCE):
    """Read the source of an assignment."""
    notebook = nbformat.read(Path(folder) / name / f"{name}.ipynb", as_version=4)
    cells = tuple(cell for cell in notebook.cells if _grading(cell))
    tasks = tuple(
        Task(
            cell.metadata.nbgrader.grade_id,
            float(cell.metadata.nbgrader.points),
            cell.cell_type == "markdown",
        )
        for cell in cells
        if cell.metadata.nbgrader.grade
    )
    title = next(c.source for c in notebook.cells if c.cell_type == "markdown")
    return Assignment(name, title.splitlines()[0].lstrip("# "), cells, tasks)


def fit(assignment, content):
    """Fit a submitted notebook into its assignment.

    Locked cells are those of the assignment, whatever came back; solutions are the
    student's, found by nbgrader's id or else by the cell's own; cells that the student
    added stay behind the cell that they followed.

    Args:
        assignment: an ``Assignment``.
        content: text of the submitted file.

    Returns:
        A ``Submission``.

    Raises:
        ValueError: the text is no notebook.
    """
    try:
        notebook = nbformat.reads(content, as_version=4)
        cells = [(c.cell_type, str(c.source), _ids(c)) for c in notebook.cells]
    except Exception as error:  # nbformat raises whatever the damage leads to
        raise ValueError(
            f"not a notebook that can be read ({type(error).__name__})"
        ) from None
    known = {}
    for cell in assignment.cells:
        id = cell.metadata.nbgrader.grade_id
        known |= {id: id, f"cell {cell.id}": id}
    answers, added, notes, last = {}, {}, [], None
    for kind, source, ids in cells:
        id = next((known[i] for i in ids if i in known), None)
        if id is None:
            if kind == "code" and source.strip():
                added.setdefault(last, []).append(Step("student", "", source))
        elif id in answers:
            notes.append(f"The cell {id} is there twice; the first one counts.")
        else:
            answers[id], last = (kind, source), id
    steps = added.get(None, [])
    for cell in assignment.cells:
        meta = cell.metadata.nbgrader
        kind, source = answers.get(meta.grade_id, (None, ""))
        if kind is None or (meta.solution and kind != cell.cell_type):
            notes.append(f"The cell {meta.grade_id} is missing.")
            source = ""
        if cell.cell_type == "markdown":
            if meta.grade:
                steps.append(Step("written", meta.grade_id, source))
        elif meta.solution:
            steps.append(Step("student", meta.grade_id, source, defined(cell.source)))
        elif meta.grade:
            steps.append(Step("test", meta.grade_id, cell.source))
        elif "ungraded" not in cell.metadata.get("tags", ()):
            steps.append(Step("setup", meta.grade_id, cell.source))
        steps += added.get(meta.grade_id, [])
    return Submission(tuple(steps), tuple(notes))


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


def _grading(cell):
    return cell.metadata.get("nbgrader")


def _ids(cell):
    meta = cell.metadata.get("nbgrader")
    id = meta.get("grade_id") if isinstance(meta, dict) else None
    own = cell.get("id")
    return [i for i in (id, f"cell {own}") if isinstance(i, str)]
