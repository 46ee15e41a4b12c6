"""After the post, training: other ways to be right, and the usual ways to be wrong."""

RIGHT = {
    "window": """
def epochs_of(passes, begin, end):
    def cost(E):
        e = np.arange(E) / E
        return E + int(((begin <= e) & (e < end)).sum())
    return np.int64(max(E for E in range(1, passes + 1) if cost(E) <= passes))
""",
    "descend": """
def descend(a, b, c, x, y, lr, decay, steps):
    w = [v.clone() for v in (a, b, c)]
    for t in range(steps):
        w = [v.detach().requires_grad_() for v in w]
        off = (x @ w[0].T + w[1]).relu() @ w[2] - y
        g = torch.autograd.grad(off.square().mean() / 2, w)
        eta = lr * min(1, 5 * (t + 1) / steps)
        w = [v - eta * (s + decay * v) for v, s in zip(w, g)]
    return [v.detach().numpy() for v in w]
""",
    "firing": """
def firing(a, b, c, x):
    weights = [
        abs(float(c[j])) * float(torch.cat([a[j], b[j:j + 1]]).norm())
        for j in range(len(c))
    ]
    if sum(weights) == 0:
        return math.nan
    shares = [float((x @ a[j] + b[j] > 0).double().mean()) for j in range(len(c))]
    return np.average(shares, weights=weights)
""",
    "own": """
def own_neuron(x_i, delta, n):
    length = math.sqrt(1 + float(x_i.norm()) ** 2)
    s = math.sqrt(abs(delta) * length)
    c = delta / s
    return s, (s**2 + (c * length) ** 2) / n
""",
    "judgement": """
judgement = dict(I=["Yes", "a"], II=["open", "C "], III=["no", "b"])
""",
}

WRONG = [
    (
        "window",
        "the share, not the epochs",
        """
def epochs_of(passes, begin, end):
    return round(passes / (1 + end - begin))
""",
        "epoch",
    ),
    (
        "descend",
        "the mean without its half",
        """
def descend(a, b, c, x, y, lr, decay, steps):
    w = [v.clone() for v in (a, b, c)]
    for t in range(steps):
        w = [v.detach().requires_grad_() for v in w]
        off = (x @ w[0].T + w[1]).relu() @ w[2] - y
        g = torch.autograd.grad(off.square().mean(), w)
        eta = lr * min(1, 5 * (t + 1) / steps)
        w = [v - eta * (s + decay * v) for v, s in zip(w, g)]
    return tuple(v.detach() for v in w)
""",
        "one neuron, one example",
    ),
    (
        "descend",
        "nothing at all",
        "def descend(a, b, c, x, y, lr, decay, steps):\n    return a[:0], b[:0], c[:0]",
        "",
    ),
    (
        "firing",
        "every neuron counts alike",
        """
def firing(a, b, c, x):
    return float(((x @ a.T + b) > 0).double().mean())
""",
        "does not count",
    ),
    (
        "own",
        "the bias is forgotten",
        """
def own_neuron(x_i, delta, n):
    q = delta**2 * float(x_i @ x_i)
    return q**0.25, 2 * math.sqrt(q) / n
""",
        "on the unit sphere",
    ),
    (
        "own",
        "at s = 1",
        """
def own_neuron(x_i, delta, n):
    return 1.0, (1 + delta**2 * (float(x_i @ x_i) + 1)) / n
""",
        "on the unit sphere",
    ),
    (
        "judgement",
        "every verdict another study's",
        """
judgement = {
    "I": ("open", "d"),
    "II": ("no", "a"),
    "III": ("yes", "c"),
}
""",
        "study III",
    ),
    (
        "judgement",
        "verdicts without what would overturn them",
        """
judgement = {
    "I": "yes",
    "II": "open",
    "III": "no",
}
""",
        "a verdict and a letter",
    ),
]
