"""The study's grid, its numbers from first principles, its files, its stored rows."""

import dataclasses
import hashlib
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from flatlab import Loss, Network, data, models
from flatlab.course import study

RESULTS = Path(__file__).parents[2] / "results"
TINY = {
    "n": 40,
    "corruption": 0.0,
    "width": 6,
    "depth": 2,
    "dropout": 0.1,
    "batch_size": 16,
    "optimizer": "asam 0.5",
    "rate": [0.1],
    "momentum": [0.0, 0.5],
    "weight_decay": [0.0],
    "seed": 0,
    "epochs": 2,
    "stop_loss": 0.1,
}


def members(unit):
    return math.prod(len(unit[name]) for name in study.TOGETHER)


@pytest.mark.parametrize(("at", "fewest"), [("laptop", 1000), ("gpu", 10_000)])
def test_the_grid_is_large_and_varies_every_setting(at, fewest):
    units = study.units(at)
    assert sum(members(unit) for unit in units) >= fewest
    assert len({json.dumps(unit, sort_keys=True) for unit in units}) == len(units)
    for axis in study.AXES:
        if axis in study.TOGETHER:
            assert len(units[0][axis]) >= 2
        elif axis != "seed":
            assert len({unit[axis] for unit in units}) >= 2
    # seeds of members are 100 seed + 0, 1, ...: no two networks share one
    assert len({unit["seed"] for unit in units}) == len(units)
    assert all(members(unit) <= 100 for unit in units)
    assert study.units(at) == units


def test_short_units_are_single_networks_of_the_grid():
    grid = study.units("laptop")
    for short, unit in zip(study.short_units(), grid, strict=False):
        assert members(short) == 1 and short["epochs"] == 2
        for name, value in short.items():
            if name in study.TOGETHER:
                assert value[0] in unit[name]
            elif name != "epochs":
                assert value == unit[name]


@pytest.fixture(scope="module")
def tiny():
    return study.networks(**TINY)["networks"]


def test_a_row_holds_every_setting_measure_and_outcome(tiny):
    assert [row["momentum"] for row in tiny] == [0.0, 0.5]
    for row in tiny:
        names = {*study.AXES, "fitted", "epochs", *study.MEASURES}
        assert set(row) == names | set(study.MEASURED_OUTCOMES)
        assert row["epochs"] == 2 and row["steps"] == 6 and not row["fitted"]
        assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_rows_do_not_depend_on_threads_or_on_what_ran_before(tiny):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.manual_seed(5)
        assert study.networks(**TINY)["networks"] == tiny
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_member_that_diverges_leaves_the_others_alone():
    unit = {**TINY, "rate": [0.1, 1e30], "momentum": [0.0], "optimizer": "sgd"}
    good, bad = study.networks(**unit)["networks"]
    assert good["test_error"] is not None and good["trace"] is not None
    assert not bad["fitted"] and "test_error" not in bad
    columns = study.table([good, bad])
    assert np.isnan(columns["trace"]).tolist() == [False, True]


@pytest.mark.parametrize("optimizer", ["adam", "sam", "box 0.1"])
def test_unknown_optimizers_are_refused(optimizer):
    with pytest.raises(ValueError, match=f"optimizer is '{optimizer}'"):
        study.networks(**{**TINY, "optimizer": optimizer})


# ------------------------------------------------------------ numbers by another way


@pytest.fixture(scope="module")
def measured():
    digits = data.mnist1d(seed=0).subset(30)
    net = Network(models.mlp(40, 4, 3, 10))
    start = net.init(range(2), dtype=torch.float64)
    w = start + 0.3 * torch.randn(
        start.shape, generator=torch.Generator().manual_seed(0), dtype=start.dtype
    )
    digits = digits.to(dtype=torch.float64)
    # labels as the first network gives them: it has an accuracy to lose
    x = digits.train.x
    train = data.Examples(x, net(w[0], x).argmax(-1))
    digits = dataclasses.replace(digits, train=train)
    return net, digits, w, start, study.measure(net, digits, w, start)


def test_norms_of_the_layers(measured):
    net, _, w, start, found = measured
    for i, row in enumerate(w):
        layers = [m for m in net.module(row) if isinstance(m, torch.nn.Linear)]
        matrices = [m.weight.detach().numpy() for m in layers]
        biases = [m.bias.detach().numpy() for m in layers]
        assert found["norm"][i] == pytest.approx(np.sqrt((row.numpy() ** 2).sum()))
        moved = (row - start[i]).numpy()
        assert found["distance"][i] == pytest.approx(np.sqrt((moved**2).sum()))
        frobenius = math.prod(np.sqrt((m**2).sum()) for m in matrices)
        assert found["frobenius_product"][i] == pytest.approx(frobenius)
        spectral = math.prod(np.linalg.svd(m)[1][0] for m in matrices)
        assert found["spectral_product"][i] == pytest.approx(spectral)
        # every path from an input or a bias to an output, one product each
        a, b, c = matrices
        total = sum(
            (a[j, i_] * b[l, j] * c[o, l]) ** 2
            for i_, j, l, o in itertools.product(
                range(40), range(4), range(3), range(10)
            )
        )
        total += np.einsum("j,lj,ol->", biases[0] ** 2, b**2, c**2)
        total += np.einsum("l,ol->", biases[1] ** 2, c**2) + (biases[2] ** 2).sum()
        assert found["path_norm"][i] == pytest.approx(math.sqrt(total))


def test_margin_and_bound(measured):
    net, digits, w, start, found = measured
    logits = net(w, digits.train.x).numpy()
    y = digits.train.y.numpy()
    for i, z in enumerate(logits):
        lead = [z[j, c] - np.delete(z[j], c).max() for j, c in enumerate(y)]
        assert found["margin"][i] == pytest.approx(np.quantile(lead, 0.1))
        error = np.mean(z.argmax(1) != y)
        if found["pac_bayes"][i] == 0:  # no noise makes it err more than it does
            assert i == 1 and found["kl_start"][i].isnan()
            continue
        sigma = found["pac_bayes"][i].item() ** -0.5
        kl = ((w[i] - start[i]).numpy() ** 2).sum() / (2 * sigma**2)
        assert found["kl_start"][i] == pytest.approx(kl)
        spread = math.sqrt((kl + math.log(2 * math.sqrt(30) / 0.05)) / 60)
        # the noise lets the error rise by a tenth at most, in steps of 1 / (16 n)
        assert error + spread <= found["bound"][i] <= error + 0.1 + spread + 1e-9
        origin = (w[i].numpy() ** 2).sum() / (2 * sigma**2)
        assert found["kl_origin"][i] == pytest.approx(origin)


def test_outcomes(measured):
    net, digits, w, _, _ = measured
    found = study.judge(net, digits, w)
    x, y = digits.test.x, digits.test.y
    wrong = (net(w, x).argmax(-1) != y).double().mean(-1)
    fit = (net(w, digits.train.x).argmax(-1) != digits.train.y).double().mean(-1)
    torch.testing.assert_close(found["test_error"], wrong)
    torch.testing.assert_close(found["accuracy_gap"], wrong - fit)
    gap = Loss(net, digits.test)(w) - Loss(net, digits.train)(w)
    torch.testing.assert_close(found["loss_gap"], gap)
    ramp = torch.linspace(-2, 2, 40, dtype=x.dtype)
    shifted = x.clone()
    shifted[0::2] += ramp
    shifted[1::2] -= ramp
    wrong = (net(w, shifted).argmax(-1) != y).double().mean(-1)
    torch.testing.assert_close(found["shift_error"], wrong)
    clean = (net(w, x[:500]).argmax(-1) != y[:500]).double().mean(-1)
    assert (found["adversarial_error"] > clean).all()


# -------------------------------------------------------------------------- the files


def test_the_cost_of_label_noise_compares_two_rows(tiny):
    clean = {**tiny[0], "fitted": True, "test_error": 0.3}
    noisy = {**clean, "corruption": 0.1, "test_error": 0.45, "seed": 5}
    alone = {**clean, "rate": 0.7}
    unfitted = {**noisy, "rate": 0.7, "fitted": False}
    cost = study.table([clean, noisy, alone, unfitted])["noise_cost"]
    assert cost[0] == pytest.approx(0.15) and np.isnan(cost[1:]).all()


def test_one_command_runs_writes_and_goes_on(monkeypatch, tmp_path, capsys):
    unit = {**TINY, "version": 1}
    monkeypatch.setenv("FLATLAB_SCALE", "smoke")
    monkeypatch.setattr(study, "units", lambda at: [unit, {**unit, "seed": 1}])
    monkeypatch.setattr(study, "short_units", lambda: [unit])
    monkeypatch.setattr(study, "book_root", lambda: tmp_path)
    assert study.main(["--collect"]) == 1  # nothing is there
    assert "at the scale smoke, which FLATLAB_SCALE chooses" in capsys.readouterr().out
    assert study.main([]) == 0
    assert "2 units are done, 2 of them since this began" in capsys.readouterr().out
    assert study.main([]) == 0
    assert "2 units are done, 0 of them since this began" in capsys.readouterr().out
    assert study.main(["--collect"]) == 0

    folder = tmp_path / "_build" / "results" / "smoke"
    found = study.read(path=folder / "study.csv")
    rows = [r for u in (unit, {**unit, "seed": 1}) for r in networks_of(u)]
    expected = study.table(rows)
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    about = json.loads((folder / "study.json").read_text())
    assert about["networks"] == 4 and about["fitted"] == 0 and about["threads"] == 1
    assert about["short"] == networks_of(unit)
    assert not (tmp_path / "results").exists()  # the smallest scale only tries the code


def networks_of(unit):
    return study.networks(**unit)["networks"]


def test_a_failed_unit_is_told_and_the_command_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("FLATLAB_SCALE", "smoke")
    units = [TINY, {**TINY, "optimizer": "adam"}]
    monkeypatch.setattr(study, "units", lambda at: units)
    monkeypatch.setattr(study, "short_units", lambda: [TINY])
    monkeypatch.setattr(study, "book_root", lambda: tmp_path)
    assert study.main([]) == 1
    out = capsys.readouterr().out
    assert "ValueError: optimizer is 'adam'" in out and "1 units are done" in out
    about = json.loads(
        (tmp_path / "_build" / "results" / "smoke" / "study.json").read_text()
    )
    assert about["networks"] == 2 and len(about["failed"]) == 1


# ------------------------------------------------------------------ the stored study


def test_the_stored_study_is_whole():
    about = study.about("laptop")
    path = RESULTS / "laptop" / "study.csv"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == about["sha256"]
    found = study.read("laptop")
    assert len(found["n"]) == about["networks"] >= 1000
    assert found["fitted"].sum() == about["fitted"]
    assert about["units"] == len(study.units("laptop")) and about["failed"] == []
    assert about["version"] == study.VERSION


def test_five_stored_rows_are_found_again():
    about = study.about("laptop")
    assert len(about["short"]) == 5
    for unit, kept in zip(study.short_units(), about["short"], strict=True):
        (row,) = networks_of(unit)
        assert row.keys() == kept.keys()
        for name, value in kept.items():
            if isinstance(value, float):
                # other processors round otherwise; shares are of 500 examples or more
                assert row[name] == pytest.approx(value, rel=0.02, abs=0.004), name
            else:
                assert row[name] == value, name
