"""`HessianOperator` weighs a last, smaller batch like a whole one.

Project: hessian-eigenthings (1.0.0a5).

Expected: with a loss that is a mean over examples, the operator over a loader is the
Hessian of the mean over all examples, whatever the batch size.
Found: `_matvec_full` adds the batches' products and divides by the number of batches. A
loader of 100 on 101 examples gives its last example half of the weight, and eigenvalues
change with the batch size. The size of each batch would have to be known, or said to be
equal.
"""

import torch
from hessian_eigenthings import HessianOperator, supervised_loss
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
x, y = torch.randn(101, 5, dtype=torch.float64), torch.randint(0, 3, (101,))
x[-1] *= 5
v = torch.randn(sum(p.numel() for p in module.parameters()), dtype=torch.float64)


def product(size):
    batches = list(zip(x.split(size), y.split(size), strict=True))
    return HessianOperator(module, batches, supervised_loss(F.cross_entropy)).matvec(v)


whole, parts = product(101), product(100)
print(f"one batch of 101: length {whole.norm():.4f}")
print(f"batches of 100 and 1: length {parts.norm():.4f}")
print(f"relative difference {((whole - parts).norm() / whole.norm()):.2f}, expected 0")
