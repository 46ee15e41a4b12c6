"""SAM as an optimizer: the papers' formulas, and a good citizen of training loops."""

import copy
import math
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from flatlab import models
from flatlab.data import Dataset, Examples
from flatlab.neighbourhoods import adaptive_ball, ball, keskar_box
from flatlab.network import Network
from flatlab.optim import SAM
from flatlab.training import ORDER, generator, train


def task(n=48, inputs=6, classes=3, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, inputs, generator=g, dtype=torch.float64).to(dtype)
    return x, x[:, :classes].argmax(1)


def small(seed=0, widths=(6, 8, 3), dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return models.mlp(*widths).to(dtype)


def normalised(seed=0):
    """A network with BatchNorm, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
        ).double()


def closure_for(model, x, y):
    def closure():
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    return closure


def momentum(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=0.01)


def flat(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def batches(x, y, steps, size=12):
    for i in range(steps):
        part = torch.arange(i * size, (i + 1) * size) % len(x)
        yield x[part], y[part]


# ---------------------------------------------------------------- the papers' formulas


def by_hand(model, base, x, y, scale, rho, p=2):
    """One step as the papers print it, parameter by parameter."""
    parameters = [q for q in model.parameters() if q.requires_grad]
    base.zero_grad()
    F.cross_entropy(model(x), y).backward()
    grads = [q.grad.clone() for q in parameters]
    old = [q.detach().clone() for q in parameters]
    t = scale(model)
    length = math.sqrt(
        sum(((a * g) ** 2).sum().item() for a, g in zip(t, grads, strict=True))
    )
    with torch.no_grad():
        for q, a, g in zip(parameters, t, grads, strict=True):
            q += rho * (a**2 * g / length if p == 2 else a * g.sign())
    base.zero_grad()
    F.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for q, before in zip(parameters, old, strict=True):
            q.copy_(before)
    base.step()


def ones(model):
    return [torch.ones_like(q) for q in model.parameters()]


def magnitudes(model):
    return [q.detach().abs() for q in model.parameters()]


def weights_only(model):
    return [
        q.detach().abs() if q.ndim >= 2 else torch.ones_like(q)
        for q in model.parameters()
    ]


def keskar(model):
    return [q.detach().abs() + 1 for q in model.parameters()]


def filters(model):
    return [
        q.detach().flatten(1).norm(dim=1)[:, None].expand_as(q)
        if q.ndim >= 2
        else q.detach().abs()
        for q in model.parameters()
    ]


def layers(model):
    scales = []
    for layer in model.modules():
        own = list(layer.parameters(recurse=False))
        if own:
            length = torch.cat([q.detach().reshape(-1) for q in own]).norm()
            scales += [length.expand_as(q) for q in own]
    return scales


RULES = {
    "SAM": (ball(0.1), ones, 0.1, 2),
    "SAM, maximum norm": (ball(0.02, p=math.inf), ones, 0.02, math.inf),
    "ASAM": (adaptive_ball(0.5), magnitudes, 0.5, 2),
    "ASAM, maximum norm": (
        adaptive_ball(0.1, p=math.inf), magnitudes, 0.1, math.inf,
    ),
    "ASAM, biases out": (adaptive_ball(0.5, biases=False), weights_only, 0.5, 2),
    "ASAM by filter": (adaptive_ball(0.3, by="filter"), filters, 0.3, 2),
    "ASAM by layer": (adaptive_ball(0.3, by="layer"), layers, 0.3, 2),
    "Keskar's box": (keskar_box(0.02), keskar, 0.02, math.inf),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_step_for_step_as_the_papers_print_it(rule):
    neighbourhood, scale, rho, p = RULES[rule]
    ours, theirs = small(), small()
    base = momentum(theirs)
    optimizer = SAM(momentum(ours), neighbourhood, module=ours)
    x, y = task()
    for part in batches(x, y, 12):
        optimizer.step(closure_for(ours, *part))
        by_hand(theirs, base, *part, scale, rho, p)
        torch.testing.assert_close(flat(ours), flat(theirs), rtol=0, atol=1e-12)
    assert (flat(ours) - flat(small())).norm() > 0.1


@pytest.mark.parametrize(
    "neighbourhood",
    [ball(0.1), adaptive_ball(0.5), adaptive_ball(0.3, by="filter")],
    ids=["ball", "adaptive", "filter"],
)
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_equals_a_member_of_the_ensemble(name, neighbourhood):
    x, y = task(n=40)
    data = Dataset(
        Examples(x, y, y), Examples(x, y, y), Examples(x, y, y), classes=3, name="task"
    )
    net = Network(small())
    options = {"momentum": 0.9} if name == "sgd" else {"optimizer": "adam"}
    run = train(
        net, data, seeds=[3, 5], epochs=6, batch_size=16, lr=0.05, device="cpu",
        neighbourhood=neighbourhood, dtype=torch.float64, **options,
    )  # fmt: skip
    model = net.module(net.init(5, dtype=torch.float64))
    base = (
        torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        if name == "sgd"
        else torch.optim.Adam(model.parameters(), 0.05)
    )
    optimizer = SAM(base, neighbourhood, module=model)
    for epoch in range(6):
        order = torch.randperm(len(x), generator=generator(5, ORDER, epoch))
        for batch in order.split(16):
            optimizer.step(closure_for(model, x[batch], y[batch]))
    torch.testing.assert_close(flat(model), run.w[1], rtol=0, atol=1e-9)


def test_any_base_optimizer_sees_the_gradient_at_the_worst_point():
    x, y = task()
    for make in (torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad):
        ours, theirs = small(), small()
        optimizer = SAM(make(ours.parameters(), lr=0.01), ball(0.1))
        base = make(theirs.parameters(), lr=0.01)
        for part in batches(x, y, 5):
            optimizer.step(closure_for(ours, *part))
            by_hand(theirs, base, *part, ones, 0.1)
        torch.testing.assert_close(flat(ours), flat(theirs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1.0, 1e30])
def test_the_length_of_the_step_up_does_not_depend_on_the_gradients(size):
    model, (x, y) = small(dtype=torch.float32), task(dtype=torch.float32)
    points = []

    def closure():
        points.append(flat(model))
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        for p in model.parameters():
            p.grad *= size
        return loss

    SAM(torch.optim.SGD(model.parameters(), 0.0), ball(0.1)).step(closure)
    torch.testing.assert_close((points[1] - points[0]).norm().item(), 0.1)


def test_a_gradient_of_zero_climbs_nowhere():
    model, (x, y) = small(), task()
    points = []

    def closure():
        points.append(flat(model))
        loss = F.cross_entropy(model(x), y) * 0
        loss.backward()
        return loss

    for around in (ball(0.1), adaptive_ball(0.1)):
        SAM(torch.optim.SGD(model.parameters(), 0.1), around).step(closure)
    assert all(torch.equal(point, flat(model)) for point in points)


# ------------------------------------------------------------------------- closures


def test_first_loss_is_returned_and_no_backward_is_needed_before():
    model, (x, y) = small(), task()
    expected = F.cross_entropy(model(x), y).item()
    calls = []

    def closure():
        calls.append(flat(model))
        return closure_for(model, x, y)()

    optimizer = SAM(momentum(model), ball(0.1))
    assert optimizer.step(closure).item() == expected
    assert len(calls) == 2
    torch.testing.assert_close(
        (calls[1] - calls[0]).norm().item(), 0.1, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("clearing", ["none", "torch", "to zero"])
def test_closures_that_clear_and_those_that_do_not_are_the_same(clearing):
    reference, model, (x, y) = small(), small(), task()
    one = SAM(momentum(reference), ball(0.1))
    other = SAM(momentum(model), ball(0.1))

    def closure():
        if clearing == "torch":
            other.zero_grad()
        elif clearing == "to zero":
            model.zero_grad(set_to_none=False)
        return closure_for(model, x, y)()

    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)  # left over from something else
    for _ in range(3):
        one.step(closure_for(reference, x, y))
        other.step(closure)
    assert torch.equal(flat(model), flat(reference))


def test_zero_grad():
    model, (x, y) = small(), task()
    optimizer = SAM(momentum(model), ball(0.1))
    closure_for(model, x, y)()
    optimizer.zero_grad(set_to_none=False)
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_gradients_accumulate_inside_the_closure():
    whole, parts, (x, y) = small(), small(), task()

    def accumulate():
        total = 0.0
        for i in range(0, len(x), 12):
            loss = F.cross_entropy(parts(x[i : i + 12]), y[i : i + 12]) * 12 / len(x)
            loss.backward()
            total += loss.detach()
        return total

    one, other = SAM(momentum(whole), ball(0.1)), SAM(momentum(parts), ball(0.1))
    for _ in range(4):
        first = one.step(closure_for(whole, x, y))
        second = other.step(accumulate)
        torch.testing.assert_close(first.detach(), second, rtol=1e-12, atol=0)
    torch.testing.assert_close(flat(whole), flat(parts), rtol=0, atol=1e-12)


def test_micro_batches_climb_on_their_own():
    model, (x, y) = small(), task()
    parts = list(zip(x.split(24), y.split(24), strict=True))
    expected, losses = 0, []
    start = flat(model)
    net = Network(model)
    for a, b in parts:

        def gradient(w, a=a, b=b):
            w = w.clone().requires_grad_()
            value = F.cross_entropy(net(w, a), b)
            return value.item(), torch.autograd.grad(value, w)[0]

        loss, g = gradient(start)
        losses.append(loss / 2)
        expected = expected + 0.5 * gradient(start + 0.1 * g / g.norm())[1]
    optimizer = SAM(torch.optim.SGD(model.parameters(), 1.0), ball(0.1))
    loss = optimizer.step([closure_for(model, *part) for part in parts])
    torch.testing.assert_close(start - flat(model), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss.item(), sum(losses), rtol=1e-12, atol=0)


def test_one_micro_batch_is_plain_sam():
    one, other, (x, y) = small(), small(), task()
    SAM(momentum(one), ball(0.1)).step(closure_for(one, x, y))
    SAM(momentum(other), ball(0.1)).step([closure_for(other, x, y)])
    assert torch.equal(flat(one), flat(other))


def test_it_climbs_in_the_steps_asked_for_and_resumes_the_count():
    """By hand: SAM, plain, plain; a checkpoint after the first step goes on alike."""
    one, other, (x, y) = small(), small(), task()
    compute, calls = closure_for(one, x, y), []

    def closure():
        calls.append(1)
        return compute()

    optimizer = SAM(momentum(one), ball(0.1), when=(1, 2))
    base, saved = momentum(other), None
    climbing = SAM(base, ball(0.1))
    for step in range(3):
        optimizer.step(closure)
        base.zero_grad()
        loss = closure_for(other, x, y)
        if step == 1:
            climbing.step(loss)
        else:
            loss()
            base.step()
        if step == 0:
            saved = copy.deepcopy((one.state_dict(), optimizer.state_dict()))
        assert torch.equal(flat(one), flat(other)), step
    assert len(calls) == 1 + 2 + 1
    again = small()
    again.load_state_dict(saved[0])
    resumed = SAM(momentum(again), ball(0.1), when=(1, 2))
    resumed.load_state_dict(saved[1])
    for _ in range(2):
        resumed.step(closure_for(again, x, y))
    assert torch.equal(flat(again), flat(one))


def test_steps_in_which_it_climbs_are_an_interval():
    with pytest.raises(ValueError, match="when is"):
        SAM(momentum(small()), ball(0.1), when=(3, 3))


# ----------------------------------------------------------- what is restored, and when


def test_weights_are_restored_bit_for_bit_where_the_base_does_not_move_them():
    model, (x, y) = small(dtype=torch.float32), task(dtype=torch.float32)
    before = flat(model)
    pointers = [p.data_ptr() for p in model.parameters()]
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.0), ball(3.0))
    for _ in range(50):
        optimizer.step(closure_for(model, x, y))
    assert torch.equal(flat(model), before)
    assert [p.data_ptr() for p in model.parameters()] == pointers


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_failing_closure_leaves_weights_and_statistics(fails_at):
    model, (x, y) = normalised(), task()
    optimizer = SAM(momentum(model), ball(0.5), module=model)
    optimizer.step(closure_for(model, x, y))
    before = flat(model)
    calls = 0

    def closure():
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise KeyboardInterrupt
        return closure_for(model, x, y)()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert torch.equal(flat(model), before)
    assert model[1].track_running_stats
    optimizer.step(closure_for(model, x, y))
    assert not torch.equal(flat(model), before)


class OwnNorm(nn.Module):
    """A normalisation of one's own, whose statistics are replaced, not written to."""

    def __init__(self, size):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - x.mean(0)


BUFFERS = {
    "BatchNorm": normalised,
    "scripted": lambda: nn.Sequential(
        nn.Linear(6, 5), torch.jit.script(nn.BatchNorm1d(5)), nn.Linear(5, 3)
    ).double(),
    "spectral norm": lambda: nn.Sequential(
        spectral_norm(nn.Linear(6, 5)), nn.Linear(5, 3)
    ).double(),
    "own": lambda: nn.Sequential(nn.Linear(6, 5), OwnNorm(5), nn.Linear(5, 3)).double(),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_are_updated_once(name):
    model, (x, y) = BUFFERS[name](), task()
    expected = copy.deepcopy(model)
    expected(x)  # one pass at the same weights
    SAM(momentum(model), ball(0.5), module=model).step(closure_for(model, x, y))
    for part, buffer in model.named_buffers():
        assert torch.equal(buffer, expected.get_buffer(part)), part


def test_without_module_statistics_are_updated_twice():
    twice, (x, y) = normalised(), task()
    SAM(momentum(twice), ball(0.5)).step(closure_for(twice, x, y))
    assert twice[1].num_batches_tracked == 2


def test_both_passes_normalise_by_the_batch():
    ours, theirs, (x, y) = normalised(), normalised(), task()
    optimizer, base = SAM(momentum(ours), ball(0.3), module=ours), momentum(theirs)
    for _ in range(3):
        optimizer.step(closure_for(ours, x, y))
        by_hand(theirs, base, x, y, ones, 0.3)
    torch.testing.assert_close(flat(ours), flat(theirs), rtol=0, atol=1e-12)


# --------------------------------------------------------- groups, state, schedulers


def test_frozen_and_unused_parameters():
    model, (x, y) = small(widths=(6, 8, 8, 3)), task()
    model[1].weight.requires_grad_(False)
    unused = nn.Parameter(torch.ones(4, dtype=torch.float64))
    model.register_parameter("unused", unused)
    reference = copy.deepcopy(model)
    optimizer = SAM(momentum(model), adaptive_ball(0.5), module=model)
    seen = []

    def closure():
        seen.append((model[1].weight.clone(), unused.detach().clone()))
        return closure_for(model, x, y)()

    base = momentum(reference)
    for _ in range(3):
        optimizer.step(closure)
        by_hand_without_unused(reference, base, x, y)
    assert all(torch.equal(w, reference[1].weight) for w, _ in seen)
    assert all(torch.equal(u, torch.ones_like(u)) for _, u in seen)
    assert unused.grad is None
    torch.testing.assert_close(flat(model), flat(reference), rtol=0, atol=1e-12)
    model[1].weight.requires_grad_(True)  # thawed in the middle of training
    optimizer.step(closure)
    assert not torch.equal(model[1].weight, reference[1].weight)


def by_hand_without_unused(model, base, x, y):
    unused = model.unused.requires_grad_(False)

    def trained(m):
        return [q.detach().abs() for q in m.parameters() if q.requires_grad]

    by_hand(model, base, x, y, trained, 0.5)
    unused.requires_grad_(True)


def test_groups_are_one_point_with_a_rate_each():
    ours, theirs, (x, y) = small(), small(), task()

    def groups(model):
        return torch.optim.SGD(
            [
                {"params": model[3].parameters(), "lr": 0.5},
                {"params": model[1].parameters()},
            ],
            lr=0.1,
            momentum=0.9,
        )

    optimizer, base = SAM(groups(ours), ball(0.1), module=ours), groups(theirs)
    for part in batches(x, y, 5):
        optimizer.step(closure_for(ours, *part))
        by_hand(theirs, base, *part, ones, 0.1)
    torch.testing.assert_close(flat(ours), flat(theirs), rtol=0, atol=1e-12)


def test_a_group_added_later_is_trained():
    model, (x, y) = small(), task()
    base = torch.optim.SGD(model[1].parameters(), 0.1)
    optimizer = SAM(base, adaptive_ball(0.5, by="layer"), module=model)
    closure = closure_for(model, x, y)
    before = model[3].weight.detach().clone()
    optimizer.step(closure)
    assert torch.equal(model[3].weight, before)
    optimizer.add_param_group({"params": model[3].parameters(), "lr": 0.2})
    assert base.param_groups[1]["lr"] == 0.2
    optimizer.step(closure)
    assert not torch.equal(model[3].weight, before)


@pytest.mark.parametrize("given", ["SAM", "base"])
def test_schedulers_act_on_shared_groups(given):
    ours, theirs, (x, y) = small(), small(), task()
    ours_base, base = momentum(ours), momentum(theirs)
    optimizer = SAM(ours_base, ball(0.1))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR
    ours_schedule = cosine(optimizer if given == "SAM" else ours_base, 6)
    schedule = cosine(base, 6)
    for part in batches(x, y, 6):
        optimizer.step(closure_for(ours, *part))
        ours_schedule.step()
        by_hand(theirs, base, *part, ones, 0.1)
        schedule.step()
        assert optimizer.param_groups[0]["lr"] == base.param_groups[0]["lr"]
    torch.testing.assert_close(flat(ours), flat(theirs), rtol=0, atol=1e-12)
    assert optimizer.param_groups[0]["lr"] == 0


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_resumes_bit_for_bit(name, tmp_path):
    def make(model):
        return (
            momentum(model)
            if name == "momentum"
            else torch.optim.Adam(model.parameters(), 0.01)
        )

    model, (x, y) = normalised(), task()
    optimizer = SAM(make(model), adaptive_ball(0.5), module=model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)

    def go(model, optimizer, schedule):
        for part in batches(x, y, 5):
            optimizer.step(closure_for(model, *part))
            schedule.step()

    go(model, optimizer, schedule)
    parts = (model, optimizer, schedule)
    torch.save([p.state_dict() for p in parts], tmp_path / "checkpoint.pt")
    go(*parts)

    again = normalised(seed=1)
    fresh = SAM(make(again), adaptive_ball(0.5), module=again)
    other = (again, fresh, torch.optim.lr_scheduler.StepLR(fresh, 2, 0.5))
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for part, state in zip(other, saved, strict=True):
        part.load_state_dict(state)
    go(*other)
    assert torch.equal(flat(model), flat(again))
    assert optimizer.param_groups is optimizer.base.param_groups
    assert fresh.state is fresh.base.state
    torch.testing.assert_close(fresh.state_dict(), optimizer.state_dict())


def test_takes_up_a_base_optimizer_with_its_momentum():
    model, (x, y) = small(), task()
    base = momentum(model)
    closure_for(model, x, y)()
    base.step()
    buffers = [base.state[p]["momentum_buffer"].clone() for p in model.parameters()]
    optimizer = SAM(base, ball(0.1))
    for p, buffer in zip(model.parameters(), buffers, strict=True):
        assert torch.equal(optimizer.state[p]["momentum_buffer"], buffer)


def test_copies_are_independent():
    model, (x, y) = small(), task()
    optimizer = SAM(momentum(model), ball(0.1), module=model)
    optimizer.step(closure_for(model, x, y))
    twin, twin_model = (both := copy.deepcopy((optimizer, model)))[0], both[1]
    before = flat(model)
    twin.step(closure_for(twin_model, x, y))
    assert torch.equal(flat(model), before)
    optimizer.step(closure_for(model, x, y))
    assert torch.equal(flat(model), flat(twin_model))


def test_hooks_of_an_optimizer_are_called():
    model, (x, y) = small(), task()
    optimizer = SAM(momentum(model), ball(0.1))
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.step(closure_for(model, x, y))
    assert calls == ["pre", "post"]
    assert isinstance(optimizer, torch.optim.Optimizer)


# ------------------------------------------------------------------------- precision


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("micro", [False, True])
def test_gradients_that_are_not_finite_move_nothing(bad, at, micro):
    model, (x, y) = normalised(), task()
    optimizer = SAM(momentum(model), ball(0.1), module=model)
    optimizer.step(closure_for(model, x, y))
    before, state = flat(model), copy.deepcopy(optimizer.state_dict())
    calls = 0

    def closure():
        nonlocal calls
        calls += 1
        loss = closure_for(model, x, y)()
        if calls == at:
            model[0].weight.grad[1, 2] = bad
        return loss

    good = closure_for(model, x, y)
    loss = optimizer.step([good, closure, good] if micro else closure)
    assert math.isfinite(loss.item())
    assert optimizer.skipped == 1
    assert torch.equal(flat(model), before)
    torch.testing.assert_close(optimizer.state_dict(), state)
    assert all(p.grad is None for p in model.parameters())
    optimizer.step(good)
    assert optimizer.skipped == 1
    assert not torch.equal(flat(model), before)


def test_bfloat16_autocast_inside_and_around_the_step():
    x, y = task(dtype=torch.float32)
    inside, around = small(dtype=torch.float32), small(dtype=torch.float32)
    points = []

    def closure():
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(inside(x), y)
        loss.backward()
        points.append(loss.item())
        return loss

    one, other = SAM(momentum(inside), ball(0.5)), SAM(momentum(around), ball(0.5))
    for _ in range(3):
        one.step(closure)
        with torch.autocast("cpu", torch.bfloat16):
            other.step(closure_for(around, x, y))
    assert all(p.dtype == torch.float32 for p in inside.parameters())
    # the second pass saw other weights than the first, not those cast before
    assert points[1] > points[0] + 0.05
    torch.testing.assert_close(flat(inside), flat(around), rtol=0, atol=1e-6)


def test_parameters_of_several_types():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 8).bfloat16()
            self.outer = nn.Linear(8, 3)

        def forward(self, x):
            return self.outer(self.inner(x.bfloat16()).relu().float())

    model, (x, y) = Mixed(), task(dtype=torch.float32)
    before = [p.detach().clone() for p in model.parameters()]
    for around in (ball(0.1), adaptive_ball(0.5)):
        still = SAM(torch.optim.SGD(model.parameters(), 0.0), around)
        still.step(closure_for(model, x, y))
    for p, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, old)
    optimizer = SAM(torch.optim.SGD(model.parameters(), 0.5), ball(0.1))
    losses = [optimizer.step(closure_for(model, x, y)).item() for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_grad_scaler_is_refused_with_a_reason():
    model, (x, y) = small(dtype=torch.float32), task(dtype=torch.float32)
    optimizer = SAM(momentum(model), ball(0.1))
    before = flat(model)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(F.cross_entropy(model(x), y)).backward()
    with pytest.raises(RuntimeError, match="backward"):
        scaler.step(optimizer, closure_for(model, x, y))
    assert torch.equal(flat(model), before)
    disabled = torch.amp.GradScaler("cpu", enabled=False)
    model, fresh = small(dtype=torch.float32), small(dtype=torch.float32)
    disabled.step(SAM(momentum(model), ball(0.1)), closure_for(model, x, y))
    SAM(momentum(fresh), ball(0.1)).step(closure_for(fresh, x, y))
    assert torch.equal(flat(model), flat(fresh))


def test_backward_leaves_the_gradient_for_a_loop_that_steps_by_itself():
    model, (x, y) = small(dtype=torch.float32), task(dtype=torch.float32)
    twin = small(dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    sam, plain = SAM(momentum(model), ball(0.1)), SAM(momentum(twin), ball(0.1))
    poison = 1.0

    def closure():
        loss = poison * F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        return loss

    for poison in (1.0, 1.0, math.inf, 1.0):
        before, scale = flat(model), scaler.get_scale()
        loss = sam.backward(closure)
        assert torch.equal(flat(model), before)
        scaler.step(sam.base)
        scaler.update()
        if poison == 1.0:
            wanted = plain.step(closure_for(twin, x, y))
            torch.testing.assert_close(loss, wanted)
            torch.testing.assert_close(flat(model), flat(twin))
        else:
            assert torch.equal(flat(model), before)
            assert scaler.get_scale() < scale and sam.skipped == 1


# ----------------------------------------------------------------------- many processes


def test_sharded_parameters_are_refused(tmp_path):
    dist = pytest.importorskip("torch.distributed")
    sharding = pytest.importorskip("torch.distributed.fsdp")
    if not dist.is_gloo_available() or not hasattr(sharding, "fully_shard"):
        pytest.skip("no gloo, or a PyTorch without fully_shard")
    where = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", where, rank=0, world_size=1)
    try:
        mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        model = sharding.fully_shard(nn.Linear(6, 3), mesh=mesh)
        base = torch.optim.SGD(model.parameters(), 0.1)
        with pytest.raises(TypeError, match=r"sharded.*DistributedDataParallel"):
            SAM(base, ball(0.1))
    finally:
        dist.destroy_process_group()


RANK = """
import sys, torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from flatlab.neighbourhoods import ball
from flatlab.optim import SAM

torch.set_num_threads(1)
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
x, y, start = torch.load(out + "/task.pt")
plain = nn.Linear(6, 3).double()
plain.load_state_dict(start)
model = DistributedDataParallel(plain)
optimizer = SAM(torch.optim.SGD(model.parameters(), 0.5), ball(0.3), module=model)
x, y = x[rank::2], y[rank::2]
bad = False

def closure():
    loss = F.cross_entropy(model(x), y) * (float("nan") if bad else 1.0)
    loss.backward()
    return loss

for bad in (False, rank == 1, False):
    optimizer.step(closure)
torch.save((plain.state_dict(), optimizer.skipped), f"{out}/{rank}.pt")
dist.destroy_process_group()
"""


def test_ranks_climb_on_their_own_and_stay_together(tmp_path):
    x, y = task()
    reference = nn.Linear(6, 3).double()
    torch.save((x, y, reference.state_dict()), tmp_path / "task.pt")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RANK), str(rank),
             str(tmp_path / "store"), str(tmp_path)],
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [rank.wait(timeout=600) for rank in ranks] == [0, 0]
    optimizer = SAM(torch.optim.SGD(reference.parameters(), 0.5), ball(0.3))
    for _ in range(2):  # the step in which one rank failed moved nothing anywhere
        optimizer.step([closure_for(reference, x[r::2], y[r::2]) for r in range(2)])
    for rank in range(2):
        state, skipped = torch.load(tmp_path / f"{rank}.pt")
        assert skipped == 1
        for name, value in reference.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------- bad input


def test_what_it_refuses():
    model, (x, y) = small(), task()
    closure = closure_for(model, x, y)
    with pytest.raises(TypeError, match="made from the parameters"):
        SAM(torch.optim.SGD, ball(0.1))
    with pytest.raises(TypeError, match="closure of its own"):
        SAM(torch.optim.LBFGS(model.parameters()), ball(0.1))
    with pytest.raises(TypeError, match="closure of its own"):
        SAM(SAM(momentum(model), ball(0.1)), ball(0.1))
    with pytest.raises(TypeError, match=r"expected a Neighbourhood"):
        SAM(momentum(model), 0.05)
    with pytest.raises(ValueError, match="4 of the 4 parameters"):
        SAM(momentum(model), ball(0.1), module=small())
    with pytest.raises(TypeError, match="parameter is complex"):
        SAM(momentum(nn.Linear(6, 3, dtype=torch.complex64)), ball(0.1))
    with pytest.raises(ValueError, match="by layer"):
        SAM(momentum(model), adaptive_ball(0.1, by="layer"))
    optimizer = SAM(momentum(model), ball(0.1))
    with pytest.raises(TypeError, match="closure"):
        optimizer.step()
    with pytest.raises(TypeError, match="closure"):
        optimizer.step(None)
    with pytest.raises(TypeError, match="closure"):
        optimizer.step([closure, 3.0])
    with pytest.raises(TypeError, match="a list of such"):
        optimizer.step([])
    with pytest.raises(ValueError, match="requires_grad"):
        frozen = small().requires_grad_(False)
        SAM(torch.optim.SGD(frozen.parameters(), 0.1), ball(0.1))


def test_sparse_gradients_are_refused_before_anything_moves():
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 2))
    before = flat(model)
    optimizer = SAM(torch.optim.SGD(model.parameters(), 0.1), ball(0.1))
    with pytest.raises(TypeError, match="sparse"):
        optimizer.step(closure_for(model, torch.arange(4), torch.tensor([0, 1, 0, 1])))
    assert torch.equal(flat(model), before)


def test_a_closure_without_backward_is_no_step():
    module = nn.Linear(3, 1)
    optimizer = SAM(torch.optim.SGD(module.parameters(), 0.1), ball(0.05))
    with pytest.raises(ValueError, match="does it call backward"):
        optimizer.step(lambda: module(torch.ones(1, 3)).sum())
