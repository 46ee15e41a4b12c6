"""Reparameterization: other ways to be right, and the usual ways to be wrong."""

RIGHT = {
    "rescale": """
def rescale(W1, b1, W2, b2, alpha):
    W1 = W1.clone().mul_(alpha)
    b1 = torch.stack([alpha * b for b in b1])
    return [W1, b1, torch.einsum("ij,j->ij", W2, torch.full_like(b1, 1 / alpha)), b2]
""",
    "hessian": """
def hessian_after(H, first, alpha):
    H = H.numpy().copy()
    H[:first, :first] /= alpha**2
    H[first:, first:] *= alpha**2
    return torch.tensor(H)
""",
    "sharp": """
def sharpening_alpha(H, first, M):
    alpha = 1.0
    while True:
        d = np.r_[np.full(first, 1 / alpha), np.full(len(H) - first, alpha)]
        if np.linalg.norm(d[:, None] * H.numpy() * d, 2) >= 2 * M:
            return alpha
        alpha /= 2
""",
    "flat": """
def flattest(u, v):
    alphas = np.exp(np.linspace(-5, 5, 200_001))
    tops = (alphas * u) ** 2 + (v / alphas) ** 2
    best = tops.argmin()
    return alphas[best], tops[best]
""",
    "judgement": """
judgement = dict(
    I=["OPEN", "c"],
    II=["yes", "b"],
    III=["no", "d"],
)
""",
}

WRONG = [
    (
        "rescale",
        "bias left as it was",
        """
def rescale(W1, b1, W2, b2, alpha):
    return alpha * W1, b1, W2 / alpha, b2
""",
        "which of them has to be scaled",
    ),
    (
        "rescale",
        "both biases scaled",
        """
def rescale(W1, b1, W2, b2, alpha):
    return alpha * W1, alpha * b1, W2 / alpha, b2 / alpha
""",
        "the function has changed",
    ),
    (
        "hessian",
        "stretched the wrong way",
        """
def hessian_after(H, first, alpha):
    d = torch.full((len(H),), 1 / alpha)
    d[:first] = alpha
    return d[:, None] * H * d[None, :]
""",
        "smaller second derivative",
    ),
    (
        "hessian",
        "one side only",
        """
def hessian_after(H, first, alpha):
    d = torch.full((len(H),), alpha**2)
    d[:first] = alpha**-2
    return d[:, None] * H
""",
        "mixed blocks",
    ),
    (
        "sharp",
        "M instead of its root",
        """
def sharpening_alpha(H, first, M):
    return M**0.25
""",
        "below M",
    ),
    (
        "sharp",
        "the curvature of H itself is forgotten",
        """
def sharpening_alpha(H, first, M):
    return math.sqrt(M)
""",
        "bound lambda_max from below",
    ),
    (
        "flat",
        "flatter without end",
        """
def flattest(u, v):
    return 1000.0, (1000.0 * u) ** -2
""",
        "as flat as it gets",
    ),
    (
        "flat",
        "the minimum as it is",
        """
def flattest(u, v):
    return 1.0, u**2 + v**2
""",
        "where is their sum smallest",
    ),
    (
        "rescale",
        "nothing at all",
        """
def rescale(W1, b1, W2, b2, alpha):
    return torch.zeros(0, *W1.shape), b1[:0], W2[:0], b2[:0]
""",
        "gives shape",
    ),
    (
        "hessian",
        "nothing at all",
        "def hessian_after(H, first, alpha):\n    return H[:0]",
        "gives shape",
    ),
    (
        "judgement",
        "every verdict another study's",
        """
judgement = {
    "I": ("yes", "d"),
    "II": ("no", "c"),
    "III": ("open", "a"),
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
    "II": "yes",
    "III": "no",
}
""",
        "a verdict and a letter",
    ),
]
