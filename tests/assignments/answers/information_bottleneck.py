"""Information bottleneck: other ways to be right, and the usual ways to be wrong."""

RIGHT = {
    "information": """
def mutual_information(p):
    from scipy.stats import entropy
    p = np.asarray(p)
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    h = [entropy(q, base=2) for q in (rows, columns, p.ravel())]
    return h[0] + h[1] - h[2]
""",
    "bins": """
def binned_information(t, bins):
    edges = np.linspace(-1, 1, bins + 1)[1:-1]
    codes = [tuple(np.digitize(row, edges)) for row in t]
    total = 0.0
    for code in set(codes):
        share = codes.count(code) / len(codes)
        total += share * math.log2(1 / share)
    return total
""",
    "chain": """
def violations(with_x, with_y, tolerance):
    found = []
    for name, values in zip("XY", (with_x, with_y)):
        rises = np.diff(np.asarray(values, dtype=float)) > tolerance
        found += [[name, i] for i in np.flatnonzero(rises)]
    return found
""",
    "fall": """
def fall(curves):
    a, b = curves[:, ::2], curves[:, 1::2]
    total = 0.0
    for own, others in ((a, b), (b, a)):
        mean = others.sum(axis=1).tolist()
        total += (own[mean.index(max(mean))] - own[-1]).sum()
    return total / curves.shape[1]
""",
    "judgement": """
judgement = dict(
    I=["OPEN", "a"],
    II=["falls", "b"],
    III=["stays", "c"],
)
""",
}

WRONG = [
    (
        "information",
        "mutual information in nats",
        """
def mutual_information(p):
    q = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())
""",
        "which logarithm gives bits",
    ),
    (
        "information",
        "zero times infinity",
        """
def mutual_information(p):
    q = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    with np.errstate(all="ignore"):
        return float((p * np.log2(p / q)).sum())
""",
        "mind p = 0",
    ),
    (
        "information",
        "an entropy",
        """
def mutual_information(p):
    q = p.sum(1)
    return float(-(q * np.log2(q)).sum())
""",
        "share nothing",
    ),
    (
        "bins",
        "units added up",
        """
def binned_information(t, bins):
    total = 0.0
    for column in t.T:
        cells = np.minimum(((column + 1) / 2 * bins).astype(int), bins - 1)
        q = np.unique(cells, return_counts=True)[1] / len(t)
        total -= (q * np.log2(q)).sum()
    return float(total)
""",
        "count the joint cells",
    ),
    (
        "bins",
        "one bin too many",
        """
def binned_information(t, bins):
    cells = np.floor((t + 1) / 2 * bins).astype(int)
    q = np.unique(cells, axis=0, return_counts=True)[1] / len(t)
    return float(-(q * np.log2(q)).sum())
""",
        "count the joint cells",
    ),
    (
        "bins",
        "bins on the range of the activations",
        """
def binned_information(t, bins):
    edges = np.linspace(t.min(), t.max(), bins + 1)[1:-1]
    cells = np.digitize(t, edges)
    q = np.unique(cells, axis=0, return_counts=True)[1] / len(t)
    return float(-(q * np.log2(q)).sum())
""",
        "the last bin includes 1",
    ),
    (
        "chain",
        "falls taken for violations",
        """
def violations(with_x, with_y, tolerance):
    return [
        (name, i)
        for name, v in (("X", with_x), ("Y", with_y))
        for i in range(len(v) - 1)
        if abs(v[i + 1] - v[i]) > tolerance
    ]
""",
        "non-increasing",
    ),
    (
        "chain",
        "strictly decreasing",
        """
def violations(with_x, with_y, tolerance):
    return [
        (name, i)
        for name, v in (("X", with_x), ("Y", with_y))
        for i in range(len(v) - 1)
        if v[i + 1] >= v[i] - tolerance
    ]
""",
        "staying is allowed",
    ),
    (
        "chain",
        "a relative tolerance",
        """
def violations(with_x, with_y, tolerance):
    return [
        (name, i)
        for name, v in (("X", with_x), ("Y", with_y))
        for i in range(len(v) - 1)
        if v[i + 1] > v[i] * (1 + tolerance)
    ]
""",
        "a share of the value",
    ),
    (
        "fall",
        "each from its own peak",
        """
def fall(curves):
    return float((curves.max(0) - curves[-1]).mean())
""",
        "an",
    ),
    (
        "fall",
        "the peak of all, the measured ones included",
        """
def fall(curves):
    peak = curves.mean(1).argmax()
    return float((curves[peak] - curves[-1]).mean())
""",
        "the other one chose",
    ),
    (
        "fall",
        "the wrong way round",
        """
def fall(curves):
    falls = []
    for half in (0, 1):
        peak = curves[:, 1 - half :: 2].mean(1).argmax()
        falls += list(curves[-1, half::2] - curves[peak, half::2])
    return float(np.mean(falls))
""",
        "from 3 down to 1",
    ),
    (
        "judgement",
        "every verdict another study's",
        """
judgement = {
    "I": ("falls", "b"),
    "II": ("stays", "c"),
    "III": ("open", "d"),
}
""",
        "study III",
    ),
    (
        "judgement",
        "verdicts without what would overturn them",
        """
judgement = {
    "I": "open",
    "II": "falls",
    "III": "stays",
}
""",
        "a verdict and a letter",
    ),
]
