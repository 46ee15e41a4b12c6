import sys

import pytest

from flatlab.progress import progress, wanted


@pytest.mark.parametrize("said", ["0", "1"])
def test_loops_run_whole_with_and_without_a_bar(monkeypatch, capsys, said):
    monkeypatch.setenv("FLATLAB_PROGRESS", said)
    assert list(progress([3, 1, 2], "loop")) == [3, 1, 2]
    with progress(4, "count") as bar:
        for _ in range(4):
            bar.update()
    shown = capsys.readouterr().err
    assert ("loop" in shown and "count" in shown) == (said == "1")
    assert (shown == "") == (said == "0")


def test_tqdm_is_not_required(monkeypatch):
    monkeypatch.setenv("FLATLAB_PROGRESS", "1")
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert list(progress(range(2), "loop")) == [0, 1]


def test_progress_is_wanted_in_a_terminal_or_a_notebook(monkeypatch):
    monkeypatch.delenv("FLATLAB_PROGRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    for tty in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda t=tty: t, raising=False)
        assert wanted() == tty
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert wanted()
