"""Whose file is graded for what: names, archives, versions, notebooks of any form."""

import json
import os
import zipfile

import nbformat
import pytest
import toy

from assignments import collect, notebooks


@pytest.fixture(scope="module")
def assignments(toys):
    return {
        "toy": notebooks.read("toy", toys),
        **{name: notebooks.read(name) for name in ("sam", "asam", "flatness")},
    }


@pytest.fixture
def handed(tmp_path, assignments):
    """Puts files into a student's folder and says what is found there."""
    home = tmp_path / "ada"
    home.mkdir()

    def put(files, ages=()):
        for name, content in files.items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(
                content if isinstance(content, bytes) else content.encode()
            )
        for name, age in dict(ages).items():
            os.utime(home / name, (1e9 - age, 1e9 - age))
        return collect.collect([home], assignments)

    return put


def released(name):
    from assignments import release

    return nbformat.writes(release.student_copy(name))


# -- names


@pytest.mark.parametrize(
    "name",
    [
        "toy.ipynb",
        "Copy of toy.ipynb",
        "Kopie von toy.ipynb",
        "Ada_toy.ipynb",
        " TOY final (2).IPYNB",
        "toy.ipynb.txt",
        "toy.ipynb.json",
        "homework/week 3/hw.ipynb",
        "Untitled.ipynb",
        "asam.ipynb",
        "no ending at all",
    ],
)
def test_a_notebook_of_any_name_belongs_where_its_cells_do(handed, name):
    (found,) = handed({name: toy.submission()})
    assert (found.assignment, found.looks) == ("toy", [])
    assert found.cells


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("sam.ipynb", "sam"),
        ("ASAM (1).ipynb", "asam"),
        ("Ada_sam_v2.ipynb", "sam"),
        ("sam/hw.ipynb", "sam"),
        ("samira/hw.ipynb", ""),
        ("sample.ipynb", ""),
    ],
)
def test_what_cannot_be_read_belongs_where_its_name_does(handed, name, wanted):
    found = handed({name: "{"})
    assert found[0].assignment == wanted
    assert not found[0].readable


def test_a_folder_called_like_an_assignment_does_not_decide(handed):
    (found,) = handed({"samira/hw.ipynb": toy.submission()})
    assert found.assignment == "toy"


def test_names_that_are_no_text_and_names_that_mislead(tmp_path):
    names = [b"\xc5sa", b"\\udcc5sa", b"a\nb", b"x" * 255, "e\u202egpj".encode()]
    names += ["Ａ李".encode(), b"=cmd()", b"<b>", b"..."]
    for name in names:
        os.mkdir(os.path.join(os.fsencode(tmp_path), name))
    found = collect.students(tmp_path)
    assert len(found) == len(names)
    for name in found:
        name.encode()
        assert "\n" not in name and "\u202e" not in name


def test_the_folders_of_moodle_and_the_files_of_canvas(tmp_path):
    (tmp_path / "Ada Lovelace_123_assignsubmission_file").mkdir()
    (tmp_path / "Ada Lovelace_123_assignsubmission_onlinetext").mkdir()
    (tmp_path / "turingalan_77_1234_sam.ipynb").touch()
    (tmp_path / "turingalan_LATE_77_1235_asam-1.ipynb").touch()
    (tmp_path / "roster.csv").touch()
    (tmp_path / "__MACOSX").mkdir()
    found = {
        student: len(paths) for student, paths in collect.students(tmp_path).items()
    }
    assert found == {"Ada Lovelace_123": 2, "turingalan_77": 2}


def test_a_download_of_moodle_without_folders(tmp_path, assignments):
    path = tmp_path / "Ada Lovelace_123_assignsubmission_file_toy.ipynb"
    path.write_text(toy.submission())
    ((student, paths),) = collect.students(tmp_path).items()
    (found,) = collect.collect(paths, assignments)
    assert (student, found.assignment) == ("Ada Lovelace_123", "toy")
    assert found.readable and not found.looks


# -- what is no notebook


def test_where_there_is_no_notebook_what_there_is_is_named(handed):
    (found,) = handed({"toy.tar.gz": b"", "essay.pdf": b""})
    assert found.looks == ["There is no notebook, but essay.pdf, toy.tar.gz."]


def test_links_pipes_and_folders_are_not_read(handed, tmp_path):
    home = tmp_path / "ada"
    (home / "toy.ipynb").symlink_to("/etc/passwd")
    os.mkfifo(home / "sam.ipynb")
    (home / "asam.ipynb").mkdir()
    (found,) = handed({})
    assert not found.readable
    for words in ("link", "pipe", "asam.ipynb is a folder", "There is no notebook"):
        assert words in " ".join(found.looks)


def test_a_folder_beside_the_notebook_is_no_newer_version(handed, tmp_path):
    (tmp_path / "ada" / "sub" / "toy.ipynb").mkdir(parents=True)
    (found,) = handed({"toy.ipynb": toy.submission(), "sub/toy.ipynb/x.ipynb": "{"})[:1]
    assert (found.file, found.readable) == ("toy.ipynb", True)


@pytest.fixture
def endless(tmp_path):
    """Folders in folders, deeper than Python's recursion; taken away by hand again."""
    here, depth = os.getcwd(), 1200
    os.chdir(tmp_path / "ada")
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        os.chdir(here)
        yield
        os.chdir(tmp_path / "ada")
        for _ in range(depth):
            os.chdir("d")
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")
    finally:
        os.chdir(here)


def test_a_folder_without_end_and_one_with_too_many_files(handed, endless, tmp_path):
    for number in range(collect.MOST_FILES + 10):
        (tmp_path / "ada" / str(number)).touch()
    found = handed({"toy.ipynb": toy.submission()})
    assert found


def test_a_pipe_in_place_of_the_folder_of_all(tmp_path, assignments):
    os.mkfifo(tmp_path / "toy.ipynb")
    (tmp_path / "bo").symlink_to(tmp_path)
    for paths in collect.students(tmp_path).values():
        (found,) = collect.collect(paths, assignments)
        assert not found.readable and found.looks


LOOKS = {
    "": "it is empty",
    "<!doctype html><title>Log in</title>": "a web page",
    '{"cells": [\n<<<<<<< HEAD\n1\n=======\n2\n>>>>>>> b\n]}': "a merge",
    toy.submission()[:-40]: "ends in the middle",
    "version https://git-lfs.github.com/spec/v1\n": "Git LFS",
    "PK\x03\x04": "of another kind",
    "\x1f\x8b\x08": "of another kind",
    "[]": "as Jupyter saves it",
    "null": "as Jupyter saves it",
    '{"cells": 3}': "as Jupyter saves it",
    '{"cells": [3]}': "as Jupyter saves it",
    '{"cells": [{"cell_type": "code", "source": [1]}]}': "as Jupyter saves it",
    "\0": "as Jupyter saves it",
    "[" * 10**5: "as Jupyter saves it",
}


@pytest.mark.parametrize("text", LOOKS, ids=lambda text: LOOKS[text])
def test_what_is_no_notebook_is_said_to_be_what_it_is(text):
    with pytest.raises(ValueError, match=LOOKS[text]):
        collect.cells(text.encode())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_other_encodings_of_text(encoding):
    found = collect.cells(toy.submission({"why": "Größe"}).encode(encoding))
    assert found == collect.cells(toy.submission({"why": "Größe"}).encode())


def test_half_a_character_becomes_an_escape_everywhere():
    book = json.loads(toy.submission())
    book["cells"][1]["source"] = ["x = '\ud83d'\n", "y"]
    book["cells"][2]["id"] = "\ud83d"
    for _, source, ids in collect.cells(json.dumps(book).encode()):
        (source + "".join(ids)).encode()
    assert collect.cells(json.dumps(book).encode())[1][1] == "x = '\\ud83d'\ny"


def test_outputs_of_any_size_and_the_third_format():
    book = json.loads(toy.submission())
    code = [c for c in book["cells"] if c["cell_type"] == "code"]
    code[0]["outputs"] = [{"output_type": "stream", "text": "x" * (25 << 20)}]
    assert collect.cells(json.dumps(book).encode())
    old = nbformat.convert(nbformat.from_dict(json.loads(toy.submission())), 3)
    found = collect.cells(nbformat.writes(old, 3).encode())
    assert "return 2 * x" in "".join(source for _, source, _ in found)


def test_answers_to_quizzes_lie_beside_the_notebook(handed):
    (found,) = handed(
        {
            "toy.ipynb": toy.submission(),
            "quiz-sam (1).json": '{"answers": {"1": {"choice": 2, "right": true}}}',
            "quiz-asam.json": "{",
        }
    )
    assert found.quizzes == {"sam": {"1": True}}


# -- archives


def archive(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)


def test_a_notebook_behind_thousands_of_files_is_found(handed, tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "MOST_FILES", 5)
    files = dict.fromkeys(map(str, range(9)), "") | {"toy.ipynb": toy.submission()}
    archive(tmp_path / "ada" / "x.zip", files)
    assert handed({})[0].readable


def test_a_member_that_cannot_be_unpacked_costs_itself_only(handed, tmp_path):
    archive(tmp_path / "ada" / "x.zip", {"old.ipynb": toy.submission()})
    content = bytearray((tmp_path / "ada" / "x.zip").read_bytes())
    content[60:90] = b"\xff" * 30
    first, other = handed({"toy.ipynb": toy.submission(), "x.zip": bytes(content)})
    assert (first.assignment, first.readable, other.readable) == ("toy", True, False)


def test_a_cell_without_a_source_is_empty():
    book = json.loads(toy.submission())
    book["cells"][0]["source"] = None
    assert collect.cells(json.dumps(book).encode())[0][1] == ""


def test_a_zip_in_the_folder_is_opened_without_its_resource_forks(handed, tmp_path):
    files = {
        "hw/toy.ipynb": toy.submission(),
        "__MACOSX/hw/._toy.ipynb": b"\x00\x05\x16\x07",
        "hw/.ipynb_checkpoints/toy-checkpoint.ipynb": "{",
        "hw/._toy.ipynb": b"\x00\x05\x16\x07",
        "../../outside.ipynb": "{",
    }
    archive(tmp_path / "ada" / "my work.zip", files)
    found = handed({})
    assert (found[0].assignment, found[0].readable) == ("toy", True)
    assert not (tmp_path / "outside.ipynb").exists()


def test_zips_that_are_none_or_too_much(handed, tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "LARGEST_FILE", 1 << 20)
    archive(tmp_path / "ada" / "bomb.zip", {"toy.ipynb": bytes(30 << 20)})
    found = handed({"broken.zip": b"PK\x03\x04 broken"})
    said = " ".join(sentence for one in found for sentence in one.looks)
    assert "larger than 1 MiB" in said and "broken.zip is no archive" in said


# -- versions


def test_the_version_that_was_changed_last_is_graded(handed):
    files = {"toy.ipynb": toy.submission(toy.WRONG), "toy (1).ipynb": toy.submission()}
    (found,) = handed(files, {"toy.ipynb": 100, "toy (1).ipynb": 0})
    assert (found.file, found.looks) == ("toy (1).ipynb", [])
    assert "was changed last" in found.notes[0]


def test_where_times_say_nothing_the_one_with_answers_is_graded(handed):
    empty = toy.submission({n: c.released for n, c in _solutions()})
    files = {".git/HEAD": "x", "old/toy.ipynb": empty, "toy.ipynb": toy.submission()}
    (found,) = handed(files, {"toy.ipynb": 100, "old/toy.ipynb": 0})
    assert found.file == "toy.ipynb"
    assert "times do not tell" in found.looks[0]


@pytest.mark.parametrize("newest", ["untouched", "cut off"])
def test_a_newer_version_without_answers_does_not_win(handed, newest):
    given = dict(_solutions()) | {"why": "YOUR ANSWER HERE"}
    given = {id: getattr(c, "released", c) for id, c in given.items()}
    text = toy.submission(given) if newest == "untouched" else "{"
    files = {"toy.ipynb": toy.submission(), "toy (1).ipynb": text}
    (found,) = handed(files, {"toy.ipynb": 100, "toy (1).ipynb": 0})
    assert (found.file, found.readable) == ("toy.ipynb", True)
    assert "toy (1).ipynb" in found.looks[0]


def _solutions():
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "toy").mkdir()
        nbformat.write(toy.source(), Path(folder) / "toy" / "toy.ipynb")
        cells = notebooks.read("toy", folder).cells
    return [(cell.id, cell) for cell in cells if cell.kind == "solution"]


# -- a notebook fitted into its assignment


@pytest.fixture
def fitted(assignments):
    def fit(change, answers=()):
        text = toy.submission(answers, change=change)
        return collect.fit(assignments["toy"], collect.cells(text.encode()))

    return fit


def sources(steps, id):
    return [step.source for step in steps if step.id == id]


def test_a_submission_is_graded_in_the_order_of_the_assignment(fitted):
    steps, notes = fitted(lambda book: book["cells"].reverse())
    kinds = [(step.kind, step.id) for step in steps if step.id]
    assert kinds[:3] == [
        ("setup", "setup"),
        ("student", "double"),
        ("test", "test-double"),
    ]
    assert kinds[-1] == ("written", "why")
    assert notes == []


def test_pieces_of_a_solution_run_in_their_order(fitted):
    def split(book):
        second = json.loads(json.dumps(toy.find(book, "norm")))
        second |= {"id": "norm-2", "source": "def norm(v):\n    return half(v)"}
        toy.find(book, "norm")["source"] = "def half(v):\n    return 5.0"
        book["cells"].insert(book["cells"].index(toy.find(book, "norm")) + 1, second)

    steps, notes = fitted(split)
    assert len(sources(steps, "norm")) == 2
    assert "norm is there 2 times" in notes[0]


@pytest.mark.parametrize("last", [False, True])
def test_an_untouched_copy_never_wins(fitted, last):
    def change(book):
        filled = json.loads(json.dumps(toy.find(book, "norm")))
        filled["id"] = "norm-2"
        place = book["cells"].index(toy.find(book, "norm"))
        placeholder = (
            "def norm(v):\n    # YOUR CODE HERE\n    raise NotImplementedError()"
        )
        toy.find(book, "norm")["source"] = placeholder
        book["cells"].insert(len(book["cells"]) if last else place, filled)

    steps, notes = fitted(change)
    assert sources(steps, "norm") == [toy.RIGHT["norm"]]
    assert notes == []


def test_a_later_try_does_not_undo_an_answer(fitted):
    def change(book):
        later = json.loads(json.dumps(toy.find(book, "norm")))
        book["cells"].append(later | {"id": "norm-2", "source": toy.WRONG["norm"]})

    steps, notes = fitted(change)
    assert sources(steps, "norm") == [toy.RIGHT["norm"]]
    assert "norm is there 2 times" in notes[0]
    place = [step.source for step in steps].index(toy.WRONG["norm"])
    assert steps[place - 1].kind in ("test", "written", "student")
    assert place > [step.id for step in steps].index("test-norm")


def test_a_solution_that_became_text_is_run_all_the_same(fitted):
    steps, notes = fitted(
        lambda book: toy.find(book, "norm").update(cell_type="markdown")
    )
    assert sources(steps, "norm") == [toy.RIGHT["norm"]]
    assert "there as text" in notes[0]


def test_a_missing_cell_is_named_and_a_new_one_that_defines_the_same_is_found(fitted):
    def missing(book):
        book["cells"].remove(toy.find(book, "norm"))

    def renewed(book):
        toy.find(book, "norm").update(id="new", metadata={})

    steps, notes = fitted(missing)
    assert sources(steps, "norm") == [""]
    assert notes == ["Missing: the cells norm."]
    steps, notes = fitted(renewed)
    assert (sources(steps, "norm"), notes) == ([toy.RIGHT["norm"]], [])


@pytest.mark.parametrize("kind", ["markdown", "code", "raw"])
def test_a_written_answer_of_any_kind_of_cell(fitted, kind):
    steps, _ = fitted(lambda book: toy.find(book, "why").update(cell_type=kind))
    assert sources(steps, "why") == ["I think so."]


def test_an_answer_above_its_untouched_cell_is_found(fitted, assignments):
    def above(book):
        place = book["cells"].index(toy.find(book, "norm"))
        book["cells"].insert(place, toy.code(toy.RIGHT["norm"]))

    steps, _ = fitted(above, {"norm": assignments["toy"].by_id["norm"].released})
    assert sources(steps, "norm") == [toy.RIGHT["norm"]]


def test_an_answer_between_fences_is_code(fitted):
    def fenced(book):
        text = f"```python\n{toy.RIGHT['norm']}\n```"
        toy.find(book, "norm").update(cell_type="markdown", source=text)

    (answer,) = sources(fitted(fenced)[0], "norm")
    assert answer.strip() == toy.RIGHT["norm"]


def test_a_locked_cell_that_cannot_be_written_again_is_left_out(fitted):
    def grown(book):
        text = "\ndef own():\n    return " + "+".join(["1"] * 1500)
        toy.find(book, "test-norm")["source"] += text

    steps, _ = fitted(grown)
    assert any(step.id == "test-norm" for step in steps)


def test_a_written_answer_beside_its_cell(fitted):
    def change(book):
        own = {"cell_type": "markdown", "id": "own", "metadata": {}, "source": "Mine."}
        toy.find(book, "why")["source"] = "YOUR ANSWER HERE"
        place = book["cells"].index(toy.find(book, "why"))
        book["cells"].insert(place, own)
        book["cells"].append(own | {"id": "more", "source": "And more."})
        toy.find(book, "about-why")["source"] += "\nIn the question's own cell."

    steps, _ = fitted(change)
    (answer,) = sources(steps, "why")
    assert answer == "In the question's own cell.\n\nMine.\n\nAnd more."


def test_helpers_of_visible_tests_and_imports_in_locked_cells_are_there(fitted):
    def change(book):
        toy.find(book, "setup")["source"] += "\nfrom scipy import stats\nnp = None"

    steps, notes = fitted(change)
    added = [step.source for step in steps if step.kind == "student" and not step.id]
    assert "import numpy as np\nfrom scipy import stats" in added
    assert any(source.startswith("def close") for source in added)
    assert notes == []
