"""`PyHessian.trace` stops as soon as its running mean happens to stand still.

Project: Landscaper (1.3.1), from PyHessian, where the rule is the same.

Expected: `tol=1e-3` asks for a trace that is accurate to about a thousandth, or for a
word that it is not.
Found: the loop ends when one more probe moves the mean by less than `tol`. Two probes
that agree by chance are enough, and the mean of n probes moves by about 1/n of their
spread anyway. Below, the error is tens of times the tolerance, and nothing says so.
A remedy: stop on the standard error of the mean, after a least number of probes, and
return that error.
"""

import contextlib
import io
import statistics

import torch
from landscaper.hessian import PyHessian
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
x, y = torch.randn(100, 8), torch.randint(0, 3, (100,))
parameters = list(module.parameters())
k = sum(p.numel() for p in parameters)
gradient = torch.cat(
    [
        g.flatten()
        for g in torch.autograd.grad(
            F.cross_entropy(module(x), y), parameters, create_graph=True
        )
    ]
)
rows = [torch.autograd.grad(g, parameters, retain_graph=True) for g in gradient]
H = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
exact = H.trace().item()

errors = []
for seed in range(60):
    torch.manual_seed(seed)
    with contextlib.redirect_stderr(io.StringIO()):
        estimate = PyHessian(module, F.cross_entropy, [(x, y)], "cpu").trace()
    errors.append(abs(estimate / exact - 1))
print(f"{k} weights, exact trace {exact:.4f}, tol=1e-3, 60 seeds")
print(f"error: median {statistics.median(errors):.1%}, largest {max(errors):.1%}")
