"""What goes out: a zip per assignment that holds all that a student needs."""

import zipfile

import nbformat
import pytest

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
