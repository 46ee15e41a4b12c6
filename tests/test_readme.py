"""What the README prints as code runs as printed."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_snippet_runs_as_printed(capsys):
    (snippet,) = re.findall(
        r"^```python\n(.*?)^```", README.read_text("utf-8"), re.S | re.M
    )
    exec(compile(snippet, "README.md", "exec"), {})
    shown = capsys.readouterr().out
    assert shown.count("tensor(") == 2 and "nan" not in shown


def test_its_commands_are_the_makefiles():
    text = README.read_text("utf-8")
    makefile = README.with_name("Makefile").read_text("utf-8")
    used = set(re.findall(r"\bmake ([a-z-]+)", text))
    known = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert used and used <= known
