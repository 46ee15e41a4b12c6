"""Measure flatness, sharpness and generalization of PyTorch networks, in ensembles.

A network is a point w in R^k and its training loss a surface over R^k. Everything here
is a function of the two, and w carries a leading axis of members.
"""

from flatlab import models
from flatlab.environment import device, scale, scaled
from flatlab.loss import Loss
from flatlab.network import Layout, Network
from flatlab.training import Run, train

__version__ = "0.1.0"

__all__ = [
    "Layout",
    "Loss",
    "Network",
    "Run",
    "device",
    "models",
    "scale",
    "scaled",
    "train",
]
