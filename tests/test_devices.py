"""The public API on devices that this machine lacks: see ``tests.pretend``."""

import re
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import flatlab as fl
from tests.pretend import Device, Elsewhere, to

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
CPU = torch.device("cpu")


def dense():
    return fl.models.mlp(16, 5, 3)


def convolutional():
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 3, 2),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(27, 3),
    )


def examples():
    g = torch.Generator("cpu").manual_seed(0)
    x = torch.rand(24, 16, generator=g, device="cpu")
    return x, torch.arange(24, device="cpu") % 3


def measures(module, device):
    """Every measure of the public API, by name, at the module and at two members."""
    x, y = examples()
    net = fl.Network(to(module, device))
    there = to(x, device)
    one = net.weights()
    noise = torch.randn(
        2, net.k, generator=torch.Generator("cpu").manual_seed(1), device="cpu"
    )
    two = one + 0.1 * noise.to(device)
    loss = fl.Loss(net, (x, y))
    own = fl.Loss(net, (x, torch.stack([y, y.flip(0)])))
    H, H2 = fl.Hessian(loss, one), fl.Hessian(own, two)
    small = fl.ball(0.1)
    sets = {
        "ball": small,
        "cube": fl.ball(0.1, p=torch.inf),
        "box": fl.keskar_box(0.01),
        "weight": fl.adaptive_ball(0.2),
        "filter": fl.adaptive_ball(0.2, by="filter", eta=0.1),
        "layer": fl.adaptive_ball(0.2, by="layer", biases=False),
        "own radii": fl.ball(torch.tensor([0.1, 0.2], device="cpu").to(device)),
    }
    yield "init", lambda: net.init(seeds=[0, 1])
    yield "logits", lambda: (net(two, there), loss.logits(two), loss.logits(one))
    yield "loss", lambda: (loss(two), loss.accuracy(two), own(two), loss(one))
    yield "gradient", lambda: (loss.gradient(two), own.gradient(two))
    ignored = fl.Loss(net, (x, y.index_fill(0, y[:3] - y[:3], -100)))
    yield "ignored labels", lambda: (ignored(two), ignored.gradient(one))
    mine = fl.Loss(net, (x, y), criterion=nn.functional.cross_entropy, chunk=7)
    yield "own criterion", lambda: (mine(two), mine.accuracy(two))
    yield "module", lambda: net.module(one)(there)
    yield "product", lambda: (H @ torch.ones_like(one), H2 @ torch.ones_like(two.mT))
    yield "eigenvalues", lambda: fl.eigenvalues(H, k=2, eigenvectors=True).values
    yield "both ends", lambda: fl.eigenvalues(H2, which="both", max_products=8).values
    yield "trace", lambda: (fl.trace(H), fl.trace(H2))
    probed = fl.Hessian(mine, one)
    yield "trace of probes", lambda: fl.trace(probed, 0.2, scale=one, max_products=12)
    yield "diagonal", lambda: fl.diagonal(H)
    yield "density", lambda: fl.spectral_density(H, probes=2, steps=4).moment(1)
    yield "bend", lambda: fl.spectral_density(H, 1, 2).density([0.0, 1.0], 0.5)
    for name, where in sets.items():
        at = two if name == "own radii" else one
        how = {"steps": 3, "restarts": 2}
        yield (
            f"worst case, {name}",
            lambda where=where, at=at, how=how: (
                fl.worst_case_sharpness(loss, at, where, **how).values
            ),
        )
        yield (
            f"average, {name}",
            lambda where=where, at=at: fl.average_sharpness(loss, at, where, samples=8),
        )
        bound = where.at(at, net.layout)
        seeds = [0, 1] if at.ndim > 1 else 0
        yield (
            f"sample, {name}",
            lambda bound=bound, seeds=seeds: [
                bound.norm(bound.sample(seeds=seeds, kind=kind))
                for kind in ("inside", "boundary", "gaussian")
            ],
        )
    yield "keskar", lambda: fl.keskar_sharpness(loss, two, subspace=4, steps=2).values
    yield "gradient norm", lambda: fl.gradient_norm(loss, two)
    yield "fisher-rao", lambda: fl.fisher_rao_norm(loss, two)
    yield "relative flatness", lambda: fl.relative_flatness(loss, two)
    yield "tolerated", lambda: fl.tolerated_noise(loss, two, samples=4)
    yield "pac-bayes sharpness", lambda: fl.pac_bayes_sharpness(loss, two, samples=4)
    yield "bits", lambda: fl.bits_per_weight(loss, two)
    start = {"prior": one, "start": one, "seed": 0, "samples": 4, "batch_size": 8}
    yield (
        "runs, pac-bayes",
        lambda: fl.optimise_pac_bayes(net, (x, y), steps=2, **start),
    )
    yield "soft rank", lambda: fl.soft_rank(H, 0.1)
    yield "critical", lambda: fl.critical_sharpness(loss, two)
    yield "quantise", lambda: fl.quantise(two, net.layout, 8)
    yield "interpolate", lambda: fl.interpolate(loss, one, two[0], [0.0, 0.5, 1.0])
    yield "plane", lambda: fl.plane(loss, one, points=3).losses
    yield "filters", lambda: fl.filter_normalised(two, one, net.layout)
    yield "pgd", lambda: fl.pgd(net, two, there, y, small, restarts=1)
    manifold = fl.pca_manifold(there, 3, to(y, device))
    yield "manifold", lambda: manifold.distance(there, to(y, device))
    data = fl.Examples(there, to(y, device))
    for how in ({"range": "adaptive"}, {"estimate": fl.kde_information}):
        name = f"information, {how.get('estimate', fl.binned_information).__name__}"
        yield name, lambda how=how: fl.information_plane(net, one, data, **how)
    yield "report", lambda: fl.report(to(module, device), (x, y)).trace
    if isinstance(net._source[-1], nn.Linear) and type(net._source[0]) is nn.Flatten:
        yield "rescaled layers", lambda: fl.rescale_layers(net, two, 2.0, (0, 1))
        factors = torch.full((5,), 2.0, device="cpu").to(device)
        yield "rescaled units", lambda: fl.rescale_units(net, two, factors)
    yield "bound", lambda: fl.sam_bound(loss(two), two.norm(dim=-1), rho=0.1, n=9, k=9)
    yield "needed", lambda: fl.examples_needed(loss(two), 1.0, rho=0.1, k=9)
    yield "kl", lambda: (fl.kl_inverse(loss(two) / 9, 0.1), fl.sigma_of_proof(1, 9, 9))
    yield "kl bound", lambda: fl.pac_bayes_kl_bound(loss(two) / 9, 1.0, 100)
    joint = torch.eye(3, device="cpu").to(device) / 3
    yield "bottleneck", lambda: fl.information_bottleneck(joint, [2.0], restarts=2)


def trainings(module, device):
    """Training in its forms, and SAM in a loop of one's own."""
    x, y = examples()
    net, data = fl.Network(to(module, device)), fl.Dataset.from_arrays(x, y)
    how = {"seeds": [0, 1], "epochs": 2, "batch_size": 8, "device": device}
    rates = torch.tensor([0.1, 0.2], device="cpu")
    several = [
        {"lr": 0.1, "momentum": 0.9, "neighbourhood": fl.adaptive_ball(0.1)},
        {"lr": rates, "neighbourhood": fl.ball(rates), "schedule": "cosine"},
        {"lr": 0.01, "optimizer": "adam", "input_noise": 0.1, "stop_loss": 0.9},
    ]
    for i, options in enumerate(several):
        yield f"train {i}", lambda o=options: fl.train(net, data, **how, **o).w

    def step(where):
        model = to(module, device)
        base = torch.optim.SGD(model.parameters(), 0.1)
        optimiser = fl.optim.SAM(base, where, module=model)

        def closure():
            value = nn.functional.cross_entropy(model(to(x, device)), to(y, device))
            value.backward()
            return value

        return optimiser.step(closure), *model.parameters()

    for where in (fl.ball(0.1), fl.adaptive_ball(0.1, by="layer")):
        yield f"SAM, {where.scale}", lambda where=where: step(where)


# of a network that goes through vmap on a GPU
SOME = ("logits", "loss", "gradient", "ignored labels", "product", "trace of probes")
SOME += ("diagonal", "worst case, ball", "fisher-rao", "relative flatness", "plane")


def parts(result):
    """All tensors of a result, as values on the CPU."""
    if isinstance(result, Elsewhere):
        return [result.value]
    if isinstance(result, Tensor):
        return [result.detach()]
    if isinstance(result, list | tuple):
        return [t for part in result for t in parts(part)]
    if is_dataclass(result):
        return [t for f in fields(result) for t in parts(getattr(result, f.name))]
    return []


def calls(make, device):
    torch.manual_seed(0)
    module = make().eval()
    for name, call in measures(module, device):
        if make is dense or name in SOME:
            yield name, call
    if make is dense:
        yield from trainings(module, device)


@cache
def here(make):
    return {name: parts(call()) for name, call in calls(make, CPU)}


# "mps" has no float64, and is the default device too: what says no device lands there
@pytest.mark.parametrize(
    "kind, make", [("cuda", dense), ("mps", dense), ("cuda", convolutional)]
)
def test_the_whole_api_gives_there_what_it_gives_here(kind, make):
    failed, wanted = [], here(make)
    with Device(kind) as device:
        for name, call in calls(make, device.home):
            default = torch.device(device.home) if kind == "mps" else nullcontext()
            try:
                with default:
                    result = call()
                if name in ("eigenvalues", "both ends"):  # made on the CPU
                    assert isinstance(result, Elsewhere), "left the device"
                found = parts(result)
                pairs = zip(found, wanted[name], strict=True)
                for a, b in () if name.startswith("runs") else pairs:
                    torch.testing.assert_close(
                        a.to(b), b, rtol=0.05, atol=1e-3, equal_nan=True
                    )
            except Exception as error:
                failed.append(f"{name}: {type(error).__name__}: {error}"[:300])
    assert not failed, "\n".join(failed)


def test_every_public_function_is_called():
    opening = Path(fl.__file__).read_text("utf-8")
    public = set(re.findall(r"^from flatlab\.\S* import \w+ as (\w+)$", opening, re.M))
    source = Path(__file__).read_text("utf-8")
    unused = {name for name in public if not re.search(rf"\bfl\.{name}\b", source)}
    # types, and what knows no tensor
    assert unused <= {
        *("Examples", "Layout", "Neighbourhood", "Run"),
        *("device", "scale", "scaled"),
        "local_learning_coefficient",  # chains of thousands of steps
    }


def test_a_lanczos_step_waits_for_the_device_three_times_at_most():
    x, y = examples()
    counts = {}
    with Device("cuda") as device:
        net = fl.Network(to(fl.models.mlp(16, 6, 3), device.home))
        H = fl.Hessian(fl.Loss(net, (x, y)), net.weights())
        H @ torch.ones_like(H.w)
        for products in (6, 14):
            before = device.waits
            fl.eigenvalues(H, k=1, tol=1e-9, max_products=products)
            counts[products] = device.waits - before
        before = device.waits
        H @ torch.ones_like(H.w)
        assert device.waits == before
    assert counts[14] - counts[6] <= 3 * 8


def test_a_step_of_training_launches_as_much_for_any_number_of_members():
    x, y = examples()
    launches, waits = {}, {}
    with Device("cuda") as device:
        net = fl.Network(to(dense(), device.home))
        data = fl.Dataset.from_arrays(x, y)
        # the first run examines the network
        for members, epochs in ((2, 1), (2, 2), (2, 4), (6, 2), (6, 4)):
            how = {"epochs": epochs, "batch_size": 8, "lr": 0.1, "record": None}
            device.launches = device.waits = 0
            fl.train(net, data, seeds=range(members), device=device.home, **how)
            launches[members, epochs] = device.launches
            waits[members, epochs] = device.waits
    each = {m: (launches[m, 4] - launches[m, 2]) / 2 for m in (2, 6)}
    assert waits[6, 4] - waits[6, 2] <= 2 * 2
    assert each[6] == each[2]


def test_many_points_on_a_gpu_leave_room_for_fewer_examples():
    x, y = torch.zeros(64, 1, 8, 8), torch.zeros(64).long()
    model = fl.models.cnn((1, 8, 8), 3, (4, 4), 0)
    with Device("cuda") as device:
        net = fl.Network(to(model, device.home))
        loss, w = fl.Loss(net, (x, y)), net.weights()
        units = net.activations(x[:2])
        for points in (1, 2**15):
            with_points = w.expand(points, -1)
            held = loss._parts(with_points)[0].stop * points * max(units, 200)
            assert held <= 2**25
