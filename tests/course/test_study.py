"""The study's grid, its numbers from first principles, its files, its stored rows."""

import csv
import dataclasses
import hashlib
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.preprocessing import OneHotEncoder

from flatlab import Loss, Network, data, models
from flatlab.course import study
from flatlab.sharpness import relative_flatness

RESULTS = Path(__file__).parents[2] / "results"
TINY = {
    "source": "mnist1d",
    "n": 40,
    "corruption": 0.0,
    "draw": 0,
    "width": 6,
    "batch_size": 16,
    "optimizer": "asam 0.5",
    "rate": [0.1],
    "weight_decay": [0.0, 0.01],
    "repeats": 1,
    "seed": 0,
    "epochs": 2,
    "stop_loss": 0.1,
}


def members(unit):
    return unit["repeats"] * math.prod(len(unit[name]) for name in study.TOGETHER)


@pytest.mark.parametrize(("at", "fewest"), [("laptop", 2000), ("gpu", 10_000)])
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


def test_training_sets_are_draws_and_share_nothing():
    for source, sizes in study.SIZES.items():
        seen = []
        for n in sizes:
            for draw in range(4):
                found = study.training_set(source, n, 0.0, draw)
                assert len(found.train) == n
                assert len(found.test) == study.TESTED[source]
                seen += [x.numpy().tobytes() for x in found.train.x]
                noisy = study.training_set(source, n, 0.1, draw)
                assert torch.equal(noisy.train.x, found.train.x)
                assert noisy.train.corrupted.float().mean() < 0.11
                assert noisy.train.corrupted.any()
        assert len(set(seen)) == len(seen)


def test_short_units_are_single_networks_of_the_grid():
    grid = study.units("laptop")
    for short, unit in zip(study.short_units(), grid, strict=False):
        assert members(short) == 1 and short["epochs"] == 2
        for name, value in short.items():
            if name in study.TOGETHER:
                assert value[0] in unit[name]
            elif name not in ("epochs", "repeats"):
                assert value == unit[name]


@pytest.fixture(scope="module")
def tiny():
    return study.networks(**TINY)["networks"]


def test_a_row_holds_every_setting_measure_and_outcome(tiny):
    assert [row["weight_decay"] for row in tiny] == pytest.approx([0.0, 0.01])
    for row in tiny:
        assert set(row) == set(study.COLUMNS)
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
    unit = {**TINY, "rate": [0.1, 1e30], "weight_decay": [0.0], "optimizer": "sgd"}
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
        spectral = math.prod(np.linalg.svd(m)[1][0] for m in matrices)
        over = spectral / found["margin"][i]
        if found["margin"][i] > 0:
            assert found["spectral_over_margin"][i] == pytest.approx(over)
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


def test_margin_slope_and_layers(measured):
    net, digits, w, _, found = measured
    x = digits.train.x
    logits = net(w, x).numpy()
    y = digits.train.y.numpy()
    for i, z in enumerate(logits):
        lead = [z[j, c] - np.delete(z[j], c).max() for j, c in enumerate(y)]
        assert found["margin"][i] == pytest.approx(np.quantile(lead, 0.1))
        module = net.module(w[i])
        jacobians = [torch.func.jacrev(module)(one[None])[0] for one in x]
        slope = np.mean([j.square().sum().item() for j in jacobians])
        assert found["input"][i] == pytest.approx(slope)
        names = [n for n, m in module.named_modules() if hasattr(m, "in_features")]
        loss = Loss(net, digits.train)
        each = [relative_flatness(loss, w[i], layer=n).item() for n in names]
        assert len(each) == 3
        assert found["relative_all"][i] == pytest.approx(sum(each))
        assert found["relative_flatness"][i] == pytest.approx(each[-1])


def test_the_soft_rank_is_that_of_the_dense_hessian(measured):
    net, digits, w, _, _ = measured
    found = study._soft_rank(net, digits, w)
    x, y = digits.train.x, digits.train.y
    cross_entropy = torch.nn.functional.cross_entropy
    for i, row in enumerate(w):
        dense = torch.func.hessian(lambda v: cross_entropy(net(v, x), y))(row)
        values = torch.linalg.eigvalsh(dense).clamp(min=0)
        truth = (values / (values + study.RIDGE)).sum().item()
        assert found["soft_rank"][i] == pytest.approx(truth, rel=0.15)


def test_outcomes(measured):
    net, digits, w, _, _ = measured
    found = study.judge(net, digits, w)
    x, y = digits.test.x, digits.test.y
    wrong = (net(w, x).argmax(-1) != y).double().mean(-1)
    torch.testing.assert_close(found["test_error"], wrong)
    gap = Loss(net, digits.test)(w) - Loss(net, digits.train)(w)
    torch.testing.assert_close(found["loss_gap"], gap)
    ramp = torch.linspace(-2, 2, 40, dtype=x.dtype)
    shifted = x.clone()
    shifted[0::2] += ramp
    shifted[1::2] -= ramp
    wrong = (net(w, shifted).argmax(-1) != y).double().mean(-1)
    torch.testing.assert_close(found["shift_error"], wrong)
    clean = (net(w, x[:300]).argmax(-1) != y[:300]).double().mean(-1)
    assert (found["adversarial_error"] > clean).all()


# -------------------------------------------------------------------------- the files


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
    assert len(found["n"]) == about["networks"] >= 2000
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


# ------------------------------------------------- the chapter's figures, another way


def test_the_headlines_of_the_chapter_by_scipy_and_scikit_learn():
    """From the stored text alone: no function of the study or of ranks is called."""
    with open(RESULTS / "laptop" / "study.csv", newline="") as file:
        table = [r for r in csv.DictReader(file) if r["fitted"] == "1"]
    table = [r for r in table if all(r[m] for m in study.MEASURES)]
    error = 100 * np.array([float(r["test_error"]) for r in table])
    shift = np.array([float(r["shift_error"]) for r in table])
    names = [" ".join(str(float(r[a])) if a != "source" else r[a] for a in study.SET)
             for r in table]  # fmt: skip
    sets = np.array(names)
    claims = json.loads((RESULTS / "laptop" / "verdict.json").read_text())["claims"]

    def stored(claim):
        return {m["label"]: np.array(m["values"]) for m in claims[claim]["measured"]}

    away, leads = (
        stored(c)
        for c in (
            "adaptive-sharpness-out-of-distribution",
            "flattest-may-not-generalize",
        )
    )
    best = -1.0
    for m, about in study.MEASURES.items():
        if about.family not in study.FLATNESS:
            continue
        x = np.array([float(r[m]) for r in table])
        inside = [sets == s for s in sorted(set(sets))]
        taus = [stats.kendalltau(x[s], error[s]).statistic for s in inside]
        best = max(best, np.mean(taus))
        if about.family == "adaptive flatness":
            away_taus = [stats.kendalltau(x[s], shift[s]).statistic for s in inside]
            label = about.label
            assert away[f"{label}, test error"] == pytest.approx(taus, abs=1e-4)
            assert away[f"{label}, under shift"] == pytest.approx(away_taus, abs=1e-4)
        lead = []
        for s in inside:
            flat = x[s] <= np.quantile(x[s], 0.1)
            gained = error[s][~flat].mean() - error[s][flat].mean()
            lead.append(gained / error[s].std())
        assert leads[about.label] == pytest.approx(lead, abs=1e-4)
    assert stored("P45")["best τ"][0] == pytest.approx(best, abs=1e-4)

    # the ceiling: ridge regression on the other draws of the same kind
    kind = np.array([s.rpartition(" ")[0] for s in sets])
    z = np.zeros(len(error))
    for s in set(sets):
        own = error[sets == s]
        z[sets == s] = (own - own.mean()) / own.std()
    one = [[r[a] for a in study.SETTINGS] for r in table]
    two = [[f"{a} {b}" for a, b in itertools.combinations(row, 2)] for row in one]
    both = np.concatenate([one, two], 1)
    design = OneHotEncoder(sparse_output=False).fit_transform(both)
    ceiling = []
    for s in sorted(set(sets)):
        here = sets == s
        others = (kind == kind[here][0]) & ~here
        fit = Ridge(alpha=1, fit_intercept=False).fit(design[others], z[others])
        guess = np.round(fit.predict(design[here]), 9)  # equal settings, equal guesses
        ceiling.append(stats.kendalltau(guess, error[here]).statistic)
    expected = stored("P45")["noise ceiling, τ"][0]
    assert expected == pytest.approx(np.mean(ceiling), abs=2e-3)
