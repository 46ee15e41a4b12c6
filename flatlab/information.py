"""Mutual information of layers with inputs and labels, in bits.

A layer T of a network is a function of the input X. Over n equally likely inputs I(X;T)
is then the entropy of T, and what is estimated is how many values of T count as
different: those in different bins, or those further apart than a noise. The chain is
Y -> X -> T, so that I(T;Y) cannot exceed I(X;Y), nor I(X;T).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatlab.data import Dataset
from flatlab.network import Network

# Integers up to here, and sums of them that stay below, are exact in float64.
_EXACT = 2**53
# Rows of the matrix of pairwise distances that are held at once.
_BLOCK = 512
# Steps of the bottleneck's equations between looks at which starts have settled.
_CHECK = 20


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
        converged: (betas,), whether the last step changed no probability by more than
            the tolerance.
    """

    betas: Tensor
    xt: Tensor
    ty: Tensor
    encoders: Tensor
    converged: Tensor


# -- distributions -------------------------------------------------------------------


def entropy(p: Tensor) -> Tensor:
    """Entropy of discrete distributions.

    Args:
        p: (..., outcomes) probabilities that sum to one along the last axis; a tensor
            or what becomes one.

    Returns:
        (...) bits, float64, from 0 to log2(outcomes).
    """
    p = _probabilities(p, 1)
    bits = -torch.xlogy(p, p).sum(-1) / math.log(2)
    return bits.clamp(0, math.log2(p.shape[-1]))


def mutual_information(joint: Tensor) -> Tensor:
    """Mutual information of two discrete variables with a known joint distribution.

    Args:
        joint: (..., a, b) probabilities that sum to one over the last two axes.

    Returns:
        (...) bits, float64, from 0 to the smaller of the two entropies.
    """
    joint = _probabilities(joint, 2)
    h_a, h_b = entropy(joint.sum(-1)), entropy(joint.sum(-2))
    bits = h_a + h_b - entropy(joint.flatten(-2))
    return bits.clamp(min=0).minimum(h_a).minimum(h_b)


# -- estimates from activations ------------------------------------------------------


def binned_information(
    t: Any,
    y: Tensor,
    *,
    bins: Any = 30,
    range: Any = (-1.0, 1.0),
    width: float | None = None,
    clip: bool = False,
):
    """I(X;T) and I(T;Y) of layers whose activations are sorted into bins.

    T is the tuple of the bins of all units, compared exactly, however many units there
    are. Each example counts as 1/n. Inputs that occur twice do no harm, as a network
    treats them alike: I(X;T) is H(T).

    Args:
        t: (..., n, units) activations, floating point; leading axes count members,
            snapshots and the like. Or a list with one such tensor per layer, of any
            numbers of units.
        y: (n,) labels, any integers, or (..., n) where leading axes of ``t`` have
            labels of their own.
        bins: number of bins per unit; None counts every value as a bin of its own.
        range: what the bins divide. A pair (low, high): bins of equal width, the last
            one with its upper end, the same for all layers. ``"adaptive"``: bins of
            equal width from the lowest to the highest activation of each layer of each
            member. ``"quantile"``: bins that hold equally many of the activations of
            each layer of each member.
        width: width of bins that start at 0 and go on without end, instead of ``bins``
            and ``range``.
        clip: let activations outside the pair ``range`` join the first or last bin,
            which merges what differs; by default they are refused.

    Returns:
        An ``Information`` of shape (...), or (..., layers) for a list.

    Shwartz-Ziv and Tishby (2017), section 3; widths as in Saxe et al. (2018). Their
    codes place 30 edges on [-1, 1], which is ``bins=29`` and a bin for exactly 1.
    """
    _check_bins(bins, range, width)

    def estimate(t, y):
        if bins is None and width is None:
            return _from_codes(*_distinct(t), y)
        cells, radix = _cells(t, bins, range, width, clip)
        codes, bound = _codes(cells, radix)
        return _from_codes(codes, bound, y)

    return _per_layer(estimate, t, y)


def kde_information(t: Any, y: Tensor, *, variance: float = 1e-3, bound: str = "upper"):
    """I(X;T) and I(T;Y) of layers to which Gaussian noise is added.

    The noise makes T a mixture of n Gaussians, whose entropy lies between two sums over
    pairs of examples. I(X;T) is bounded by them. I(T;Y) is the difference of two
    bounds of the same kind, an estimate that is on no known side; a negative one is
    reported as 0. Takes n^2 exponentials for each layer of each member.

    Args:
        t: (..., n, units) activations, or a list of layers, as in
            ``binned_information``. Exponentials are of their dtype.
        y: (n,) or (..., n) integer labels.
        variance: of the noise in each unit, in squared units of the activations.
        bound: ``"upper"``, from the Kullback-Leibler divergence of pairs, or
            ``"lower"``, from the Bhattacharyya distance.

    Returns:
        An ``Information`` of shape (...), or (..., layers) for a list.

    Kolchinsky and Tracey (2017), *Estimating mixture entropy with pairwise distances*;
    used by Saxe et al. (2018).
    """
    if not 0 < variance < math.inf:
        raise ValueError(f"variance must be positive and finite, got {variance}")
    if bound not in ("upper", "lower"):
        raise ValueError(f"bound must be 'upper' or 'lower', got {bound!r}")
    # exp(-d^2 / 2 variance) for the divergence, exp(-d^2 / 8 variance) for the distance
    scale = 1 / math.sqrt((2 if bound == "upper" else 8) * variance)

    def estimate(t, y):
        _finite_range(t)
        y = _rank(y)
        rows = [_kde(row * scale, y[i if len(y) > 1 else 0]) for i, row in enumerate(t)]
        return Information(*(torch.stack(part) for part in zip(*rows, strict=True)))

    return _per_layer(estimate, t, y)


def layer_outputs(
    net: Network, w: Tensor, x: Any, *, softmax: bool = True
) -> list[Tensor]:
    """Activations of every layer of a dense network.

    Args:
        net: a ``Network`` of a dense stack: a ``Sequential`` of ``Linear``,
            ``Flatten``, pointwise activations and dropout, as ``mlp`` makes.
        w: (k,) or (members, k) weights.
        x: (n, ...) inputs.
        softmax: whether the last layer's outputs become probabilities.

    Returns:
        One tensor per ``Linear`` layer, (n, units) or (members, n, units): its outputs
        after the activation that follows it.
    """
    net.check(w)
    if net._dense is None:
        raise ValueError(
            "layer_outputs takes a dense stack (a plain Sequential of Linear, Flatten, "
            f"pointwise activations and dropout, all trained), got {net!r}"
        )
    parameters = net.unflatten(w)
    outputs = []
    with torch.no_grad():
        for name, layer in net._dense:
            if isinstance(layer, nn.Linear):
                x = x @ parameters[f"{name}.weight"].mT
                if layer.bias is not None:
                    x += parameters[f"{name}.bias"].unsqueeze(-2)
                outputs.append(x)
                continue
            if isinstance(layer, nn.Flatten) and not outputs:
                x = x.flatten(1)
            elif not isinstance(layer, nn.Flatten):
                x = layer(x)
            if outputs:
                outputs[-1] = x
    if softmax:
        outputs[-1] = outputs[-1].softmax(-1)
    return outputs


def information_plane(
    net: Network,
    w: Tensor,
    data: Any,
    *,
    estimate: Any = binned_information,
    layers: Any = None,
    softmax: bool = True,
    **options,
):
    """I(X;T) and I(T;Y) of every layer of every member at every snapshot.

    Args:
        net: a ``Network`` of a dense stack, see ``layer_outputs``.
        w: (k,), (members, k) or (snapshots, members, k) weights, on the device of the
            data.
        data: ``Examples``, or a ``Dataset``, of which all three splits are taken
            together: the information is that of a uniform distribution over them.
        estimate: ``binned_information``, ``kde_information``, or a function of a list
            of layers and labels like them.
        layers: positions of the layers to keep, such as ``[0, -1]``; by default all.
        softmax: whether the last layer is the probabilities and not the logits.
        options: keyword arguments of ``estimate``.

    Returns:
        An ``Information`` of shape (layers,), (members, layers) or (snapshots, members,
        layers).

    Shwartz-Ziv and Tishby (2017), figure 2.
    """
    if isinstance(data, Dataset):
        parts = (data.train, data.validation, data.test)
        lead = data.train.y.shape[:-1]
        x = torch.cat([part.x for part in parts])
        y = torch.cat([part.y.expand(*lead, len(part)) for part in parts], -1)
    else:
        x, y = data.x, data.y
    x = x.to(w.dtype)

    def one(w):
        outputs = layer_outputs(net, w, x, softmax=softmax)
        if layers is not None:
            outputs = [outputs[i] for i in layers]
        return estimate(outputs, y, **options)

    if w.ndim != 3:
        return one(w)
    # Snapshot by snapshot, so that the activations of one are all that is held.
    points = [one(snapshot) for snapshot in w]
    return Information(
        torch.stack([point.xt for point in points]),
        torch.stack([point.ty for point in points]),
    )


# -- the optimum ---------------------------------------------------------------------


def information_bottleneck(
    joint: Tensor,
    betas: Any,
    *,
    clusters: int | None = None,
    restarts: int = 8,
    seed: int = 0,
    tolerance: float = 1e-9,
    max_iterations: int = 5000,
):
    """Encoders p(t | x) that minimise I(X;T) - beta I(T;Y), by alternating steps.

    Starts from random encoders, from nearly the identity and from the constant, then
    from the best encoders of the neighbouring betas until none improves. The problem is
    not convex: small ones are solved, large ones approached from above.

    Args:
        joint: (inputs, labels) joint distribution p(x, y), every input of positive
            probability.
        betas: (betas,) positive numbers. Up to 1 the optimum keeps nothing.
        clusters: number of values of T; by default the number of inputs, which is
            enough.
        restarts: number of random encoders to start from at each beta.
        seed: of the random encoders.
        tolerance: largest change of a probability in the last step.
        max_iterations: of the alternating steps from one start; many are needed
            where a cluster is about to split.

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
    for name, value in (
        ("clusters", clusters),
        ("restarts", restarts),
        ("max_iterations", max_iterations),
        ("tolerance", tolerance),
    ):
        if value <= 0:
            raise ValueError(f"{name} must be positive, got {value}")

    p_y = joint / p_x[:, None]
    rank = betas.argsort()
    beta = betas[rank, None]

    def solve(encoders):  # (betas, starts, inputs, clusters) -> the best of the starts
        encoders, change = _alternate(
            encoders, p_x, p_y, beta, tolerance, max_iterations
        )
        xt, ty = _bottleneck_information(encoders, p_x, p_y)
        best = (xt - beta * ty).argmin(1)
        every = torch.arange(len(betas), device=joint.device)
        return [value[every, best] for value in (encoders, change, xt, ty)]

    generator = torch.Generator("cpu").manual_seed(seed)
    random = torch.randn(
        restarts,
        inputs,
        clusters,
        generator=generator,
        dtype=torch.float64,
        device="cpu",
    )
    random = random.to(joint.device).mul(3).softmax(-1)
    position = torch.arange(inputs, device=joint.device)
    own = nn.functional.one_hot(position % clusters, clusters).double()
    constant = nn.functional.one_hot(position * 0, clusters).double()
    starts = torch.stack([0.9 * own + 0.1 / clusters, constant, *random])
    found = solve(starts.expand(len(betas), -1, -1, -1))
    for _ in range(len(betas)):
        loss = found[2] - beta[:, 0] * found[3]
        encoders = found[0]
        around = [encoders, encoders.roll(1, 0), encoders.roll(-1, 0)]
        found = solve(torch.stack(around, 1))
        if (loss - (found[2] - beta[:, 0] * found[3]) <= 1e-12).all():
            break
    encoders, change, xt, ty = (value[rank.argsort()] for value in found)
    return Bottleneck(betas, xt, ty, encoders, change <= tolerance)


# -- helpers -------------------------------------------------------------------------


def _probabilities(p, axes):
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


def _per_layer(estimate, t, y):
    """Apply an estimate of rows (rows, n, units) and labels to one or many layers."""
    y = y if isinstance(y, Tensor) else torch.as_tensor(y, device="cpu")
    if y.is_floating_point() or y.is_complex():
        raise TypeError(f"y must hold integer labels, got {y.dtype}")
    layers = [t] if isinstance(t, Tensor) else t
    if not isinstance(layers, Sequence) or not len(layers):
        raise TypeError(
            f"t must be a tensor or a list of tensors, got {type(t).__name__}"
        )
    points = []
    for layer in layers:
        if not isinstance(layer, Tensor) or not layer.is_floating_point():
            raise TypeError("t must hold floating-point tensors")
        lead, (n, units) = layer.shape[:-2], (*layer.shape[-2:], 0, 0)[:2]
        try:
            own = y.broadcast_to((*lead, n))
        except RuntimeError:
            own = None
        if layer.ndim < 2 or not layer.numel() or y.shape[-1:] != (n,) or own is None:
            raise ValueError(
                f"t must have shape (..., n, units) and y (n,) or (..., n); got "
                f"{tuple(layer.shape)} and {tuple(y.shape)}"
            )
        # Shared labels stay one row.
        own = y.reshape(1, n) if y.numel() == n else own.reshape(-1, n)
        rows = layer.detach().reshape(-1, n, units)
        if rows.device.type == "mps":  # has no float64
            rows = rows.cpu()
        point = estimate(rows, own.to(rows.device).long())
        points.append(Information(point.xt.reshape(lead), point.ty.reshape(lead)))
    if isinstance(t, Tensor):
        return points[0]
    return Information(
        torch.stack([point.xt for point in points], -1),
        torch.stack([point.ty for point in points], -1),
    )


def _check_bins(bins, interval, width):
    if bins is not None and (bins != int(bins) or bins < 1):
        raise ValueError(f"bins must be a positive integer or None, got {bins}")
    if width is not None and not 0 < width < math.inf:
        raise ValueError(f"width must be positive and finite, got {width}")
    if isinstance(interval, str):
        known = interval in ("adaptive", "quantile")
    else:
        known = len(interval) == 2 and -math.inf < interval[0] < interval[1] < math.inf
    if not known:
        raise ValueError(
            "range must be a pair (low, high) with low < high, 'adaptive' or "
            f"'quantile'; got {interval!r}"
        )


def _finite_range(t: Tensor) -> tuple[float, float]:
    low, high = (float(value) for value in torch.aminmax(t))
    if not math.isfinite(low + high):
        raise ValueError("activations hold NaN or infinite values")
    return low, high


def _cells(t: Tensor, bins: Any, interval: Any, width: float | None, clip: bool):
    """Bin of every activation, integers in float64 from 0 on, and how many there are.

    ``t`` is (rows, n, units).
    """
    rows, n, _ = t.shape
    low, high = _finite_range(t)
    if interval == "quantile" and width is None:
        return _quantile_cells(t.reshape(rows, -1), bins).reshape(t.shape), bins
    t = t.double()
    if width is not None:
        first = math.floor(low / width)
        radix = math.floor(high / width) - first + 1
        if radix * n > _EXACT:
            raise ValueError(
                f"width={width} is too small for activations from {low:g} to {high:g}"
            )
        return (t / width).floor_().sub_(first), radix
    if interval == "adaptive":
        start = t.amin((1, 2), keepdim=True)
        length = t.amax((1, 2), keepdim=True) - start
        # A layer that is constant has one bin, whatever its length is taken to be.
        scale = bins / length.where(length > 0, torch.ones_like(length))
        return (t - start).mul_(scale).floor_().clamp_(0, bins - 1), bins
    start, end = (float(end) for end in interval)
    if not clip and (low < start or high > end):
        raise ValueError(
            f"activations run from {low:g} to {high:g}, outside the range {interval}: "
            "widen it, take range='adaptive' or width=..., or merge them with clip=True"
        )
    scale = bins / (end - start)
    return (t - start).mul_(scale).floor_().clamp_(0, bins - 1), bins


def _quantile_cells(t, bins):
    """Number of edges at or below each value, where edges divide each row equally."""
    t = t.double() if t.dtype == torch.float64 else t.float()
    ordered = _sort(t)
    at = torch.arange(1, bins, device=t.device) * t.shape[1] // bins
    edges = ordered[:, at].contiguous()
    if bins > 128:
        return torch.searchsorted(edges, t, right=True).double()
    # For few edges, comparing with each is faster than searching among them.
    cells = torch.zeros(t.shape, dtype=torch.uint8, device=t.device)
    for edge in edges.split(1, 1):
        cells += t >= edge
    return cells.double()


def _distinct(t):
    """One integer per example, equal where all units are, and its bound.

    ``t`` is (rows, n, units): the ranks within every unit are the digits of a number.
    """
    _finite_range(t)
    rows, n, units = t.shape
    t = t.double() if t.dtype == torch.float64 else t.float()
    ranks = _rank(t.mT.reshape(rows * units, n)).reshape(rows, units, n)
    return _codes(ranks.mT.double(), n)


def _codes(cells, radix):
    """One integer per example, equal where all cells are: (rows, n), and its bound.

    The cells are digits of a number. Where the digits of many units would not be exact,
    the number so far is replaced by its rank, which is below n, before more are added.
    """
    n, units = cells.shape[1:]
    # Every step adds at least one digit to a rank.
    first, later = _digits(_EXACT, radix), _digits(_EXACT // n, radix)
    codes: Any = None
    bound, done = 1, 0
    while done < units:
        if codes is not None:
            codes, bound = _rank(codes).double(), n
        take = min(units - done, first if codes is None else later)
        powers = [radix**i for i in reversed(range(take))]
        powers = torch.tensor(powers, dtype=torch.float64, device=cells.device)
        part = cells[..., done : done + take] @ powers
        codes = part if codes is None else codes * radix**take + part
        bound, done = bound * radix**take, done + take
    return codes.long(), bound


def _digits(limit, radix):
    """How many digits always stay below the limit."""
    count = 1
    while radix ** (count + 1) <= limit and count < 64:
        count += 1
    return count


def _rank(values):
    """Position of every value among the distinct ones of its row: (rows, n) int64."""
    order = _argsort(values)
    ordered = values.gather(-1, order)
    return _places(order, ordered[:, 1:] != ordered[:, :-1])


def _places(order, differ):
    """Ranks from an order (rows, n) and where neighbours in it differ (rows, n - 1)."""
    ranks = torch.zeros_like(order)
    ranks[:, 1:] = differ.cumsum(-1)
    return torch.zeros_like(order).scatter_(-1, order, ranks)


def _from_codes(codes, bound, y):
    """Information of codes (rows, n) below a bound, and labels (rows or 1, n)."""
    y = _rank(y)
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


def _sort(values):
    """Sort each row. On a CPU, NumPy does so in vector registers."""
    if values.device.type != "cpu":
        return values.sort(-1).values
    return torch.from_numpy(np.sort(values.numpy(force=True), axis=-1))


def _argsort(values):
    """Order of each row, ties in any order."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.argsort(values.numpy(), axis=-1))
    return values.argsort(-1)


def _run_entropy(ordered):
    """Entropy in bits of the values of each sorted row, from the lengths of runs."""
    rows, n = ordered.shape
    starts = torch.ones(rows, n, dtype=torch.bool, device=ordered.device)
    torch.ne(ordered[:, 1:], ordered[:, :-1], out=starts[:, 1:])
    position = starts.flatten().nonzero().squeeze(1)
    end = torch.full((1,), rows * n, device=ordered.device)
    lengths = torch.diff(position, append=end)
    counts = torch.arange(n + 1, dtype=torch.float64, device=ordered.device)
    terms = torch.zeros(rows * n, dtype=torch.float64, device=ordered.device)
    terms[position] = torch.xlogy(counts, counts)[lengths]
    total = terms.reshape(rows, n).sum(1)
    return ((math.log(n) - total / n) / math.log(2)).clamp(0, math.log2(n))


def _kde(t, y):
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


def _alternate(encoders, p_x, p_y, beta, tolerance, max_iterations):
    """Repeat the self-consistent equations until nothing changes.

    Args:
        encoders: (betas, starts, inputs, clusters).
        p_x: (inputs,).
        p_y: (inputs, labels), p(y | x).
        beta: (betas, 1).
        tolerance: largest change at which to stop.
        max_iterations: most steps.

    Returns:
        The encoders, and the largest change in the last step, (betas, starts).
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
        going = going[change > tolerance]
        if not len(going):
            break
    return result.unflatten(0, lead), changes.reshape(lead)


def _bottleneck_information(encoders, p_x, p_y):
    p_xt = p_x[:, None] * encoders
    return mutual_information(p_xt), mutual_information(p_xt.mT @ p_y)
