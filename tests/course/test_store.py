"""A store survives what happens to long runs, and gives back what was put in."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from flatlab.course import store as s
from flatlab.course.store import Rows, book_root, provenance, stored, write_json


def lists(rows):
    """Rows without tensors."""
    return [
        {k: v.tolist() if torch.is_tensor(v) else v for k, v in row.items()}
        for row in rows
    ]


UNITS = [{"rate": 0.1, "seeds": [0, 1]}, {"rate": 0.2, "seeds": [0, 1]}]


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLAB_SCALE", "laptop")
    monkeypatch.delenv("FLATLAB_RESULTS", raising=False)
    calls = []

    def double(rate, seeds):
        calls.append(rate)
        return {"values": [rate * 2 + seed for seed in seeds]}

    def ask(function=double, units=UNITS):
        return stored("sam", "noise", function, units, folder=tmp_path)

    ask.calls, ask.path = calls, tmp_path / "laptop" / "sam-noise.json"
    ask.write = lambda: monkeypatch.setenv("FLATLAB_RESULTS", "write")
    ask.read = lambda: monkeypatch.delenv("FLATLAB_RESULTS")
    ask.scale = lambda name: monkeypatch.setenv("FLATLAB_SCALE", name)
    return ask


def interrupt(world):
    """Run the first unit, and be stopped in the second."""

    def stops(rate, seeds):
        if rate == 0.2:
            raise KeyboardInterrupt
        return {"values": ["kept"]}

    world.write()
    with pytest.raises(KeyboardInterrupt):
        world(stops)


def test_written_once_then_read(world):
    world.write()
    first = lists(world())
    assert first == [
        {"rate": 0.1, "seeds": [0, 1], "values": [0.2, 1.2]},
        {"rate": 0.2, "seeds": [0, 1], "values": [0.4, 1.4]},
    ]
    world.read()
    assert lists(world()) == first
    assert world.calls == [0.1, 0.2]
    content = json.loads(world.path.read_text())
    assert {"versions", "device", "threads", "scale"} <= set(content)
    assert list(world.path.parent.iterdir()) == [world.path]


def test_rows_come_in_the_order_asked_for(world):
    world.write()
    world()
    world.read()
    assert [row["rate"] for row in world(units=UNITS[::-1])] == [0.2, 0.1]


def test_an_interrupted_run_goes_on(world):
    interrupt(world)
    assert not world.path.exists()
    assert [row["values"] for row in lists(world())] == [["kept"], [0.4, 1.4]]
    assert world.calls == [0.2]


def test_an_interrupted_run_leaves_what_was_stored(world):
    world.write()
    first = lists(world())
    interrupt(world)
    world.read()
    assert lists(world()) == first


def test_a_unit_that_fails_does_not_cost_the_others(world):
    def fails(rate, seeds):
        return {"values": [1 / (rate - 0.1)]}

    world.write()
    with pytest.raises(RuntimeError, match=r"1 units are done(.|\n)*ZeroDivisionError"):
        world(fails)
    assert [row["values"] for row in lists(world())] == [[0.2, 1.2], [10.0]]
    assert world.calls == [0.1]


def test_a_run_that_needs_no_more_units_is_complete(world):
    interrupt(world)
    assert [row["values"] for row in world(units=UNITS[:1])] == [["kept"]]
    assert world.calls == []


def test_a_complete_run_starts_again(world):
    world.write()
    world()
    world()
    assert world.calls == [0.1, 0.2] * 2


def test_who_comes_second_waits_and_reads_what_the_first_has_written(
    world, monkeypatch
):
    came, real = threading.Semaphore(0), s._written

    def written(path):
        came.release()
        return real(path)

    def slowly(rate, seeds):
        if not world.calls:
            came.acquire(), came.acquire(), came.acquire()  # the second has asked, too
        world.calls.append(rate)
        return {"values": [rate]}

    world.write()
    monkeypatch.setattr(s, "_written", written)
    with ThreadPoolExecutor(2) as threads:
        first, second = (threads.submit(world, slowly) for _ in range(2))
    assert lists(first.result()) == lists(second.result())
    assert world.calls == [0.1, 0.2]
    assert list(world.path.parent.iterdir()) == [world.path]


def test_nothing_is_stored(world):
    with pytest.raises(FileNotFoundError, match="make results"):
        world()
    world.scale("smoke")
    assert lists(world())[1]["values"] == [0.4, 1.4]
    assert not world.path.exists()
    assert not list(world.path.parents[1].rglob("*.json"))


def test_other_units_than_the_stored_ones(world):
    world.write()
    world()
    world.read()
    with pytest.raises(ValueError, match="holds 2 units, not the 1"):
        world(units=UNITS[:1])
    with pytest.raises(ValueError, match=r"missing: .*0\.3"):
        world(units=[*UNITS, {"rate": 0.3, "seeds": []}])
    with pytest.raises(ValueError, match="occur twice"):
        world(units=UNITS[:1] * 2)


def test_numbers_that_json_lacks_are_refused(world):
    world.write()
    with pytest.raises(RuntimeError, match=r"ValueError(.|\n)*JSON"):
        world(lambda rate, seeds: {"values": float("nan")})
    assert not world.path.exists()


def test_tensors_and_arrays_come_back_as_they_were(world):
    # as few digits in the file as give each number again, and gaps stay gaps
    given = {
        "single": torch.rand(2, 3, requires_grad=True),
        "double": torch.rand(3, dtype=torch.float64),
        "gap": torch.tensor([1e-9, float("nan"), 0.1]),
        "array": np.arange(4).reshape(2, 2),
        "flags": torch.tensor([True, False]),
        "one": torch.tensor(0.1),
        "nested": {"inside": torch.ones(2), "name": "x"},
    }
    for scale in ("laptop", "smoke"):
        world.write() if scale == "laptop" else world.read()
        world.scale(scale)
        (row,) = world(lambda rate, seeds: given, UNITS[:1])
        assert row["single"].dtype == torch.float64
        assert torch.equal(row["single"].float(), given["single"])
        assert torch.equal(row["double"], given["double"])
        assert torch.equal(row["gap"].float().isnan(), given["gap"].isnan())
        assert torch.equal(row["gap"].float()[::2], given["gap"][::2])
        assert torch.equal(row["array"], torch.tensor([[0, 1], [2, 3]]))
        assert torch.equal(row["flags"], given["flags"])
        assert row["one"] == 0.1 and row["nested"]["name"] == "x"
        assert torch.equal(row["nested"]["inside"], torch.ones(2).double())
    lines = world.path.read_text().splitlines()
    assert len(lines) == 4 and "0.1]" in lines[2]  # a line for each row


def test_what_is_no_number_stays_a_list(world):
    world.scale("smoke")
    result = {"names": ["a", "b"], "uneven": [[1], [1, 2]], "mixed": [1, "a"]}
    (row,) = world(lambda rate, seeds: result, UNITS[:1])
    assert {k: row[k] for k in result} == result


def test_rows_are_picked_by_their_settings():
    rows = Rows(
        {"rho": rho, "batch": batch, "dilations": [1, 2], "test": torch.arange(3) * rho}
        for rho in (0.1, 0.2)
        for batch in (32, 64)
    )
    assert rows.pick(rho=0.2, batch=32) is rows[2]
    assert rows.where(batch=64, dilations=[1, 2]) == [rows[1], rows[3]]
    column = rows.where(batch=64).column("test")
    assert torch.equal(column, torch.stack([rows[1]["test"], rows[3]["test"]]))
    assert rows.column("rho").dtype == torch.float64
    with pytest.raises(ValueError, match=r"2 rows have .*expected one"):
        rows.pick(rho=0.1)
    with pytest.raises(ValueError, match=r"0 rows have .*'0.1', '0.2'"):
        rows.pick(rho=0.3)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_json(tmp_path / "deep" / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    with pytest.raises(UnicodeEncodeError):
        write_json(path, {"a": "\ud800"})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_provenance_is_json():
    assert json.loads(json.dumps(provenance())) == provenance()


def test_the_folder_of_the_book():
    assert (book_root() / "_toc.yml").is_file()


# ------------------------------------------------------------------------------ sweep

UNITS_ = [{"i": i, "version": 1} for i in range(6)]

# Units of a worker process must be importable there: they live in a file of their own.
UNIT_CODE = """
import os, signal, time
from pathlib import Path

def square(i, version, folder=None, wait_for=None):
    if folder:
        with open(Path(folder) / f"began-{i}", "a") as file:
            file.write("x")
    while wait_for and i > 1 and not Path(wait_for).exists():
        time.sleep(0.01)
    return {"square": i * i, "third": i / 3}

def picky(i, version):
    if i == 2:
        raise ValueError("two is not for me")
    return square(i, version)

def leaves(i, version):
    if i == 2:
        raise SystemExit(3)
    return square(i, version)

def kills_once(i, version, folder):
    mark = Path(folder) / "killed"
    if i == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
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
    return [{**u, "folder": str(tmp_path / "notes"), **more} for u in UNITS_]


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
    s.sweep(work.square, UNITS_[:2], tmp_path)
    assert len(s.collect(UNITS_, tmp_path).missing) == 4
    done = s.sweep(work.square, UNITS_, tmp_path)
    assert done.computed == 4 and len(done.rows) == 6
    fresh = s.sweep(work.square, [{**u, "version": 2} for u in UNITS_], tmp_path)
    assert fresh.computed == 6


def test_the_same_unit_twice_is_refused(work, tmp_path):
    with pytest.raises(ValueError, match="1 of 7 units occur twice"):
        s.sweep(work.square, [*UNITS_, UNITS_[0]], tmp_path)


@pytest.mark.parametrize("function", ["picky", "leaves"])
def test_a_failing_unit_is_reported_and_the_others_go_on(work, tmp_path, function):
    done = s.sweep(getattr(work, function), UNITS_, tmp_path)
    assert [row["i"] for row in done.rows] == [0, 1, 3, 4, 5]
    assert not done.complete and not done.missing
    ((unit, error),) = done.failed.values()
    assert unit == UNITS_[2] and 'File "' in error
    assert '"i": 2' in done.report()
    # it stays failed until asked again
    assert s.sweep(work.square, UNITS_, tmp_path).failed == done.failed
    mended = s.sweep(work.square, UNITS_, tmp_path, retry=True)
    assert mended.complete and mended.computed == 1


def test_a_result_that_json_cannot_hold_is_a_failure(tmp_path):
    done = s.sweep(lambda i, version: {"x": float("nan")}, UNITS_[:1], tmp_path)
    ((_, error),) = done.failed.values()
    assert "JSON compliant" in error


def test_a_backend_that_cannot_start_says_so(tmp_path):
    lock = threading.Lock()  # no process can be sent this

    def unsendable(i, version):
        return {"locked": lock.locked()}

    with pytest.raises(Exception, match="pickle"):
        s.sweep(unsendable, UNITS_, tmp_path, jobs=2)


def test_a_unit_in_other_hands_is_left_alone(work, tmp_path):
    first = FileLock(tmp_path / f"{s.key(UNITS_[0])}.lock")
    with first:
        done = s.sweep(work.square, UNITS_, tmp_path)
    assert done.missing == UNITS_[:1] and len(done.rows) == 5
    assert "1 have no row yet" in done.report()
    assert s.sweep(work.square, UNITS_, tmp_path).complete


def test_a_unit_that_killed_three_workers_is_given_up(work, tmp_path):
    # or Dask would give it up, and joblib wait for ever
    for kills, failed in ((2, []), (3, UNITS_[:1])):
        store = tmp_path / str(kills)
        store.mkdir()
        path = store / f"{s.key(UNITS_[0])}.json"
        path.with_suffix(".begun").write_text("this run\n" * kills + "another\n" * 9)
        s._compute(work.square, UNITS_[0], path, "this run")
        found = s.collect(UNITS_[:1], store)
        assert [unit for unit, _ in found.failed.values()] == failed
        assert leftovers(store) == []


RUNNER = """
import sys, json
from pathlib import Path
import sweep_units
from flatlab.course.store import sweep
units = json.loads(Path(sys.argv[2]).read_text())
sweep(sweep_units.square, units, sys.argv[1], jobs=int(sys.argv[3]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_worker_that_dies_ends_the_call_and_the_next_one_goes_on(work, tmp_path):
    units = with_folder(tmp_path)
    with pytest.raises(Exception, match=r"terminated|killed"):
        s.sweep(work.kills_once, units, tmp_path / "store", jobs=2)
    done = s.sweep(work.kills_once, units, tmp_path / "store", jobs=2)
    assert done.complete
    assert done.rows == s.sweep(work.square, units, tmp_path / "reference").rows


def killed_run(work, tmp_path, units, jobs):
    """Start a sweep in a process group of its own and kill that after some rows."""
    (tmp_path / "units.json").write_text(json.dumps(units))
    store = tmp_path / "store"
    store.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, store, tmp_path / "units.json", str(jobs)],
        start_new_session=True,
    )
    while not list(store.glob("*.json")) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return store


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("jobs", [1, 2])
def test_after_sigkill_the_rows_are_those_of_an_uninterrupted_run(work, tmp_path, jobs):
    go = tmp_path / "go"
    units = with_folder(tmp_path, wait_for=str(go))  # the first two do not
    store = killed_run(work, tmp_path, units, jobs)
    go.touch()
    kept = {p: p.stat().st_mtime_ns for p in store.glob("*.json")}
    assert 0 < len(kept) < len(units)
    done = s.sweep(work.square, units, store, jobs=jobs)
    assert done.complete and done.computed == len(units) - len(kept)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept  # not redone
    assert max(begun(tmp_path)) <= 2 and sum(begun(tmp_path)) <= len(units) + jobs
    assert done.rows == s.sweep(work.square, units, tmp_path / "reference").rows
    assert all(name.endswith(".part") for name in leftovers(store))


@pytest.mark.slow
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
            outcome["once"] = s.sweep(work.kills_once, units, tmp_path / "store")

    # a wall limit: a cluster that never answers must fail the test, not stop it
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(1800)
    assert not thread.is_alive(), "the cluster did not finish within half an hour"
    assert (tmp_path / "notes" / "killed").exists()
    done = outcome["once"]
    assert done.complete and done.computed == 6
    assert done.rows == s.sweep(work.square, units, tmp_path / "reference").rows
