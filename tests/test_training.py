"""Training: every member is what plain PyTorch gives alone; nothing is lost."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flatlab import models
from flatlab.data import Dataset, Examples, corrupt_labels
from flatlab.loss import Loss
from flatlab.neighbourhoods import Neighbourhood, ball
from flatlab.network import Network
from flatlab.training import ORDER, generator, train


def toy(n=60, shape=(6,), classes=3, corrupt=False, seed=0):
    """A learnable task: the label is the largest of the first inputs."""
    g = torch.Generator().manual_seed(seed)

    def draw(count):
        x = torch.randn(count, *shape, generator=g)
        return x, x.flatten(1)[:, :classes].argmax(1)

    x, y = draw(n)
    given = y.clone()
    if corrupt:
        given[: n // 3] = (given[: n // 3] + 1) % classes
    parts = [Examples(*(p := draw(30)), p[1]) for _ in range(2)]
    return Dataset(Examples(x, given, y), *parts, classes=classes, name="toy")


def by_hand(net, data, seed, epochs, batch_size, make, schedule=None):
    """The same training as a plain loop over one module."""
    module = net.module(net.init(seed, dtype=torch.float64))
    optimizer = make(module.parameters())
    scheduler = schedule(optimizer) if schedule else None
    x, y = data.train.x.double(), data.train.y
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=generator(seed, ORDER, epoch))
        for batch in order.split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
            if scheduler:
                scheduler.step()
    return Network(module).weights()


SETTINGS = {
    "sgd": (dict(lr=0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (
        dict(lr=0.05, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.01),
    ),
    "adam": (
        dict(lr=0.01, optimizer="adam", weight_decay=0.01),
        lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.01),
    ),
}
NETS = {
    "mlp": (lambda: models.mlp(6, 8, 3), (6,)),
    "cnn": (lambda: models.cnn((1, 6), 3, channels=(3, 4), hidden=5), (1, 6)),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", NETS)
def test_member_is_what_a_plain_loop_gives(setting, name):
    options, make = SETTINGS[setting]
    module, shape = NETS[name]
    net, data = Network(module()), toy(shape=shape)
    run = train(
        net, data, seeds=[4, 7], epochs=5, batch_size=16, dtype=torch.float64, **options
    )
    for i, seed in enumerate([4, 7]):
        expected = by_hand(net, data, seed, 5, 16, make)
        torch.testing.assert_close(run.w[i], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_member_of_an_ensemble_is_the_same_seed_alone(optimizer, name):
    module, shape = {
        "mlp": (lambda: models.mlp(6, 8, 3, dropout=0.3), (6,)),
        "cnn": (lambda: models.cnn((1, 6), 3, hidden=5, dropout=0.3), (1, 6)),
    }[name]
    net, data = Network(module()), toy(shape=shape, n=50)
    options = dict(
        epochs=10, batch_size=16, optimizer=optimizer, input_noise=0.1,
        weight_decay=0.01, schedule="cosine", dtype=torch.float64,
    )  # fmt: skip
    if optimizer == "sgd":
        options["momentum"] = 0.9
    lr = torch.tensor([0.02, 0.01, 0.03])
    together = train(net, data, seeds=[1, 2, 3], lr=lr, **options)
    for i in range(3):
        alone = train(net, data, seeds=[i + 1], lr=lr[i].item(), **options)
        torch.testing.assert_close(together.w[i], alone.w[0], rtol=0, atol=1e-9)


def test_the_cosine_is_that_of_torch():
    net, data = Network(models.mlp(6, 8, 3)), toy()
    run = train(
        net, data, seeds=3, epochs=5, batch_size=15, lr=0.1, dtype=torch.float64,
        schedule="cosine",
    )  # fmt: skip
    expected = by_hand(
        net, data, 3, 5, 15, lambda p: torch.optim.SGD(p, 0.1),
        schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=4 * 5),
    )  # fmt: skip
    torch.testing.assert_close(run.w[0], expected, rtol=0, atol=1e-9)


def test_sam_in_a_part_of_the_run():
    """With whole batches a run is its parts, one after the other."""
    net, data, around = Network(models.mlp(6, 8, 3)), toy(), ball(0.3)
    fixed = dict(seeds=3, batch_size=60, lr=0.1, dtype=torch.float64)
    plain = train(net, data, epochs=2, **fixed).w
    late = train(net, data, epochs=4, neighbourhood=around, when=(0.5, 1), **fixed)
    after = train(net, data, epochs=2, neighbourhood=around, start=plain, **fixed)
    torch.testing.assert_close(late.w, after.w, rtol=0, atol=1e-12)
    early = train(net, data, epochs=4, neighbourhood=around, when=(0, 0.5), **fixed)
    assert (early.w - late.w).abs().max() > 1e-6
    with pytest.raises(ValueError, match="two shares of the run"):
        train(net, data, epochs=4, neighbourhood=around, when=(1, 0.5), **fixed)


class Uphill(Neighbourhood):
    """A set of the user's, around other points: the step is ρ times the gradient."""

    def at(self, w, layout=None):
        around = super().at(w, layout)
        return SimpleNamespace(steepest=lambda gradient: around.radius * gradient)


def test_a_set_of_ones_own_says_where_the_second_gradient_is_taken():
    """And each member has its own radius."""
    data, net = toy(), Network(models.mlp(6, 5, 3))
    radii = torch.tensor([0.5, 1.0])
    loss, w = Loss(net, data.train), net.init([0, 1], dtype=torch.float64)
    how = {"epochs": 3, "batch_size": 60, "lr": 0.1, "start": w, "seeds": [0, 1]}
    run = train(net, data, neighbourhood=Uphill(radii, ball(1.0).scale), **how)
    for _ in range(3):
        w = w - 0.1 * loss.gradient(w + radii[:, None] * loss.gradient(w))
    torch.testing.assert_close(run.w, w)


def test_settings_with_further_axes_broadcast_against_the_seeds():
    net, data = Network(models.mlp(6, 8, 3, dropout=0.2)), toy(corrupt=True)
    rates = torch.tensor([0.1, 0.03, 0.01], dtype=torch.float64)
    decays = torch.tensor([0.0, 0.1], dtype=torch.float64)
    fixed = dict(
        epochs=4, batch_size=16, momentum=0.9, dtype=torch.float64, snapshots=[2]
    )
    run = train(
        net, data, seeds=[4, 9], lr=rates[:, None], weight_decay=decays[:, None, None],
        neighbourhood=ball(torch.tensor([0.1, 0.2])), **fixed,
    )  # fmt: skip
    assert run.w.shape == (2, 3, 2, net.k)
    assert run.snapshots.shape == (1, 2, 3, 2, net.k)
    assert run.stopped.shape == run.fitted.shape == run.diverged.shape == (2, 3, 2)
    assert run.seeds == (4, 9)
    for d, decay in enumerate(decays.tolist()):
        for i, lr in enumerate(rates.tolist()):
            for j, (seed, rho) in enumerate([(4, 0.1), (9, 0.2)]):
                alone = train(
                    net, data, seeds=seed, lr=lr, weight_decay=decay,
                    neighbourhood=ball(rho), **fixed,
                )  # fmt: skip
                at = d, i, j
                torch.testing.assert_close(run.w[at], alone.w[0], rtol=0, atol=1e-8)
                for name, values in run.history.items():
                    assert values.shape == (5, 2, 3, 2) and values.device.type == "cpu"
                    torch.testing.assert_close(
                        values[(slice(None), *at)], alone.history[name][:, 0]
                    )


def test_labels_with_further_axes_broadcast_against_the_seeds():
    net, data = Network(models.mlp(6, 8, 3)), toy()
    fractions = torch.tensor([0.0, 0.5])
    noisy = corrupt_labels(data, fractions[:, None], seed=[0, 1, 2])
    assert noisy.train.y.shape == (2, 3, 60)
    fixed = dict(lr=0.1, epochs=3, batch_size=16, dtype=torch.float64)
    run = train(net, noisy, seeds=[0, 1, 2], **fixed)
    assert run.w.shape == (2, 3, net.k)
    for i, fraction in enumerate(fractions.tolist()):
        for seed in range(3):
            single = corrupt_labels(data, fraction, seed=seed)
            alone = train(net, single, seeds=seed, **fixed)
            torch.testing.assert_close(run.w[i, seed], alone.w[0], rtol=0, atol=1e-9)


def test_a_start_is_shared_by_the_axes_it_lacks():
    net, data = Network(models.mlp(6, 8, 3)), toy()
    fixed = dict(epochs=2, batch_size=16, dtype=torch.float64)
    start = net.init([7, 8], dtype=torch.float64)
    run = train(
        net, data, seeds=[0, 1], lr=torch.tensor([[0.1], [0.2]]), start=start,
        snapshots=[0], **fixed,
    )  # fmt: skip
    assert torch.equal(run.snapshots[0], start.expand(2, 2, -1))


def test_without_records_there_are_the_two_ends():
    net, data = Network(models.mlp(6, 8, 3)), toy()
    run = train(net, data, seeds=[0], epochs=3, batch_size=16, lr=0.1, record=None)
    assert run.epochs.tolist() == [0, 3]
    assert run.history["test_loss"].shape == (2, 1)


def test_every_hyperparameter_may_differ_between_members():
    net, data = Network(models.mlp(6, 8, 3)), toy()
    own = dict(
        lr=torch.tensor([0.1, 0.02]),
        momentum=torch.tensor([0.0, 0.9]),
        weight_decay=torch.tensor([0.1, 0.0]),
        input_noise=torch.tensor([0.0, 0.5]),
    )
    fixed = dict(epochs=4, batch_size=16, dtype=torch.float64)
    run = train(net, data, seeds=[5, 6], **own, **fixed)
    for i in range(2):
        values = {name: v[i].item() for name, v in own.items()}
        alone = train(net, data, seeds=[5 + i], **values, **fixed)
        torch.testing.assert_close(run.w[i], alone.w[0], rtol=0, atol=1e-9)


def test_labels_may_differ_between_members():
    net, data = Network(models.mlp(6, 8, 3)), toy()
    y = data.train.y
    own = torch.stack([y, (y + 1) % 3])
    both = Dataset(Examples(data.train.x, own, y), data.validation, data.test, 3, "toy")
    fixed = dict(lr=0.1, epochs=6, batch_size=16, dtype=torch.float64)
    run = train(net, both, seeds=[0, 1], **fixed)
    for i in range(2):
        single = Dataset(
            Examples(data.train.x, own[i], y), data.validation, data.test, 3, "toy"
        )
        alone = train(net, single, seeds=[i], **fixed)
        torch.testing.assert_close(run.w[i], alone.w[0], rtol=0, atol=1e-9)
    history = run.history
    assert math.isnan(history["corrupted_accuracy"][-1, 0])
    assert history["truth_accuracy"][-1, 1] < history["corrupted_accuracy"][-1, 1]


def test_history_is_what_loss_measures():
    net, data = Network(models.mlp(6, 8, 3)), toy(corrupt=True)
    run = train(
        net, data, seeds=range(2), epochs=4, batch_size=16, lr=0.1, record=2,
        snapshots=[0, 1, 4], dtype=torch.float64,
    )  # fmt: skip
    assert run.epochs.tolist() == [0, 2, 4]
    assert run.snapshot_epochs.tolist() == [0, 1, 4]
    torch.testing.assert_close(
        run.snapshots[0], net.init(range(2), dtype=torch.float64)
    )
    torch.testing.assert_close(run.snapshots[2], run.w)
    for part in ("train", "validation", "test"):
        loss = Loss(net, getattr(data, part))
        torch.testing.assert_close(run.history[f"{part}_loss"][-1], loss(run.w))
        torch.testing.assert_close(
            run.history[f"{part}_accuracy"][-1], loss.accuracy(run.w)
        )
    x, y, clean = data.train.x.double(), data.train.y, data.train.clean_y
    predicted = net(run.w, x).argmax(-1)
    wrong = y != clean
    right = (predicted == y).double()
    torch.testing.assert_close(
        run.history["clean_accuracy"][-1], right[:, ~wrong].mean(1)
    )
    torch.testing.assert_close(
        run.history["corrupted_accuracy"][-1], right[:, wrong].mean(1)
    )
    truth = (predicted == clean).double()[:, wrong].mean(1)
    torch.testing.assert_close(run.history["truth_accuracy"][-1], truth)


def test_members_stop_at_the_loss_they_are_asked_for():
    net, data = Network(models.mlp(6, 16, 3)), toy()
    fixed = dict(batch_size=16, lr=torch.tensor([0.3, 1e-4]), record=50, momentum=0.9)
    run = train(net, data, seeds=[0, 1], epochs=60, stop_loss=0.2, **fixed)
    assert run.fitted.tolist() == [True, False]
    last = int(run.stopped[0])
    assert 0 < last < 60
    assert run.stopped[1] == 60
    loss = Loss(net, data.train)
    assert loss(run.w)[0] < 0.2
    torch.testing.assert_close(run.history["train_loss"][-1, 0], loss(run.w)[0])
    # it is the first epoch below: one epoch earlier the loss was above
    before = train(net, data, seeds=[0, 1], epochs=last - 1, stop_loss=0.2, **fixed)
    assert loss(before.w)[0] >= 0.2
    same = train(net, data, seeds=[0, 1], epochs=last, **fixed)
    torch.testing.assert_close(same.w[0], run.w[0])


def test_a_diverging_member_is_marked_and_the_others_go_on():
    net, data = Network(models.mlp(6, 8, 3)), toy()
    lr = torch.tensor([1e30, 0.1])
    with pytest.warns(RuntimeWarning, match=r"seed\(s\) \[0\]"):
        run = train(net, data, seeds=[0, 1], epochs=5, batch_size=16, lr=lr)
    assert run.diverged.tolist() == [True, False]
    assert not run.fitted.any()
    alone = train(net, data, seeds=[1], epochs=5, batch_size=16, lr=0.1)
    torch.testing.assert_close(run.w[1], alone.w[0])
    assert run.history["train_accuracy"][-1, 1] > 0.5


def test_ctrl_c_returns_what_is_finished():
    net, data = Network(models.mlp(6, 8, 3)), toy()
    fixed = dict(seeds=[0, 1], batch_size=16, lr=0.1, momentum=0.9, snapshots=[1, 3])
    calls = []

    def criterion(logits, y):
        # an epoch has 4 steps, a record 3 parts, and both are for 2 members: this is
        # in the middle of the fourth epoch
        calls.append(1)
        if len(calls) == 6 + 3 * 14 + 3:
            raise KeyboardInterrupt  # as the signal does, whoever handles it
        return nn.functional.cross_entropy(logits, y)

    with pytest.warns(RuntimeWarning, match="epoch 3 of 6"):
        run = train(net, data, epochs=6, criterion=criterion, **fixed)
    assert run.epochs.tolist() == [0, 1, 2, 3]
    assert run.snapshot_epochs.tolist() == [1, 3]
    assert run.stopped.tolist() == [3, 3]
    whole = train(net, data, epochs=3, criterion=criterion, **fixed)
    assert torch.equal(run.w, whole.w)
    assert torch.equal(run.history["test_loss"], whole.history["test_loss"])


def test_global_random_state_is_untouched_and_has_no_influence():
    net, data = Network(models.mlp(6, 8, 3, dropout=0.3)), toy()
    fixed = dict(seeds=[0], epochs=2, batch_size=16, lr=0.1, input_noise=0.1)
    torch.manual_seed(1)
    np.random.seed(1)
    state, other = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = train(net, data, **fixed)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == other).all()
    torch.manual_seed(2)
    assert torch.equal(train(net, data, **fixed).w, first.w)


def test_dropout_keeps_the_mean_and_drops_its_share():
    p, n = 0.25, 4000
    net = Network(nn.Sequential(nn.Dropout(p), nn.Linear(1, 2, bias=False)))
    x, y = torch.ones(n, 1), torch.zeros(n, dtype=torch.long)
    part = Examples(x, y, y)
    data = Dataset(part, part, part, classes=2, name="ones")
    run = train(
        net, data, seeds=[0], epochs=1, batch_size=n, lr=1.0,
        start=torch.zeros(1, 2, dtype=torch.float64),
    )  # fmt: skip
    # gradient of class 0 at zero logits is -mean(mask)/2, mask 0 or 1/(1-p)
    mean = 2 * run.w[0, 0]
    assert abs(mean - 1) < 4 * math.sqrt(p / (1 - p) / n)
    kept = mean * (1 - p) * n
    assert kept.item() == pytest.approx(round(kept.item()), abs=1e-6)
    assert round(kept.item()) not in (0, n)


def test_input_noise_has_the_scale_it_says():
    """One step from zero weights reads off the inputs' second moment."""
    net = Network(nn.Sequential(nn.Linear(1, 2, bias=False)))
    n, sigma = 4000, 2.0
    x, y = torch.ones(n, 1), torch.zeros(n, dtype=torch.long)
    part = Examples(x, y, y)
    data = Dataset(part, part, part, classes=2, name="ones")
    run = train(
        net, data, seeds=[0], epochs=1, batch_size=n, lr=1.0, input_noise=sigma,
        start=torch.zeros(1, 2),
    )  # fmt: skip
    # gradient of class 0 at zero logits is -mean(x + noise)/2
    mean = 2 * run.w[0, 0]
    assert abs(mean - 1) < 4 * sigma / math.sqrt(n)
    assert mean != 1


class OwnDropout(nn.Linear):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.5, self.training)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3)),
        lambda: nn.utils.spectral_norm(nn.Linear(6, 3)),
        lambda: OwnDropout(6, 3),
    ],
)
def test_what_training_mode_computes_otherwise_is_refused(make):
    net = Network(nn.Sequential(nn.Linear(6, 6), make()))
    with pytest.raises(ValueError, match="in training mode"):
        train(
            net,
            toy(),
            start=net.weights()[None],
            seeds=0,
            epochs=1,
            batch_size=9,
            lr=0.1,
        )


def norm_net():
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def test_members_that_differ_in_a_setting_may_share_a_seed():
    net, data = Network(models.mlp(6, 8, 3, dropout=0.1)), toy()
    fixed = dict(epochs=3, batch_size=8, momentum=0.5, dtype=torch.float64)
    lr = torch.tensor([0.05, 0.1, 0.1], dtype=torch.float64)
    run = train(net, data, seeds=[4, 4, 5], lr=lr, **fixed)
    for i, seed in enumerate([4, 4, 5]):
        alone = train(net, data, seeds=[seed], lr=lr[i].item(), **fixed)
        torch.testing.assert_close(run.w[i], alone.w[0], rtol=0, atol=1e-9)
    assert not torch.equal(run.w[0], run.w[1])
    with pytest.raises(ValueError, match="1 of 3 members are copies"):
        train(net, data, seeds=[4, 5, 5], lr=lr, **fixed)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        (dict(lr=-0.1), ValueError, "lr is -0.1"),
        (dict(lr=float("nan")), ValueError, "lr"),
        (dict(lr=torch.tensor([0.1, 0.2, 0.3])), ValueError, "2 members"),
        (dict(momentum=1.0), ValueError, "momentum"),
        (dict(weight_decay=-1.0), ValueError, "weight_decay"),
        (dict(input_noise=-1.0), ValueError, "input_noise"),
        (dict(epochs=0), ValueError, "epochs"),
        (dict(batch_size=2.5), ValueError, "batch_size"),
        (dict(optimizer="sgdm"), ValueError, "optimizer"),
        (dict(optimizer="adam", momentum=0.9), ValueError, "momentum"),
        (dict(schedule="step"), ValueError, "schedule"),
        (dict(seeds=[1, 1]), ValueError, "different seeds"),
        (dict(seeds=[]), ValueError, "one or more"),
        (dict(record=0), ValueError, "record"),
        (dict(snapshots=[9]), ValueError, "snapshots"),
        (dict(start=torch.zeros(2, 5)), ValueError, "another network"),
        (dict(start=torch.zeros(1, 83)), ValueError, "one row per seed"),
        (dict(net=3), TypeError, "Network"),
        (dict(net=norm_net()), ValueError, "running statistics"),
        (
            dict(net=nn.Sequential(nn.TransformerEncoderLayer(6, 2))),
            ValueError,
            "dropout",
        ),
        (dict(net=models.mlp(6, 8, 2)), ValueError, "2 outputs"),
        (dict(data=[1, 2]), TypeError, "Dataset"),
    ],
)
def test_bad_arguments_say_what_is_expected(change, error, word):
    options = dict(
        net=models.mlp(6, 8, 3),
        data=toy(),
        seeds=[0, 1],
        epochs=2,
        batch_size=8,
        lr=0.1,
    )
    options.update(change)
    with pytest.raises(error, match=word):
        train(options.pop("net"), options.pop("data"), **options)


def test_members_with_labels_of_their_own_may_stop_one_by_one():
    data = toy()
    labels = torch.stack([data.train.y, data.train.y.roll(1), data.train.y])
    labels = Examples(data.train.x, labels, data.train.y)
    data = Dataset(labels, data.validation, data.test, 3, "toy")
    net = Network(models.mlp(6, 16, 3))
    settings = dict(epochs=40, batch_size=20, lr=0.2, momentum=0.9, record=5)
    run = train(net, data, seeds=[0, 1, 2], stop_loss=0.2, **settings)
    assert run.fitted[0] and run.fitted[2] and run.stopped[1] > run.stopped[0]
    alone = Loss(net, Examples(data.train.x, labels.y[0]))(run.w[0])
    assert run.history["train_loss"][-1, 0].item() == pytest.approx(alone.item(), 1e-5)


def test_one_output_has_a_history_and_wrong_widths_are_refused():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20, 6, generator=g)
    y = (x[:, 0] > 0).long()
    data = Dataset.from_arrays(x, y, test=(x, y), validation=(x, y))
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    run = train(
        models.mlp(6, 5, 1), data, seeds=range(2), epochs=3, lr=0.5, batch_size=5,
        criterion=lambda z, t: bce(z.squeeze(-1), t.float()),
    )  # fmt: skip
    net = Network(models.mlp(6, 5, 1))
    expected = ((net(run.w, x)[..., 0] > 0) == (y > 0)).float().mean(1)
    torch.testing.assert_close(run.history["test_accuracy"][-1], expected)
    with pytest.raises(ValueError, match=r"does not take inputs.*6.*4"):
        train(models.mlp(4, 3, 2), data, seeds=0, epochs=1, lr=0.1, batch_size=5)


def test_inputs_that_are_no_tensor_are_refused():
    data = SimpleNamespace(
        train=SimpleNamespace(x={"input": torch.ones(4, 5)}, y=[0] * 4)
    )
    with pytest.raises(TypeError, match="the inputs are a dict, expected one tensor"):
        train(nn.Linear(5, 3), data, seeds=1, epochs=1, batch_size=2, lr=0.1)
