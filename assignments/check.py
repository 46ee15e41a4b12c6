"""What a student runs at home: ``python check.pyz sam.ipynb``.

It reads, fits and runs the notebook as the grader does, with the tests that the student
can see, and says what the grader would remark. Nothing is confined: it is their code.
"""

import contextlib
import sys
from pathlib import Path

from assignments import collect, notebooks
from assignments.judge import judge
from assignments.run import Limits, Session

PACKAGES = {"numpy", "scipy", "torch", "sklearn", "matplotlib", "flatlab", "IPython"}


def strangers(cells):
    """Packages that the notebook imports and the grader may not have."""
    code = "\n".join(source for kind, source, _ in cells if kind == "code")
    found = {name.partition(".")[0] for name in notebooks.imported(code)}
    return sorted(found - PACKAGES - sys.stdlib_module_names)


def main(arguments=None):
    """Check one notebook; give 1 where something is to be mended."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        print("say which notebook: python check.pyz NAME.ipynb")
        return 2
    (name,) = notebooks.names()
    assignment, file = notebooks.read(name), Path(arguments[0])
    try:
        cells = collect.cells(file.read_bytes())
    except ValueError as error:
        print(f"The file is {error}.")
        return 1
    print("Running your notebook as the grader does, which may take a minute ...")
    found = collect.Found(name, file.name, cells=cells)
    with contextlib.closing(Session(Limits(), confined=False)) as session:
        grade = judge("", assignment, found, session)
    wrong = [grade.reason] if grade.reason else []
    wrong += [f"{n} may not be there when this is graded." for n in strangers(cells)]
    lost = 0
    for outcome in grade.outcomes:
        said = outcome.message or "the visible test passes"
        if outcome.points is None:
            text = next(s for _, id, s, _ in grade.steps if id == outcome.id)
            said = "answered" if text.strip() else "not answered"
        lost += outcome.points == 0 or said == "not answered"
        print(f"{outcome.title}: {said}")
    print(*wrong, f"{lost} tasks to look at; grading checks more.", sep="\n")
    return bool(wrong or lost)


if __name__ == "__main__":
    sys.exit(main())
