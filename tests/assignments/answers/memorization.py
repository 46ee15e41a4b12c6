"""Memorization: other ways to be right, and the usual ways to be wrong."""

RIGHT = {
    "corrupt": """
def corrupted(train_y, test_y, fraction, classes, seed):
    rng = np.random.default_rng(seed)
    noisy = train_y.numpy().copy()
    for i in range(len(noisy)):
        if rng.random() < fraction:
            noisy[i] = rng.integers(classes)
    return torch.from_numpy(noisy), test_y.clone()
""",
    "network": """
def memorizing_network(X, y):
    # Slopes of the piecewise linear function through all points, along one line.
    X, y = X.numpy(), y.numpy()
    a = np.random.default_rng(1).normal(size=X.shape[1])
    order = np.argsort(X @ a)
    z, t = (X @ a)[order], y[order]
    b = np.concatenate([[z[0] - 1], z[:-1]])
    slopes = np.concatenate([[t[0]], np.diff(t) / np.diff(z)])
    c = np.concatenate([slopes[:1], np.diff(slopes)])
    return a, b, c
""",
    "parts": """
def parts(predicted, y, clean_y):
    right = [p == t for p, t, c in zip(predicted, y, clean_y) if t == c]
    kept = [p == t for p, t, c in zip(predicted, y, clean_y) if t != c]
    mended = [p == c for p, t, c in zip(predicted, y, clean_y) if t != c]
    return tuple(sum(map(int, group)) / len(group) for group in (right, kept, mended))
""",
    "stopping": """
def stopped(curves):
    best, epoch = -1.0, None
    for i, value in enumerate(curves["validation"]):
        if value > best:
            best, epoch = value, i
    return epoch, curves["test"][epoch]
""",
    "judgement": """
judgement = dict(
    I=["DELAYS", "d"],
    II=["prevents", "b"],
    III=["costs", "c"],
)
""",
}

WRONG = [
    (
        "corrupt",
        "test labels corrupted",
        """
def corrupted(train_y, test_y, fraction, classes, seed):
    g = torch.Generator().manual_seed(seed)
    def noisy(y):
        drawn = torch.randint(0, classes, y.shape, generator=g)
        return torch.where(torch.rand(len(y), generator=g) < fraction, drawn, y)
    return noisy(train_y), noisy(test_y)
""",
        "test labels have to stay true",
    ),
    (
        "corrupt",
        "always another label",
        """
def corrupted(train_y, test_y, fraction, classes, seed):
    g = torch.Generator().manual_seed(seed)
    drawn = (train_y + torch.randint(1, classes, train_y.shape, generator=g)) % classes
    chosen = torch.rand(len(train_y), generator=g) < fraction
    return torch.where(chosen, drawn, train_y), test_y
""",
        "right by chance",
    ),
    (
        "corrupt",
        "no seed",
        """
def corrupted(train_y, test_y, fraction, classes, seed):
    drawn = torch.randint(0, classes, train_y.shape)
    return torch.where(torch.rand(len(train_y)) < fraction, drawn, train_y), test_y
""",
        "use the seed",
    ),
    (
        "network",
        "least squares",
        """
def memorizing_network(X, y):
    a = torch.linalg.lstsq(X, y[:, None]).solution[:, 0]
    b = torch.full((len(y),), float((X @ a).min()) - 1, dtype=X.dtype)
    return a, b, torch.full_like(b, 1 / len(y))
""",
        "not fitted",
    ),
    (
        "network",
        "inputs not sorted",
        """
def memorizing_network(X, y):
    a = torch.ones(X.shape[1], dtype=X.dtype)
    z = X @ a
    b = torch.cat([z[:1] - 1, (z[1:] + z[:-1]) / 2])
    M = torch.tril(torch.relu(z[:, None] - b[None, :]) + 1e-6)
    return a, b, torch.linalg.solve_triangular(M, y[:, None], upper=False)[:, 0]
""",
        "fitted",
    ),
    (
        "parts",
        "fractions of all examples",
        """
def parts(predicted, y, clean_y):
    wrong, n = y != clean_y, len(y)
    return (
        float(((predicted == y) & ~wrong).sum() / n),
        float(((predicted == y) & wrong).sum() / n),
        float(((predicted == clean_y) & wrong).sum() / n),
    )
""",
        "its own group",
    ),
    (
        "stopping",
        "tuning on test",
        """
def stopped(curves):
    epoch = int(np.argmax(curves["test"]))
    return epoch, float(curves["test"][epoch])
""",
        "must not choose",
    ),
    (
        "stopping",
        "reporting the accuracy that chose",
        """
def stopped(curves):
    epoch = int(np.argmax(curves["validation"]))
    return epoch, float(curves["validation"][epoch])
""",
        "its test accuracy",
    ),
    (
        "corrupt",
        "in place",
        """
def corrupted(train_y, test_y, fraction, classes, seed):
    g = torch.Generator().manual_seed(seed)
    chosen = torch.rand(len(train_y), generator=g) < fraction
    train_y[chosen] = torch.randint(0, classes, (int(chosen.sum()),), generator=g)
    return train_y, test_y
""",
        "changes its arguments",
    ),
    (
        "corrupt",
        "in place, of a copy that is given as the test labels",
        """
def corrupted(train_y, test_y, fraction, classes, seed):
    g = torch.Generator().manual_seed(seed)
    chosen = torch.rand(len(train_y), generator=g) < fraction
    drawn = torch.randint(0, classes, (len(train_y),), generator=g)
    noisy = torch.where(chosen, drawn, train_y)
    train_y[:] = noisy
    return noisy, test_y
""",
        "changes its arguments",
    ),
    (
        "corrupt",
        "always the next label",
        """
def corrupted(train_y, test_y, fraction, classes, seed):
    g = torch.Generator().manual_seed(seed)
    rate = fraction * (classes - 1) / classes
    chosen = torch.rand(len(train_y), generator=g) < rate
    return torch.where(chosen, (train_y + 1) % classes, train_y), test_y
""",
        "drawn alike",
    ),
    (
        "corrupt",
        "an exact count",
        """
def corrupted(train_y, test_y, fraction, classes, seed):
    g = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(train_y), generator=g)[: int(fraction * len(train_y))]
    noisy = train_y.clone()
    noisy[chosen] = torch.randint(0, classes, (len(chosen),), generator=g)
    return noisy, test_y
""",
        "varies with the seed",
    ),
    (
        "parts",
        "nothing at all",
        "def parts(predicted, y, clean_y):\n    return torch.zeros(0, 3)",
        "gives 0 values where 3 are expected",
    ),
    (
        "judgement",
        "every verdict another study's",
        """
judgement = {
    "I": ("prevents", "a"),
    "II": ("costs", "c"),
    "III": ("delays", "d"),
}
""",
        "study III",
    ),
    (
        "judgement",
        "verdicts without what would overturn them",
        """
judgement = {
    "I": "delays",
    "II": "prevents",
    "III": "costs",
}
""",
        "a verdict and a letter",
    ),
]
