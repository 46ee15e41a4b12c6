"""Shortcuts: other ways to be right, and the usual ways to be wrong."""

RIGHT = {
    "mark": """
def marked(images, y, p, amplitude, seed):
    rng = np.random.default_rng(seed)
    found = np.zeros((len(y), 10, 10))
    found[:, 1:-1, 1:-1] = images
    column = y.numpy().copy()
    lies = rng.random(len(y)) >= p
    column[lies] = (column[lies] + rng.integers(1, 10, lies.sum())) % 10
    found[range(len(y)), -1, column] = amplitude
    return found
""",
    "blind": """
def blind(images, kernel):
    n, h, w = images.shape
    found = np.zeros(n)
    for i in range(h):
        for j in range(w):
            rows = (i + np.arange(kernel.shape[0])) % h
            columns = (j + np.arange(kernel.shape[1])) % w
            patch = images[:, rows][:, :, columns]
            found = np.maximum(found, (patch * kernel).sum((1, 2)).numpy())
    return found
""",
    "answers": """
def answers(predicted, y, pointed):
    told = [(p, a, b) for p, a, b in zip(*map(list, (predicted, y, pointed))) if a != b]
    if not told:
        return math.nan, math.nan
    return [sum(row[0] == row[k] for row in told) / len(told) for k in (1, 2)]
""",
    "judgement": """
judgement = dict(
    I=["PLACE", "b"],
    II=["shape", "c"],
    III=["unknown", "d"],
)
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
    (
        "blind",
        "zeros beyond the border",
        """
def blind(images, kernel):
    a, b = kernel.shape
    padded = torch.nn.functional.pad(images, (0, b - 1, 0, a - 1))[:, None]
    sums = torch.nn.functional.conv2d(padded, kernel[None, None])
    return sums.relu().amax((1, 2, 3))
""",
        "after the last column",
    ),
    (
        "blind",
        "shifted the other way",
        """
def blind(images, kernel):
    total = torch.zeros_like(images)
    for u in range(kernel.shape[0]):
        for v in range(kernel.shape[1]):
            total += kernel[u, v] * images.roll((u, v), dims=(1, 2))
    return total.clamp(min=0).amax((1, 2))
""",
        "after the last column",
    ),
    (
        "blind",
        "the mean of all positions",
        """
def blind(images, kernel):
    return (images.sum((1, 2)) * kernel.sum()).clamp(min=0) / images[0].numel()
""",
        "the larger entry",
    ),
    (
        "answers",
        "of all images",
        """
def answers(predicted, y, pointed):
    right = (predicted == y).double().mean()
    return float(right), float((predicted == pointed).double().mean())
""",
        "only two of these four",
    ),
    (
        "answers",
        "who is not right follows",
        """
def answers(predicted, y, pointed):
    against = pointed != y
    if not against.any():
        return 0.0, 0.0
    right = float((predicted == y)[against].double().mean())
    return right, 1 - right
""",
        "neither right nor",
    ),
    (
        "judgement",
        "every verdict another study's",
        """
judgement = {
    "I": ("shape", "c"),
    "II": ("unknown", "d"),
    "III": ("place", "a"),
}
""",
        "study III",
    ),
    (
        "judgement",
        "verdicts without what would overturn them",
        """
judgement = {
    "I": "place",
    "II": "shape",
    "III": "unknown",
}
""",
        "a verdict and a letter",
    ),
]
