"""A student's session: one sandbox after another, and how long each step may take."""

import contextlib
from dataclasses import dataclass, field

from assignments.confine import Sandbox, SandboxError


@dataclass
class Limits:
    """Seconds that a submission may work or sleep."""

    cell: float = 60.0  # for a cell, at least
    test: float = 20.0  # for all that one test asks for, at least
    # For all cells together that the student added; each after that gets ``test``.
    added: float = 120.0
    times: float = 20.0  # how many times what the model solution takes here,
    model: dict = field(default_factory=dict)  # by the ids of cells

    def of(self, kind, id):
        """The limit of one step, rounded up so that it is the same in every run."""
        wanted = self.times * self.model.get(id, 0.0)
        limit = self.test if kind == "test" else self.cell
        while limit < wanted:
            limit *= 2
        return limit


class Session:
    """The student's side: a sandbox that is replaced when it ends.

    The cells that ran before are run again then, but for the one that ended it.

    Args:
        limits: ``Limits``.
        confined: whether behind walls.
    """

    def __init__(self, limits, confined=True):
        self.limits, self.confined = limits, confined
        self.cells, self.sandbox, self.ends = [], None, []
        self.left, self.added = 0.0, limits.added
        self.took = {}

    @contextlib.contextmanager
    def step(self, kind, id):
        """Whatever is asked inside shares one limit; what it took is kept by id."""
        self.left = limit = self.limits.of(kind, id)
        if kind == "student" and not id:
            self.left = limit = max(min(limit, self.added), self.limits.test)
        try:
            yield
        finally:
            took = limit - self.left
            self.took[id] = self.took.get(id, 0.0) + took
            if not id:
                self.added -= took

    def run(self, source):
        """Run a cell and remember it, unless it ends the process."""
        with self._alive() as box:
            try:
                box.run(source, self.left)
            finally:
                if box.process.poll() is None:
                    self.cells.append(source)

    def call(self, name, args, kwargs):
        """Call a function: its result, and whether it changed its arguments."""
        with self._alive() as box:
            return box.call(name, args, kwargs, self.left)

    def value(self, name):
        """Give a variable."""
        with self._alive() as box:
            return box.value(name, self.left)

    def close(self):
        """End what runs."""
        if self.sandbox is not None:
            self.sandbox.close()

    @contextlib.contextmanager
    def _alive(self):
        if self.sandbox is None:
            self.sandbox = Sandbox(self.confined)
            for source in self.cells:
                with contextlib.suppress(Exception):
                    self.sandbox.run(source, self.limits.cell)
        box, before = self.sandbox, self.sandbox.spent
        try:
            yield box
        except SandboxError as error:
            self.ends.append(str(error))
            self.sandbox = None
            raise
        finally:
            self.left = max(self.left - (box.spent - before), 0.05)
