"""What goes out: a zip per assignment that holds all that a student needs."""

import zipfile

import nbformat
import pytest
import toy

from assignments import notebooks, release


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    output = tmp_path_factory.mktemp("released")
    (output / "student" / "an-older-release").mkdir(parents=True)
    return output, release.release(output)


def test_there_is_one_for_each_chapter_from_memorization_on():
    assert notebooks.names()[: len(notebooks.CHAPTERS)] == list(notebooks.CHAPTERS)


def test_an_assignment_of_ones_own_comes_after_those_of_the_chapters(tmp_path):
    for name in ("zebras", "sam", "ants", "memorization"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.ipynb").touch()
    (tmp_path / "notes").mkdir()
    expected = ["memorization", "sam", "ants", "zebras"]
    assert notebooks.names(tmp_path) == expected


@pytest.mark.parametrize(
    "source, wanted",
    [
        (
            "def f(x):\n    ### BEGIN SOLUTION\n    y = x\n    ### END SOLUTION\n    "
            "return y",
            "def f(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()\n    "
            "return y",
        ),
        ("answer = 42", "# YOUR CODE HERE\nraise NotImplementedError()"),
    ],
    ids=["with marks", "without"],
)
def test_a_solution_is_cut_out(source, wanted):
    assert notebooks.without_solution(source) == wanted


def test_cells_that_nobody_could_tell_apart_are_refused(tmp_path):
    book = toy.source()
    for cell in book.cells:
        if cell.id in ("double", "norm"):
            cell.metadata.nbgrader.grade_id = "double"
    (tmp_path / "toy").mkdir()
    nbformat.write(book, tmp_path / "toy" / "toy.ipynb")
    with pytest.raises(ValueError, match="one grade_id"):
        notebooks.read("toy", tmp_path)


def test_a_zip_holds_the_notebook_and_the_wheel(released):
    output, zips = released
    assert [z.stem for z in zips] == notebooks.names()
    for path in zips:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            wheel = next(n for n in names if n.endswith(".whl"))
            own = {f"{path.stem}/{path.stem}.ipynb", wheel}
            more = {"AI-POLICY.md", "check.pyz"}
            assert set(names) == own | {f"{path.stem}/{name}" for name in more}
            text = archive.read(f"{path.stem}/{path.stem}.ipynb").decode()
        assert not [secret for secret in release.SECRETS if secret in text]
        nbformat.validate(nbformat.reads(text, as_version=4))
    with zipfile.ZipFile(output / "student" / "sam" / wheel.split("/")[1]) as archive:
        names = archive.namelist()
        assert "flatlab/__init__.py" in names
        assert not [n for n in names if "assignments" in n or "tests" in n]


def test_an_older_release_is_gone_and_the_instructor_has_everything(released):
    output, _ = released
    assert not (output / "student" / "an-older-release").exists()
    for name in notebooks.names():
        kept = output / "instructor" / name / f"{name}.ipynb"
        assert "### BEGIN SOLUTION" in kept.read_text("utf-8")
