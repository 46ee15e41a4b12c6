"""The worked example's numbers, from the study's networks: python pairs.py"""

import numpy as np

import flatlab as fl
from flatlab.course import ranks, study

SHAPE = (*study.SET, "width")
KNOBS = ("rate", "batch_size", "weight_decay")
networks = study.read("laptop")
fitted = networks["fitted"]
settings = {k: networks[k][fitted] for k in study.AXES if k != "seed"}
error = networks["test_error"][fitted]
places = np.stack([settings[k] for k in SHAPE], 1)
block = np.unique(places, axis=0, return_inverse=True)[1].ravel()


def right(measure, axes):
    """Per cent of pairs whose lower measure errs less, one value per block."""
    sides = [ranks.pairs_along(settings, axis) for axis in axes]
    i, j = (np.concatenate(side) for side in zip(*sides, strict=True))
    agree = np.sign(measure[i] - measure[j]) * np.sign(error[i] - error[j])
    return np.array([50 + 50 * agree[block[i] == b].mean() for b in np.unique(block)])


shuffled = np.random.default_rng(0).permutation(fitted.sum())
columns = {
    "λmax": networks["top_eigenvalue"][fitted],
    "λmax, shuffled": networks["top_eigenvalue"][fitted][shuffled],
    "norm": networks["norm"][fitted],
}
for name, column in columns.items():
    alike, across = right(column, KNOBS), right(column, ["optimizer"])
    ci = fl.intervals.mean_interval
    print(
        f"{name:15} alike {ci(alike):.1f}, another optimizer {ci(across):.1f}, "
        f"difference {ci(across - alike):+.1f} %, n = {len(alike)} blocks"
    )
