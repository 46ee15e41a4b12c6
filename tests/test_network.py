"""Network: the same function as the module, and the module left as it was found."""

import copy
import types
from dataclasses import dataclass, field
from functools import cached_property, partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from flatlab import models
from flatlab.hessian import Hessian
from flatlab.loss import Loss
from flatlab.network import Layout, Network, over_members
from tests.cases import close, dense, problem


class Tied(nn.Module):
    """Two layers that share one matrix."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 5)
        self.b = nn.Linear(5, 5)
        self.b.weight = self.a.weight
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Writer(nn.Module):
    """Works on its inputs in place, counts its calls and has a learned temperature."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("calls", torch.zeros(()))
        self.head = nn.Linear(5, 3)

    def reset_parameters(self):
        nn.init.uniform_(self.scale, 1, 2)

    def forward(self, x):
        self.calls += 1
        return self.scale * self.head(x.mul_(0.5).add_(0.1))


def shared():
    act, inner = nn.Tanh(), nn.Linear(4, 4)
    return nn.Sequential(nn.Linear(5, 4), act, inner, act, inner, act, nn.Linear(4, 3))


def shared_activation():
    act = nn.Tanh()
    return nn.Sequential(nn.Linear(5, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 3))


class Dictionary(nn.Module):
    """Takes named inputs and returns an object with logits, as text models do."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.encoder = nn.TransformerEncoderLayer(
            6, 2, dim_feedforward=8, batch_first=True, dropout=0.1
        )
        self.head = nn.Linear(6, 3)

    def forward(self, tokens, keep):
        h = self.encoder(self.table(tokens), src_key_padding_mask=~keep)
        out = self.head((h * keep.unsqueeze(-1)).mean(1))
        return type("Output", (), {"logits": out})


def frozen():
    net = models.mlp(5, 4, 3)
    net[1].weight.requires_grad_(False)
    return net


def images(*shape):
    return torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))


def tokens():
    g = torch.Generator().manual_seed(0)
    keep = torch.ones(6, 7, dtype=torch.bool)
    keep[:, 5:] = False
    return {"tokens": torch.randint(0, 11, (6, 7), generator=g), "keep": keep}


def warmed_resnet():
    net = models.resnet((1, 8, 8), 10, channels=(4, 6))
    net(torch.randn(32, 1, 8, 8))
    return net


CASES = {
    "mlp": (lambda: models.mlp(64, 12, 10), lambda: images(1, 8, 8)),
    "mlp-dropout": (lambda: models.mlp(5, 8, 8, 3, dropout=0.5), lambda: images(5)),
    "mlp-no-bias": (lambda: models.mlp(5, 8, 3, bias=False), lambda: images(5)),
    "no-flatten": (
        lambda: nn.Sequential(
            nn.Linear(5, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 3))
        ),
        lambda: images(5),
    ),
    "sequence": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)),
        lambda: images(7, 5),
    ),
    "cnn": (lambda: models.cnn((1, 8, 8), 10), lambda: images(1, 8, 8)),
    "resnet": (warmed_resnet, lambda: images(1, 8, 8)),
    "tied": (Tied, lambda: images(5)),
    "frozen": (frozen, lambda: images(5)),
    "shared": (shared, lambda: images(5)),
    "shared-activation": (shared_activation, lambda: images(5)),
    "writer": (Writer, lambda: images(5)),
    "in-place": (
        lambda: nn.Sequential(nn.ELU(inplace=True), nn.Linear(5, 3)),
        lambda: images(5),
    ),
    "dictionary": (Dictionary, tokens),
}


@pytest.fixture(params=sorted(CASES))
def case(request):
    torch.manual_seed(1)
    make, inputs = CASES[request.param]
    return make(), inputs()


def call(module, x):
    out = module(**x) if isinstance(x, dict) else module(x.clone())
    return out if isinstance(out, torch.Tensor) else out.logits


def test_network_is_the_module_in_eval_mode(case):
    module, x = case
    net = Network(module)
    expected = call(copy.deepcopy(module).eval(), x)
    torch.testing.assert_close(net(net.weights(), x), expected, rtol=1e-5, atol=1e-6)


def test_members_are_evaluated_as_they_are_alone(case):
    module, x = case
    net = Network(module)
    w = net.init(range(3), dtype=torch.float64)
    x = {k: v for k, v in x.items()} if isinstance(x, dict) else x.double()
    together = net(w, x)
    for i in range(3):
        alone = call(net.module(w[i]).eval(), x)
        torch.testing.assert_close(net(w[i], x), alone, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=1e-12)


def test_the_module_is_left_as_it_was_found(case):
    module, x = case
    module.train()
    for p in module.parameters():
        p.grad = torch.full_like(p, 7.0)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    inputs = copy.deepcopy(x)
    rng = torch.get_rng_state()
    net = Network(module)
    w = net.init(range(2))
    net(w, x)
    net.module(w[0])
    torch.testing.assert_close(x, inputs, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), rng)
    assert module.training
    assert all(m.training for m in module.modules())
    assert all((p.grad == 7).all() for p in module.parameters())
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_flatten_inverts_unflatten(case):
    net = Network(case[0])
    w = net.init(range(2))
    assert torch.equal(net.flatten(net.unflatten(w)), w)
    assert torch.equal(net.flatten(net.unflatten(w[0])), w[0])


def test_same_seed_same_member_whatever_the_ensemble():
    net = Network(models.mlp(5, 4, 3))
    w = net.init([3, 8, 5])
    assert torch.equal(net.init([5]), w[2:])
    assert torch.equal(net.init(8), w[1])
    assert not torch.equal(w[0], w[1])
    torch.manual_seed(8)
    fresh = models.mlp(5, 4, 3)
    assert torch.equal(Network(fresh).weights(), w[1])


def test_layout_names_every_coordinate():
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3), nn.Linear(4, 2))
    layout = Network(module).layout
    w = Network(module).weights()
    for name, shape, part in layout:
        torch.testing.assert_close(w[part].view(shape), module.get_parameter(name).data)
    convolution = layout.filter[: 3 * 18].view(3, 18)
    assert (convolution == convolution[:, :1]).all()
    assert convolution.unique().numel() == 3
    biases = layout.filter[layout.is_bias]
    assert biases.unique().numel() == biases.numel() == 3 + 3 + 3 + 2
    assert layout.layer.unique_consecutive().tolist() == [0, 1, 2]
    assert layout.k == w.numel() == sum(p.numel() for p in module.parameters())


def test_tied_parameters_count_once_and_frozen_ones_not_at_all():
    tied = Tied()
    assert Network(tied).k == sum(p.numel() for p in tied.parameters())
    net = Network(frozen())
    assert net.layout.names == ("1.bias", "3.weight", "3.bias")


def test_frozen_and_normalising_values_are_read_live():
    module = warmed_resnet()
    net = Network(module)
    x, w = images(1, 8, 8), net.weights()
    before = net(w, x)
    module.train()
    module(5 * torch.randn(32, 1, 8, 8))
    assert not torch.allclose(net(w, x), before)
    torch.testing.assert_close(net(w, x), copy.deepcopy(module).eval()(x))


def test_dropout_masks_multiply_the_hidden_units():
    net = Network(models.mlp(5, 4, 3, dropout=0.5))
    x = images(5)
    ((name, (p, shape)),) = net.dropout_masks(x[:1]).items()
    assert (p, shape) == (0.5, (4,))
    w = net.init(range(2))
    mask = torch.zeros(2, 6, 4)
    out = net.evaluate({**net.unflatten(w), name: mask}, x)
    bias = net.unflatten(w)["4.bias"]
    torch.testing.assert_close(out, bias.unsqueeze(1).expand(2, 6, 3))


def test_a_shared_dropout_drops_at_every_place():
    drop = nn.Dropout(0.5)
    net = Network(
        nn.Sequential(nn.Linear(5, 4), drop, nn.Linear(4, 6), drop, nn.Linear(6, 3))
    )
    masks = net.dropout_masks(images(5)[:1])
    assert masks == {"1.mask": (0.5, (4,)), "3.mask": (0.5, (6,))}


def test_channel_dropout_drops_whole_channels():
    net = Network(
        nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.Dropout2d(0.4), nn.Flatten(), nn.Linear(108, 2)
        )
    )
    assert net.dropout_masks(images(1, 8, 8)[:1]) == {"1.mask": (0.4, (3, 1, 1))}


def test_hooks_are_not_bypassed():
    module = models.mlp(5, 4, 3)
    module[1].register_forward_hook(lambda m, i, out: 2 * out)
    net = Network(module)
    x = images(5)
    torch.testing.assert_close(net(net.weights(), x), module(x))
    torch.testing.assert_close(net(net.weights()[None], x)[0], module(x))


def test_clear_errors():
    net = Network(models.mlp(5, 4, 3))
    with pytest.raises(TypeError, match=r"nn\.Module"):
        Network({"weight": torch.ones(2)})
    with pytest.raises(ValueError, match="requires_grad"):
        Network(nn.Flatten())
    with pytest.raises(ValueError, match="another network"):
        net(torch.zeros(7), images(5))
    with pytest.raises(TypeError, match="floating-point"):
        net(torch.zeros(net.k, dtype=torch.long), images(5))
    with pytest.raises(ValueError, match="one member"):
        net.module(net.init(range(2)))
    with pytest.raises(ValueError, match="at least one seed"):
        net.init([])

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x * self.scale

    with pytest.raises(ValueError, match="reset_parameters"):
        Network(Bare()).init(0)
    # the parts of a normalised weight are not what reset_parameters() writes to
    normalised = nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r"reset_parameters.*original"):
        Network(normalised).init(0)

    class Several(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    net = Network(Several(5, 3))
    with pytest.raises(TypeError, match=r"tuple.*attribute logits"):
        net(net.weights(), images(5))


def test_layout_moves_to_a_device():
    layout = Layout.of({"a": torch.zeros(2, 3)})
    assert layout.to(torch.device("cpu")) is layout
    assert layout.to(torch.device("meta")).filter.device.type == "meta"


def test_activations_count_what_the_layers_put_out():
    net = Network(models.mlp(64, 12, 10))
    # flatten 64, linear 12, ReLU 12, linear 10
    assert net.activations(images(1, 8, 8)[:1]) == 64 + 12 + 12 + 10
    wide = Network(models.cnn((1, 8, 8), 10, channels=(4,), hidden=0))
    assert wide.activations(images(1, 8, 8)[:1]) == 2 * 4 * 64 + 4 * 64 + 10
    assert Network(Dictionary()).activations(
        {name: value[:1] for name, value in tokens().items()}
    )


@dataclass(frozen=True)
class Result:
    values: torch.Tensor
    grid: torch.Tensor = field(metadata={"shared": True})
    count: int = 7


@over_members
def measured(net, w, times=1):
    assert w.ndim == 2 and not w.requires_grad
    size = times * w.square().sum(-1)
    return {"size": size, "both": (w, Result(size, torch.arange(len(w))))}


@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 3), (2, 1, 3), (0,)])
def test_over_members_takes_any_leading_axes(lead):
    net = Network(models.mlp(5, 4, 3))
    w = torch.randn(*lead, net.k, requires_grad=True)
    found = measured(net, w=w, times=2)
    same, result = found["both"]
    torch.testing.assert_close(found["size"], 2 * w.detach().square().sum(-1))
    assert torch.equal(same, w.detach())
    assert torch.equal(result.values, found["size"])
    assert result.grid.tolist() == list(range(w[..., 0].numel())) and result.count == 7
    x = images(5)
    assert net(w, x).shape == (*lead, 6, 3)


def test_over_members_refuses_what_is_no_point_of_the_network():
    net = Network(models.mlp(5, 4, 3))
    w = net.init(range(3))
    with pytest.raises(TypeError, match="expected a Network"):
        measured(models.mlp(5, 4, 3), w)
    with pytest.raises(ValueError, match="another network"):
        measured(net, w[:, 1:])
    w[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"members \[1\] hold NaN"):
        measured(net, w)
    with pytest.raises(TypeError, match="missing"):
        measured(net)


def copied(module, w):
    """A plain copy that holds the weights w."""
    truth = copy.deepcopy(module).eval()
    parts = Network(module).unflatten(w).values()
    trained = [p for p in truth.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter, part in zip(trained, parts, strict=True):
            parameter.copy_(part)
    return truth


def moved(net, lead=()):
    g = torch.Generator().manual_seed(2)
    return net.weights() + 0.3 * torch.randn(*lead, net.k, generator=g)


class TwoPlaces(nn.Module):
    """One embedding at two places, tied to the head besides."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.encoder = nn.ModuleDict({"embed": self.embed, "l": nn.Linear(4, 4)})
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        h = torch.tanh(self.encoder["l"](self.encoder["embed"](x))).mean(1)
        return self.head(h + self.embed(x[:, 0]))


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Linear(5, 6), nn.BatchNorm1d(6)
        self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def part(self, x):
        return torch.tanh(self.body(torch.tanh(self.norm(x))))

    def forward(self, x):
        h = checkpoint(self.part, self.stem(x), use_reentrant=False)
        return self.head(h)


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(4, 3)

    def forward(self, x):
        padding = torch.zeros(x.shape[:2], dtype=torch.bool)
        padding[:, -2:] = True
        return self.head(self.encoder(x, src_key_padding_mask=padding).mean(1))


def with_nothing():
    module = nn.Linear(5, 3)
    module.nothing = nn.Parameter(torch.empty(0, 5))
    module.no_columns = nn.Parameter(torch.empty(4, 0))
    return module


def scaled_forward(where):
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    target = module if where is None else module[where]
    kind = type(target)
    target.forward = types.MethodType(lambda self, x: kind.forward(self, x) * 3, target)
    return module


HARD = {
    "two places": (TwoPlaces, lambda: torch.arange(30).view(6, 5) % 10),
    "checkpoint": (Checkpointed, lambda: images(5)),
    "padding": (Padded, lambda: images(5, 4)),
    "empty": (with_nothing, lambda: images(5)),
    "forward of the stack": (lambda: scaled_forward(None), lambda: images(5)),
    "forward of a layer": (lambda: scaled_forward(1), lambda: images(5)),
    "sparse": (
        lambda: nn.Sequential(nn.EmbeddingBag(10, 4, sparse=True), nn.Linear(4, 3)),
        lambda: torch.arange(30).view(6, 5) % 10,
    ),
    "data parallel": (
        lambda: nn.DataParallel(models.mlp(5, 4, 3)),
        lambda: images(5),
    ),
    "recurrent": (
        lambda: nn.Sequential(nn.GRU(5, 4, batch_first=True), Last(), nn.Linear(4, 3)),
        lambda: images(7, 5),
    ),
}


class Last(nn.Module):
    def forward(self, x):
        return x[0][:, -1]


@pytest.mark.parametrize("kind", sorted(HARD))
def test_values_and_slopes_are_those_of_a_plain_copy(kind):
    """At weights that are not the module's own, again and again, for any member."""
    make, inputs = HARD[kind]
    torch.manual_seed(3)
    module, x = make(), inputs()
    net = Network(module)
    w = moved(net, (2,)).requires_grad_()
    for _ in range(2):
        outputs = net(w, x)
        (slopes,) = torch.autograd.grad(outputs.square().sum(), w)
        for i in range(2):
            truth = copied(module, w[i].detach())
            for layer in truth.modules():
                if hasattr(layer, "sparse"):
                    layer.sparse = False
            expected = truth(x)
            trained = list(truth.parameters())
            grads = torch.autograd.grad(
                expected.square().sum(), trained, materialize_grads=True
            )
            slope = torch.cat([g.flatten() for g in grads])
            torch.testing.assert_close(outputs[i], expected)
            torch.testing.assert_close(slopes[i], slope, rtol=1e-4, atol=1e-5)
            with torch.no_grad():  # where attention has a path of its own
                torch.testing.assert_close(net(w[i], x), expected)


def test_hooks_of_all_modules_are_not_bypassed():
    module, x = models.mlp(5, 4, 3), images(5)
    net = Network(module)
    handle = nn.modules.module.register_module_forward_hook(
        lambda m, i, out: 2 * out if isinstance(m, nn.Linear) else None
    )
    try:
        torch.testing.assert_close(net(net.weights()[None], x)[0], module(x))
    finally:
        handle.remove()
    torch.testing.assert_close(net(net.weights(), x), module(x))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = self.body(x)
        return self.head(h), h


def patched():
    module = Two()
    old = module.forward
    module.forward = lambda x: old(x)[0]
    return module


def held():
    """A function of a part of the module, kept in its constructor."""
    module = nn.Sequential(nn.Linear(5, 4), nn.Identity())
    head = nn.Linear(4, 3)
    module[1].head = head
    module[1].register_forward_hook(lambda m, inputs, out: head(out))
    return module


class Drawing(nn.Linear):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, training=True)


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 0.1 * torch.randn(())


class Counting(nn.Linear):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls


class Detached(nn.Module):
    def __init__(self, all_of_it=False):
        super().__init__()
        self.a, self.b, self.all_of_it = nn.Linear(5, 4), nn.Linear(4, 3), all_of_it

    def forward(self, x):
        out = self.b(torch.tanh(self.a(x)).detach())
        return out.detach() if self.all_of_it else out


class Forgetful(nn.Linear):
    """Its copy is not what it was."""

    def __deepcopy__(self, memo):
        return nn.utils.skip_init(nn.Linear, self.in_features, self.out_features)

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (patched, "own weights"),
        (held, "own weights"),
        (lambda: Drawing(5, 3), "second call"),
        (lambda: Noisy(5, 3), "second call"),
        (lambda: Counting(5, 3), "second call"),
        (Detached, r"no gradient reaches a\.weight, a\.bias"),
        (lambda: Detached(True), r"no gradient reaches a\.weight, a\.bias, b\.weight"),
        (lambda: Forgetful(5, 3), "copy of the module gives another"),
    ],
)
def test_what_would_be_measured_wrongly_is_refused_and_left_as_it_was(make, words):
    module, x = make().train(), images(5)
    before = {n: t.clone() for n, t in module.state_dict().items()}
    state = torch.get_rng_state()
    net = Network(module)
    for w in (net.weights(), moved(net, (2,))):
        with pytest.raises(ValueError, match=words):
            net(w, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in module.modules())
    after = module.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_and_traced_modules_are_refused():
    module = nn.Linear(5, 3)
    for made in (
        torch.jit.script(module),
        torch.jit.trace(module, images(5)),
        nn.Sequential(torch.jit.script(module)),
    ):
        with pytest.raises(TypeError, match=r"torch\.jit"):
            Network(made)


def test_compiled_modules_are_those_they_were_made_of():
    x = images(5)
    for plain in (models.mlp(5, 4, 3), nn.Sequential(nn.Linear(5, 3))):
        net = Network(torch.compile(plain, backend="eager"))
        w = moved(net)
        torch.testing.assert_close(net(w, x), Network(plain)(w, x))


def test_children_are_initialised_before_what_holds_them():
    attention = Network(nn.MultiheadAttention(4, 2))
    w = attention.init([5])
    torch.manual_seed(5)
    assert torch.equal(w[0], Network(nn.MultiheadAttention(4, 2)).weights())
    name = "encoder.layers.0.linear1.weight"
    net = Network(nn.Transformer(4, 2, 1, 1, 64))
    bound = (6 / (4 + 64)) ** 0.5  # Xavier's; the layer's own is 1 / 2
    drawn = net.unflatten(net.init(range(10)))[name].abs()
    assert 0.95 * bound < drawn.max() <= bound


def test_without_a_batching_rule_members_are_taken_in_turn(monkeypatch):
    net = Network(HARD["recurrent"][0]())
    w, x = moved(net, (3,)), images(7, 5)
    expected = net(w, x)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)  # the branch that a GPU takes
    torch.testing.assert_close(net(w, x), expected)
    torch.testing.assert_close(net(w[:1], x), expected[:1])
    cnn = Network(models.cnn((1, 8, 8), 4, channels=(2,), hidden=0))
    together = cnn(moved(cnn, (3,)), images(1, 8, 8))
    monkeypatch.undo()
    torch.testing.assert_close(together, cnn(moved(cnn, (3,)), images(1, 8, 8)))


def test_another_default_device_changes_nothing():
    module, x = models.mlp(5, 4, 3, dropout=0.5), images(5)
    expected = Network(module)(Network(module).init([1]), x)
    torch.set_default_device("meta")
    try:
        net = Network(module)
        assert torch.equal(net(net.init([1]), x), expected)
    finally:
        torch.set_default_device(None)


def test_only_some_parameters_make_up_w():
    loss, w = problem("tanh")
    module = loss.net.module(w)
    part = Network(module, only="3.*")
    kept = [s for name, _, s in loss.net.layout if name.startswith("3.")]
    index = torch.cat([torch.arange(s.start, s.stop) for s in kept])
    assert torch.equal(part.weights(), w[index])
    own = Loss(part, (loss.x, loss.y))
    assert own(part.weights()) == loss(w)
    torch.testing.assert_close(own.gradient(part.weights()), loss.gradient(w)[index])
    block = Hessian(own, part.weights()) @ torch.eye(len(index), dtype=w.dtype)
    close(block, dense(loss, w)[index][:, index])
    with pytest.raises(ValueError, match=r"only='head.*matches none of 1.weight"):
        Network(module, only="head.*")


# -------------------------------------------- weights that a module holds a second time


class Held(nn.Module):
    """Reaches a weight through something that is no part of a module."""

    def __init__(self, hold):
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))  # of no axis, as CLIP's
        self.held = hold(self.a.weight)

    def forward(self, x):
        kept = self.held
        hidden = kept(x) if callable(kept) else x @ next(iter(kept)).T
        return self.b((hidden + self.a(x)).tanh() * self.scale)


@pytest.mark.parametrize(
    "hold",
    [lambda p: [p], lambda p: (p,), lambda p: partial(F.linear, weight=p)],
    ids=["list", "tuple", "partial"],
)
def test_a_weight_in_a_list_or_a_partial_is_that_of_w(hold):
    module = Held(hold).double()
    net = Network(module)
    w = net.weights()
    away = w + 0.3 * torch.randn_like(w)
    x, y = torch.randn(7, 6, dtype=w.dtype), torch.randint(0, 3, (7,))
    loss = Loss(net, (x, y))
    found, slope = loss.value_and_gradient(away)
    product = Hessian(loss, away) @ w[:, None]
    own = list(module.parameters())
    nn.utils.vector_to_parameters(away, own)
    expected = F.cross_entropy(module(x), y)
    first = torch.autograd.grad(expected, own, create_graph=True)
    flat = torch.cat([g.flatten() for g in first])
    second = torch.autograd.grad(flat @ w, own)
    torch.testing.assert_close(found, expected.detach())
    torch.testing.assert_close(slope, flat.detach())
    second = torch.cat([g.flatten() for g in second])
    torch.testing.assert_close(product[:, 0], second)


@pytest.mark.parametrize("called", [False, True])
def test_what_is_computed_once_from_the_weights_is_refused(called):
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 3)

        @cached_property
        def turned(self):
            return self.a.weight.T

        def forward(self, x):
            return x @ self.turned + self.a.bias

    module, x = Cached(), torch.randn(5, 6)
    loss = Loss(Network(module), (x, torch.zeros(5, dtype=torch.long)))
    if called:
        module(x)
    with pytest.raises(ValueError, match="keeps a tensor computed from its parameters"):
        loss(loss.net.weights())
    if called:
        with pytest.raises(ValueError, match="compute in forward what is cached"):
            Network(module)


def test_a_pruned_module_is_to_be_made_permanent():
    module = nn.Sequential(nn.Linear(6, 3))
    prune.random_unstructured(module[0], "weight", 0.3)
    with pytest.raises(ValueError, match=r"torch\.nn\.utils\.prune\.remove"):
        Network(module)
    prune.remove(module[0], "weight")
    assert Network(module).k == 21


# ---------------------------------------------- what autograd, a trace or torch changes


class Following(nn.Module):
    """Puts another buffer in the place of its own, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x):
        self.mean = 0.9 * self.mean + x.detach().mean(0)
        return self.b(self.a(x).relu())


def test_a_buffer_that_is_replaced_is_put_back():
    torch.manual_seed(0)
    module, x = Following(), images(5)
    held, y = module.mean, torch.arange(6) % 3
    loss = Loss(Network(module), (x, y))
    w = loss.net.weights()
    value = loss(w)
    Hessian(loss, w).exact_diagonal()  # traces the module
    assert loss(w) == value == F.cross_entropy(copied(module, w)(x), y)
    assert module.mean is held
    assert not held.any()


def test_gradients_that_an_embedding_scales_are_those_of_the_loss():
    torch.manual_seed(0)
    table = nn.Embedding(4, 3, scale_grad_by_freq=True)
    module = nn.Sequential(table, nn.Flatten(), nn.Tanh(), nn.Linear(6, 3)).double()
    x, y = torch.randint(0, 4, (9, 2)), torch.arange(9) % 3
    loss = Loss(Network(module), (x, y))
    w, step = loss.net.weights(), 1e-6
    found = loss.gradient(w)
    for i, row in enumerate(torch.eye(len(w), dtype=w.dtype)):
        rise = loss(w + step * row) - loss(w - step * row)
        assert found[i].item() == pytest.approx(rise.item() / (2 * step), abs=1e-8)
    assert table.scale_grad_by_freq


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_has_no_weights_or_none_that_stay_is_refused():
    with pytest.raises(ValueError, match="call the module on a batch first"):
        Network(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 3)))
    with pytest.raises(TypeError, match=r"complex.*view_as_real"):
        Network(nn.Linear(5, 3, dtype=torch.complex64))
    module = nn.Sequential(nn.Embedding(4, 3, max_norm=0.1), nn.Flatten())
    with pytest.raises(ValueError, match="max_norm writes to its weights"):
        Network(module)


def test_backward_hooks_do_not_change_the_gradient():
    torch.manual_seed(0)
    module, x = models.mlp(5, 4, 3).double(), images(5).double()
    loss = Loss(Network(module), (x, torch.arange(6) % 3))
    expected = loss.gradient(loss.net.weights())
    for layer in (module[1], module[3]):
        layer.register_full_backward_hook(lambda m, gi, go: tuple(gi and [0 * gi[0]]))
        layer.register_full_backward_pre_hook(lambda m, go: (3 * go[0],))
    loss = Loss(Network(module), (x, torch.arange(6) % 3))
    torch.testing.assert_close(loss.gradient(loss.net.weights()), expected)
    assert len(module[3]._backward_hooks) == 1


def test_a_narrow_part_is_measured_in_the_dtype_of_the_widest():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 4).bfloat16(), nn.Linear(4, 3)

        def forward(self, x):
            h = torch.tanh(self.a(x.to(self.a.weight.dtype)))
            return self.b(h.to(self.b.weight.dtype))

    torch.manual_seed(0)
    module, x, y = Mixed(), images(5), torch.arange(6) % 3
    loss = Loss(Network(module), (x, y))
    w = loss.net.weights()
    assert w.dtype == torch.float32
    expected = F.cross_entropy(copy.deepcopy(module).float()(x), y)
    torch.testing.assert_close(loss(w), expected.detach())
