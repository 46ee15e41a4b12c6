"""Measure flatness, sharpness and generalization of PyTorch networks, in ensembles.

A network is a point w in R^k and its training loss a surface over R^k. Everything here
is a function of the two, and w carries a leading axis of members.
"""

from flatlab import data, intervals, models, optim
from flatlab.attacks import manifold_pgd, pca_manifold, pgd
from flatlab.bounds import (
    examples_needed,
    kl_inverse,
    optimise_pac_bayes,
    pac_bayes_kl_bound,
    sam_bound,
    sigma_of_proof,
)
from flatlab.data import Dataset, Examples
from flatlab.environment import device, scale, scaled
from flatlab.hessian import Hessian
from flatlab.information import (
    binned_information,
    information_bottleneck,
    information_plane,
    kde_information,
)
from flatlab.landscape import (
    filter_normalised,
    interpolate,
    plane,
    project,
    trajectory_directions,
)
from flatlab.loss import Loss
from flatlab.neighbourhoods import Neighbourhood, adaptive_ball, ball, keskar_box
from flatlab.network import Layout, Network
from flatlab.noise import (
    bits_per_weight,
    pac_bayes_sharpness,
    quantise,
    tolerated_noise,
)
from flatlab.reparameterization import rescale_layers, rescale_units
from flatlab.sharpness import (
    average_sharpness,
    fisher_rao_norm,
    gradient_norm,
    keskar_sharpness,
    relative_flatness,
    worst_case_sharpness,
)
from flatlab.spectra import diagonal, eigenvalues, spectral_density, trace
from flatlab.training import Run, train

__version__ = "0.1.0"

__all__ = [
    "Dataset",
    "Examples",
    "Hessian",
    "Layout",
    "Loss",
    "Neighbourhood",
    "Network",
    "Run",
    "adaptive_ball",
    "average_sharpness",
    "ball",
    "binned_information",
    "bits_per_weight",
    "data",
    "device",
    "diagonal",
    "eigenvalues",
    "examples_needed",
    "filter_normalised",
    "fisher_rao_norm",
    "gradient_norm",
    "information_bottleneck",
    "information_plane",
    "interpolate",
    "intervals",
    "kde_information",
    "keskar_box",
    "keskar_sharpness",
    "kl_inverse",
    "manifold_pgd",
    "models",
    "optim",
    "optimise_pac_bayes",
    "pac_bayes_kl_bound",
    "pac_bayes_sharpness",
    "pca_manifold",
    "pgd",
    "plane",
    "project",
    "quantise",
    "relative_flatness",
    "rescale_layers",
    "rescale_units",
    "sam_bound",
    "scale",
    "scaled",
    "sigma_of_proof",
    "spectral_density",
    "tolerated_noise",
    "trace",
    "train",
    "trajectory_directions",
    "worst_case_sharpness",
]
