"""A small assignment to try graders and attackers on: four tasks and a question."""

import json

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

SETUP = "import numpy as np"
TESTS = {
    "double": """def close(a, b):
    return np.allclose(a, b)


assert double(2) == 4, "double(2) is 4"
### BEGIN HIDDEN TESTS
v = np.arange(1.0, 4.0)
assert close(double(v), 2 * v), "double each entry"
### END HIDDEN TESTS""",
    "norm": """### BEGIN HIDDEN TESTS
np.testing.assert_allclose(norm(np.array([3.0, 4.0])), 5.0, err_msg="length")
### END HIDDEN TESTS""",
    "answer": """### BEGIN HIDDEN TESTS
assert isinstance(answer, int) and answer == 6 * 7, "the product is wrong"
### END HIDDEN TESTS""",
    "parts": """### BEGIN HIDDEN TESTS
low, high = ends(np.array([3.0, 1.0, 2.0]))
### PART the smallest (1 point)
assert low == 1.0, "low is the smallest"
### PART the largest (2 points)
assert high == 3.0, "high is the largest"
### END HIDDEN TESTS""",
}
RIGHT = {
    "double": "def double(x):\n    return 2 * x",
    "norm": "def norm(v):\n    return np.sqrt((v**2).sum())",
    "answer": "answer = 42",
    "parts": "def ends(v):\n    return v.min(), v.max()",
}
WRONG = {
    "double": "def double(x):\n    return x",
    "norm": "def norm(v):\n    return 0.0",
    "answer": "answer = 0",
    "parts": "def ends(v):\n    return 0.0, 0.0",
}
POINTS = {"double": 2, "norm": 2, "answer": 1, "parts": 3}
MOST = sum(POINTS.values())


def cell(source, id, **settings):
    meta = {"schema_version": 3, "task": False, "grade": False, "solution": False}
    meta |= {"locked": False, "grade_id": id, **settings}
    new = new_markdown_cell if settings.get("markdown") else new_code_cell
    meta.pop("markdown", None)
    tags = meta.pop("tags", None)
    made = new(source, id=id, metadata={"nbgrader": meta})
    if tags:
        made.metadata["tags"] = tags
    return made


def source():
    """The notebook as the instructor has it."""
    cells = [
        new_markdown_cell("# A toy", id="title"),
        cell(SETUP, "setup", locked=True),
    ]
    for name, solution in RIGHT.items():
        head, _, body = solution.partition("\n")
        cells.append(new_markdown_cell(f"## Task: {name}", id=f"about-{name}"))
        if body:
            text = f"{head}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"
        else:
            text = f"answer = None\n### BEGIN SOLUTION\n{head}\n### END SOLUTION"
        cells.append(cell(text, name, solution=True))
        test = {"grade": True, "locked": True, "points": POINTS[name]}
        tags = ["pure"] if name == "double" else []
        cells.append(cell(TESTS[name], f"test-{name}", tags=tags, **test))
    slow = "raise RuntimeError('never graded')"
    slow = cell(slow, "slow", locked=True, tags=["ungraded"])
    cells += [slow, new_markdown_cell("## Task: why", id="about-why")]
    why = {"grade": True, "solution": True, "points": 3, "markdown": True}
    return new_notebook(cells=[*cells, cell("Because.", "why", **why)])


def submission(answers=(), extra=(), change=None):
    """A student's notebook, as text: right, but for what the arguments change.

    Args:
        answers: dict from task to the source of its cell.
        extra: sources of cells that the student adds at the front.
        change: called with the notebook, as JSON has it.
    """
    notebook = source()
    given = {**RIGHT, "why": "I think so.", **dict(answers)}
    for one in notebook.cells:
        if one.id in given:
            one.source = given[one.id]
        one.source = one.source.partition("### BEGIN HIDDEN TESTS")[0]
    front = [new_code_cell(text) for text in extra]
    notebook.cells = [*front, *notebook.cells]
    book = json.loads(nbformat.writes(notebook))
    for one in book["cells"]:
        one["source"] = "".join(one["source"])
    if change:
        change(book)
    return json.dumps(book)


def find(book, id):
    """The cell of a notebook with this id."""
    return next(c for c in book["cells"] if c["id"] == id)


def code(text, id="added"):
    """A code cell as JSON has it."""
    return {
        "cell_type": "code",
        "id": id,
        "metadata": {},
        "source": text,
        "outputs": [],
    }
