"""Recorded steps, on a device that is pretended: see ``tests.pretend``."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import flatlab as fl
from flatlab.capture import Replay
from tests.pretend import Device, to
from tests.test_devices import parts

RATES = torch.tensor([0.05, 0.1])
SETTINGS = {
    "sgd": {"momentum": 0.9, "weight_decay": 0.01},
    "rates": {"lr": RATES, "momentum": RATES, "schedule": "cosine"},
    "adam": {"optimizer": "adam", "input_noise": 0.1},
    "sam": {"neighbourhood": fl.ball(RATES)},
    "asam": {"neighbourhood": fl.adaptive_ball(0.5, by="layer"), "when": (0.3, 1)},
    "stop": {"stop_loss": 1.0, "input_noise": RATES},
}


def dataset(labels=()):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(28, 6, generator=g)  # with 8 in a batch, the last is smaller
    y = torch.randint(3, (*labels, 28), generator=g)
    return SimpleNamespace(train=fl.Examples(x, y, y.reshape(-1, 28)[0]))


def trained(data, device, model, **options):
    torch.manual_seed(0)
    net = fl.Network(to(model, device))
    how = {"seeds": [0, 1], "epochs": 3, "batch_size": 8, "lr": 0.1, "device": device}
    return fl.train(net, data, **(how | options))


def plain():
    return fl.models.mlp(6, 5, 3)


def dropping():
    layers = nn.Linear(6, 8), nn.Dropout(0.2), nn.Tanh(), nn.Dropout(0.5)
    return nn.Sequential(*layers, nn.Linear(8, 3))


def convolutional():
    return nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 4, 2), nn.Flatten(),
                         nn.ReLU(), nn.Linear(8, 3))  # fmt: skip


@pytest.mark.parametrize("model", [plain, dropping])
@pytest.mark.parametrize("labels", [(), (2,)], ids=["shared", "own"])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_steps_played_again_train_as_plain_ones_do_to_the_bit(options, labels, model):
    data, model = dataset(labels), model()
    wanted = trained(data, torch.device("cpu"), model, **options)
    with Device("cuda") as device:
        run = trained(data, device.home, model, **options)
    # at least all whole batches but the first of each kind
    assert device.replays >= 3
    assert torch.equal(parts(run.w)[0], wanted.w)
    for name, values in wanted.history.items():
        same = {"rtol": 0, "atol": 0, "equal_nan": True}
        torch.testing.assert_close(run.history[name], values, **same)
    assert torch.equal(run.stopped, wanted.stopped)


def test_members_that_stop_leave_a_graph_behind_that_is_not_played():
    data, model = dataset(), plain()
    options = {"lr": torch.tensor([0.01, 0.5]), "stop_loss": 1.0, "epochs": 8}
    wanted = trained(data, torch.device("cpu"), model, **options)
    assert len(set(wanted.stopped.tolist())) == 2
    with Device("cuda") as device:
        run = trained(data, device.home, model, **options)
    assert device.replays and torch.equal(parts(run.w)[0], wanted.w)


def test_what_cannot_be_recorded_is_called_plainly():
    def criterion(logits, y):
        return nn.functional.cross_entropy(logits, y)

    data, model = dataset(), plain()
    wanted = trained(data, torch.device("cpu"), model, criterion=criterion)
    with Device("cuda") as device:
        run = trained(data, device.home, model, criterion=criterion)
        assert device.replays == 0
        torch.testing.assert_close(parts(run.w)[0], wanted.w)

        def asks(x):
            return 2 * x if x.sum() > 0 else -x

        replay, x = Replay(), torch.ones(3).to(device.home)
        for sign in (1, -1, 1):
            found = replay(asks, sign * x)
            assert found.tolist() == [2.0 if sign > 0 else 1.0] * 3
        assert device.replays == 0 and replay.graph is None


def test_a_recorded_step_is_few_launches_and_an_epoch_waits_twice_at_most():
    data, model = dataset(), plain()
    launches, waits = {}, {}
    for name in ("sgd", "sam"):
        for epochs in (2, 4):
            options = SETTINGS[name] | {"epochs": epochs, "record": None}
            with Device("cuda") as device:
                trained(data, device.home, model, batch_size=7, **options)
            launches[epochs], waits[epochs] = device.launches, device.waits
        # four steps: indices cut and copied, the graph, the rule; and the epoch's own
        assert (launches[4] - launches[2]) / 2 <= 4 * (3 + 5) + 8
        assert waits[4] - waits[2] <= 2 * 2


def test_a_graph_that_reads_what_has_moved_is_found_out_and_left():
    with Device("cuda") as device:
        x = torch.ones(3).to(device.home)
        held, replay = [1 * x], Replay()
        assert replay(lambda x: held[0] * x, x).tolist() == [1.0] * 3
        held[0] = 5 * x
        with pytest.warns(RuntimeWarning, match="other values"):
            assert replay(lambda x: held[0] * x, x).tolist() == [5.0] * 3
        assert replay(lambda x: held[0] * x, 2 * x).tolist() == [10.0] * 3
        assert device.replays == 2
