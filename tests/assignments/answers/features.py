"""Features: other ways to be right, and the usual ways to be wrong."""

RIGHT = {
    "relabel": """
def relabelled(x, y, target, perturbations, test_x, test_y):
    inputs = torch.minimum(torch.maximum(x + perturbations, 0 * x), 0 * x + 1)
    return [inputs, target.clone(), test_x.clone(), test_y.clone()]
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
    "control": """
def as_long(x, delta, other):
    found = np.zeros(x.shape)
    for row, (start, d, o) in enumerate(zip(x.numpy(), delta.numpy(), other.numpy())):
        wanted = np.linalg.norm(d)

        def change(s):
            return np.clip(start + s * o, 0, 1) - start

        low, high = 0.0, 1.0
        while np.linalg.norm(change(high)) < wanted and high < 1e9:
            high *= 2
        for _ in range(80):
            middle = (low + high) / 2
            if np.linalg.norm(change(middle)) < wanted:
                low = middle
            else:
                high = middle
        found[row] = change(high)
    return found
""",
    "interval": """
def correlation(a, b):
    from scipy.stats import pearsonr
    r = pearsonr(a.numpy(), b.numpy()).statistic
    low, high = np.arctanh(r) + np.array([-1, 1]) * 1.96 * (len(a) - 3) ** -0.5
    return r, np.tanh(low), np.tanh(high)
""",
    "judgement": """
judgement = dict(
    I=["FEATURES", "a"],
    II=["open", "b"],
    III=["none", "c"],
)
""",
}

WRONG = [
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
        "control",
        "as long before the box cuts it",
        """
def as_long(x, delta, other):
    size = delta.norm(dim=1, keepdim=True) / other.norm(dim=1, keepdim=True)
    return (x + size * other).clamp(0, 1) - x
""",
        "the other goes on",
    ),
    (
        "control",
        "one factor for all images",
        """
def as_long(x, delta, other):
    return (x + other * (delta.norm() / other.norm())).clamp(0, 1) - x
""",
        "as long as ITS delta",
    ),
    (
        "control",
        "the box is ignored",
        """
def as_long(x, delta, other):
    return other * delta.norm(dim=1, keepdim=True) / other.norm(dim=1, keepdim=True)
""",
        "the other goes on",
    ),
    (
        "judgement",
        "every verdict another study's",
        """
judgement = {
    "I": ("open", "b"),
    "II": ("none", "c"),
    "III": ("features", "d"),
}
""",
        "study III",
    ),
    (
        "judgement",
        "verdicts without what would overturn them",
        """
judgement = {
    "I": "features",
    "II": "open",
    "III": "none",
}
""",
        "a verdict and a letter",
    ),
]
