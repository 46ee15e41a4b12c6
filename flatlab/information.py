"""Mutual information of layers with inputs and labels, in bits.

A layer T of a network is a function of the input X. Over n equally likely inputs I(X;T)
is then the entropy of T, and what is estimated is how many values of T count as
different: those in different bins, or those further apart than a noise. The chain is
Y -> X -> T, so that I(T;Y) cannot exceed I(X;Y), nor I(X;T).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatlab.data import Dataset
from flatlab.network import Network

# Rows of the matrix of pairwise distances that are held at once.
_BLOCK = 512
# Steps of the bottleneck's equations between looks at which starts have settled, and
# the largest change of a probability in the last step of one that has.
_CHECK, _SETTLED = 20, 1e-9


@dataclass(frozen=True)
class Information:
    """A point, or many, of the information plane.

    Attributes:
        xt: I(X;T) in bits, float64, within 0 and H(X).
        ty: I(T;Y) in bits, float64, the same shape, within 0 and min(I(X;T), H(Y)).
    """

    xt: Tensor
    ty: Tensor


@dataclass(frozen=True)
class Bottleneck:
    """Optimal compromises between I(X;T) and I(T;Y).

    Attributes:
        betas: (betas,), the price of I(T;Y) in units of I(X;T).
        xt: (betas,), I(X;T) in bits.
        ty: (betas,), I(T;Y) in bits.
        encoders: (betas, inputs, clusters), the probabilities p(t | x).
        converged: (betas,), whether no probability moved by over 1e-9 in the last step.
    """

    betas: Tensor
    xt: Tensor
    ty: Tensor
    encoders: Tensor
    converged: Tensor


# -- distributions -------------------------------------------------------------------


def entropy(p: Any) -> Tensor:
    """Entropy of distributions (..., outcomes) in bits, (...) float64."""
    p = _probabilities(p, 1)
    bits = -torch.xlogy(p, p).sum(-1) / math.log(2)
    return bits.clamp(0, math.log2(p.shape[-1]))


def mutual_information(joint: Any) -> Tensor:
    """Mutual information of joint distributions (..., a, b) in bits, (...) float64."""
    joint = _probabilities(joint, 2)
    h_a, h_b = entropy(joint.sum(-1)), entropy(joint.sum(-2))
    bits = h_a + h_b - entropy(joint.flatten(-2))
    return bits.clamp(min=0).minimum(h_a).minimum(h_b)


# -- estimates from activations ------------------------------------------------------


def binned_information(
    t: Any,
    y: Any,
    *,
    bins: int | None = 30,
    range: tuple[float, float] | str = (-1.0, 1.0),
    width: float | None = None,
) -> Information:
    """I(X;T) and I(T;Y) of layers whose activations are sorted into bins.

    T is the tuple of the bins of all units, compared exactly, however many there are.
    Each example counts as 1/n. Inputs that occur twice do no harm, as a network treats
    them alike: I(X;T) is H(T).

    Args:
        t: (..., n, units) activations, floating point; leading axes count members,
            snapshots and the like. Or a list of such tensors, one per layer.
        y: (n,) labels, any integers, or (..., n) where leading axes of ``t`` have
            labels of their own.
        bins: number of bins per unit; None counts every value as a bin of its own.
        range: what bins of equal width divide. A pair (low, high): all activations must
            lie in it; the last bin holds its upper end. ``"adaptive"``: from the lowest
            to the highest activation of each layer of each member.
        width: of bins that start at 0 and go on without end, instead of the two above.

    Returns:
        An ``Information`` of shape (...), or (..., layers) for a list.

    Shwartz-Ziv and Tishby (2017), section 3; widths as in Saxe et al. (2018). Their
    codes place 30 edges on [-1, 1], which is ``bins=29`` and a bin for exactly 1.
    """
    if bins is not None and (bins != int(bins) or bins < 1):
        raise ValueError(f"bins must be a positive integer or None, got {bins}")
    if width is not None and not 0 < width < math.inf:
        raise ValueError(f"width must be positive and finite, got {width}")
    if range != "adaptive" and (
        isinstance(range, str) or not -math.inf < range[0] < range[1] < math.inf
    ):
        raise ValueError(
            "range must be a pair (low, high) with low < high or 'adaptive', "
            f"got {range!r}"
        )

    def estimate(t: Tensor, y: Tensor) -> Information:
        return _from_codes(*_codes(*_cells(t, bins, range, width)), y)

    return _per_layer(estimate, t, y)


def kde_information(t: Any, y: Any, *, variance: float = 1e-3) -> Information:
    """I(X;T) and I(T;Y) of layers to which Gaussian noise is added.

    The noise makes T a mixture of n Gaussians, whose entropy is at most a sum over
    pairs of examples: ``xt`` is an upper bound, from their Kullback-Leibler
    divergences. I(T;Y) is the difference of two such bounds, an estimate that is on no
    known side; a negative one is reported as 0. Takes n^2 exponentials for each layer
    of each member.

    Layers and labels go in, and an ``Information`` comes out, as of
    ``binned_information``. ``variance`` is that of the noise in each unit, in squared
    units of the activations; exponentials are of their dtype.

    Kolchinsky and Tracey (2017), *Estimating mixture entropy with pairwise distances*;
    used by Saxe et al. (2018).
    """
    if not 0 < variance < math.inf:
        raise ValueError(f"variance must be positive and finite, got {variance}")
    scale = 1 / math.sqrt(2 * variance)

    def estimate(t: Tensor, y: Tensor) -> Information:
        _finite_range(t)
        y = y.expand(len(t), -1)
        rows = [_kde(row * scale, own) for row, own in zip(t, y, strict=True)]
        return Information(*(torch.stack(part) for part in zip(*rows, strict=True)))

    return _per_layer(estimate, t, y)


def layer_outputs(net: Network, w: Tensor, x: Tensor) -> list[Tensor]:
    """Activations of every layer of a dense network, with weights w, (..., k).

    The network is a ``Sequential`` of ``Linear``, ``Flatten``, pointwise activations
    and dropout, as ``mlp`` makes. One tensor (..., n, units) per ``Linear`` layer: its
    outputs after the activation that follows, and of the last one the probabilities.
    """
    net.check(w)
    if net._dense is None:
        raise ValueError(
            "layer_outputs takes a dense stack (a plain Sequential of Linear, Flatten, "
            f"pointwise activations and dropout, all trained), got {net!r}"
        )
    parameters = net.unflatten(w)
    outputs, x = [], x.flatten(1)
    with torch.no_grad():
        for name, layer in net._dense:
            if isinstance(layer, nn.Linear):
                x = x @ parameters[f"{name}.weight"].mT
                if layer.bias is not None:
                    x += parameters[f"{name}.bias"].unsqueeze(-2)
                outputs.append(x)
            elif not isinstance(layer, nn.Flatten):
                x = layer(x)
                if outputs:
                    outputs[-1] = x
    return [*outputs[:-1], outputs[-1].softmax(-1)]


def information_plane(
    net: Network,
    w: Tensor,
    data: Any,
    *,
    estimate: Callable[..., Information] = binned_information,
    layers: Sequence[int] | None = None,
    **options: Any,
) -> Information:
    """I(X;T) and I(T;Y) of every layer of every member at every snapshot.

    Args:
        net: of a dense stack, see ``layer_outputs``.
        w: (k,), (members, k) or (snapshots, members, k), on the device of the data.
        data: ``Examples``, or a ``Dataset``, of which all three splits are taken
            together: the information is that of a uniform distribution over them.
        estimate: ``binned_information``, ``kde_information``, or a function of a list
            of layers and labels like them.
        layers: positions of the layers to keep, such as ``[0, -1]``; by default all.
        options: keyword arguments of ``estimate``.

    Returns:
        An ``Information`` whose shape is that of w with (layers,) in place of (k,).

    Shwartz-Ziv and Tishby (2017), figure 2.
    """
    if isinstance(data, Dataset):
        parts = (data.train, data.validation, data.test)
        lead = data.train.y.shape[:-1]
        x = torch.cat([part.x for part in parts])
        y = torch.cat([part.y.expand(*lead, len(part)) for part in parts], -1)
    else:
        x, y = data.x, data.y

    def one(w: Tensor) -> Information:
        outputs = layer_outputs(net, w, x.to(w.dtype))
        kept = outputs if layers is None else [outputs[i] for i in layers]
        return estimate(kept, y, **options)

    # snapshot by snapshot, so that the activations of one are all that is held
    return one(w) if w.ndim < 3 else _stacked([one(snapshot) for snapshot in w], 0)


# -- the optimum ---------------------------------------------------------------------


def information_bottleneck(
    joint: Any,
    betas: Any,
    *,
    clusters: int | None = None,
    restarts: int = 8,
    seed: int = 0,
    max_iterations: int = 5000,
) -> Bottleneck:
    """Encoders p(t | x) that minimise I(X;T) - beta I(T;Y), by alternating steps.

    Starts from random encoders, nearly the identity and the constant, then from the
    best encoders of the neighbouring betas until none improves. The problem is not
    convex: small ones are solved, large ones approached from above.

    Args:
        joint: (inputs, labels) joint distribution p(x, y), every input of positive
            probability.
        betas: (betas,) positive numbers. Up to 1 the optimum keeps nothing.
        clusters: number of values of T; by default the number of inputs, which is
            enough.
        restarts: number of random encoders to start from at each beta.
        seed: of the random encoders.
        max_iterations: steps from one start, many where a cluster is about to split.

    Returns:
        A ``Bottleneck`` in the order of ``betas``.

    Tishby, Pereira and Bialek (1999), section 3.
    """
    joint = _probabilities(joint, 2)
    betas = torch.as_tensor(betas, dtype=torch.float64, device=joint.device)
    p_x = joint.sum(1) if joint.ndim == 2 else None
    if p_x is None or not (p_x > 0).all():
        raise ValueError(
            "joint must have shape (inputs, labels) and give every input a positive "
            f"probability; got shape {tuple(joint.shape)}. Leave out impossible inputs"
        )
    if betas.ndim != 1 or not len(betas) or not ((betas > 0) & betas.isfinite()).all():
        raise ValueError(f"betas must be a list of positive numbers, got {betas}")
    inputs = len(p_x)
    clusters = inputs if clusters is None else clusters
    if min(clusters, restarts, max_iterations) < 1:
        raise ValueError(
            "clusters, restarts and max_iterations must be positive, got "
            f"{(clusters, restarts, max_iterations)}"
        )
    p_y = joint / p_x[:, None]
    rank = betas.argsort()
    beta = betas[rank, None]

    def solve(starts: Tensor) -> list[Tensor]:
        """The best from (betas, starts, inputs, clusters), and how it does."""
        encoders, change = _alternate(starts, p_x, p_y, beta, max_iterations)
        p_xt = p_x[:, None] * encoders
        xt, ty = mutual_information(p_xt), mutual_information(p_xt.mT @ p_y)
        loss = xt - beta * ty
        best = loss.argmin(1)
        every = torch.arange(len(betas), device=joint.device)
        return [value[every, best] for value in (encoders, change, xt, ty, loss)]

    how = {"generator": torch.Generator("cpu").manual_seed(seed), "device": "cpu"}
    random = torch.randn(restarts, inputs, clusters, dtype=torch.float64, **how)
    random = random.to(joint.device).mul(3).softmax(-1)
    position = torch.arange(inputs, device=joint.device)
    own = nn.functional.one_hot(position % clusters, clusters).double()
    constant = nn.functional.one_hot(position * 0, clusters).double()
    starts = torch.stack([0.9 * own + 0.1 / clusters, constant, *random])
    found = solve(starts.expand(len(betas), -1, -1, -1))
    for _ in range(len(betas)):
        encoders, *_, loss = found
        found = solve(torch.stack([encoders.roll(i, 0) for i in (0, 1, -1)], 1))
        if (loss - found[-1] <= 1e-12).all():
            break
    encoders, change, xt, ty, _ = (value[rank.argsort()] for value in found)
    return Bottleneck(betas, xt, ty, encoders, change <= _SETTLED)


# -- helpers -------------------------------------------------------------------------


def _probabilities(p: Any, axes: int) -> Tensor:
    """Float64 probabilities that sum to one over the last axes."""
    if isinstance(p, Tensor) and p.device.type != "cuda":
        p = p.cpu()  # MPS has no float64
    device = p.device if isinstance(p, Tensor) else "cpu"
    p = torch.as_tensor(p, dtype=torch.float64, device=device)
    if p.ndim < axes or not p.numel():
        raise ValueError(
            f"probabilities must have at least {axes} axes and one outcome, "
            f"got shape {tuple(p.shape)}"
        )
    total = p.flatten(-axes).sum(-1)
    if not (p >= 0).all() or not ((total - 1).abs() <= 1e-6).all():
        raise ValueError(
            "probabilities must be non-negative and sum to one, got a minimum of "
            f"{float(p.min()):g} and sums from {float(total.min()):g} to "
            f"{float(total.max()):g}; divide counts by their sum"
        )
    # What was computed in float32 sums to one only roughly.
    return p / total[(..., *[None] * axes)]


def _stacked(points: Sequence[Information], axis: int) -> Information:
    pairs = ((point.xt, point.ty) for point in points)
    return Information(*(torch.stack(part, axis) for part in zip(*pairs, strict=True)))


def _per_layer(
    estimate: Callable[[Tensor, Tensor], Information], t: Any, y: Any
) -> Information:
    """Apply an estimate of rows (rows, n, units) and labels to one or many layers.

    Labels become numbers from 0 on, (rows, n), or (1, n) where they are shared.
    """
    if not isinstance(t, Tensor):
        if not isinstance(t, Sequence) or not len(t):
            raise TypeError(
                f"t must be a tensor or a list of tensors, got {type(t).__name__}"
            )
        return _stacked([_per_layer(estimate, layer, y) for layer in t], -1)
    y = y if isinstance(y, Tensor) else torch.as_tensor(y, device="cpu")
    if y.is_floating_point() or y.is_complex():
        raise TypeError(f"y must hold integer labels, got {y.dtype}")
    if not t.is_floating_point():
        raise TypeError(f"t must hold floating-point numbers, got {t.dtype}")
    lead, n = t.shape[:-2], t.shape[-2] if t.ndim > 1 else 0
    pairs = zip(y.shape[::-1], (n, *lead[::-1]), strict=False)
    broadcasts = y.ndim <= 1 + len(lead) and all(a in (1, b) for a, b in pairs)
    if not t.numel() or y.shape[-1:] != (n,) or not broadcasts:
        raise ValueError(
            f"t must have shape (..., n, units) and y (n,) or (..., n); got "
            f"{tuple(t.shape)} and {tuple(y.shape)}"
        )
    rows = t.detach().reshape(-1, *t.shape[-2:])
    if rows.device.type == "mps":  # has no float64
        rows = rows.cpu()
    own = y if y.ndim == 1 else y.expand(*lead, n)
    labels = torch.unique(own.reshape(-1, n).to(rows.device), return_inverse=True)[1]
    point = estimate(rows, labels)
    return Information(point.xt.reshape(lead), point.ty.reshape(lead))


def _finite_range(t: Tensor) -> tuple[float, float]:
    low, high = (float(value) for value in torch.aminmax(t))
    if not math.isfinite(low + high):
        raise ValueError("activations hold NaN or infinite values")
    return low, high


def _cells(
    t: Tensor, bins: Any, interval: Any, width: float | None
) -> tuple[Tensor, int]:
    """Bins of activations (rows, n, units), numbered from 0, and how many there are."""
    low, high = _finite_range(t)
    t = t.double()
    if width is not None:
        first = math.floor(low / width)
        radix = math.floor(high / width) - first + 1
        if radix * t.shape[1] > 2**53:  # whole numbers stay exact up to there
            raise ValueError(
                f"width={width} is too small for activations from {low:g} to {high:g}"
            )
        return (t / width).floor_().sub_(first), radix
    if bins is None:
        return _rank(t.mT.contiguous()).mT, t.shape[1]
    if interval == "adaptive":
        start: Any = t.amin((1, 2), keepdim=True)
        length = t.amax((1, 2), keepdim=True) - start
        # A layer that is constant has one bin, whatever its length is taken to be.
        scale = bins / length.where(length > 0, torch.ones_like(length))
    else:
        start, end = (float(end) for end in interval)
        if low < start or high > end:
            raise ValueError(
                f"activations run from {low:g} to {high:g}, outside the range "
                f"{interval}: widen it, or take range='adaptive' or width=..."
            )
        scale = bins / (end - start)
    return (t - start).mul_(scale).floor_().clamp_(0, bins - 1), bins


def _codes(cells: Tensor, radix: int) -> tuple[Tensor, int]:
    """One integer per example, equal where all cells are: (rows, n), and its bound.

    The cells are digits of a number. Where one more would not fit, the number so far is
    replaced by its rank, which is below n.
    """
    codes, bound = cells[..., 0].long(), radix
    for unit in cells.unbind(-1)[1:]:
        if bound * radix >= 2**63:
            codes, bound = _rank(codes), cells.shape[1]
        codes, bound = codes * radix + unit.long(), bound * radix
    return codes, bound


def _rank(values: Tensor) -> Tensor:
    """How many of its row, (..., n), are smaller than each value."""
    return torch.searchsorted(_sort(values), values)


def _from_codes(codes: Tensor, bound: int, y: Tensor) -> Information:
    """Information of codes (rows, n) below a bound, and labels (rows or 1, n)."""
    bits = int(y.max()).bit_length()
    if bound << bits >= 2**63:
        codes, bound = _rank(codes), codes.shape[1]
    if bound << bits < 2**31:  # half the bytes sort in half the time
        codes, y = codes.int(), y.int()
    # Sorted by code, then by label: one sort serves both entropies.
    ordered = _sort((codes << bits) | y)
    h_t, h_ty = _run_entropy(ordered >> bits), _run_entropy(ordered)
    h_y = _run_entropy(_sort(y))
    ty = (h_t + h_y - h_ty).clamp(min=0).minimum(h_t).minimum(h_y)
    return Information(h_t, ty)


def _sort(values: Tensor) -> Tensor:
    """Sort each row. On a CPU, NumPy does so in vector registers."""
    if values.is_cpu:
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(-1).values


def _run_entropy(ordered: Tensor) -> Tensor:
    """Entropy in bits of the values of each sorted row, from the lengths of runs."""
    rows, n = ordered.shape
    starts = torch.ones(rows, n, dtype=torch.bool, device=ordered.device)
    torch.ne(ordered[:, 1:], ordered[:, :-1], out=starts[:, 1:])
    position = starts.flatten().nonzero().squeeze(1)
    end = torch.full((1,), rows * n, device=ordered.device)
    lengths = torch.diff(position, append=end).double()
    terms = torch.zeros(rows * n, dtype=torch.float64, device=ordered.device)
    terms[position] = torch.xlogy(lengths, lengths)
    total = terms.reshape(rows, n).sum(1)
    return ((math.log(n) - total / n) / math.log(2)).clamp(0, math.log2(n))


def _kde(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """I(X;T) and I(T;Y) of one layer (n, units), scaled so that kernels are exp(-d^2).

    Of each example the sum of kernels over all others and over those of its label.
    """
    n = len(t)
    member = nn.functional.one_hot(y).to(t.dtype)
    everyone, alike = [], []
    for block, label in zip(t.split(_BLOCK), y.split(_BLOCK), strict=True):
        # Not from inner products: equal activations must be at distance zero.
        distance = torch.cdist(
            block, t, compute_mode="donot_use_mm_for_euclid_dist"
        ).square_()
        sums = (distance.neg_().exp_() @ member).double()
        everyone.append(sums.sum(1))
        alike.append(sums.gather(1, label[:, None])[:, 0])
    everyone, alike = torch.cat(everyone), torch.cat(alike)
    size = member.sum(0).double()
    h_y = entropy(size / n)
    xt = -(everyone / n).log2().mean()
    given_y = -(alike / size[y]).log2().mean()
    xt = xt.clamp(0, math.log2(n))
    return xt, (xt - given_y).clamp(min=0).minimum(h_y).minimum(xt)


def _alternate(
    encoders: Tensor, p_x: Tensor, p_y: Tensor, beta: Tensor, max_iterations: int
) -> tuple[Tensor, Tensor]:
    """Repeat the self-consistent equations until nothing changes.

    Takes and returns encoders (betas, starts, inputs, clusters), with p(y | x) and beta
    (betas, 1); returns the largest change in the last step, (betas, starts), too.
    """
    lead = encoders.shape[:2]
    result = encoders.flatten(0, 1).clone()
    changes = torch.full((len(result),), math.inf).to(result)
    beta = beta.expand(lead).reshape(-1, 1, 1)
    # Most starts settle long before the slowest: only the others go on.
    going = torch.arange(len(result), device=result.device)
    tiny = torch.finfo(result.dtype).tiny
    for start in range(0, max_iterations, _CHECK):
        current, price = result[going], beta[going]
        for _ in range(min(_CHECK, max_iterations - start)):
            weighted = p_x[:, None] * current
            p_t = weighted.sum(-2)
            p_ty = weighted.mT @ p_y
            log_p_y = p_ty.clamp(min=tiny).log() - p_t.clamp(min=tiny).log()[..., None]
            # -KL(p(y|x) || p(y|t)) up to what does not depend on t
            closeness = p_y @ log_p_y.mT
            before = current
            current = (p_t.log()[..., None, :] + price * closeness).softmax(-1)
        result[going] = current
        changes[going] = change = (current - before).abs().amax((-1, -2))
        going = going[change > _SETTLED]
        if not len(going):
            break
    return result.unflatten(0, lead), changes.reshape(lead)
