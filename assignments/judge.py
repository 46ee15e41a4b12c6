"""The tests, outside the sandbox, and what they make of a student's answers."""

import builtins
import contextlib
import copy
import io
import re
from dataclasses import dataclass, field

import numpy as np

from assignments import collect, notebooks
from assignments.confine import SandboxError, StudentError
from assignments.run import Session

MESSAGE = 600  # characters of a message
PART = re.compile(r"^### PART (.*?)(?: \(([\d.]+) points?\))?$", re.MULTILINE)
# Why a whole cell may fail through no fault of its answer.
ELSEWHERE = ("ModuleNotFoundError", "ImportError", "FileNotFoundError", "UsageError")


@dataclass
class Outcome:
    """What became of one task."""

    id: str
    points: float | None  # None where a person has to give them
    most: float
    message: str = ""  # for the student
    detail: str = ""  # for the instructor, who may see hidden inputs
    title: str = ""


@dataclass
class Grade:
    """What became of one submission."""

    student: str
    assignment: str
    file: str
    time: float  # the second in which it was changed last
    status: str  # "graded", "look" (a person should: see the reason) or "unreadable"
    reason: str
    outcomes: list = field(default_factory=list)  # of ``Outcome``
    steps: list = field(default_factory=list)  # ``[kind, id, source, remark]``
    late: int = 0  # days after the deadline
    share: float = 0.0  # of the points that these days cost

    @classmethod
    def of(cls, fields):
        """The grade whose fields were kept as JSON."""
        outcomes = [Outcome(**outcome) for outcome in fields["outcomes"]]
        return cls(**fields | {"outcomes": outcomes})

    @property
    def points(self):
        """Given so far, without the written tasks that nobody has graded yet."""
        return sum(o.points for o in self.outcomes if o.points is not None)

    @property
    def total(self):
        """Points after what being late costs."""
        return self.points * (1 - self.share)


def nothing(assignment, message=""):
    """No points for any task, where it is known which these were."""
    tasks = assignment.tasks if assignment else ()
    return [Outcome(t.id, 0.0, t.points, message, "", t.title) for t in tasks]


def judge(
    student: str,
    assignment: notebooks.Assignment | None,
    found: collect.Found,
    session: Session,
    only: str | None = None,
) -> Grade:
    """Grade one submission, or the one task of it whose id is ``only``."""
    if not found.readable:
        reason = collect.clean(" ".join([*found.notes, *found.looks]))[:4000]
        lost = nothing(assignment, reason)
        name = assignment.name if assignment else ""
        return Grade(student, name, found.file, found.time, "unreadable", reason, lost)
    steps, looks = collect.fit(assignment, found.cells)
    looks, notes = [*found.looks, *looks], list(found.notes)
    bench = Bench(assignment, session)
    outcomes, shown, by_id = [], [], assignment.by_id
    for step in steps:
        cell = by_id.get(step.id)
        if step.kind == "written":
            why = "waits for a person"
            outcomes.append(Outcome(cell.id, None, cell.points, why, "", cell.title))
            shown.append(["written", step.id, step.source, ""])
        elif step.kind == "test":
            if only in (None, step.id):
                outcomes.append(bench.test(cell))
        else:
            remark = bench.cell(step)
            if step.kind == "student":
                shown.append(["student", step.id, step.source, remark])
            if remark and step.kind == "setup":
                looks.append(
                    f"The cell {step.id}, which is not the student's, failed: {remark}."
                )
            elif remark and step.id and not remark.startswith("NotImplementedError"):
                elsewhere = remark.startswith(ELSEWHERE)
                if elsewhere and found.beside:
                    names = ", ".join(found.beside[:5])
                    remark += f"; files beside the notebook are not taken: {names}"
                why = f"The cell {step.id} failed: {remark}."
                (looks if elsewhere else notes).append(why)
    looks += [f"The code {end}." for end in dict.fromkeys(session.ends)]
    return Grade(
        student,
        assignment.name,
        found.file,
        found.time,
        "look" if looks else "graded",
        collect.clean(" ".join([*notes, *looks]))[:4000],
        outcomes,
        shown,
    )


class Bench:
    """Where the tests of one submission run."""

    def __init__(self, assignment, session):
        self.session = session
        self.space = {"__name__": "tests"}
        self.model = {"__name__": "model"}
        self.variables, self.raised = [], []
        self.names = {c.id: c.names for c in assignment.cells}
        for cell in assignment.cells:
            if cell.kind in ("setup", "solution"):
                with contextlib.suppress(Exception), silent():
                    exec(cell.source, self.model)

    def cell(self, step):
        """Run a cell and give what it ran into."""
        if step.kind == "setup":
            with silent():
                exec(step.source, self.space)
        functions, values = self.names.get(step.id, ((), ()))
        self.space |= {name: self._proxy(name) for name in functions}
        self.variables += values
        try:
            with self.session.step(step.kind, step.id):
                self.session.run(step.source)
        except Exception as error:
            return told(error)
        return ""

    def test(self, cell):
        """Run a test and give its ``Outcome``."""
        self.changed, self.free = [], "any-form" in cell.tags
        visible, _, hidden = cell.source.partition(notebooks.HIDDEN)
        head, *rest = PART.split(hidden)
        parts = list(zip(rest[::3], (float(s or 1) for s in rest[1::3]), rest[2::3]))
        space = dict(self.space)
        with self.session.step("test", cell.id):
            for name in self.variables:
                with contextlib.suppress(Exception):
                    value = self.session.value(name)
                    space[name] = self._fitted(name, value, self.model.get(name))
            lost = self._try(visible, space)
            self.raised = []
            lost = lost or self._try(head, space)
            found = [lost or self._try(part, dict(space)) for _, _, part in parts]
        if "pure" in cell.tags and self.changed and not lost:
            lost = f"{self.changed[0]} changes its arguments: work on a copy"
        share, detail = float(not lost), lost
        if parts and not lost:
            passed = sum(size for (_, size, _), why in zip(parts, found) if not why)
            share = passed / sum(size for _, size, _ in parts)
            failed = [f"{w}: {why}" for (w, _, _), why in zip(parts, found) if why]
            detail = "; ".join(failed)
        message = detail
        for error in self.raised:
            # A student's own exception may say an input that they should not see.
            kind = error.partition(":")[0]
            kind = kind if hasattr(builtins, kind) else "An exception"
            message = message.replace(error, f"{kind} on other input")
        most = cell.points
        return Outcome(cell.id, most * share, most, message, detail, cell.title)

    def _try(self, source, space):
        """Run a piece of a test; give "" where it passed, otherwise why not."""
        try:
            with silent():
                exec(source.replace("### END HIDDEN TESTS", ""), space)
        except Exception as error:
            if getattr(error, "is_the_students", False):
                self.raised.append(told(error))
            return told(error)
        return ""

    def _proxy(self, name):
        def call(*args, **kwargs):
            model = None
            with contextlib.suppress(Exception), silent():
                model = self.model[name](*copy.deepcopy(args), **copy.deepcopy(kwargs))
            try:
                value, changed = self.session.call(name, args, kwargs)
            except Exception as error:
                error.is_the_students = not isinstance(error, SandboxError)
                raise
            if changed:
                self.changed.append(name)
            return self._fitted(name, value, model)

        call.__name__ = name
        return call

    def _fitted(self, name, value, model):
        return value if self.free else fitted(name, value, model)


def silent():
    """What tests print is nobody's."""
    return contextlib.redirect_stdout(io.StringIO())


def fitted(name, value, model):
    """Give an answer in the form that the model solution's has, if it has its value.

    Arrays, tensors, lists and numbers stand for one another; so do shapes that differ
    in axes of length one, or that broadcast to the same.

    Raises:
        AssertionError: it has another form, and says which is expected.
    """
    many = isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0
    if isinstance(model, tuple) and many:
        if len(value) != len(model):
            raise AssertionError(
                f"{name} gives {len(value)} values where {len(model)} are expected"
            )
        return tuple(fitted(name, v, m) for v, m in zip(value, model))
    if isinstance(model, list) and many:
        if len({type(m) for m in model}) != 1:
            return list(value)
        likes = model if len(value) == len(model) else model[:1] * len(value)
        return [fitted(name, v, m) for v, m in zip(value, likes)]
    if isinstance(model, dict) and isinstance(value, dict):
        return {
            k: fitted(name, v, model[k]) if k in model else v for k, v in value.items()
        }
    numbers = bool | int | float | np.generic | np.ndarray
    if isinstance(model, numbers) or _is_tensor(model):
        return _numbers(name, value, model)
    return value


def _is_tensor(value):
    return type(value).__module__ == "torch" and hasattr(value, "numpy")


def _numbers(name, value, model):
    like = model.detach().numpy() if _is_tensor(model) else np.asarray(model)
    try:
        if isinstance(value, list | tuple):
            value = [v.numpy() if _is_tensor(v) else v for v in value]
        found = value.numpy() if _is_tensor(value) else np.asarray(value)
    except ValueError:
        found = np.asarray(None)
    if found.dtype.kind not in "biufc":
        what = "text" if found.dtype.kind == "U" else f"a {type(value).__name__}"
        what = "None (is there a return?)" if value is None else what
        raise AssertionError(f"{name} gives {what} where {_form(like)} is expected")
    if found.dtype.kind == "c" and like.dtype.kind != "c" and not found.imag.any():
        found = found.real
    try:
        alike = found.squeeze().shape == like.squeeze().shape
        fit = np.reshape if alike else np.broadcast_to
        found = fit(found, like.shape).copy()
    except ValueError:
        raise AssertionError(
            f"{name} gives shape {found.shape} where {_form(like)} is expected"
        ) from None
    with np.errstate(all="ignore"):
        cast = found.astype(like.dtype)
        if (like.dtype.kind == "f" and found.dtype.kind in "biuf") or (
            cast == found
        ).all():
            found = cast
    if _is_tensor(model):
        import torch

        return torch.tensor(found)
    return found if isinstance(model, np.ndarray) else found.item()


def _form(like):
    return f"shape {like.shape}" if like.ndim else "a number"


def told(error):
    """What an exception says, for a person."""
    if isinstance(error, SandboxError):
        text = f"your code {error}"
    elif isinstance(error, AssertionError):
        text = str(error) or "a test failed"
    elif isinstance(error, StudentError):
        text = str(error)  # which names the class
    else:
        text = f"{type(error).__name__}: {error}"
    text = collect.clean(text.removesuffix(": "))
    return text if len(text) <= MESSAGE else text[:MESSAGE] + " ..."
