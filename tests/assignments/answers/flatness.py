"""Flatness: other ways to be right, and the usual ways to be wrong."""

RIGHT = {
    "rise": """
def rise(eigenvalues, rho):
    lam = np.sort(np.asarray(eigenvalues))
    half = rho * rho / 2
    return half * np.maximum(lam[-1], 0), half * lam.sum() / lam.size
""",
    "product": """
def hessian_product(w, X, y, v):
    u = w.clone().requires_grad_()
    loss = torch.nn.functional.softplus(-y * (X @ u)).mean()
    (g,) = torch.autograd.grad(loss, u, create_graph=True)
    return torch.autograd.grad(g @ v, u)[0]
""",
    "top": """
def top_eigenvalue(A):
    return np.linalg.eigvalsh(A.numpy()).max()
""",
    "trace": """
def estimated_trace(A, probes, seed):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(probes):
        z = rng.standard_normal(len(A))
        found.append(z @ A.numpy() @ z)
    return np.mean(found), np.std(found, ddof=1) / probes**0.5
""",
    "judgement": """
judgement = dict(
    I=["RECIPE", "d"],
    II=["open", "a"],
    III=["batch", "c"],
)
""",
}

WRONG = [
    (
        "rise",
        "condition number as flatness",
        """
def rise(eigenvalues, rho):
    ratio = float(eigenvalues.max() / eigenvalues.min())
    return rho**2 * ratio, 0.5 * rho**2 * float(eigenvalues.mean())
""",
        "the ratio of two eigenvalues is no flatness",
    ),
    (
        "rise",
        "the trace for the mean",
        """
def rise(eigenvalues, rho):
    half = 0.5 * rho**2
    return half * float(eigenvalues.max()), half * float(eigenvalues.sum())
""",
        "average the square of one coordinate",
    ),
    (
        "rise",
        "negative curvature",
        """
def rise(eigenvalues, rho):
    half = 0.5 * rho**2
    return half * float(eigenvalues.max()), half * float(eigenvalues.mean())
""",
        "epsilon = 0 is in the ball",
    ),
    (
        "product",
        "a sum instead of a mean",
        """
def hessian_product(w, X, y, v):
    s = torch.sigmoid(X @ w)
    return X.T @ (s * (1 - s) * (X @ v))
""",
        "1/4",
    ),
    (
        "product",
        "the curvature of w = 0 everywhere",
        """
def hessian_product(w, X, y, v):
    return X.T @ (X @ v) / (4 * len(y))
""",
        "away from w = 0",
    ),
    (
        "top",
        "power iteration without a shift",
        """
def top_eigenvalue(A):
    v = torch.ones(len(A))
    for _ in range(2000):
        v = A @ v
        v = v / v.norm()
    return float(v @ A @ v)
""",
        "absolute value",
    ),
    (
        "trace",
        "the spread of one probe as the error",
        """
def estimated_trace(A, probes, seed):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(probes, len(A), generator=g)
    values = ((z @ A) * z).sum(1)
    return float(values.mean()), float(values.std())
""",
        "error of the mean",
    ),
    (
        "trace",
        "probes that are not centred",
        """
def estimated_trace(A, probes, seed):
    g = torch.Generator().manual_seed(seed)
    z = torch.rand(probes, len(A), generator=g) * 12**0.5
    values = ((z @ A) * z).sum(1)
    return float(values.mean()), float(values.std() / probes**0.5)
""",
        "further from 6",
    ),
    (
        "product",
        "nothing at all",
        "def hessian_product(w, X, y, v):\n    return torch.zeros(0, len(v))",
        "gives shape (0, 2) where shape (2,) is expected",
    ),
    (
        "trace",
        "computed, not estimated",
        """
def estimated_trace(A, probes, seed):
    off = float((A * A).sum() - (A.diagonal() ** 2).sum())
    return float(A.trace()), math.sqrt(2 * off / probes)
""",
        "no estimate from products",
    ),
    (
        "judgement",
        "every verdict another study's",
        """
judgement = {
    "I": ("open", "a"),
    "II": ("batch", "b"),
    "III": ("recipe", "d"),
}
""",
        "study III",
    ),
    (
        "judgement",
        "verdicts without what would overturn them",
        """
judgement = {
    "I": "recipe",
    "II": "open",
    "III": "batch",
}
""",
        "a verdict and a letter",
    ),
]
