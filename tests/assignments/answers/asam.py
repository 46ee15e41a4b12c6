"""ASAM: other ways to be right, and the usual ways to be wrong."""

RIGHT = {
    "ascent": """
def adaptive_ascent(g, w, rho, eta):
    g, w = g.numpy(), w.numpy()  # in NumPy, as the authors' code guards against zero
    t = np.abs(w) + eta
    return rho * t**2 * g / (np.linalg.norm(t * g) + 1e-12)
""",
    "invariance": """
def before_and_after(g, w, a, rho, eta):
    found = []
    for scale in (torch.ones_like(a), a):
        t = (scale * w).abs() + eta
        slope = g / scale
        best = rho * t**2 * slope / (t * slope).norm()
        found.append(float(best @ slope))
    return found
""",
    "ellipse": """
def circle_and_ellipse(w, rho):
    from scipy.optimize import minimize_scalar
    u = w.numpy()
    def best(t):
        def low(angle):
            x, y = u + rho * np.multiply(t, (np.cos(angle), np.sin(angle)))
            return -((x * y - 1) ** 2)
        starts = np.linspace(0, 2 * np.pi, 60)
        low_points = []
        for s in starts:
            found = minimize_scalar(low, bounds=(s, s + 0.2), method="bounded")
            low_points.append(found.fun)
        return -min(low_points) - (u[0] * u[1] - 1) ** 2
    return best((1.0, 1.0)), best(np.abs(u))
""",
    "batchnorm": """
def running_mean(first, second, momentum, start):
    n = len(first)
    weights = momentum * (1 - momentum) ** np.arange(n - 1, -1, -1)
    return float((1 - momentum) ** n * start + weights @ np.asarray(first))
""",
    "judgement": """
judgement = dict(
    I=["ALIKE", "c"],
    II=["open", "b"],
    III=["better", "a"],
)
""",
}

WRONG = [
    (
        "ascent",
        "T once",
        """
def adaptive_ascent(g, w, rho, eta):
    t = w.abs() + eta
    return rho * t * g / (t * g).norm()
""",
        "how often",
    ),
    (
        "ascent",
        "SAM's step",
        """
def adaptive_ascent(g, w, rho, eta):
    return rho * g / g.norm()
""",
        "how often",
    ),
    (
        "ascent",
        "divides by zero",
        """
def adaptive_ascent(g, w, rho, eta):
    t = w.abs() + eta
    return rho * t * t * g / (t * g).norm()
""",
        "frozen",
    ),
    (
        "invariance",
        "the gradient is left as it was",
        """
def before_and_after(g, w, a, rho, eta):
    def sharpness(w):
        return float(rho * ((w.abs() + eta) * g).norm())
    return sharpness(w), sharpness(a * w)
""",
        "both are the same",
    ),
    (
        "invariance",
        "eta scaled along",
        """
def before_and_after(g, w, a, rho, eta):
    found = float(rho * ((w.abs() + eta) * g).norm())
    return found, found
""",
        "with eta > 0 the two differ",
    ),
    (
        "ellipse",
        "one linearised step",
        """
def circle_and_ellipse(w, rho):
    g = 2 * (w[0] * w[1] - 1) * w.flip(0)
    g = g if g.any() else w.flip(0)
    def rise(e):
        u = w + e
        return float((u[0] * u[1] - 1) ** 2 - (w[0] * w[1] - 1) ** 2)
    t = w.abs()
    return rise(rho * g / g.norm()), rise(-rho * t * t * g / (t * g).norm())
""",
        "the same set",
    ),
    (
        "ellipse",
        "a box instead of the ball",
        """
def circle_and_ellipse(w, rho):
    s = torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])
    def rise(e):
        u = w[:, None] + e
        return float(((u[0] * u[1] - 1) ** 2).max() - (w[0] * w[1] - 1) ** 2)
    return rise(rho * s), rise(rho * w.abs()[:, None] * s)
""",
        "search all around",
    ),
    (
        "batchnorm",
        "BatchNorm counted twice",
        """
def running_mean(first, second, momentum, start):
    m = start
    for a, b in zip(first.tolist(), second.tolist()):
        for mean in (a, b):
            m = (1 - momentum) * m + momentum * mean
    return m
""",
        "one batch counts once",
    ),
    (
        "batchnorm",
        "a plain mean",
        """
def running_mean(first, second, momentum, start):
    return float(start + momentum * (first - start).sum())
""",
        "in their order",
    ),
    (
        "judgement",
        "every verdict another study's",
        """
judgement = {
    "I": ("open", "d"),
    "II": ("better", "c"),
    "III": ("alike", "b"),
}
""",
        "study III",
    ),
    (
        "judgement",
        "verdicts without what would overturn them",
        """
judgement = {
    "I": "alike",
    "II": "open",
    "III": "better",
}
""",
        "a verdict and a letter",
    ),
]
