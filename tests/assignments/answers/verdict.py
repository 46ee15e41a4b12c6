"""Verdict: other ways to be right, and the usual ways to be wrong."""

RIGHT = {
    "tau": """
def kendall(measure, error):
    from itertools import combinations
    score = pairs = 0
    for i, j in combinations(range(len(measure)), 2):
        product = (measure[i] - measure[j]) * (error[i] - error[j])
        score += np.sign(product)
        pairs += 1
    return score / pairs
""",
    "granulated": """
def granulated(settings, measure, error):
    averages = []
    for axis in range(len(settings[0])):
        rest = [tuple(np.delete(row, axis)) for row in settings]
        taus = []
        for key in sorted(set(rest)):
            rows = [i for i, k in enumerate(rest) if k == key]
            pairs = [(i, j) for i in rows for j in rows if i < j]
            if pairs:
                signs = [
                    np.sign((measure[i] - measure[j]) * (error[i] - error[j]))
                    for i, j in pairs
                ]
                taus.append(np.mean(signs))
        averages.append(np.mean(taus) if taus else float("nan"))
    return np.array(averages)
""",
    "partial": """
def partial_correlation(measure, error, given):
    # From the inverse of the covariance matrix of everything.
    precision = np.linalg.pinv(np.cov(np.column_stack([measure, error, given]).T))
    return -precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1])
""",
    "holm": """
def holm(p_values, alpha):
    p = np.asarray(p_values)
    order = np.argsort(p)
    factors = len(p) - np.arange(len(p))
    adjusted = np.maximum.accumulate(p[order] * factors)
    found = np.empty(len(p), dtype=bool)
    found[order] = adjusted <= alpha
    return found.tolist()
""",
    "judgement": """
from scipy.stats import kendalltau

judgement = {}
for study, (which, x, e) in STUDIES.items():
    inside = sum(kendalltau(x[which == i], e[which == i])[0] for i in range(3)) / 3
    judgement[study] = ["Sets", "B"]
    if abs(inside) > 0.3:
        judgement[study] = ["within", "a"] if inside > 0 else ["opposite", "c"]
""",
}

WRONG = [
    (
        "tau",
        "Pearson's correlation",
        """
def kendall(measure, error):
    return float(np.corrcoef(measure, error)[0, 1])
""",
        "only the order counts",
    ),
    (
        "tau",
        "ties dropped from the pairs",
        """
def kendall(measure, error):
    a = np.sign(np.subtract.outer(measure, measure))
    b = np.sign(np.subtract.outer(error, error))
    return float((a * b).sum() / (a * b != 0).sum())
""",
        "still one of all pairs",
    ),
    (
        "granulated",
        "groups by the axis itself",
        """
def granulated(settings, measure, error):
    def tau(a, b):
        a, b = (np.sign(np.subtract.outer(v, v)) for v in (a, b))
        return (a * b).sum() / (len(a) * (len(a) - 1))
    found = []
    for axis in range(settings.shape[1]):
        groups = [settings[:, axis] == v for v in np.unique(settings[:, axis])]
        taus = [tau(measure[g], error[g]) for g in groups if g.sum() > 1]
        found.append(float(np.mean(taus)) if taus else math.nan)
    return found
""",
        "vary one, hold the others",
    ),
    (
        "granulated",
        "large groups count more",
        """
def granulated(settings, measure, error):
    found = []
    for axis in range(settings.shape[1]):
        rest = np.delete(settings, axis, axis=1)
        same = (rest[:, None] == rest[None]).all(-1)
        np.fill_diagonal(same, False)
        a = np.sign(np.subtract.outer(measure, measure))
        b = np.sign(np.subtract.outer(error, error))
        found.append(float((a * b)[same].mean()) if same.any() else math.nan)
    return found
""",
        "the same weight",
    ),
    (
        "partial",
        "only one side regressed",
        """
def partial_correlation(measure, error, given):
    design = np.column_stack([np.ones(len(measure)), given])
    b = error - design @ np.linalg.lstsq(design, error, rcond=None)[0]
    return float(np.corrcoef(measure, b)[0, 1])
""",
        "both are regressed",
    ),
    (
        "partial",
        "no intercept",
        """
def partial_correlation(measure, error, given):
    def rest(v):
        return v - given @ np.linalg.lstsq(given, v, rcond=None)[0]
    return float(np.corrcoef(rest(measure), rest(error))[0, 1])
""",
        "both are regressed",
    ),
    (
        "holm",
        "Bonferroni",
        """
def holm(p_values, alpha):
    return [p <= alpha / len(p_values) for p in p_values]
""",
        "the thresholds grow",
    ),
    (
        "holm",
        "goes on after the first that fails",
        """
def holm(p_values, alpha):
    order = np.argsort(p_values)
    found = [False] * len(p_values)
    for rank, i in enumerate(order):
        found[i] = p_values[i] <= alpha / (len(p_values) - rank)
    return found
""",
        "none is significant",
    ),
    (
        "holm",
        "no correction",
        """
def holm(p_values, alpha):
    return [p <= alpha for p in p_values]
""",
        "0.05 / 2",
    ),
    (
        "judgement",
        "the signs turned round",
        """
from scipy.stats import kendalltau

judgement = {}
for study, (which, x, e) in STUDIES.items():
    inside = sum(kendalltau(x[which == i], e[which == i])[0] for i in range(3)) / 3
    judgement[study] = ("opposite", "c") if inside > 0.3 else ("within", "a")
""",
        "within each of the three sets",
    ),
    (
        "judgement",
        "verdicts without what would overturn them",
        """
judgement = {"A": "within", "B": "sets", "C": "opposite"}
""",
        "a verdict and a letter",
    ),
]
