"""Every chapter ends with questions that answer whichever option is chosen."""

import re
from pathlib import Path

import nbformat
import pytest
import yaml

from .conftest import ROOT

COURSE = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))["parts"][0]
CHAPTERS = [Path(chapter["file"]).name for chapter in COURSE["chapters"]]
QUESTION = re.compile(r"^\*\*(\d)\. (.+?)\*\*$", re.M | re.S)
OPTION = re.compile(
    r"^```\{dropdown\} ([^\n]+)\n:class-container: quiz-option\n\n(.+?)\n```$",
    re.M | re.S,
)
ANSWER = re.compile(r"\*\*(Right|Not quite)\.\*\* \S")


def quiz(name):
    """The questions of a chapter: text, options, whether each is right, and why."""
    notebook = nbformat.read(ROOT / "book" / f"{name}.ipynb", 4)
    texts = [c.source for c in notebook.cells if c.cell_type == "markdown"]
    (part,) = re.findall(r"^## Quiz\n(.*?)(?=^## |\Z)", "\n".join(texts), re.M | re.S)
    lead, *pieces = QUESTION.split(part)
    assert lead.strip() == "Choose an answer to see whether it holds."
    questions = []
    for number, text, options in zip(*(pieces[i::3] for i in range(3)), strict=True):
        found = OPTION.findall(options)
        assert not OPTION.sub("", options).strip(), "nothing but options after a text"
        marks = [ANSWER.match(why) for _, why in found]
        assert all(marks), f"{text}: every explanation says at once whether it holds"
        right = [mark[1] == "Right" for mark in marks]
        questions.append((int(number), text, [title for title, _ in found], right))
    return questions


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_quiz_has_three_questions_with_one_right_option_each(name):
    questions = quiz(name)
    assert [number for number, *_ in questions] == [1, 2, 3]
    for _, text, options, right in questions:
        assert 2 <= len(options) <= 4, text
        assert len(set(options)) == len(options), text
        assert sum(right) == 1, text
        # A formula needs its dollars, and a title that is one line long.
        assert all(option.count("$") % 2 == 0 for option in options), text


def test_neither_place_nor_length_tells_which_option_is_right():
    asked = [question for name in CHAPTERS for question in quiz(name)]
    places = [right.index(True) for *_, right in asked]
    assert max(places.count(i) for i in range(4)) <= len(asked) / 2
    longest = [
        max(range(len(options)), key=lambda i: len(options[i])) == right.index(True)
        for _, _, options, right in asked
    ]
    assert sum(longest) <= len(asked) / 2
