"""Rescalings of the weights that leave the function of a ReLU network unchanged.

A positively homogeneous activation, phi(a z) = a phi(z) for a > 0, lets a positive
factor move from one layer to a later one. These are the symmetries of Dinh et al.,
Sharp Minima Can Generalize For Deep Nets, ICML 2017, Definition 5.
"""

from typing import Any

import torch
from torch import Tensor, nn

from flatlab.network import Network, _Dropout, chain

_HOMOGENEOUS = (
    *(nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Flatten, nn.Dropout, _Dropout),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
)
_AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d)


def _between(net: Network, first: int, second: int) -> list[tuple[str, Any]]:
    """The affine layers ``first`` to ``second``, if factors may move along them."""
    skeleton = next(net.modules())
    steps = chain(skeleton)
    affine = [i for i, (_, layer) in enumerate(steps) if isinstance(layer, _AFFINE)]
    if not 0 <= first < second < len(affine):
        raise ValueError(
            f"the layers are {(first, second)}, expected two increasing positions "
            f"among the {len(affine)} linear and convolutional layers of a plain chain"
        )
    for name, layer in steps[affine[first] : affine[second] + 1]:
        if isinstance(layer, _AFFINE):
            continue
        if not isinstance(layer, _HOMOGENEOUS):
            raise ValueError(
                f"{type(layer).__name__} ({name!r}) stands between layers {first} and "
                f"{second}: a positive factor does not pass through it, so the "
                "function would change. Rescaling needs a chain of layers with "
                "ReLU-like activations, without skip connections or normalisation"
            )
    if any(m._forward_hooks or m._forward_pre_hooks for m in net.modules()):
        raise ValueError("a module with forward hooks cannot be rescaled: remove them")
    moving = [steps[i] for i in affine[first : second + 1]]
    moved = [f"{moving[0][0]}.weight", f"{moving[-1][0]}.weight"]
    moved += [f"{name}.bias" for name, layer in moving[:-1] if layer.bias is not None]
    places = dict(skeleton.named_parameters(remove_duplicate=False))
    for name in moved:
        tied = sum(p is places[name] for p in places.values()) > 1
        if tied or name not in net.layout.names:
            raise ValueError(
                f"{name!r} is frozen or tied, so it cannot be rescaled by itself"
            )
    return moving


def _check_path(net: Network, name: str, next_name: str) -> None:
    """Raise unless each unit reaches the next layer as one block of its inputs."""
    steps = dict(chain(next(net.modules())))
    names = list(steps)
    here, following = steps[name], steps[next_name]
    between = [steps[n] for n in names[names.index(name) + 1 : names.index(next_name)]]
    if isinstance(here, nn.Linear):
        # what pools or flattens its outputs mixes units, or interleaves them
        known = (
            isinstance(following, nn.Linear)
            and following.weight.shape[1] == here.weight.shape[0]
            and not any("Pool" in type(layer).__name__ for layer in between)
        )
    else:
        known = not isinstance(following, nn.Linear) or any(
            isinstance(layer, nn.Flatten)
            and (layer.start_dim, layer.end_dim) == (1, -1)
            for layer in between
        )
    if not known:
        raise ValueError(
            f"the units of {name!r} do not reach {next_name!r} as whole blocks of its "
            "inputs, which is not covered; rescale_layers is"
        )


def _factors(value: Any, name: str, w: Tensor, tail: tuple[int, ...] = ()) -> Tensor:
    factors = torch.as_tensor(value, dtype=w.dtype, device=w.device)
    if not (factors.isfinite() & (factors > 0)).all():
        raise ValueError(f"{name} is {value}, expected finite positive factors")
    lead = factors.shape[: factors.ndim - len(tail)]
    try:
        torch.broadcast_shapes(lead, w.shape[:-1])
        fits = factors.shape[len(lead) :] == tail
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} has shape {tuple(factors.shape)} for w of shape {tuple(w.shape)}, "
            f"expected {tail or 'a number'}, or that for each member"
        )
    return factors


def rescale_layers(
    net: Network, w: Tensor, alpha: Any, layers: tuple[int, int] = (0, 1)
) -> Tensor:
    """Dinh's T_alpha: one layer times alpha, a later one divided by it.

    The biases from the first layer up to the second are multiplied by alpha too, so
    that the function stays the same with biases as without.

    Args:
        net: a chain of linear or convolutional layers with ReLU-like activations.
        w: (..., k).
        alpha: positive factor, or one per member: with w (k,) and alpha (m,) the
            result has m members.
        layers: positions of the two layers among the linear and convolutional ones,
            counted from 0.

    Reference: Dinh et al. (2017), definition 5.
    """
    net.check(w)
    chain = _between(net, *layers)
    alpha = _factors(alpha, "alpha", w)
    grown = {f"{name}.bias" for name, _ in chain[:-1]} | {f"{chain[0][0]}.weight"}
    shrunk = f"{chain[-1][0]}.weight"
    scale = torch.ones(*alpha.shape, net.k, dtype=w.dtype, device=w.device)
    for name, _, part in net.layout:
        if name in grown:
            scale[..., part] = alpha.unsqueeze(-1)
        elif name == shrunk:
            scale[..., part] = 1 / alpha.unsqueeze(-1)
    return w * scale


def rescale_units(net: Network, w: Tensor, factors: Any, layer: int = 0) -> Tensor:
    """Every unit of a layer times its own factor, the next layer divided by it.

    Args:
        net: a chain of linear or convolutional layers with ReLU-like activations.
        w: (..., k).
        factors: (units,) positive factors of the layer's units or channels, or
            (..., units) for each member.
        layer: position among the linear and convolutional layers, counted from 0; not
            the last one.

    Reference: Neyshabur et al. (2015), Path-SGD, the node-wise rescaling.
    """
    net.check(w)
    (name, here), (next_name, following) = _between(net, layer, layer + 1)
    units = here.weight.shape[0]
    factors = _factors(factors, "factors", w, (units,))
    _check_path(net, name, next_name)
    if getattr(following, "groups", 1) != 1:
        raise ValueError(
            f"{next_name!r} is a grouped convolution, which is not covered"
        )
    lead = factors.shape[:-1]
    scale = torch.ones(*lead, net.k, dtype=w.dtype, device=w.device)
    for parameter, shape, part in net.layout:
        if parameter == f"{name}.weight":
            per_unit = shape[1:].numel()
            scale[..., part] = factors.repeat_interleave(per_unit, dim=-1)
        elif parameter == f"{name}.bias":
            scale[..., part] = factors
        elif parameter == f"{next_name}.weight":
            # inputs of the next layer: one unit may reach it as several positions
            positions = shape[1] // units
            repeats = positions * shape[2:].numel()
            row = (1 / factors).repeat_interleave(repeats, dim=-1)
            scale[..., part] = row.repeat(*[1] * len(lead), shape[0])
    return w * scale
