"""Spectra of matrices whose spectrum is known."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlab.spectra import (
    diagonal,
    eigenvalues,
    soft_rank,
    spectral_density,
    trace,
)


class Operator:
    """A matrix, or the diagonal of one, seen only through its products."""

    def __init__(self, A, diagonal=False):
        self.A, self.diagonal = A, diagonal
        self.shape = (*A.shape, A.shape[-1]) if diagonal else A.shape
        self.dtype, self.device, self.products = A.dtype, A.device, 0

    def __matmul__(self, V):
        self.products += V.shape[-1]
        return self.A[..., None] * V if self.diagonal else self.A @ V


def matrices(spectra, generator):
    """Symmetric matrices (members, n, n) with the given spectra, turned at random."""
    n = spectra.shape[-1]
    shape = (*spectra.shape[:-1], n, n)
    Q = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))[0]
    A = (Q * spectra[..., None, :]) @ Q.mT
    return (A + A.mT) / 2


def groups(values, spread):
    """Each member's eigenvalues in a few tight groups."""

    def draw(m, n, generator):
        centres = torch.randn(m, values, generator=generator, dtype=torch.float64)
        which = torch.randint(0, values, (m, n), generator=generator)
        noise = torch.randn(m, n, generator=generator, dtype=torch.float64)
        return centres.gather(1, which) + spread * noise

    return draw


def outliers(m, n, generator):
    bulk = 0.01 * torch.randn(m, n, generator=generator, dtype=torch.float64)
    few = max(1, n // 10)
    bulk[:, :few] += 1 + 5 * torch.rand(
        m, few, generator=generator, dtype=torch.float64
    )
    return bulk


def twin_tops(m, n, generator):
    spectra = torch.rand(m, n, generator=generator, dtype=torch.float64)
    spectra[:, :2] = 1.5
    return spectra


def low_rank(m, n, generator):
    spectra = torch.randn(m, n, generator=generator, dtype=torch.float64)
    spectra[:, 3:] = 0
    return spectra


def decay(m, n, generator):
    exponents = torch.rand(m, n, generator=generator, dtype=torch.float64)
    signs = torch.randn(m, n, generator=generator, dtype=torch.float64).sign()
    return signs * 10 ** (-8 * exponents)


SPECTRA = {
    "uniform": lambda m, n, g: torch.rand(m, n, generator=g, dtype=torch.float64),
    "negative": lambda m, n, g: -torch.rand(m, n, generator=g, dtype=torch.float64),
    "indefinite": lambda m, n, g: torch.randn(m, n, generator=g, dtype=torch.float64),
    "outliers": outliers,
    "clusters": groups(3, 1e-4),
    "tight clusters": groups(3, 1e-7),
    "multiples": groups(4, 0),
    "twin tops": twin_tops,
    "low rank": low_rank,
    "decay": decay,
    "identity": lambda m, n, g: torch.ones(m, n, dtype=torch.float64),
    "zero": lambda m, n, g: torch.zeros(m, n, dtype=torch.float64),
}
MEMBERS = {5: 100, 20: 60, 60: 16, 150: 2}


def true_ends(spectra, k, which):
    ordered = spectra.sort(descending=True).values
    top, bottom = ordered[..., :k], ordered[..., -k:]
    return {"largest": top, "smallest": bottom, "both": torch.cat([top, bottom], -1)}[
        which
    ]


def relative_error(found, truth, spectra):
    share = 0.01 * spectra.abs().amax(-1, keepdim=True)
    allowed = torch.maximum(truth.abs(), share).clamp_min(1e-300)
    return (found - truth).abs() / allowed


@pytest.mark.parametrize("name", SPECTRA)
def test_no_eigenvalue_is_missed_in_thousands_of_spectra(name):
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    for n, members in MEMBERS.items():
        spectra = SPECTRA[name](members, n, generator)
        A = matrices(spectra, generator)
        for which, k in (("largest", 1), ("largest", 5), ("smallest", 2), ("both", 2)):
            found = eigenvalues(A, k, which=which, seed=n)
            truth = true_ends(spectra, k, which)
            assert relative_error(found.values, truth, spectra).max() < 1e-3
            assert found.converged.all()
            assert (found.products <= n).all()


@given(
    spectrum=st.lists(
        st.one_of(st.sampled_from([0.0, 1.0, -1.0, 3.0]), st.floats(-10, 10)),
        min_size=1,
        max_size=25,
    ),
    data=st.data(),
    tol=st.sampled_from([1e-1, 1e-3, 1e-8]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_any_spectrum(spectrum, data, tol, seed):
    n = len(spectrum)
    which = data.draw(st.sampled_from(["largest", "smallest", "both"][: 2 + (n > 1)]))
    k = data.draw(st.integers(1, n // 2 if which == "both" else n))
    spectra = torch.tensor(spectrum, dtype=torch.float64)
    # Numbers of float64's own underflow are no concern here.
    spectra[spectra.abs() < 1e-250] = 0
    A = matrices(spectra, torch.Generator().manual_seed(seed))
    found = eigenvalues(A, k, which=which, tol=tol, seed=seed, eigenvectors=True)
    truth = true_ends(spectra, k, which)
    assert relative_error(found.values, truth, spectra).max() <= tol + 1e-10
    assert found.values.shape == truth.shape and found.products <= n
    X, size = found.vectors, max(1e-300, float(spectra.abs().max()))
    eye = torch.eye(X.shape[-1], dtype=torch.float64)
    torch.testing.assert_close(X.mT @ X, eye, atol=1e-10, rtol=0)
    residual = (A @ X - X * found.values).norm(dim=0)
    torch.testing.assert_close(residual, found.residuals, atol=1e-10 * size, rtol=1e-6)


def network_like(n=20_000, copies=1):
    """Ten outliers over a bulk near zero, as trained networks have them."""
    generator = torch.Generator().manual_seed(0)
    spectrum = 0.002 * torch.randn(n, generator=generator, dtype=torch.float64) ** 3
    top = 10 * 0.8 ** torch.arange(10, dtype=torch.float64)
    spectrum[: 10 * copies] = top.repeat_interleave(copies)
    return spectrum


@pytest.mark.parametrize(("k", "most"), [(1, 18), (5, 24)])
def test_products_on_a_spectrum_like_a_network_s(k, most):
    spectrum = network_like()
    operator = Operator(spectrum, diagonal=True)
    found = eigenvalues(operator, k)
    assert found.products <= most
    assert operator.products == found.products
    torch.testing.assert_close(found.values, spectrum[:k], rtol=1e-3, atol=0)


def test_triple_outliers_of_a_large_operator_are_all_found():
    spectrum = network_like(copies=3)
    found = eigenvalues(Operator(spectrum, diagonal=True), 7)
    torch.testing.assert_close(found.values, spectrum[:7], rtol=1e-3, atol=0)


def test_float32_keeps_six_digits_of_the_norm():
    spectrum = network_like()
    found = eigenvalues(Operator(spectrum.float(), diagonal=True), 5, tol=1e-5)
    assert found.values.dtype == torch.float32 and found.converged
    error = (found.values.double() - spectrum[:5]).abs().max()
    assert error < 4e-6 * spectrum.max()


def test_residuals_in_float32_are_those_of_the_vectors():
    spectrum = network_like(200_000)
    A = Operator(spectrum.float(), diagonal=True)
    found = eigenvalues(A, 5, tol=1e-5, eigenvectors=True)
    X = found.vectors.double()
    gap = (X.mT @ X - torch.eye(5, dtype=torch.float64)).abs().max()
    residual = (spectrum[:, None] * X - X * found.values).norm(dim=0)
    assert gap < 1e-6
    assert (residual < found.residuals + 4e-7 * spectrum.max()).all()


def test_a_member_has_the_same_result_in_any_company():
    generator = torch.Generator().manual_seed(0)
    easy, hard = outliers(1, 80, generator), torch.linspace(0, 1, 80).double()[None]
    A = matrices(torch.cat([easy, hard]), generator)
    together = eigenvalues(A, 3, eigenvectors=True)
    assert together.products[0] < together.products[1]
    for i in range(2):
        alone = eigenvalues(A[i], 3, eigenvectors=True)
        assert alone.values.shape == (3,) and alone.vectors.shape == (80, 3)
        torch.testing.assert_close(alone.values, together.values[i])
        assert alone.products == together.products[i]
        overlap = (alone.vectors * together.vectors[i]).sum(0).abs()
        torch.testing.assert_close(overlap, torch.ones_like(overlap))
    several = eigenvalues(A.reshape(1, 2, 80, 80), 3)
    assert several.values.shape == (1, 2, 3)
    torch.testing.assert_close(several.values[0], together.values)


def test_too_few_products_are_reported():
    spectrum = torch.linspace(0, 1, 5000, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="did not reach tol"):
        found = eigenvalues(Operator(spectrum, diagonal=True), 2, max_products=10)
    assert not found.converged and found.products == 10
    assert (found.residuals > 0).all()


def test_a_tolerance_beyond_float32_is_reported():
    spectrum = network_like(2000).float()
    with pytest.warns(RuntimeWarning, match="float64"):
        found = eigenvalues(Operator(spectrum, diagonal=True), 1, tol=1e-9)
    assert not found.converged
    assert abs(found.values[0] - 10) < 1e-4


@pytest.mark.parametrize("function", [eigenvalues, trace, diagonal, spectral_density])
def test_operators_that_are_none(function):
    generator = torch.Generator().manual_seed(0)
    skew = torch.randn(2, 40, 40, generator=generator)
    with pytest.raises(ValueError, match="not symmetric"):
        function(skew)
    with pytest.raises(ValueError, match="expected shape"):
        function(torch.ones(3, 4))
    with pytest.raises(ValueError, match="float32 or float64"):
        function(torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="list"):
        function([[1.0]])
    with pytest.raises(ValueError, match="NaN or infinite"):
        function(torch.full((3, 3), torch.nan))
    spoilt = torch.eye(40).expand(3, 40, 40).clone()
    spoilt[1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinite entries for members \[1\]"):
        function(Operator(spoilt))


@pytest.mark.parametrize("function", [eigenvalues, spectral_density])
def test_an_asymmetric_operator_is_noticed(function):
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.float64):
        A = torch.randn(40, 40, generator=generator, dtype=dtype)
        function(Operator(A + A.mT))
        for skew in (A, A - A.mT, A + 1.1 * A.mT):
            with pytest.raises(ValueError, match="not symmetric"):
                function(Operator(skew))


def test_arguments_out_of_range():
    A = torch.eye(4)
    for options in ({"k": 0}, {"k": 5}, {"k": 3, "which": "both"}, {"k": 1.5}):
        with pytest.raises(ValueError, match="k must be"):
            eigenvalues(A, **options)
    with pytest.raises(ValueError, match="which"):
        eigenvalues(A, which="magnitude")
    with pytest.raises(ValueError, match="max_products"):
        eigenvalues(A, 3, max_products=2)
    for function in (eigenvalues, trace, diagonal):
        with pytest.raises(ValueError, match="tol"):
            function(A, tol=0)
    with pytest.raises(ValueError, match="max_products"):
        trace(A, max_products=1)
    with pytest.raises(ValueError, match="scale"):
        trace(A, scale=torch.ones(3))
    with pytest.raises(ValueError, match="probes"):
        spectral_density(A, probes=0)
    with pytest.raises(ValueError, match="width"):
        spectral_density(A).density([0.0], width=0)


def test_exact_traces_and_diagonals():
    generator = torch.Generator().manual_seed(0)
    A = matrices(torch.randn(3, 20, generator=generator).double(), generator)
    s = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    true = A.diagonal(dim1=-2, dim2=-1)

    class Exact(Operator):
        def exact_diagonal(self):
            return true

    class Silent(Operator):
        def exact_diagonal(self):
            return None

    for operator, products in (
        (A, 0),
        (Exact(A), 0),
        (Silent(A), 20),
        (Operator(A), 20),
    ):
        for scale in (None, s):
            expected = true if scale is None else s.square() * true
            whole = trace(operator, scale=scale)
            torch.testing.assert_close(whole.values, expected.sum(-1))
            entries = diagonal(operator, scale=scale)
            torch.testing.assert_close(entries.values, expected)
            for result in (whole, entries):
                assert (result.standard_error == 0).all() and result.converged.all()
                assert (result.products == products).all()
    assert trace(A[0]).values.shape == () and diagonal(A[0]).values.shape == (20,)


def test_unit_vectors_where_probes_would_cost_more():
    generator = torch.Generator().manual_seed(0)
    A = matrices(torch.randn(60, generator=generator).double(), generator)
    result = trace(Operator(A), tol=1e-3)
    assert result.standard_error == 0
    torch.testing.assert_close(result.values, A.diagonal().sum())


@pytest.mark.parametrize("kind", ["outliers", "uniform"])
def test_the_standard_error_of_a_trace_covers(kind):
    generator = torch.Generator().manual_seed(1)
    spectrum = SPECTRA[kind](1, 300, generator)[0]
    # Members meet the same probes: each has the spectrum turned in another way.
    A = Operator(matrices(spectrum.expand(20, -1), generator))
    results = [trace(A, tol=0.02, seed=seed) for seed in range(10)]
    values = torch.cat([r.values for r in results])
    errors = torch.cat([r.standard_error for r in results])
    assert all(r.converged.all() for r in results) and (errors > 0).all()
    assert (errors <= 0.0201 * values.abs().clamp_min(float(spectrum.norm()))).all()
    z = (values - spectrum.sum()) / errors
    # 95 % of normal variates lie within 2; binomial noise of 200 draws is 1.5 %.
    assert (z.abs() < 2).double().mean() > 0.9
    assert z.abs().max() < 5
    assert z.mean().abs() < 0.4


def test_a_trace_with_outliers_costs_a_fraction_of_plain_probes():
    generator = torch.Generator().manual_seed(2)
    spectrum = 0.01 * torch.rand(800, generator=generator, dtype=torch.float64)
    spectrum[:10] = network_like(100)[:10]
    result = trace(Operator(matrices(spectrum, generator)), tol=0.01)
    # A random-sign probe has the variance 2 ‖A‖_F² or nearly so.
    plain = 2 * spectrum.square().sum() / (0.01 * spectrum.sum()) ** 2
    assert result.converged and result.products < plain / 20


def test_too_few_probes_are_reported():
    generator = torch.Generator().manual_seed(3)
    A = matrices(torch.randn(2, 100, generator=generator).double(), generator)
    with pytest.warns(RuntimeWarning, match="2 of 2 members"):
        result = trace(Operator(A), tol=1e-3, max_products=40)
    assert (result.products <= 40).all() and not result.converged.any()
    true = A.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert ((result.values - true).abs() < 5 * result.standard_error).all()


def test_a_diagonal_from_probes():
    generator = torch.Generator().manual_seed(4)
    A = matrices(twin_tops(2, 300, generator), generator)
    s = torch.rand(300, generator=generator, dtype=torch.float64)
    for scale in (None, s):
        result = diagonal(Operator(A), tol=0.1, scale=scale)
        true = A.diagonal(dim1=-2, dim2=-1)
        true = true if scale is None else true * s.square()
        assert result.converged.all() and (result.products < 300).all()
        z = (result.values - true) / result.standard_error
        assert 0.9 < z.std() < 1.15
        gap = (result.values - true).norm(dim=-1)
        assert (gap < 0.15 * true.norm(dim=-1)).all()


def test_a_zero_operator_has_zero_trace():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zero = Operator(torch.zeros(2, 100, 100))
        assert (trace(zero).values == 0).all() and trace(zero).converged.all()
        assert (diagonal(zero).values == 0).all()


def test_density_of_a_known_spectrum():
    generator = torch.Generator().manual_seed(5)
    spectra = torch.cat([outliers(1, 200, generator), decay(1, 200, generator)])
    result = spectral_density(
        Operator(matrices(spectra, generator)), probes=100, steps=40
    )
    assert result.nodes.shape == result.weights.shape == (2, 4000)
    assert (result.weights >= 0).all() and (result.products == 4000).all()
    ones = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(result.weights.sum(-1), ones)
    for order in (1, 2, 3):
        value, error = result.moment(order)
        assert ((value - (spectra**order).mean(-1)).abs() < 4 * error).all()
    # Ritz values stay inside the spectrum and reach its ends.
    low, high = spectra.amin(-1, keepdim=True), spectra.amax(-1, keepdim=True)
    assert (result.nodes >= low - 1e-9).all() and (result.nodes <= high + 1e-9).all()
    grid = torch.linspace(-2, 8, 2001, dtype=torch.float64)
    density, error = result.density(grid, width=0.1)
    assert density.shape == error.shape == (2, 2001)
    torch.testing.assert_close(torch.trapezoid(density, grid), ones)
    bumps = torch.exp(-0.5 * ((grid[:, None] - spectra[:, None]) / 0.1) ** 2)
    # A single eigenvalue's weight is a skewed variate: hence as many as 100 probes.
    true = bumps.mean(-1) / (0.1 * (2 * torch.pi) ** 0.5)
    assert ((density - true).abs() < 5 * error + 1e-6).all()


def test_density_where_the_krylov_space_is_exhausted():
    generator = torch.Generator().manual_seed(6)
    spectrum = torch.tensor([3.0, 3, 1, 1, 1, 0, 0, 0, 0, 0]).double()
    result = spectral_density(matrices(spectrum, generator), probes=400)
    assert result.weights.sum() == pytest.approx(1)
    for value in (0.0, 1.0, 3.0):
        near = (result.nodes - value).abs() < 1e-6
        share = (spectrum == value).double().mean()
        assert result.weights[near].sum() == pytest.approx(float(share), abs=0.05)
    single = spectral_density(torch.full((1, 1), 2.0), probes=1)
    assert single.moment(1)[0] == 2 and single.moment(1)[1].isnan()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["multiples", "low rank", "zero", "identity"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_beyond_an_exhausted_krylov_space_add_nothing(kind, dtype):
    """Among others, null vectors: their images are nothing but rounding."""
    generator = torch.Generator().manual_seed(3)
    spectra = SPECTRA[kind](3, 60, generator)
    A = matrices(spectra, generator).to(dtype)
    result = spectral_density(A, probes=4, steps=60)
    far = (result.nodes[..., None] - spectra[:, None]).abs().amin(-1) > 1e-5
    assert float(result.weights[far].sum()) < 1e-5
    assert soft_rank(Operator(A), 0.1, steps=60).converged.all()


class Mps(torch.Tensor):
    """A tensor that refuses float64, as those of a device without it do."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        out = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.cpu:
            return out.as_subclass(torch.Tensor)
        if isinstance(out, Mps) and out.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return out


FUNCTIONS = [eigenvalues, trace, diagonal, spectral_density]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_devices_without_float64_and_other_default_devices(function):
    class Without(Operator):
        def __matmul__(self, V):
            return (self.A @ V.as_subclass(torch.Tensor)).as_subclass(Mps)

    generator = torch.Generator().manual_seed(0)
    A = matrices(outliers(2, 60, generator), generator).float()

    def numbers(operator):
        found = function(operator)
        return found.nodes if function is spectral_density else found.values

    expected = numbers(Operator(A))
    assert torch.equal(numbers(Without(A)).as_subclass(torch.Tensor), expected)
    before = torch.get_default_device()
    torch.set_default_device("meta")
    try:
        found = numbers(Operator(A))
    finally:
        torch.set_default_device(before)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("function", [eigenvalues, spectral_density])
def test_an_operator_that_computes_in_float32_is_measured_with_a_warning(function):
    class Single(Operator):
        def __matmul__(self, V):
            noise = 1e-7 * torch.randn(V.shape, generator=generator, dtype=V.dtype)
            return self.A @ V + noise * (self.A @ V).norm(dim=-2, keepdim=True)

    generator = torch.Generator().manual_seed(0)
    A = matrices(outliers(1, 60, generator), generator)[0]
    with pytest.warns(RuntimeWarning, match="float32"):
        found = function(Single(A))
    if function is eigenvalues:
        assert found.converged
        top = torch.linalg.eigvalsh(A)[-1]
        torch.testing.assert_close(found.values[0], top, rtol=1e-5, atol=0)


def soft(spectra, ridge):
    positive = spectra.clamp_min(0)
    return (positive / (positive + ridge)).sum(-1)


def test_the_soft_rank_of_small_and_dense_operators_is_that_of_the_spectrum():
    g = torch.Generator().manual_seed(0)
    spectra = outliers(3, 40, g)
    A = matrices(spectra, g)
    for ridge in (1e-3, 0.1, 10.0):
        for given_as in (A, Operator(A), A.reshape(3, 1, 40, 40)):
            found = soft_rank(given_as, ridge)
            truth = soft(spectra, ridge).reshape(found.values.shape)
            torch.testing.assert_close(found.values, truth)
            assert (found.standard_error == 0).all() and found.converged.all()
    ridges = torch.tensor([0.01, 0.1, 1.0])
    torch.testing.assert_close(
        soft_rank(A, ridges).values, soft(spectra, ridges[:, None].double())
    )
    assert soft_rank(Operator(A), 0.1).products.tolist() == [40, 40, 40]


def test_the_soft_rank_of_a_large_operator_is_within_its_error():
    decades = torch.linspace(1, -4, 3000, dtype=torch.float64)
    A = Operator((10**decades)[None], diagonal=True)
    for ridge in (1.0, 0.05):
        found = soft_rank(A, ridge, seed=1)
        assert found.converged
        assert (found.values - soft(A.A, ridge)).abs() < 4 * found.standard_error
        assert found.standard_error <= 0.05 * found.values
    # far below what the Lanczos steps resolve: the bias is seen and said
    with pytest.warns(RuntimeWarning, match="did not reach"):
        found = soft_rank(A, 1e-4, tol=0.01, steps=40, max_products=640)
    assert not found.converged
    assert (found.values - soft(A.A, 1e-4)).abs() < 4 * found.standard_error


def test_what_no_soft_rank_can_be_taken_of_is_refused():
    A = torch.eye(3, dtype=torch.float64)
    for ridge in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="ridge must be positive"):
            soft_rank(A, ridge)
    with pytest.raises(ValueError, match="one for each member"):
        soft_rank(A, torch.ones(2))
    with pytest.raises(ValueError, match="tol"):
        soft_rank(A, 1.0, tol=0)
    with pytest.raises(ValueError, match="not symmetric"):
        soft_rank(Operator(torch.tensor([[1.0, 1.0], [0.0, 1.0]])), 1.0)
