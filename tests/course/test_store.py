import json

import pytest

from flatlab.course.store import book_root, provenance, stored, write_json

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
    first = world()
    assert first == [
        {"rate": 0.1, "seeds": [0, 1], "values": [0.2, 1.2]},
        {"rate": 0.2, "seeds": [0, 1], "values": [0.4, 1.4]},
    ]
    world.read()
    assert world() == first
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
    assert [row["values"] for row in world()] == [["kept"], [0.4, 1.4]]
    assert world.calls == [0.2]


def test_an_interrupted_run_leaves_what_was_stored(world):
    world.write()
    first = world()
    interrupt(world)
    world.read()
    assert world() == first


def test_a_unit_that_fails_does_not_cost_the_others(world):
    def fails(rate, seeds):
        return {"values": [1 / (rate - 0.1)]}

    world.write()
    with pytest.raises(RuntimeError, match=r"1 units are done(.|\n)*ZeroDivisionError"):
        world(fails)
    assert [row["values"] for row in world()] == [[0.2, 1.2], [10.0]]
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


def test_nothing_is_stored(world):
    with pytest.raises(FileNotFoundError, match="make results"):
        world()
    world.scale("smoke")
    assert world()[1]["values"] == [0.4, 1.4]
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
    with pytest.raises(ValueError, match="equal"):
        world(units=UNITS[:1] * 2)


def test_numbers_that_json_lacks_are_refused(world):
    world.write()
    with pytest.raises(RuntimeError, match=r"ValueError(.|\n)*JSON"):
        world(lambda rate, seeds: {"values": float("nan")})
    assert not world.path.exists()


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
