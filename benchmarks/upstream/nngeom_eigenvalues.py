"""`hessian_spectrum` returns eigenvalues that have not converged, and says nothing.

Project: nngeom (0.2.0).

Expected: an eigenvalue comes with a residual, or the iteration goes on until it has
converged.
Found: `lanczos_spectrum` takes `max(k, 10)` steps whatever the spectrum is and returns
the Ritz values; the fifth of them is far off below. The trace next to it is the mean of
20 probes without a standard error. The residual of a Ritz value is the last entry of
its vector times the last off-diagonal: it costs nothing to return.
"""

import numpy as np
import torch
from nngeom.curvature import hessian_spectrum
from nngeom.models import Model
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
module = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 4))
x, y = torch.randn(200, 10), torch.randint(0, 4, (200,))
model = Model(module, lambda module, batch: F.cross_entropy(module(batch[0]), batch[1]))
k = model.num_parameters
H = np.stack([model.hvp((x, y), row) for row in np.eye(k)])
exact = np.linalg.eigvalsh((H + H.T) / 2)[::-1]
found = hessian_spectrum(model, (x, y), k=5, seed=0)
print("exact   ", exact[:5].round(4).tolist(), "trace", round(float(np.trace(H)), 4))
print(
    "returned", found.eigenvalues[:5].round(4).tolist(),
    "trace", round(found.trace_estimate, 4),
)  # fmt: skip
