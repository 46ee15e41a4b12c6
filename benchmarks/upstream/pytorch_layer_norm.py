"""`jvp` of `jacrev` through `layer_norm` gives a wrong derivative, without an error.

Project: PyTorch (2.13.0; related: pytorch/pytorch#196700), and through it curvlinops
(3.0.1), whose `HessianLinearOperator` takes `jvp(jacrev(loss))`: every block of a
LayerNorm's weight is wrong, by half of its norm in the network below.

Expected: `jvp(jacrev(f))` equals `jvp(grad(f))` and central differences of `grad(f)`.
Found: it differs as soon as the input of `layer_norm` depends on what is
differentiated; the weight's gradient gets no correct tangent of the normalised input. A
batching rule of `native_layer_norm_backward` is the likely place: `jacrev` calls the
backward under `vmap`, and `grad` does not.
"""

import torch
from torch.func import grad, jacrev, jvp

torch.manual_seed(0)
x, dx = torch.randn(2, 6, 4, dtype=torch.float64)
weight = torch.randn(4, dtype=torch.float64)


def cubes(weight, x):
    return torch.nn.functional.layer_norm(x, (4,), weight).pow(3).sum()


def by(transform):
    return jvp(lambda x: transform(cubes)(weight, x), (x,), (dx,))[1]


step = 1e-6
above, below = (grad(cubes)(weight, x + s * dx) for s in (step, -step))
print("central differences", ((above - below) / (2 * step)).tolist())
print("jvp of grad        ", by(grad).tolist())
print("jvp of jacrev      ", by(jacrev).tolist())
