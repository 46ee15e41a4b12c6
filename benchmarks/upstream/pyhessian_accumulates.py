"""Two `hessian` objects of one model, made one after another, disagree twofold.

Project: PyHessian (0.1).

Expected: two objects of one model and one batch agree.
Found: the constructor calls `backward(create_graph=True)` without clearing `.grad`, so
that the second object differentiates the sum of two gradients. `torch.autograd.grad`
instead of `backward` would not touch `.grad`.
"""

import warnings

import torch
from pyhessian import hessian
from torch import nn

warnings.filterwarnings("ignore")
torch.manual_seed(0)
module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
data = torch.randn(50, 5), torch.randint(0, 3, (50,))
objects = [hessian(module, nn.CrossEntropyLoss(), data=data, cuda=False) for _ in "12"]
for turn, made in zip(("first", "second"), objects, strict=True):
    print(turn, "object:", round(made.eigenvalues(maxIter=500, tol=1e-6)[0][0], 4))
