"""What comes out of grading: tables, points given by hand, a page per student.

Nothing that a student wrote is a formula in a table or markup in a page. The pages ask
no other host for anything and run nothing.
"""

import csv
import hashlib
import io
import os
import re
from pathlib import Path

import jinja2

from assignments.collect import clean, decoded

CELL = 30_000  # characters; spreadsheets and csv take few more
FORMULA = re.compile(r"(^|[;\t\n])([ \u00a0]*[=+\-@＝＋－＠])")
# PyTorch brings jinja2 along.
PAGES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    trim_blocks=True,
    finalize=lambda value: clean(value) if isinstance(value, str) else value,
)


def slug(name):
    """A file's name for any text: short, plain, and different for different texts."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60]
    if plain == name and not re.search("-[0-9a-f]{10}$", name):
        return name
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:10]}".lstrip("-")


def number(points):
    """Points as a person writes them."""
    return "" if points is None else f"{points:.4f}".rstrip("0").rstrip(".")


PAGES.filters["number"] = number


def harmless(cell):
    """Give a cell that no spreadsheet runs, whichever separator it believes in."""
    if isinstance(cell, str):
        return FORMULA.sub(r"\1'\2", clean(cell))
    return number(cell)


# -- tables


def table(path, head, rows):
    """Write a table, all at once or not at all."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(head)
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    put(path, file.getvalue())


def put(path, text):
    """Write a file all at once or not at all, unless it says that already."""
    content = text.encode()
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)


def rows_of(path, needed):
    """A table's rows as dicts, whichever program saved it; their line is in "".

    Raises:
        SystemExit: a column is missing.
    """
    if not path.is_file():
        return []
    text = decoded(path.read_bytes())
    head = text.partition("\n")[0]
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count)
    )
    missing = [n for n in needed if n not in (reader.fieldnames or ())]
    if missing:
        raise SystemExit(f"{path} has no column {', '.join(missing)}")
    found = []
    for row in reader:
        row.pop(None, None)
        row = {k: v or "" for k, v in row.items()}
        if any(v.strip() for v in row.values()):
            found.append(row | {"": str(reader.line_num)})
    return found


class ByHand:
    """``manual.csv``: points and comments that a person gave, for any task."""

    HEAD = ("student", "assignment", "task", "points", "most", "given", "comment")
    HEAD += ("changed", "answer", "version")

    def __init__(self, output, assignments):
        self.path = Path(output) / "manual.csv"
        self.rows, self.used = {}, set()
        self.more = []
        every = [(a.name, task) for a in assignments.values() for task in a.tasks]
        tasks = {(name, task.id): task.points for name, task in every}
        # A test may be called by what it tests.
        tasks |= {(a, id.removeprefix("test-")): n for (a, id), n in tasks.items()}
        for row in rows_of(self.path, ("student", "assignment", "task", "given")):
            key = tuple(row[n] for n in self.HEAD[:3])
            where, most = f"{self.path}, line {row['']}", tasks.get(key[1:])
            if most is None:
                raise SystemExit(f"{where}: there is no task {key[2]!r} of {key[1]!r}")
            text = row["given"].strip().replace(",", ".")
            try:
                row["given"] = number(float(text)) if text else ""
                wrong = bool(text) and not 0 <= float(text) <= most
            except ValueError:
                wrong = True
            if wrong:
                raise SystemExit(
                    f"{where}: {row['given']!r} points for {row['student']}, "
                    f"{row['task']}: give a number from 0 to {most:g}, or nothing"
                )
            self.rows[key] = row
            self.more = [n for n in row if n and n not in self.HEAD]

    def apply(self, grade):
        """Put what a person gave into a grade, and the grade's answers into rows."""
        answers, stale = {}, []
        for kind, id, source, _ in grade.steps:
            task = id if kind == "written" else f"test-{id}"
            answers[task] = answers.get(task, "") + source
        for o in grade.outcomes:
            names = (grade.student, grade.assignment, o.id)
            key = tuple(map(harmless, names))
            alias = (*key[:2], key[2].removeprefix("test-"))
            row = self.rows.get(key, {}) | self.rows.pop(alias, {})
            if not row and o.points is not None:
                continue
            answer = answers.get(o.id, "")
            # With a letter in front, or spreadsheets take some for numbers.
            version = f"v{hashlib.sha256(answer.encode()).hexdigest()[:12]}"
            given = row.get("given", "")
            if given and row.get("version", version) not in ("", version):
                row["changed"] = "the answer has changed since points were given"
            if given and row.get("changed"):
                stale.append(o.title or o.id)
            fixed = dict(zip(self.HEAD, (*key, o.points, o.most, given)))
            self.used.add(key)
            self.rows[key] = row | fixed | {"answer": answer[:CELL], "version": version}
            if given:
                o.points = float(given)
                o.message = "" if o.message == "waits for a person" else o.message
            if row.get("comment"):
                o.message = " ".join(filter(None, [o.message, row["comment"]]))
        if stale:
            grade.status = "look" if grade.status == "graded" else grade.status
            grade.reason = (
                f"{grade.reason} Points were given by hand for another answer: "
                f"{', '.join(stale)}; clear the column 'changed' in manual.csv if they "
                "stand."
            ).strip()

    def save(self):
        """Write the file, with columns and rows of others as they were."""
        lost = [k for k, r in self.rows.items() if r["given"] and k not in self.used]
        if lost:
            print(f"manual.csv has points for what nobody handed in: {lost!a}")
        head = [*self.HEAD, *self.more]
        rows = [[row.get(n, "") for n in head] for _, row in sorted(self.rows.items())]
        if rows or self.path.exists():
            table(self.path, head, rows)


def write(grades, assignments, output, by_hand, book=""):
    """Write everything that a person reads into a folder.

    Pages link into the book whose address is given, to what a lost task is about.
    """
    by_hand.save()
    head = ("student", "assignment", "points", "most", "by_hand", "status", "reason")
    head += ("late_days", "total", "file")
    rows, tasks = [], []
    for g in grades:
        whose, most = (g.student, g.assignment), sum(o.most for o in g.outcomes)
        waits = sum(o.most for o in g.outcomes if o.points is None)
        ends = (g.status, g.reason, g.late, g.total, g.file)
        rows.append((*whose, g.points, most, waits, *ends))
        for o in g.outcomes:
            tasks.append((*whose, o.id, o.points, o.most, o.detail or o.message))
    table(output / "grades.csv", head, rows)
    head = ("student", "assignment", "task", "points", "most", "message")
    table(output / "tasks.csv", head, tasks)
    pages = {}
    for g in grades:
        pages.setdefault(g.student, []).append(g)
    folder = output / "feedback"
    paths = {student: folder / f"{slug(student)}.html" for student in pages}
    for student, path in paths.items():
        put(path, page(student, pages[student], assignments, book))
    for old in set(folder.glob("*.html")).difference(paths.values()):
        old.unlink()


def page(student, grades, assignments, book=""):
    """The page of one student."""
    words = {"student": student, "grades": grades, "assignments": assignments}
    return PAGES.get_template("feedback.html").render(words, book=book)
