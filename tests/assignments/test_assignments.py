"""Every assignment: right answers of any style pass, the usual mistakes do not."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from conftest import Inside
from docutils.nodes import make_id

from assignments import collect, judge, notebooks, release

NAMES = notebooks.names()
HERE = Path(__file__).parent


def answers(name):
    """The module ``answers/<name>.py``: RIGHT and WRONG."""
    path = HERE / "answers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"answers_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def source(name):
    return nbformat.read(notebooks.SOURCE / name / f"{name}.ipynb", as_version=4)


def submitted(name, given=(), written="I think so."):
    """A student's notebook: the model solutions, but for those given."""
    notebook, given = source(name), dict(given)
    for cell in notebook.cells:
        if cell.id in given:
            cell.source = given[cell.id].strip()
        elif cell.cell_type == "markdown" and cell.metadata.get("nbgrader"):
            cell.source = written
    return nbformat.writes(notebook)


@pytest.fixture(autouse=True)
def same_dtype():
    """Set-up cells may change torch's default dtype."""
    import torch

    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def outcomes(name, given=(), task=None):
    """What the tests say, or that of one task alone; and what cells ran into."""
    assignment, inside = notebooks.read(name), Inside()
    cells = collect.cells(submitted(name, given).encode())
    only = task and f"test-{task}"
    found = judge.judge("", assignment, collect.Found(name, cells=cells), inside, only)
    return {o.id: o for o in found.outcomes}, inside.failed


@pytest.mark.parametrize("name", NAMES)
def test_model_solutions_get_all_points(name):
    found, failed = outcomes(name)
    assert {o.id: o.detail for o in found.values() if o.detail} == {}
    assert failed == []


@pytest.mark.parametrize("name", NAMES)
def test_other_right_solutions_get_all_points(name):
    right = answers(name).RIGHT
    tasks = {t.id.removeprefix("test-") for t in notebooks.read(name).tasks}
    written = {t.id for t in notebooks.read(name).tasks if t.kind == "written"}
    assert set(right) == tasks - written
    found, failed = outcomes(name, right)
    assert {o.id: o.detail for o in found.values() if o.detail} == {}
    assert failed == []


WRONG = [(name, *mistake) for name in NAMES for mistake in answers(name).WRONG]


@pytest.mark.parametrize(
    "name, task, label, code, words",
    WRONG,
    ids=[f"{w[0]}-{w[1]}-{w[2]}" for w in WRONG],
)
def test_the_usual_mistakes_lose_their_task_and_are_told_why(
    name, task, label, code, words
):
    found, _ = outcomes(name, {task: code}, task)
    lost = {o.id: o.detail for o in found.values() if o.points == 0}
    assert set(lost) == {f"test-{task}"}
    assert words in lost[f"test-{task}"]


@pytest.mark.parametrize("name", NAMES)
def test_every_task_has_a_mistake_that_is_caught(name):
    caught = {mistake[0] for mistake in answers(name).WRONG}
    assert caught == set(answers(name).RIGHT)


@pytest.mark.parametrize("name", NAMES)
def test_the_form_of_an_assignment(name):
    assignment = notebooks.read(name)
    graded = [t for t in assignment.tasks if t.kind != "written"]
    assert 5 <= len(assignment.tasks) <= 7
    assert len(graded) >= 3
    assert any(t.kind == "written" for t in assignment.tasks)
    text = "\n".join(c.source for c in source(name).cells if c.cell_type == "markdown")
    assert f"{assignment.points:g} points" in text.partition("\n## ")[0]
    for number, task in enumerate(assignment.tasks, 1):
        (line,) = [t for t in text.splitlines() if t.startswith(f"## Task {number} ")]
        assert f"({task.points:g} point" in line
        assert "★" in line
    assert text.count("Rubric.") == sum(t.kind == "written" for t in assignment.tasks)
    for cell in source(name).cells:
        assert not cell.get("outputs")
        meta = cell.metadata.get("nbgrader")
        if meta and meta.solution and cell.cell_type == "code":
            assert "### BEGIN SOLUTION" in cell.source
        if meta and meta.grade and cell.cell_type == "code":
            assert "### BEGIN HIDDEN TESTS" in cell.source


@pytest.mark.parametrize("name", NAMES)
def test_students_copies_show_neither_solutions_nor_hidden_tests(name):
    copy = release.student_copy(name)
    shown = {cell.id: cell.source for cell in copy.cells}
    for cell in source(name).cells:
        meta = cell.metadata.get("nbgrader")
        if meta and meta.solution:
            assert "YOUR" in shown[cell.id]
        if "### BEGIN HIDDEN TESTS" in cell.source:
            hidden = cell.source.partition("### BEGIN HIDDEN TESTS")[2].splitlines()
            assert not [
                line for line in hidden if len(line) > 12 and line in shown[cell.id]
            ]


@pytest.mark.parametrize("name", NAMES)
def test_an_untouched_copy_gets_nothing(name):
    assignment = notebooks.read(name)
    text = nbformat.writes(release.student_copy(name))
    found = collect.Found(name, cells=collect.cells(text.encode()))
    found = judge.judge("", assignment, found, Inside())
    assert found.points == 0
    assert (found.status, found.reason) == ("graded", "")


@pytest.mark.parametrize("name", NAMES)
def test_feedback_links_to_a_section_that_the_chapter_has(name):
    chapter = HERE.parents[1] / "book" / f"{name}.ipynb"
    graded = [t for t in notebooks.read(name).tasks if t.kind != "written"]
    said = [
        [tag.removeprefix("section:") for tag in t.tags if tag.startswith("section:")]
        for t in graded
    ]
    if not chapter.exists():
        assert not any(said)
        return
    pages = nbformat.read(chapter, as_version=4).cells
    text = "\n".join(c.source for c in pages if c.cell_type == "markdown")
    sections = {make_id(head) for head in re.findall(r"^##+ (.+)$", text, re.MULTILINE)}
    assert all(len(tags) == 1 and tags[0] in sections for tags in said), said


@pytest.mark.parametrize("name", NAMES)
def test_every_assignment_asks_for_a_judgement(name):
    cells = {cell.id: cell for cell in notebooks.read(name).cells}
    assert "what would overturn it?" in cells["test-judgement"].title
    assert cells["test-judgement"].source.count("### PART study") == 3


def test_the_studies_of_the_verdict_are_every_students_own():
    def points(student, of):
        """What a student gets for the judgement that another's numbers ask for."""
        own = [
            notebooks.for_student(notebooks.read("verdict"), s) for s in (student, of)
        ]
        space = {}
        for cell in own[1].cells:
            if cell.kind in ("setup", "solution") and cell.id != "install":
                exec(cell.source, space)
        given = {"judgement": f"judgement = {space['judgement']}"}
        cells = collect.cells(submitted("verdict", given).encode())
        found = collect.Found("verdict", cells=cells)
        (outcome,) = (
            o
            for o in judge.judge(
                student, own[0], found, Inside(), "test-judgement"
            ).outcomes
            if o.id == "test-judgement"
        )
        return outcome.points

    assert points("ada", "ada") == points("bo", "bo") == 3
    assert min(points("ada", other) for other in ("bo", "cem", "dot")) < 3
