"""SAM: other ways to be right, and the usual ways to be wrong."""

# Each entry replaces the model solution of one task and is right as well.
RIGHT = {
    "ascent": """
def ascent(gradient, rho):
    g = gradient.numpy()  # as the authors' code does, in NumPy
    return rho * g / (np.linalg.norm(g) + 1e-12)
""",
    "step": """
def sam_step(w, A, b, lr, rho):
    v = w.clone().requires_grad_()
    def loss(v):
        return 0.5 * v @ A @ v - b @ v
    (g,) = torch.autograd.grad(loss(v), v)
    if not g.any():
        return w
    u = (w + rho * g / torch.sqrt((g * g).sum())).requires_grad_()
    loss(u).backward()
    return (w - lr * u.grad).detach()
""",
    "worst": """
def worst_in_ball(w, A, b, rho):
    # Exactly: (mu I - A) e = g with |e| = rho, by bisection on mu.
    values, Q = np.linalg.eigh(A.numpy())
    g = Q.T @ (A @ w - b).numpy()
    g = g + 1e-9 * (np.abs(g).max() == 0)
    low = max(values[-1], 0.0)
    high = low + np.linalg.norm(g) / rho + 1.0
    for _ in range(300):
        mu = (low + high) / 2
        with np.errstate(divide="ignore"):
            size = np.linalg.norm(g / (mu - values))
        low, high = (mu, high) if size > rho else (low, mu)
    return torch.from_numpy(Q @ (g / (high - values)))
""",
    "m-sharpness": """
def m_sam_gradient(w, X, y, rho, m):
    def loss(w, X, y):
        return torch.nn.functional.softplus(-y * (X @ w)).mean()
    slope = torch.func.grad(loss)
    def one(X, y):
        g = slope(w, X, y)
        return slope(w + rho * g / g.norm(), X, y)
    return torch.func.vmap(one)(X.reshape(-1, m, len(w)), y.reshape(-1, m)).mean(0)
""",
    "paired": """
def paired_difference(sam, sgd):
    from scipy import stats
    d = (sam - sgd).numpy()
    if np.ptp(d) < 1e-12:
        return d.mean(), 0.0
    low, high = stats.t.interval(0.95, len(d) - 1, d.mean(), stats.sem(d))
    return (low + high) / 2, (high - low) / 2
""",
    "judgement": """
judgement = dict(
    I=["NO", "c"],
    II=["open", "a"],
    III=["perhaps", "b"],
)
""",
}

# (task, what is wrong, source, words of the message)
WRONG = [
    (
        "ascent",
        "not renormalised",
        "def ascent(gradient, rho):\n    return rho * gradient",
        "length must be rho",
    ),
    (
        "ascent",
        "a constant added to the norm",
        "def ascent(gradient, rho):\n"
        "    return rho * gradient / (gradient.norm() + 1e-8)",
        "small gradients",
    ),
    (
        "ascent",
        "divides by zero",
        "def ascent(gradient, rho):\n    return rho * gradient / gradient.norm()",
        "epsilon is zero",
    ),
    (
        "step",
        "not renormalised",
        "def sam_step(w, A, b, lr, rho):\n"
        "    g = A @ w - b\n"
        "    return w - lr * (A @ (w + rho * g) - b)",
        "belongs to w + epsilon",
    ),
    (
        "step",
        "never goes back",
        "def sam_step(w, A, b, lr, rho):\n"
        "    g = A @ w - b\n"
        "    u = w + rho * g / g.norm().clamp(min=1e-300)\n"
        "    return u - lr * (A @ u - b)",
        "pen and paper",
    ),
    (
        "worst",
        "one ascent step",
        "def worst_in_ball(w, A, b, rho):\n"
        "    g = A @ w - b\n"
        "    return rho * g / g.norm() if g.any() else rho * torch.eye(len(w))[0]",
        "one ascent step is not enough",
    ),
    (
        "worst",
        "outside the ball",
        "def worst_in_ball(w, A, b, rho):\n"
        "    return 2 * rho * torch.linalg.eigh(A).eigenvectors[:, -1]",
        "left the ball",
    ),
    (
        "worst",
        "a box instead of a ball",
        "def worst_in_ball(w, A, b, rho):\n"
        "    return rho * torch.sign(A @ w - b + 1e-9)",
        "left the ball",
    ),
    (
        "m-sharpness",
        "one ascent step for all",
        "def m_sam_gradient(w, X, y, rho, m):\n"
        "    def slope(w):\n"
        "        return -(X.T @ (y * torch.sigmoid(-y * (X @ w)))) / len(y)\n"
        "    g = slope(w)\n"
        "    return slope(w + rho * g / g.norm())",
        "m has no effect",
    ),
    (
        "paired",
        "unpaired",
        "def paired_difference(sam, sgd):\n"
        "    s = ((sam.var() + sgd.var()) / len(sam)).sqrt()\n"
        "    return float((sam - sgd).mean()), float(1.96 * s)",
        "nothing is uncertain",
    ),
    (
        "paired",
        "normal quantile",
        "def paired_difference(sam, sgd):\n"
        "    d = sam - sgd\n"
        "    return float(d.mean()), float(1.96 * d.std() / len(d) ** 0.5)",
        "t quantile",
    ),
    (
        "ascent",
        "nothing at all",
        "def ascent(gradient, rho):\n    return torch.zeros(0, len(gradient))",
        "gives shape",
    ),
    (
        "m-sharpness",
        "nothing at all",
        "def m_sam_gradient(w, X, y, rho, m):\n    return torch.zeros(0, len(w))",
        "gives shape",
    ),
    (
        "judgement",
        "every verdict another study's",
        """
judgement = {
    "I": ("open", "d"),
    "II": ("perhaps", "b"),
    "III": ("no", "c"),
}
""",
        "study III",
    ),
    (
        "judgement",
        "verdicts without what would overturn them",
        """
judgement = {
    "I": "no",
    "II": "open",
    "III": "perhaps",
}
""",
        "a verdict and a letter",
    ),
]
