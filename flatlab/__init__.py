"""Measure flatness, sharpness and generalization of PyTorch networks, in ensembles.

A network is a point w in R^k and its training loss a surface over R^k. Everything here
is a function of the two, and w carries a leading axis of members.
"""

from flatlab import data as data
from flatlab import intervals as intervals
from flatlab import models as models
from flatlab import optim as optim
from flatlab.attacks import pca_manifold as pca_manifold
from flatlab.attacks import pgd as pgd
from flatlab.bounds import examples_needed as examples_needed
from flatlab.bounds import kl_inverse as kl_inverse
from flatlab.bounds import optimise_pac_bayes as optimise_pac_bayes
from flatlab.bounds import pac_bayes_kl_bound as pac_bayes_kl_bound
from flatlab.bounds import sam_bound as sam_bound
from flatlab.bounds import sigma_of_proof as sigma_of_proof
from flatlab.data import Dataset as Dataset
from flatlab.data import Examples as Examples
from flatlab.degeneracy import (
    local_learning_coefficient as local_learning_coefficient,
)
from flatlab.environment import device as device
from flatlab.environment import scale as scale
from flatlab.environment import scaled as scaled
from flatlab.hessian import Hessian as Hessian
from flatlab.information import binned_information as binned_information
from flatlab.information import information_bottleneck as information_bottleneck
from flatlab.information import information_plane as information_plane
from flatlab.information import kde_information as kde_information
from flatlab.landscape import filter_normalised as filter_normalised
from flatlab.landscape import interpolate as interpolate
from flatlab.landscape import plane as plane
from flatlab.loss import Loss as Loss
from flatlab.neighbourhoods import Neighbourhood as Neighbourhood
from flatlab.neighbourhoods import adaptive_ball as adaptive_ball
from flatlab.neighbourhoods import ball as ball
from flatlab.neighbourhoods import keskar_box as keskar_box
from flatlab.network import Layout as Layout
from flatlab.network import Network as Network
from flatlab.noise import bits_per_weight as bits_per_weight
from flatlab.noise import pac_bayes_sharpness as pac_bayes_sharpness
from flatlab.noise import quantise as quantise
from flatlab.noise import tolerated_noise as tolerated_noise
from flatlab.reparameterization import rescale_layers as rescale_layers
from flatlab.reparameterization import rescale_units as rescale_units
from flatlab.reports import report as report
from flatlab.sharpness import average_sharpness as average_sharpness
from flatlab.sharpness import critical_sharpness as critical_sharpness
from flatlab.sharpness import fisher_rao_norm as fisher_rao_norm
from flatlab.sharpness import gradient_norm as gradient_norm
from flatlab.sharpness import keskar_sharpness as keskar_sharpness
from flatlab.sharpness import relative_flatness as relative_flatness
from flatlab.sharpness import worst_case_sharpness as worst_case_sharpness
from flatlab.spectra import diagonal as diagonal
from flatlab.spectra import eigenvalues as eigenvalues
from flatlab.spectra import soft_rank as soft_rank
from flatlab.spectra import spectral_density as spectral_density
from flatlab.spectra import trace as trace
from flatlab.training import Run as Run
from flatlab.training import train as train

__version__ = "0.1.0"
