"""A student's session: one sandbox after another, and how long each step may take."""

import contextlib
from dataclasses import dataclass, field

from assignments.confine import Sandbox, SandboxError
from assignments.sandboxed import plain


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
        self.left, self.added = limits.cell, limits.added
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
        try:
            self._ask({"cell": source})
        finally:
            if self.sandbox is not None:
                self.cells.append(source)

    def call(self, name, args, kwargs):
        """Call with plain arguments: the result, and whether they were changed."""
        content = plain.encode((list(args), kwargs)).decode()
        reply = self._ask({"name": name, "args": content})
        return plain.decode(reply["value"]), reply.get("changed") is True

    def value(self, name):
        """Give the plain value of a variable."""
        return plain.decode(self._ask({"name": name})["value"])

    def close(self):
        """End what runs."""
        if self.sandbox is not None:
            self.sandbox.close()

    def _ask(self, request):
        if self.sandbox is None:
            self.sandbox = Sandbox(self.confined)
            for source in self.cells:
                with contextlib.suppress(Exception):
                    self.sandbox.ask({"cell": source}, self.limits.cell)
        box, before = self.sandbox, self.sandbox.spent
        try:
            return box.ask(request, self.left)
        except SandboxError as error:
            self.ends.append(str(error))
            self.sandbox = None
            raise
        finally:
            self.left = max(self.left - (box.spent - before), 0.05)
