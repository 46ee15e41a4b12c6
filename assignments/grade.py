"""Grade a folder of submissions: ``make grade SUBMISSIONS=folder``.

The folder holds one folder per student with their notebooks, each named after its
assignment. Students' code runs in a sandbox, the tests outside it, and only plain data
crosses. No submission sees another, and every submission gets a row, whatever it does.
"""

import argparse
import contextlib
import csv
import io
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from assignments import feedback, notebooks, sandbox
from assignments.sandbox import Sandbox, SandboxError, StudentError

CELL_SECONDS = 60
CALL_SECONDS = 20
SUBMISSION_SECONDS = 240
# A notebook of a course is far smaller; a larger one is not read.
LARGEST_FILE = 20 << 20
MESSAGE = 600  # characters of a message that feedback shows


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Attributes:
        id: of the task.
        points: given; None where a person has to.
        most: that could be had.
        message: for the student.
    """

    id: str
    points: float | None
    most: float
    message: str = ""


@dataclass(frozen=True)
class Grade:
    """What became of one submission.

    Attributes:
        student: name of the folder.
        assignment: its name.
        file: that was graded, relative to the folder of all submissions.
        status: "graded", "look" (a person should look: see the reason) or "unreadable".
        reason: in words.
        outcomes: a tuple of ``Outcome``.
        steps: a tuple of ``notebooks.Step``, as graded.
        remarks: dict from the number of a step to what it ran into.
    """

    student: str
    assignment: str
    file: str
    status: str
    reason: str
    outcomes: tuple
    steps: tuple = ()
    remarks: dict | None = None

    @property
    def points(self):
        """Given so far, without the written tasks that nobody has graded yet."""
        return sum(o.points for o in self.outcomes if o.points is not None)


class Student:
    """The student's side of a submission: a sandbox that is replaced when it ends.

    The cells that ran before are run again then, but for the one that ended it.
    """

    def __init__(self):
        self.deadline = time.monotonic() + SUBMISSION_SECONDS
        self.cells = []
        self.sandbox = None
        self.ends = []

    def run(self, source):
        """Run a cell and remember it, unless it ends the process."""
        with self._alive() as box:
            try:
                box.run(source, self._seconds(CELL_SECONDS))
            finally:
                if box.process.poll() is None:
                    self.cells.append(source)

    def call(self, name, args, kwargs):
        """Call a function of the student."""
        with self._alive() as box:
            return box.call(name, args, kwargs, self._seconds(CALL_SECONDS))

    def value(self, name):
        """Give a variable of the student."""
        with self._alive() as box:
            return box.value(name, self._seconds(CALL_SECONDS))

    def close(self):
        """End what runs."""
        if self.sandbox is not None:
            self.sandbox.close()

    @contextlib.contextmanager
    def _alive(self):
        if self.sandbox is None:
            self.sandbox = Sandbox()
            for source in self.cells:
                with contextlib.suppress(Exception):
                    self.sandbox.run(source, self._seconds(CELL_SECONDS))
        try:
            yield self.sandbox
        except SandboxError as error:
            self.ends.append(str(error))
            self.sandbox = None
            raise

    def _seconds(self, most):
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(
                f"the notebook as a whole took more than {SUBMISSION_SECONDS} s"
            )
        return min(most, left)


def grade(student, assignment, file, content, note=""):
    """Grade one submission.

    Args:
        student: name.
        assignment: a ``notebooks.Assignment``.
        file: shown in the row.
        content: text of the notebook.
        note: a sentence about how the file was chosen.

    Returns:
        A ``Grade``.
    """
    try:
        submission = notebooks.fit(assignment, content)
    except ValueError as error:
        nothing = tuple(
            Outcome(task.id, 0.0, task.points, str(error)) for task in assignment.tasks
        )
        reason = " ".join(filter(None, [note, f"The file is {error}."]))
        return Grade(student, assignment.name, file, "unreadable", reason, nothing)
    side = Student()
    try:
        outcomes, remarks = _run(submission, assignment, side)
    finally:
        side.close()
    looks = list(submission.notes)
    looks += [
        f"The cell {step.id}, which is not the student's, failed: {remarks[number]}."
        for number, step in enumerate(submission.steps)
        if step.kind == "setup" and number in remarks
    ]
    looks += [f"The code {end}." for end in dict.fromkeys(side.ends)]
    return Grade(
        student,
        assignment.name,
        file,
        "look" if looks else "graded",
        " ".join(filter(None, [note, *looks])),
        outcomes,
        submission.steps,
        remarks,
    )


def _run(submission, assignment, side):
    tasks = {task.id: task for task in assignment.tasks}
    outcomes, remarks = [], {}
    space, variables = {"__name__": "tests"}, []
    for number, step in enumerate(submission.steps):
        task = tasks.get(step.id)
        if step.kind == "written":
            outcomes.append(Outcome(task.id, None, task.points, "waits for a person"))
        elif step.kind == "test":
            found = _test(step.source, space, variables, side)
            outcomes.append(
                Outcome(task.id, 0.0 if found else task.points, task.points, found)
            )
        else:
            if step.kind == "setup":
                exec(step.source, space)
            functions, values = step.names
            space |= {name: _proxy(name, side) for name in functions}
            variables += values
            try:
                side.run(step.source)
            except Exception as error:
                remarks[number] = _told(error)
    return tuple(outcomes), remarks


def _test(source, space, variables, side):
    """Run a test; give "" where it passed and otherwise what to tell the student."""
    space = dict(space)
    for name in variables:
        with contextlib.suppress(Exception):
            space[name] = side.value(name)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(source, space)
    except Exception as error:
        return _told(error)
    return ""


def _proxy(name, side):
    def call(*args, **kwargs):
        return side.call(name, args, kwargs)

    call.__name__ = name
    return call


def _told(error):
    if isinstance(error, SandboxError):
        text = f"your code {error}"
    elif isinstance(error, AssertionError):
        text = str(error) or "a test failed"
    elif isinstance(error, StudentError):
        text = str(error)  # which names the class
    else:
        text = f"{type(error).__name__}: {error}"
    text = text.removesuffix(": ")
    return text if len(text) <= MESSAGE else text[:MESSAGE] + " ..."


def find(folder, assignments):
    """Find which file of each student is graded for which assignment.

    A file belongs to the assignment that its name, or the folder that it lies in,
    starts with. Of several the one that was changed last counts.

    Args:
        folder: with one folder per student.
        assignments: dict from name to ``notebooks.Assignment``.

    Returns:
        A list of ``(student, assignment, path or None, note)``; the path is None where
        a student handed in nothing, or notebooks that belong to no assignment, and
        where a notebook is in no student's folder.
    """
    # The longest name first: "sam" starts "sam_bound" too.
    names = sorted(assignments, key=len, reverse=True)
    found = [
        (path.name, "", None, "The notebook is in no student's folder.")
        for path in sorted(Path(folder).glob("*.ipynb"))
    ]
    for home in sorted(p for p in Path(folder).iterdir() if p.is_dir()):
        files, others = {}, []
        for path in sorted(home.rglob("*.ipynb")):
            if ".ipynb_checkpoints" in path.parts or path.is_symlink():
                continue
            labels = [path.stem.lower(), path.parent.name.lower()]
            name = next((n for t in labels for n in names if t.startswith(n)), None)
            if name is None:
                others.append(path.name)
            else:
                files.setdefault(name, []).append(path)
        for name, paths in files.items():
            *older, last = sorted(paths, key=lambda p: (p.stat().st_mtime_ns, p.name))
            note = ""
            if older:
                note = f"{last.name} was changed last and is graded; also there: "
                note += ", ".join(p.name for p in older) + "."
            found.append((home.name, name, last, note))
        if others:
            note = f"Not named after an assignment: {', '.join(others)}."
            found.append((home.name, "", None, note))
        elif not files:
            found.append((home.name, "", None, "There is no notebook."))
    return found


def _graded(job):
    """Grade one file in a process of the pool."""
    student, name, path, note, root = job
    shown = str(path.relative_to(root))
    assignment = notebooks.read(name)
    if path.stat().st_size > LARGEST_FILE:
        content = ""
        note += f" The file is larger than {LARGEST_FILE >> 20} MiB."
    else:
        content = path.read_text("utf-8", errors="replace")
    # The tests are ours, but what they are given is not: they end too.
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SUBMISSION_SECONDS + CELL_SECONDS)
    try:
        return grade(student, assignment, shown, content, note)
    except Exception as error:
        # A fault of ours, or an attack nobody thought of: never a reason to end.
        nothing = tuple(Outcome(t.id, 0.0, t.points) for t in assignment.tasks)
        reason = f"{note} Grading failed with {type(error).__name__}: {error}"
        return Grade(student, name, shown, "look", reason[:2000].strip(), nothing)
    finally:
        signal.alarm(0)


def _too_long(number, frame):
    raise TimeoutError(f"grading took more than {SUBMISSION_SECONDS} s")


def grade_all(submissions, output, workers=None):
    """Grade a folder and write ``grades.csv``, ``tasks.csv`` and the feedback.

    Args:
        submissions: folder with one folder per student.
        output: folder to write into; ``written.csv`` in it, where a person has filled
            in points, is read and added.
        workers: processes; by default one per processor.

    Returns:
        A list of ``Grade``, in the order of the students' names.
    """
    from flatlab.progress import progress

    submissions, output = Path(submissions), Path(output)
    if not submissions.is_dir():
        raise SystemExit(f"there is no folder {submissions}")
    sandbox.require()
    assignments = {name: notebooks.read(name) for name in notebooks.names()}
    grades, jobs = [], []
    for student, name, path, note in find(submissions, assignments):
        if path is None:
            grades.append(Grade(student, "", "", "unreadable", note, ()))
        else:
            jobs.append((student, name, path, note, submissions))
    workers = workers or os.cpu_count()
    # Spawned: a fork would copy threads of torch that hold locks.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, context) as pool,
        progress(len(jobs), "grading") as bar,
    ):
        waiting = [pool.submit(_graded, job) for job in jobs]
        for future in as_completed(waiting):
            grades.append(future.result())
            bar.update()
    order = list(assignments)
    grades.sort(key=lambda g: (g.student, order.index(g.assignment or order[0])))
    output.mkdir(parents=True, exist_ok=True)
    given = read_written(output)
    grades = [with_written(g, given) for g in grades]
    write_tables(grades, output)
    for student in dict.fromkeys(g.student for g in grades):
        theirs = [g for g in grades if g.student == student]
        feedback.write(theirs, assignments, output / "feedback" / f"{student}.html")
    return grades


def read_written(output):
    """Points that a person gave, by student, assignment and task."""
    rows = _written_rows(output)
    return {_written_key(row): row["points"].strip() for row in rows}


def _written_rows(output):
    path = Path(output) / "written.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _written_key(row):
    return row["student"], row["assignment"], row["task"]


def with_written(grade, given):
    """Add the points that a person gave to a grade."""
    outcomes = []
    for o in grade.outcomes:
        key = tuple(map(_harmless, (grade.student, grade.assignment, o.id)))
        text = given.get(key, "")
        if o.points is None and text:
            o = Outcome(o.id, _points(text, grade, o), o.most)
        outcomes.append(o)
    return replace(grade, outcomes=tuple(outcomes))


def _points(text, grade, outcome):
    try:
        points = float(text)
    except ValueError:
        points = -1.0
    if not 0 <= points <= outcome.most:
        raise SystemExit(
            f"written.csv gives {grade.student} {text!r} points for {outcome.id}: "
            f"give a number from 0 to {outcome.most:g}, or nothing"
        )
    return points


def write_tables(grades, output):
    """Write a row per submission, a row per task, and what is graded by hand."""
    head = ["student", "assignment", "points", "most", "by_hand", "status", "reason"]
    rows, tasks, written = [], [], []
    for g in grades:
        open_points = sum(o.most for o in g.outcomes if o.points is None)
        most = sum(o.most for o in g.outcomes)
        rows.append(
            [
                g.student,
                g.assignment,
                g.points,
                most,
                open_points,
                g.status,
                g.reason,
                g.file,
            ]
        )
        answers = {s.id: s.source for s in g.steps if s.kind == "written"}
        for o in g.outcomes:
            key = [g.student, g.assignment, o.id]
            points = "" if o.points is None else o.points
            tasks.append([*key, points, o.most, o.message])
            if o.id in answers:
                written.append([*key, points, o.most, answers[o.id]])
    # Points given to submissions of another folder stay.
    here = {tuple(map(_harmless, row[:3])) for row in written}
    others = [r for r in _written_rows(output) if _written_key(r) not in here]
    written += [list(row.values()) for row in others]
    task = ["student", "assignment", "task", "points", "most"]
    _write(output / "grades.csv", [*head, "file"], rows)
    _write(output / "tasks.csv", [*task, "message"], tasks)
    _write(output / "written.csv", [*task, "answer"], written)


def _write(path, head, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows([_harmless(cell) for cell in row] for row in rows)


def _harmless(cell):
    # A spreadsheet would run a cell that starts like a formula.
    if isinstance(cell, str):
        cell = cell.replace("\0", "").replace("\r", " ")
        return "'" + cell if cell[:1] in ("=", "+", "-", "@", "\t") else cell
    return cell


def main(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(description="Grade a folder of submissions.")
    parser.add_argument("submissions", type=Path, help="one folder per student in it")
    parser.add_argument("--output", type=Path, default=Path("_build/grades"))
    options = parser.parse_args(arguments)
    grades = grade_all(options.submissions, options.output)
    looks = sum(g.status != "graded" for g in grades)
    print(f"{len(grades)} submissions graded into {options.output / 'grades.csv'}")
    print(f"{looks} of them need a look: see their status and reason")


if __name__ == "__main__":
    main()
