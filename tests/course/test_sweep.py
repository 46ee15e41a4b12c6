"""The store of a sweep survives what happens to long runs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flatlab.course import store as s

UNITS = [{"i": i, "version": 1} for i in range(6)]

# Units of a worker process must be importable there: they live in a file of their own.
UNIT_CODE = """
import os, signal, time
from pathlib import Path

def square(i, version, folder=None, slow=0.0):
    if folder:
        with open(Path(folder) / f"began-{i}", "a") as file:
            file.write("x")
    time.sleep(slow)
    return {"square": i * i, "third": i / 3}

def picky(i, version):
    if i == 2:
        raise ValueError("two is not for me")
    return square(i, version)

def leaves(i, version):
    if i == 2:
        raise SystemExit(3)
    return square(i, version)

def deadly(i, version, folder=None):
    if i == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return square(i, version, folder)

def kills_once(i, version, folder):
    mark = Path(folder) / "killed"
    if i == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    return square(i, version, folder)
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A module of unit functions that other processes can import, too."""
    (tmp_path / "code").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "code" / "sweep_units.py").write_text(UNIT_CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    sys.modules.pop("sweep_units", None)
    import sweep_units

    return sweep_units


def with_folder(tmp_path, **more):
    return [{**u, "folder": str(tmp_path / "notes"), **more} for u in UNITS]


def begun(tmp_path):
    return sorted(len(f.read_text()) for f in (tmp_path / "notes").glob("began-*"))


def leftovers(store):
    return [p.name for p in Path(store).iterdir() if p.suffix != ".json"]


def test_a_key_depends_on_values_alone():
    assert s.key({"a": 1, "b": [2]}) == s.key({"b": [2], "a": 1})
    assert s.key({"a": 1}) != s.key({"a": 2}) != s.key({"a": 2, "version": 2})
    with pytest.raises(TypeError):
        s.key({"a": object()})


def test_rows_come_in_the_order_of_the_units_and_are_kept(work, tmp_path):
    units = with_folder(tmp_path)
    done = s.sweep(work.square, units, tmp_path / "store")
    assert done.complete and done.computed == 6
    assert [row["square"] for row in done.rows] == [i * i for i in range(6)]
    assert done.rows[1] == {**units[1], "square": 1, "third": 1 / 3}
    again = s.sweep(work.square, units[::-1], tmp_path / "store")
    assert again.computed == 0 and again.rows == done.rows[::-1]
    assert begun(tmp_path) == [1] * 6
    assert leftovers(tmp_path / "store") == []


def test_more_units_add_to_a_store(work, tmp_path):
    s.sweep(work.square, UNITS[:2], tmp_path)
    assert len(s.collect(UNITS, tmp_path).missing) == 4
    done = s.sweep(work.square, UNITS, tmp_path)
    assert done.computed == 4 and len(done.rows) == 6
    fresh = s.sweep(work.square, [{**u, "version": 2} for u in UNITS], tmp_path)
    assert fresh.computed == 6


def test_the_same_unit_twice_is_refused(work, tmp_path):
    with pytest.raises(ValueError, match="1 of 7 units occur twice"):
        s.sweep(work.square, [*UNITS, UNITS[0]], tmp_path)


@pytest.mark.parametrize("function", ["picky", "leaves"])
def test_a_failing_unit_is_reported_and_the_others_go_on(work, tmp_path, function):
    done = s.sweep(getattr(work, function), UNITS, tmp_path)
    assert [row["i"] for row in done.rows] == [0, 1, 3, 4, 5]
    assert not done.complete and not done.missing
    ((unit, error),) = done.failed.values()
    assert unit == UNITS[2] and 'File "' in error
    assert '"i": 2' in done.report()
    # it stays failed until asked again
    assert s.sweep(work.square, UNITS, tmp_path).failed == done.failed
    mended = s.sweep(work.square, UNITS, tmp_path, retry=True)
    assert mended.complete and mended.computed == 1


def test_a_result_that_json_cannot_hold_is_a_failure(tmp_path):
    done = s.sweep(lambda i, version: {"x": float("nan")}, UNITS[:1], tmp_path)
    ((_, error),) = done.failed.values()
    assert "JSON compliant" in error


def test_a_backend_that_cannot_start_says_so(tmp_path):
    lock = threading.Lock()  # no process can be sent this

    def unsendable(i, version):
        return {"locked": lock.locked()}

    with pytest.raises(Exception, match="pickle"):
        s.sweep(unsendable, UNITS, tmp_path, jobs=2)


def test_a_unit_in_other_hands_is_left_alone(work, tmp_path):
    first = s.FileLock(tmp_path / f"{s.key(UNITS[0])}.lock")
    with first:
        done = s.sweep(work.square, UNITS, tmp_path)
    assert done.missing == UNITS[:1] and len(done.rows) == 5
    assert "1 have no row yet" in done.report()
    assert s.sweep(work.square, UNITS, tmp_path).complete


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_the_unit_that_kills_its_worker_is_found_and_no_neighbour_blamed(
    work, tmp_path
):
    units = with_folder(tmp_path)
    done = s.sweep(work.deadly, units, tmp_path / "store", jobs=2)
    assert [row["i"] for row in done.rows] == [0, 1, 3, 4, 5] and not done.missing
    ((unit, error),) = done.failed.values()
    assert unit["i"] == 2 and "killed its worker" in error


RUNNER = """
import sys, json
from pathlib import Path
import sweep_units
from flatlab.course.store import sweep
units = json.loads(Path(sys.argv[2]).read_text())
sweep(sweep_units.square, units, sys.argv[1], jobs=int(sys.argv[3]))
"""


def killed_run(work, tmp_path, units, jobs):
    """Start a sweep in a process group of its own and kill that after some rows."""
    (tmp_path / "units.json").write_text(json.dumps(units))
    store = tmp_path / "store"
    store.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, store, tmp_path / "units.json", str(jobs)],
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while not list(store.glob("*.json")) and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return store


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("jobs", [1, 2])
def test_after_sigkill_the_rows_are_those_of_an_uninterrupted_run(work, tmp_path, jobs):
    units = with_folder(tmp_path, slow=0.15)
    store = killed_run(work, tmp_path, units, jobs)
    kept = {p: p.stat().st_mtime_ns for p in store.glob("*.json")}
    assert 0 < len(kept) < len(units)
    done = s.sweep(work.square, units, store, jobs=jobs)
    assert done.complete and done.computed == len(units) - len(kept)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept  # not redone
    assert max(begun(tmp_path)) <= 2 and sum(begun(tmp_path)) <= len(units) + jobs
    assert done.rows == s.sweep(work.square, units, tmp_path / "reference").rows
    assert all(name.endswith(".part") for name in leftovers(store))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_dask_cluster_that_loses_a_worker_finishes(work, tmp_path):
    joblib = pytest.importorskip("joblib")
    distributed = pytest.importorskip("distributed")
    units = with_folder(tmp_path)
    outcome = {}

    def run():
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster),
            joblib.parallel_config("dask"),
        ):
            outcome["sweep"] = s.sweep(work.kills_once, units, tmp_path / "store")

    # a wall limit: a cluster that never answers must fail the test, not stop it
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(90)
    assert not thread.is_alive(), "the cluster did not finish within 90 seconds"
    assert (tmp_path / "notes" / "killed").exists()
    done = outcome["sweep"]
    assert done.complete and done.computed == 6
    assert done.rows == s.sweep(work.square, units, tmp_path / "reference").rows
