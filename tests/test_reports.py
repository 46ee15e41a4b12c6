"""fl.report: right numbers, from any model, with the warnings an expert would give."""

import copy
from dataclasses import replace

import matplotlib
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import flatlab as fl
from flatlab import models
from tests.cases import CASES, Forward, dense, draws, labels, problem, tokens

matplotlib.use("Agg")


def trained(module, x, y, steps=300):
    optimiser = torch.optim.Adam(module.parameters(), 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimiser.step()
    return module


def blobs(n=60):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    x = 2 * F.one_hot(y, 3) + torch.randn(n, 3, generator=generator)
    return x.float(), y


def mlp(activation="relu"):
    torch.manual_seed(0)
    return models.mlp(3, 8, 3, activation=activation)


def said(report, words):
    return any(words in text for text in report.warnings)


def test_numbers_are_those_of_the_dense_hessian():
    loss, w = problem("tanh")
    found = fl.report(loss.net.module(w), (loss.x, loss.y))
    values = torch.linalg.eigvalsh(dense(loss, w)).flip(0)
    true = torch.cat([values[:5], values[-5:]])
    error = (found.spectrum.values - true).abs()
    assert (error <= found.spectrum.residuals + 1e-9).all()
    assert found.trace.values.item() == pytest.approx(
        values.sum().item(), abs=4 * found.trace.standard_error.item()
    )
    gradient = loss.gradient(w)
    assert found.gradient_norm == pytest.approx(gradient.norm().item())
    logits = loss.net.module(w)(loss.x)
    assert found.loss == pytest.approx(F.cross_entropy(logits, loss.y).item())
    assert found.accuracy == pytest.approx((logits.argmax(1) == loss.y).double().mean())
    # in a small ball the loss is quadratic
    tiny = fl.report(loss.net.module(w), (loss.x, loss.y), radius=1e-4)
    rise = tiny.rises["ball(0.0001)"]
    assert rise.worst == pytest.approx(1e-4 * gradient.norm().item(), rel=1e-3)
    mean = 1e-8 * values.sum().item() / loss.net.k / 2
    assert rise.average == pytest.approx(mean, abs=4 * rise.error)
    square = w.norm().item() ** 2
    assert found.relative["λmax ‖w‖²"] == pytest.approx(values[0].item() * square)


def test_an_error_of_some_tens_is_written_in_full():
    found = fl.report(mlp(), blobs())
    trace = replace(
        found.trace,
        values=torch.tensor(4712.0),
        standard_error=torch.tensor(28.0),
    )
    assert "4712 ± 30" in str(replace(found, trace=trace))


def test_curvature_of_a_large_set_is_of_an_eighth():
    x, y = blobs(6000)
    model = mlp()
    found, again = fl.report(model, (x, y)), fl.report(model, (x, y))
    assert (found.n, found.examples) == (6000, 750)
    assert found.loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)
    assert found.part_loss != found.loss
    assert torch.equal(found.spectrum.values, again.spectrum.values)
    assert said(found, "of 750 of 6,000 examples")
    whole = fl.report(model, (x, y), examples=6000)
    assert not said(whole, "of 6,000 examples")
    assert found.top == pytest.approx(whole.top, rel=0.2)


class Centred(nn.Module):
    def forward(self, h):
        return h - h.mean(0)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(4, track_running_stats=False), Centred()]
)
def test_what_mixes_examples_is_measured_on_all(layer):
    model = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 3))
    found = fl.report(model, blobs(900))
    assert (found.examples, found.part_loss) == (900, found.loss)


def test_the_model_is_left_as_it_was_found():
    x, y = blobs()
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model(x)
    state, before = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    fl.report(model, (x, y))
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
    assert torch.equal(before, torch.random.get_rng_state())


def test_warnings_say_what_is_the_case_and_nothing_else():
    x, y = blobs()
    fresh, fitted = fl.report(mlp(), (x, y)), fl.report(trained(mlp(), x, y), (x, y))
    assert said(fresh, "not at a minimum") and said(fresh, "does not fit")
    assert said(fresh, "negative curvature") and said(fresh, "layer times 10")
    assert not said(fitted, "does not fit") and not said(fitted, "BatchNorm")
    torch.manual_seed(0)
    convex = fl.report(trained(nn.Linear(3, 3), x / 2, y, 2000), (x / 2, y))
    assert not said(convex, "not at a minimum") and said(convex, "does not fit")
    assert not said(convex, "negative curvature") and not said(convex, "times 10")
    assert not said(fl.report(mlp("tanh"), (x, y)), "layer times 10")
    far = fl.Network(trained(mlp(), x, y))
    far = fl.report(far.module(3 * far.weights()), (x, y))
    assert far.loss < 1e-3 and said(far, "vanishes with it")
    norm = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    assert said(fl.report(norm, (x, y)), "BatchNorm")


def test_a_comparison_at_unequal_loss_has_no_ratio_of_curvature():
    x, y = blobs()
    one, same = trained(mlp(), x, y, 40), trained(mlp(), x, y, 41)
    one, same, other = (fl.report(m, (x, y)) for m in (one, same, mlp()))
    level = one.compare(same)
    assert not level.unequal and not level.notes
    assert level.rows["trace"][2] == pytest.approx(
        (one.trace.values / same.trace.values).item()
    )
    uneven = one.compare(other)
    assert uneven.unequal and "not compared" in str(uneven)
    assert uneven.rows["trace"][2] is uneven.rows["2 / λmax"][2] is None
    assert uneven.rows["loss"][2] == pytest.approx(one.loss / other.loss)
    assert "differ" in uneven._repr_html_()
    with pytest.raises(TypeError, match="takes a Report"):
        one.compare(0.1)


def test_text_page_and_figure_show_every_number():
    x, y = blobs()
    found = fl.report(mlp(), (x, y))
    for name, value in (("loss", found.loss), ("‖w‖", found.norm)):
        assert f"{name}" in str(found) and f"{value:.4g}" in str(found)
    page = found._repr_html_()
    assert page.count("<tr><td>") == len(list(found.rows()))
    assert all(text.split(":")[0] in page for text in found.warnings)
    _, right = found.plot().axes
    assert len(right.get_lines()) == 2
    # along the top eigenvector the loss bends as its eigenvalue says
    distances, losses = found.profile
    middle = len(distances) // 2
    bend = (losses[0, middle + 1] + losses[0, middle - 1] - 2 * losses[0, middle]) / (
        distances[middle + 1] ** 2
    )
    assert bend.item() == pytest.approx(found.top, rel=0.1)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sigmoid()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        y = ctx.saved_tensors[0].sigmoid()
        return g * y * (1 - y)


def test_without_a_second_derivative_curvature_is_by_differences():
    loss, _ = problem("tanh")
    torch.manual_seed(0)
    once, plain = Forward(_Once.apply).double(), Forward(torch.sigmoid).double()
    plain.load_state_dict(once.state_dict())
    found, wanted = (fl.report(m, (loss.x, loss.y)) for m in (once, plain))
    assert said(found, "differences of gradients") and "_Once" in str(found)
    assert found.top == pytest.approx(wanted.top, rel=1e-5)
    assert not said(wanted, "differences")


BITS = (torch.arange(7) % 2).double()[:, None]
MODELS = {
    "one-logit": (
        lambda: nn.Linear(5, 1).double(),
        (draws(5), BITS),
        nn.BCEWithLogitsLoss(),
    ),
    "values": (lambda: nn.Linear(5, 2).double(), (draws(5), draws(2)), F.mse_loss),
    "one-weight": (
        lambda: nn.Linear(1, 1, bias=False).double(),
        (draws(1), BITS),
        F.mse_loss,
    ),
    "half": (
        lambda: nn.Linear(5, 3).bfloat16(),
        (draws(5).bfloat16(), labels()),
        "cross_entropy",
    ),
    "padding": (CASES["transformer"][0], {**tokens(), "labels": labels()}, None),
    "ignored": (
        CASES["mlp"][0],
        (draws(5), labels().index_fill(0, torch.tensor([2]), -100)),
        None,
    ),
}


@pytest.mark.parametrize("name", [*CASES, *MODELS])
def test_models_of_all_kinds(name):
    torch.manual_seed(0)
    if name in MODELS:
        make, data, criterion = MODELS[name]
    else:
        (make, x), criterion = CASES[name], None
        data = {**x, "labels": labels()} if isinstance(x, dict) else (x, labels())
    found = fl.report(make().eval(), data, criterion or "cross_entropy")
    numbers = [value for _, _, value, _ in found.rows()]
    assert torch.tensor(numbers).isfinite().all()
    assert found.rises and str(found) and found.examples == found.n


def huggingface():
    transformers = pytest.importorskip("transformers")
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 50, (20, 9), generator=generator)
    keep = torch.ones_like(ids)
    keep[::3, 6:] = 0
    text = {"input_ids": ids * keep, "attention_mask": keep}
    config = transformers.BertConfig(vocab_size=50, num_labels=3, **small)
    yield (
        "encoder",
        transformers.BertForSequenceClassification(config),
        {
            **text,
            "labels": torch.arange(20) % 3,
        },
    )
    config = transformers.LlamaConfig(vocab_size=50, **small)
    yield (
        "decoder",
        transformers.LlamaForCausalLM(config),
        {
            **text,
            "labels": ids.where(keep > 0, -100),
        },
    )
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, num_channels=1, num_labels=4, **small
    )
    images = torch.randn(20, 1, 8, 8, generator=generator)
    yield (
        "vision",
        transformers.ViTForImageClassification(config),
        {
            "pixel_values": images,
            "labels": torch.arange(20) % 4,
        },
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hugging_face_models_have_the_loss_that_they_say_themselves():
    torch.manual_seed(0)
    for kind, model, batch in huggingface():
        # two batches, as a loader gives them
        halves = [{n: t[i::2] for n, t in batch.items()} for i in (0, 1)]
        found = fl.report(model, halves)
        with torch.no_grad():
            own = model.eval()(**batch).loss.item()
        assert found.loss == pytest.approx(own, rel=1e-5), kind
        w = fl.Network(model).weights()
        assert found.spectrum.residuals[0] < 0.05 * found.top, kind
        assert found.norm == pytest.approx(w.norm().item())


class Float(nn.Module):
    """Computes in float32, whatever its weights are in, as of images of uint8."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.GRU(5, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        state = torch.zeros(1, len(x), 4)
        return self.head(self.body(x.float() / 255, state)[0][:, -1])


def test_a_model_that_knows_no_float64_is_measured_in_float32():
    torch.manual_seed(0)
    module, g = Float(), torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (12, 3, 5), generator=g).to(torch.uint8)
    y = torch.arange(12) % 3
    found = fl.report(module, (x, y))
    loss = fl.Loss(fl.Network(module), (x, y))
    w = loss.net.weights()

    def truth(v):
        return F.cross_entropy(
            torch.func.functional_call(module, loss.net.unflatten(v), (x,)), y
        )

    values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(truth, w))
    torch.testing.assert_close(found.spectrum.values[0], values[-1])
    assert found.loss == pytest.approx(truth(w).item())
    rate, slope = fl.critical_sharpness(loss, w).rate, loss.gradient(w)
    assert truth(w - 0.9 * rate * slope) < truth(w) < truth(w - 1.1 * rate * slope)
    differences = fl.Hessian(loss, w, method="finite_difference") @ slope
    exact = fl.Hessian(loss, w) @ slope
    torch.testing.assert_close(differences, exact, rtol=0.05, atol=1e-4)


def test_a_loss_below_zero_is_compared_with_itself():
    def criterion(z, t):
        return F.gaussian_nll_loss(z[:, 0], t, z[:, 1].exp()) - 3

    x, y = blobs(12)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    found = fl.report(module, (x, y.float()), criterion)
    assert found.loss < 0
    assert not found.compare(found).unequal
    fall = found.gradient_norm**2 / (2 * found.top)
    assert said(found, f"takes about {float(f'{fall:.2g}'):g} off the loss")


def test_of_few_labels_that_count_none_is_left_out():
    x, y = blobs(6000)
    y[torch.arange(6000) % 600 != 0] = -100
    found = fl.report(mlp(), (x, y))
    assert found.examples == 6000
    assert found.part_loss == pytest.approx(found.loss)


def test_nothing_changes_under_no_grad():
    x, y = blobs(12)
    net = fl.Network(mlp())
    loss, w = fl.Loss(net, (x, y)), net.weights()
    measures = (
        lambda: fl.report(mlp(), (x, y)).spectrum.values,
        lambda: loss.gradient(w),
        lambda: fl.trace(fl.Hessian(loss, w)).values,
        lambda: fl.worst_case_sharpness(loss, w, fl.ball(0.1), steps=2).values,
        lambda: fl.critical_sharpness(loss, w).values,
        lambda: fl.fisher_rao_norm(loss, w),
        lambda: fl.relative_flatness(loss, w),
        lambda: fl.pgd(net, w, x, y, fl.ball(0.3), steps=2).loss,
        lambda: fl.local_learning_coefficient(loss, w, draws=3, burn_in=3).values,
    )
    for measure in measures:
        expected = measure()
        with torch.no_grad():
            assert torch.equal(measure(), expected)


def test_a_loss_below_the_smallest_of_float32_is_told():
    module = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[12.0, 0.0], [-12.0, 0.0]]))
    x = torch.tensor([[1.0, 0.3], [-1.0, 0.2], [1.2, -0.1]])
    y = torch.tensor([0, 1, 0])
    assert F.cross_entropy(module(x), y) == 0
    exact = F.cross_entropy(copy.deepcopy(module).double()(x.double()), y).item()
    found = fl.report(module, (x, y))
    assert found.loss == pytest.approx(exact)
    assert found.gradient_norm > 0


def test_a_large_gradient_has_a_length():
    x, y = blobs(12)
    module = mlp()
    with torch.no_grad():
        module[3].weight *= 1e25
    found = fl.report(module, (x, y))
    F.cross_entropy(module.double()(x.double()), y).backward()
    slope = torch.cat([p.grad.flatten() for p in module.parameters()])
    assert found.gradient_norm == pytest.approx(slope.norm().item(), rel=1e-5)
    loss = fl.Loss(fl.Network(module.float()), (x, y))
    found = fl.gradient_norm(loss, loss.net.weights())
    torch.testing.assert_close(found, slope.norm().float())
