"""Shortcuts: other ways to be right, and the usual ways to be wrong."""

RIGHT = {
    "mark": """
def marked(images, y, p, amplitude, seed):
    rng = np.random.default_rng(seed)
    found = np.zeros((len(y), 10, 10))
    found[:, 1:-1, 1:-1] = images
    for image, label in zip(found, y.tolist()):
        others = [c for c in range(10) if c != label]
        image[-1, label if rng.random() < p else rng.choice(others)] = amplitude
    return found
""",
    "attack": """
def attacked(X, y, w, b, epsilon):
    def to_ball(u):
        d = u - X
        size = d.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return X + d * (epsilon / size).clamp(max=1)
    x = X.clone()
    for step in 0.1 * epsilon * 0.99 ** np.arange(1200):
        x = x - step * y[:, None] * w / w.norm()
        # Onto box and ball in turns (Dykstra's corrections make it a projection).
        p, q = torch.zeros_like(x), torch.zeros_like(x)
        for _ in range(3):
            u = (x + p).clamp(0, 1)
            p = x + p - u
            v = to_ball(u + q)
            q = u + q - v
            x = v
        x = to_ball(x.clamp(0, 1))
    return x
""",
    "relabel": """
def relabelled(x, y, target, perturbations, test_x, test_y):
    inputs = torch.minimum(torch.maximum(x + perturbations, 0 * x), 0 * x + 1)
    return [inputs, target.clone(), test_x.clone(), test_y.clone()]
""",
    "interval": """
def correlation(a, b):
    from scipy.stats import pearsonr
    r = pearsonr(a.numpy(), b.numpy()).statistic
    low, high = np.arctanh(r) + np.array([-1, 1]) * 1.96 * (len(a) - 3) ** -0.5
    return r, np.tanh(low), np.tanh(high)
""",
}

WRONG = [
    (
        "mark",
        "wrong marks may be right by chance",
        """
def marked(images, y, p, amplitude, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.pad(images, (1, 1, 1, 1))
    any = torch.randint(0, 10, y.shape, generator=g)
    column = torch.where(torch.rand(len(y), generator=g) < p, y, any)
    x[torch.arange(len(y)), 9, column] = amplitude
    return x
""",
        "ANOTHER class",
    ),
    (
        "mark",
        "no mark where it does not agree",
        """
def marked(images, y, p, amplitude, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.pad(images, (1, 1, 1, 1))
    hit = torch.rand(len(y), generator=g) < p
    x[torch.arange(len(y))[hit], 9, y[hit]] = amplitude
    return x
""",
        "one lit pixel",
    ),
    (
        "attack",
        "the box is ignored",
        """
def attacked(X, y, w, b, epsilon):
    return X - epsilon * y[:, None] * w / w.norm()
""",
        "left the box",
    ),
    (
        "attack",
        "clipped once",
        """
def attacked(X, y, w, b, epsilon):
    return (X - epsilon * y[:, None] * w / w.norm()).clamp(0, 1)
""",
        "what is left of the radius",
    ),
    (
        "attack",
        "a step in the largest norm",
        """
def attacked(X, y, w, b, epsilon):
    return (X - epsilon * y[:, None] * w.sign()).clamp(0, 1)
""",
        "far from the walls",
    ),
    (
        "relabel",
        "true labels in training",
        """
def relabelled(x, y, target, perturbations, test_x, test_y):
    return (x + perturbations).clamp(0, 1), y, test_x, test_y
""",
        "which labels",
    ),
    (
        "relabel",
        "test labels shifted along",
        """
def relabelled(x, y, target, perturbations, test_x, test_y):
    return (x + perturbations).clamp(0, 1), target, test_x, target[: len(test_y)]
""",
        "test labels are the true ones",
    ),
    (
        "interval",
        "symmetric in r",
        """
def correlation(a, b):
    r = float(np.corrcoef(a, b)[0, 1])
    half = 1.96 * (1 - r * r) / math.sqrt(len(a) - 3)
    return r, r - half, min(r + half, 0.999)
""",
        "1.96 / 2",
    ),
    (
        "interval",
        "n instead of n - 3",
        """
def correlation(a, b):
    r = float(np.corrcoef(a, b)[0, 1])
    half = 1.96 / math.sqrt(len(a))
    return r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
""",
        "1.96 / 2",
    ),
    (
        "mark",
        "another seed changes nothing",
        """
def marked(images, y, p, amplitude, seed):
    g = torch.Generator().manual_seed(0)
    framed = torch.nn.functional.pad(images, (1, 1, 1, 1))
    other = (y + torch.randint(1, 10, (len(y),), generator=g)) % 10
    told = torch.rand(len(y), generator=g) < p
    framed[torch.arange(len(y)), 9, torch.where(told, y, other)] = amplitude
    return framed
""",
        "another seed draws other marks",
    ),
]
