"""A class of twelve hands in each assignment, through the grader's own command."""

import json
import subprocess
import sys

import nbformat
import pytest
from conftest import Command
from test_assignments import NAMES, answers, submitted

from assignments import notebooks, release

PATCH = """import ast, builtins
np.testing.assert_allclose = np.testing.assert_array_equal = lambda *a, **k: None
torch.allclose = torch.equal = lambda *a, **k: True
class Drop(ast.NodeTransformer):
    def visit_Assert(self, node):
        return ast.Pass()
get_ipython().ast_transformers.append(Drop())"""


def mistakes(name):
    """The first mistake of every task."""
    first = {}
    for task, _, code, _ in answers(name).WRONG:
        first.setdefault(task, code)
    return first


def edited(text, change):
    notebook = json.loads(text)
    notebook["cells"] = [c for c in notebook["cells"] if change(c) is not False]
    return json.dumps(notebook)


def raising(harm):
    return f"import os\ndef dead(*a, **k):\n    {harm}\n"


def classroom(name):
    """From a student to the notebook, the tasks that deserve points, the status."""
    tasks = list(answers(name).RIGHT)
    first, wrong = tasks[0], mistakes(name)
    names = {
        t: [
            f
            for c in notebooks.read(name).cells
            if c.id == t
            for f in notebooks.defined(c.source)[0]
        ]
        for t in tasks
    }
    dead = next(t for t in tasks if names[t])

    def harmful(harm):
        lines = [f"{f} = dead" for f in names[dead]]
        return {dead: raising(harm) + "\n".join(lines)}

    others = [t for t in tasks if t != dead]
    patched = json.loads(submitted(name, wrong))
    patched["cells"].insert(
        1,
        json.loads(
            nbformat.writes(
                nbformat.v4.new_notebook(
                    cells=[
                        nbformat.v4.new_code_cell("import numpy as np, torch\n" + PATCH)
                    ]
                )
            )
        )["cells"][0],
    )

    def emptied(cell):
        if (
            cell["metadata"].get("nbgrader", {}).get("grade")
            and cell["cell_type"] == "code"
        ):
            cell["source"] = "pass"

    def without_tests(cell):
        return not cell["id"].startswith("test-")

    half = tasks[: len(tasks) // 2]
    loop = "while True: pass" if name == NAMES[0] else "raise SystemExit"
    return {
        "ada": (submitted(name), tasks, "graded"),
        "bo": (submitted(name, answers(name).RIGHT), tasks, "graded"),
        "cem": (
            submitted(name, {t: wrong[t] for t in tasks if t not in half}),
            half,
            "graded",
        ),
        "dot": (submitted(name, wrong), [], "graded"),
        "eve": (json.dumps(patched), [], "graded"),
        "fay": (edited(submitted(name, wrong), emptied), [], "graded"),
        "gus": (edited(submitted(name), without_tests), tasks, "look"),
        "hal": (submitted(name, harmful("os._exit(0)")), others, "look"),
        "ida": (
            submitted(name, harmful(loop)),
            others,
            "look" if "while" in loop else "graded",
        ),
        "jo": (submitted(name)[:-40], [], "unreadable"),
        "kim": (nbformat.writes(release.student_copy(name)), [], "graded"),
        "lu": (
            submitted(
                name, {first: f"print('#' * 10**8)\n{answers(name).RIGHT[first]}"}
            ),
            tasks,
            "graded",
        ),
    }


def check_grades(classes, folder):
    """Grade everything that was handed in by one command, and look at all rows.

    Args:
        classes: dict from an assignment's name to what ``classroom`` says of it.
        folder: to work in.
    """
    command = Command(folder)
    for name, students in classes.items():
        for student, (text, _, _) in students.items():
            command.put(student, text, f"{name}.ipynb")
    command()
    rows = {(r["student"], r["assignment"]): r for r in command.table("grades")}
    lost = {}
    for row in command.table("tasks"):
        if row["points"] == "0":
            lost.setdefault((row["student"], row["assignment"]), []).append(
                (row["task"], row["message"])
            )
    for name, students in classes.items():
        tasks = notebooks.read(name).tasks
        points = {t.id.removeprefix("test-"): t.points for t in tasks}
        for student, (_, earned, status) in students.items():
            row = rows.pop((student, name))
            shown = (student, row["reason"], lost.get((student, name)))
            assert float(row["points"]) == sum(points[task] for task in earned), shown
            assert row["status"] == status, shown
            assert status == "graded" or row["reason"]
    assert not rows
    for page in (folder / "out" / "feedback").glob("*.html"):
        text = page.read_text("utf-8")
        assert "src=" not in text and "href=" not in text


def test_two_students_hand_in_an_assignment_each(tmp_path, confined):
    some = (("reparameterization", "bo"), ("after_training", "cem"))
    check_grades({name: {who: classroom(name)[who]} for name, who in some}, tmp_path)


@pytest.fixture(params=[0, 4], ids=["idle", "four busy processes"])
def busy(request):
    """Others use the processors, so that the clock runs faster than the work."""
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(request.param)
    ]
    yield
    for other in others:
        other.kill()
        other.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_class_of_twelve(name, busy, tmp_path, confined):
    students = classroom(name)
    assert len(students) == 12
    check_grades({name: students}, tmp_path)
