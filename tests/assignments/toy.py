"""A small assignment to try graders and attackers on: three tasks and a question."""

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

SETUP = "import numpy as np\nimport torch"
TESTS = {
    "double": """assert double(2) == 4, "double(2) is 4"
### BEGIN HIDDEN TESTS
found = double(torch.arange(3.0))
assert torch.equal(found, torch.tensor([0.0, 2.0, 4.0])), "double each entry"
### END HIDDEN TESTS""",
    "norm": """### BEGIN HIDDEN TESTS
np.testing.assert_allclose(norm(np.array([3.0, 4.0])), 5.0, err_msg="length")
### END HIDDEN TESTS""",
    "answer": """### BEGIN HIDDEN TESTS
assert isinstance(answer, int) and answer == 6 * 7, "the product is wrong"
### END HIDDEN TESTS""",
}
RIGHT = {
    "double": "def double(x):\n    return 2 * x",
    "norm": "def norm(v):\n    return np.sqrt((v**2).sum())",
    "answer": "answer = 42",
}
WRONG = {
    "double": "def double(x):\n    return x",
    "norm": "def norm(v):\n    return 0.0",
    "answer": "answer = 0",
}
POINTS = {"double": 2, "norm": 2, "answer": 1}


def cell(source, id, **settings):
    meta = {"schema_version": 3, "task": False, "grade": False, "solution": False}
    meta |= {"locked": False, "grade_id": id, **settings}
    new = new_markdown_cell if settings.get("markdown") else new_code_cell
    meta.pop("markdown", None)
    return new(source, id=id, metadata={"nbgrader": meta})


def source():
    """The notebook as the instructor has it."""
    cells = [
        new_markdown_cell("# A toy", id="title"),
        cell(SETUP, "setup", locked=True),
    ]
    for name, solution in RIGHT.items():
        head, _, body = solution.partition("\n")
        if body:
            text = f"{head}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"
        else:
            text = f"answer = None\n### BEGIN SOLUTION\n{head}\n### END SOLUTION"
        cells.append(cell(text, name, solution=True))
        test = {"grade": True, "locked": True, "points": POINTS[name]}
        cells.append(cell(TESTS[name], f"test-{name}", **test))
    slow = cell("raise RuntimeError('never graded')", "slow", locked=True)
    slow.metadata["tags"] = ["ungraded"]
    why = {"grade": True, "solution": True, "points": 3, "markdown": True}
    return new_notebook(cells=[*cells, slow, cell("Because.", "why", **why)])


def submission(answers=(), extra=(), **changes):
    """A student's notebook: right, but for what the arguments change.

    Args:
        answers: dict from task to the source of its cell.
        extra: sources of cells that the student adds at the front.
        changes: ``locked=f`` changes each cell that is not the student's.
    """
    notebook = source()
    given = {**RIGHT, **dict(answers)}
    for one in notebook.cells:
        if one.id in given:
            one.source = given[one.id]
        elif one.id == "why":
            one.source = "I think so."
        elif changes.get("locked"):
            changes["locked"](one)
    front = [new_code_cell(text) for text in extra]
    notebook.cells = [*front, *notebook.cells]
    return nbformat.writes(notebook)
