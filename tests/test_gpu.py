"""``make gpu``: what it says, how it goes on; and the API on a card, if any."""

import sys

import pytest
import torch

from benchmarks import gpu
from tests.test_devices import calls, convolutional, dense, here, parts


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", [dense, convolutional])
def test_the_card_gives_what_the_cpu_gives(make):
    for name, call in calls(make, torch.device("cuda")):
        for a, b in zip(parts(call()), here(make)[name], strict=True):
            close = {"rtol": 0.05, "atol": 1e-3, "equal_nan": True}
            torch.testing.assert_close(a.to(b), b, **close)


def test_a_dry_run_says_what_will_be_done_and_how_long(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "--dry-run"])
    assert gpu.main() == 0
    shown = capsys.readouterr().out
    for step in gpu.steps():
        assert f"{step.name} " in shown
    assert sum(step.minutes for step in gpu.steps()) <= 25
    assert shown.index("study ") < shown.index("verdict ")


def test_a_run_goes_on_where_it_was_stopped(tmp_path, capsys):
    def step(name, code):
        return gpu.Step(name, "", 0, (sys.executable, "-c", code))

    mark = tmp_path / "mark"
    once = f"open({str(mark)!r}, 'x')"  # fails the second time
    path = tmp_path / "steps.json"
    todo = [step("first", once), step("second", "1 / 0"), step("third", "0")]
    assert gpu.run(1, path, todo) == 1  # the second failed, the third was done
    assert set(gpu.finished(path)) == {"first", "third"}
    todo[1] = step("second", "0")
    assert gpu.run(1, path, todo) == 0
    assert set(gpu.finished(path)) == {"first", "second", "third"}
    assert gpu.run(0, tmp_path / "other.json", todo) == 1
    assert "call it again" in capsys.readouterr().out
    slow = [step("slow", "import time; time.sleep(60)")]
    assert gpu.run(0.02, path, slow) == 1 and "slow" not in gpu.finished(path)


def test_the_members_table_has_every_way():
    speeds = gpu.members(torch.device("cpu"), sizes=(2,), n=200, epochs=1)
    assert len(speeds) == 4 and all(speed > 0 for speed in speeds.values())
