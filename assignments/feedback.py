"""One page per student: points, what the tests said, and the answers as graded.

The pages ask no other host for anything and run nothing: what a student wrote is shown
as text.
"""

from html import escape

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;
color:#1a1a1a;background:#fff}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;overflow-wrap:anywhere;
border-bottom:1px solid #bbb}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f4f4f4;padding:.6rem}
.remark{border-left:.3rem solid #b34700;padding-left:.6rem}
@media(prefers-color-scheme:dark){body{color:#eee;background:#171717}
pre{background:#262626}th,td{border-color:#555}}
"""


def write(grades, assignments, path):
    """Write the page of one student.

    Args:
        grades: list of ``grade.Grade`` of this student.
        assignments: dict from name to ``notebooks.Assignment``.
        path: of the page.
    """
    student = grades[0].student
    body = [f"<h1>Feedback for {escape(student)}</h1>"]
    for grade in grades:
        body += _assignment(grade, assignments.get(grade.assignment))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Feedback for {escape(student)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>",
        "utf-8",
    )


def _assignment(grade, assignment):
    title = assignment.title if assignment else "Nothing to grade"
    yield f"<h2>{escape(title)}</h2>"
    if grade.reason:
        yield f'<p class="remark">{escape(grade.reason)}</p>'
    if not assignment:
        return
    yield (
        f"<p>{grade.points:g} of {assignment.points:g} points"
        + ("" if all(o.points is not None for o in grade.outcomes) else " so far")
        + f"; file: {escape(grade.file)}</p>"
    )
    yield (
        '<table><thead><tr><th scope="col">Task</th><th scope="col">Points</th>'
        '<th scope="col">What the test said</th></tr></thead><tbody>'
    )
    for o in grade.outcomes:
        points = "–" if o.points is None else f"{o.points:g}"
        yield (
            f'<tr><th scope="row">{escape(o.id)}</th><td>{points} of {o.most:g}</td>'
            f"<td>{escape(o.message or 'passed')}</td></tr>"
        )
    yield "</tbody></table><h3>Your answers as graded</h3>"
    for number, step in enumerate(grade.steps):
        if step.kind not in ("student", "written"):
            continue
        label = step.id or "a cell of yours"
        yield f"<h4>{escape(label)}</h4><pre>{escape(step.source)}</pre>"
        if remark := (grade.remarks or {}).get(number):
            yield f'<p class="remark">{escape(remark)}</p>'
