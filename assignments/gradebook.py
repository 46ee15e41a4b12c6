"""A class over weeks: late days, exports for platforms, statistics, likeness.

All of it is optional and read from the folder of the submissions: ``course.toml`` with
deadlines, ``late.csv`` with days that a person decided, ``roster.csv`` with names.
"""

import datetime
import itertools
import keyword
import math
import re
import statistics
import tomllib
from collections import Counter

from assignments.collect import decoded
from assignments.report import rows_of, table

ALIKE = 0.8  # share of the shorter answer that stands in the other
SHORTEST = 30  # runs; shorter answers look alike by themselves
PIECE = 8  # words and signs in a run
LONGEST = 100_000  # characters of an answer that are compared
KINDS = {"book": str, "late": dict, "deadlines": dict}  # what course.toml may hold


def rules(folder, assignments):
    """Read ``course.toml``; say what is wrong with it before anything is graded."""
    path, found = folder / "course.toml", {}
    if path.is_file():
        try:
            found = tomllib.loads(decoded(path.read_bytes()))
        except tomllib.TOMLDecodeError as error:
            raise SystemExit(f"{path}: {error}") from None
    for name, value in found.items():
        if not isinstance(value, KINDS.get(name, ())):
            raise SystemExit(f"{path}: {name}; give book, [late] or [deadlines]")
    late = {"free_days": 0, "penalty": 0.0, "most_days": math.inf, "grace_minutes": 10}
    for name, value in found.get("late", {}).items():
        if not (name in late and isinstance(value, int | float) and value >= 0):
            names = ", ".join(late)
            raise SystemExit(f"{path}: {name} = {value}; give a number for {names}")
        late[name] = value
    ends = {}
    for name, end in found.get("deadlines", {}).items():
        if name not in assignments:
            raise SystemExit(f"{path}: there is no assignment {name}")
        if not isinstance(end, datetime.datetime) or end.tzinfo is None:
            raise SystemExit(
                f"{path}: give the deadline of {name} with its zone, as "
                "2026-11-02T23:59:00+01:00"
            )
        ends[name] = end.timestamp()
    given = {}
    for row in rows_of(folder / "late.csv", ("student", "assignment", "days")):
        if not row["days"].strip().isdecimal() or row["assignment"] not in assignments:
            raise SystemExit(
                f"late.csv, line {row['']}: give an assignment, whole days"
            )
        given[row["student"].strip(), row["assignment"]] = int(row["days"])
    return late, ends, given, found.get("book", "").rstrip("/")


def apply_late(grades, course):
    """Count every student's late days, and take off what they cost.

    Free days are used up in the order of the deadlines; what they do not cover costs
    the share ``penalty`` of the points for each day, and all after ``most_days``.
    """
    late, ends, given, _ = course
    free = Counter()
    if lost := given.keys() - {(g.student, g.assignment) for g in grades}:
        print(f"late.csv has days for what nobody handed in: {lost!a}")
    for g in sorted(grades, key=lambda g: (g.student, ends.get(g.assignment, 0))):
        over = g.time - ends.get(g.assignment, g.time) - 60 * late["grace_minutes"]
        days = given.get((g.student, g.assignment), max(0, math.ceil(over / 86400)))
        used = min(days, late["free_days"] - free[g.student])
        free[g.student] += used
        g.late, charged = days, days - used
        share = 1.0 if charged > late["most_days"] else late["penalty"] * charged
        g.share = min(1.0, share)


def items(grades, quizzes, output):
    """A row per task: how hard it was, whom it tells apart, what went wrong most.

    ``quizzes`` has of each student a dict from chapter to a dict of right or wrong.
    """
    rows, tasks = [], {}
    for theirs in quizzes:
        for chapter, answers in theirs.items():
            for question, right in answers.items():
                key = (chapter, f"quiz {question}", "")
                rest = sum(answers.values()) - right
                tasks.setdefault(key, []).append((float(right), rest, ""))
    for g in grades:
        shares = {
            o.id: o.points / o.most
            for o in g.outcomes
            if o.points is not None and o.most
        }
        for o in g.outcomes:
            if o.id in shares and g.status != "unreadable":
                rest = sum(shares.values()) - shares[o.id]
                key = (g.assignment, o.id, o.title)
                tasks.setdefault(key, []).append((shares[o.id], rest, o.message))
    for key, found in sorted(tasks.items()):
        share, rest = [f[0] for f in found], [f[1] for f in found]
        tells = ""
        if len(set(share)) > 1 and len(set(rest)) > 1:
            tells = statistics.correlation(share, rest)
        often = Counter(f[2] for f in found if f[2] and f[0] < 1).most_common(1)
        counts = len(share), statistics.mean(share), share.count(1), share.count(0)
        rows.append((*key, *counts, tells, *(often[0] if often else ("", 0))))
    head = ("assignment", "task", "title", "students", "mean_share", "all", "none")
    head += ("correlation_with_rest", "most_frequent_message", "times")
    table(output / "items.csv", head, rows)


def likeness(grades, assignments, output):
    """Pairs of students whose answers to a task are alike, whatever the names in them.

    What the released notebook shows already does not count.
    """
    answers, rows = {}, []
    for g in grades:
        for kind, id, source, _ in g.steps:
            if id and kind in ("student", "written"):
                shown = pieces(assignments[g.assignment].by_id[id].released, kind)
                if len(found := pieces(source, kind) - shown) >= SHORTEST:
                    answers.setdefault((g.assignment, id), {})[g.student] = found
    for task, found in answers.items():
        for one, other in itertools.combinations(sorted(found), 2):
            shortest = min(len(found[one]), len(found[other]))
            share = len(found[one] & found[other]) / shortest
            if share >= ALIKE:
                rows.append((*task, one, other, round(share, 2)))
    rows.sort(key=lambda row: row[4], reverse=True)
    head = ("assignment", "task", "student", "other", "share_alike")
    table(output / "similarity.csv", head, rows)


def pieces(source, kind):
    """All runs of a few words and signs; in code, with all names made alike."""
    source = source[:LONGEST]
    if kind == "student":
        source = re.sub(r"#.*", "", source)
    found = re.findall(r"\w+|[^\w\s]", source.lower())
    if kind == "student":
        found = [
            "name" if word.isidentifier() and not keyword.iskeyword(word) else word
            for word in found
        ]
    return {tuple(found[i : i + PIECE]) for i in range(len(found) - PIECE + 1)}


def exports(grades, assignments, folder, output):
    """Tables that Canvas and Moodle take, with everyone on the roster."""
    needed = ("student", "name", "email", "id", "login", "section")
    people = {r["student"]: r for r in rows_of(folder / "roster.csv", ("student",))}
    for g in grades:
        people.setdefault(g.student, {"student": g.student, "name": g.student})
    names = [n for n in assignments if any(g.assignment == n for g in grades)]
    totals = {(g.student, g.assignment): g.total for g in grades}
    canvas, moodle = [], []
    for student, row in people.items():
        name, email, id, login, section = (row.get(n, "") for n in needed[1:])
        points = [totals.get((student, n)) for n in names]
        canvas.append((name, row.get("canvas", ""), id, login, section, *points))
        moodle.append((name, email, id, *points))
    most = [assignments[n].points for n in names]
    head = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section", *names)
    canvas.insert(0, ("    Points Possible", "", "", "", "", *most))
    table(output / "exports" / "canvas.csv", head, canvas)
    head = ("Full name", "Email address", "ID number", *names)
    table(output / "exports" / "moodle.csv", head, moodle)


def gradescope(grade):
    """What Gradescope reads from ``results.json``."""
    tests = [
        {
            "name": o.title or o.id,
            "score": o.points or 0.0,
            "max_score": o.most,
            "output": o.message or "passed",
        }
        for o in grade.outcomes
    ]
    return {"score": grade.total, "output": grade.reason, "tests": tests}
