"""Every rule can give each of its verdicts, the opposite of its claim among them.

``MADE`` holds figures that were made up, per claim and verdict. A number stands for
four members that agree, a list for as many as it has. The first set of a claim is
whole; the others change it.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from flatlab.course.claims import KINDS, read_registry, read_rules

ROOT = Path(__file__).parents[2]
REGISTRY, RESULTS = ROOT / "book" / "claims.toml", ROOT / "results"
WIDE = [-9, 9, -9, 9]  # an interval that holds 0, from -14 to 14


def either(good, bad, yes="reproduced", no="contradicted"):
    """A claim with two verdicts."""
    return {yes: good, no: bad}


def proved(good, bad):
    """A claim that is calculated."""
    return {"holds": good, "fails": bad}


def three(good, half, bad):
    """A claim that may hold in part."""
    return {"reproduced": good, "partly": half, "contradicted": bad}


SAM_GAINS = ("SAM over SGD", "SAM over SGD, both with decay")
# Controls that teach nothing
QUIET = {
    "shuffled over all": 11,
    "random directions": 10,
    "no perturbation": 10,
    "net of random labels": 12,
}

MADE = {
    # -- question
    "P01": three(
        {"r = 0.01": 1, "r = 0.1": 1, "r = 1": 0.95},
        {"r = 1": 0.7},
        {"r = 0.01": -0.9, "r = 0.1": WIDE, "r = 1": 0.4},
    ),
    # -- memorization
    "P06": either(99.9, [99.9, 99.9, 98, 100]),
    "P07": either({"random pixels": 100, "Gaussian": 100}, {"random pixels": 98}),
    "P08": three(
        {"photographs, start later by": 8, "photographs, then longer by": -3},
        {"photographs, then longer by": 3},
        {"photographs, start later by": WIDE, "photographs, then longer by": 3},
    ),
    "P09": {"partly": {"network": 1, "1-NN": 0}, "contradicted": {"network": 7}},
    "P11": either(
        {"wrong fit, best epoch": 4, "truth, best epoch": 88, "wrong fit, end": 100},
        {"wrong fit, best epoch": 40},
        yes="partly",
    ),
    "P12": three(
        {
            f"{kind}, {what}": value
            for kind in ("decay", "noise", "dropout")
            for what, value in (
                ("clean points lost", 0),
                ("120 epochs", 80),
                ("40 epochs", 60),
            )
        },
        {"noise, 120 epochs": 99},
        {f"{kind}, clean points lost": 5 for kind in ("decay", "noise", "dropout")},
    ),
    "random-labels-are-fitted": either({"training": 100, "test": 9}, {"test": 30}),
    "random-inputs-start-sooner": either(
        {"pixels": 5, "Gaussian": 5}, {"Gaussian": WIDE}
    ),
    "test-error-reaches-chance": either(
        {"worst fit": 100, "test error, p = 1": 90}, {"test error, p = 1": 60}
    ),
    "two-layer-expressivity": proved(100, [100, 100, 99, 100]),
    "regularization-is-not-needed": three(
        {"none": 96, "removed by dropout": 20, "removed by decay": -10},
        {"removed by dropout": 60},
        {"none": 80},
    ),
    "weight-decay-can-prevent-fitting": three(
        {
            "one, without": 100,
            "one, with": 99,
            "four, without": 100,
            "four, with": 40,
            "clean points lost": 0,
        },
        {"clean points lost": 5},
        {"four, with": 99},
    ),
    "clean-labels-first": either(
        {"epochs before the fit": 50, "points lost after": 20},
        {"points lost after": WIDE},
    ),
    "critical-samples": three(
        {
            f"{name}, {when}": value
            for name, value in (("true", 14), ("Gaussian", 90), ("random labels", 97))
            for when in ("equal steps", "fitted")
        },
        {"random labels, fitted": 14},
        {"random labels, fitted": 14, "Gaussian, equal steps": 10},
    ),
    "noise-raises-critical-samples": three(
        {"p = 0.2": 60, "p = 0.4": 80, "p = 0.8": 95}, {"p = 0.4": 50}, {"p = 0.8": 60}
    ),
    "dropout-limits-memorization": three(
        {"random labels fitted": 80, "clean points lost": 0},
        {"clean points lost": 5},
        {"random labels fitted": 99},
    ),
    # -- shortcuts
    "P13": {
        "reproduced": {
            "i.i.d.": 80,
            "places swapped": 0,
            "random places": 50,
            "shortcut removed": 99,
        },
        "partly": {"i.i.d.": 100},
        "contradicted": {"places swapped": 99},
        "not at this scale": {"shortcut removed": 60},
    },
    "location-shortcut": three(
        {"i.i.d.": 100, "places swapped": 0, "random places": 50},
        {"random places": 65},
        {"random places": 98},
    ),
    "convolution-avoids-location": three(
        {"CNN": [100], "pooled": [100]},
        {"CNN": [0]},
        {"CNN": [0], "pooled": [88]},
    ),
    "shortcut-passes-iid": three(
        {"i.i.d.": 3, "contradicts": -90}, {"i.i.d.": WIDE}, {"contradicts": WIDE}
    ),
    # -- features
    "P16": three(
        {
            "random targets": 87,
            "shifted targets": 60,
            "shifted, the pictures' class": 30,
            **QUIET,
        },
        {"shifted targets": 30, "shifted, the pictures' class": 56},
        {"net of random labels": 87},
    ),
    "random-relabelled": three(
        {"ε = 0.5": 60, "ε = 1.0": 87}, {"ε = 0.5": 9}, {"ε = 0.5": 9, "ε = 1.0": 15}
    ),
    "shifted-relabelled": three(
        {"ε = 0.5": 40, "ε = 1.0": 50}, {"ε = 0.5": 2}, {"ε = 0.5": 2, "ε = 1.0": 9}
    ),
    "relabelled-not-robust": three(
        {"relabelled data": 2, "clean data": 55},
        {"relabelled data": 20},
        {"relabelled data": 40},
    ),
    "perturbations-carry-features": {
        "reproduced": {"as above": 87, "labels known by heart": 100, **QUIET},
        "partly": {"net of random labels": 30},
        "contradicted": {"net of random labels": 87},
        "not at this scale": {"labels known by heart": 90},
    },
    "robust-training-set": {
        "reproduced": {
            "the robust nets": 76,
            "of robust nets": 60,
            "of ordinary nets": 48,
            "as they are": 56,
        },
        "not at this scale": {"of robust nets": 54},
        "contradicted": {"of robust nets": 48},
    },
    "P14": three(
        {"networks, %": 52, "1-NN, %": 15, "typical size, grey levels": [0.5]},
        {"1-NN, %": 50},
        {"networks, %": 15},
    ),
    "P15": three(
        {"attack": 60, "noise": 0.1}, {"attack": 6}, {"attack": 0.1, "noise": 0.1}
    ),
    "P04": three(
        {"on": 18, "off": 50, "noise": 40}, {"noise": 1}, {"on": 2, "noise": 1}
    ),
    "attacks-leave-manifold": three(
        {"regular attack": 0.97, "random step": 0.92},
        {"regular attack": 0.8},
        {"regular attack": 0.3},
    ),
    "on-manifold-is-generalization": three(
        {
            "over all, lower end": [0.8],
            "regular attack, over all, upper end": [0.5],
            "equally many images, lower end": [0.1],
        },
        {"equally many images, lower end": [-0.1]},
        {"over all, lower end": [0.3]},
    ),
    "robust-and-accurate": three(
        {
            "over all, lower end": [0.1],
            "over all, upper end": [0.6],
            "equally many images, lower end": [-0.1],
            "equally many images, upper end": [0.3],
            "points lost by robust training": 0.2,
        },
        {"equally many images, lower end": [-0.4]},
        {"points lost by robust training": 5},
    ),
    "on-manifold-training-helps": three(
        {"attacks": 3.6, "random steps": 0.5}, {"random steps": 3.6}, {"attacks": WIDE}
    ),
    # -- information_bottleneck
    "P19": three(
        {"I(X;T), in bins": 10, "I(T;Y), in bins": 1, "I(X;T), no bins": 1},
        {"I(X;T), no bins": 0},
        {"I(T;Y), in bins": WIDE},
    ),
    "P20": three(
        {
            **{
                f"T{i}, {bins} bins": 1
                for i in (4, 5)
                for bins in ("fixed", "adaptive", "no")
            },
            **{"T4, I(T;Y)": 0.7, "T5, I(T;Y)": 0.8},
        },
        {"T5, no bins": 0, "T5, adaptive bins": 0},
        {"T4, fixed bins": -1},
    ),
    "P21": three(
        {
            **{
                f"T{i}, {bins} bins": 2
                for i in (4, 5)
                for bins in ("fixed", "adaptive", "no")
            },
            **{"T4, I(T;Y)": 0, "T5, I(T;Y)": 0},
        },
        {"T5, no bins": 0, "T5, adaptive bins": 0},
        {"T5, I(T;Y)": 0.1},
    ),
    "P22": three(
        {"fixed bins": 90, "adaptive bins": [100, 100, 100, 80]},
        {"fixed bins": [0, 100, 0, 100]},
        {"fixed bins": [0, 100, 0, 100], "adaptive bins": 20},
    ),
    "P23": three(
        {
            "85 %, bound": 0.9,
            "5 %, I(T6;Y) lost late": 0,
            "5 %, training loss meanwhile": -0.1,
        },
        {"5 %, I(T6;Y) lost late": 0.1},
        {"85 %, bound": 0},
    ),
    "P24": three(
        {
            "SGD": 3,
            "full batch, GD": 0,
            "full batch, Adam": 0,
            "more with SGD, equal training loss": 2,
        },
        {"full batch, GD": 4},
        {"full batch, GD": 4, "more with SGD, equal training loss": WIDE},
    ),
    "P25": either({"5 %": 0.1, "85 %": 0}, {"85 %": 0.1}),
    "P26": three(
        {"5 %": 5, "85 %": 5, "difference": 0, "label": 0.1},
        {"5 %": 8, "difference": 3},
        {"label": 0},
    ),
    "compression-starts-at-350-epochs": {
        "reproduced": {"log2 of the epoch": 8.5},
        "not at this scale": {"log2 of the epoch": WIDE},
        "contradicted": {"log2 of the epoch": 5},
    },
    "full-batch-compresses": three(
        {"Adam": 2, "GD": 4}, {"GD": 0}, {"Adam": 0, "GD": WIDE}
    ),
    "compression-is-not-generalization": {
        "reproduced": {
            **{"small start, bits": -3, "small start, points": 0},
            **{"decay, bits": 2, "decay, points": WIDE},
        },
        "partly": {"decay, points": 1},
        "not at this scale": {"small start, bits": 0, "decay, bits": WIDE},
        "contradicted": {"decay, points": 1, "small start, points": -2},
    },
    "true-information-is-constant": proved({"T1": 12, "T5": 12}, {"T5": 11}),
    # -- estimates
    "P18": proved({"rounded networks": 0, "ReLU": 0.3}, {"rounded networks": 0.1}),
    "P27": three(
        {"largest rise, branch": 1, "largest rise, state": 1},
        {"largest rise, state": 0},
        {"largest rise, branch": 0},
    ),
    "P39": {
        "reproduced": {
            "loss, ratio": 1,
            "sharpness, ratio": 4,
            "sharpness, ratio, control": 9,
        },
        "not at this scale": {"sharpness, ratio": WIDE},
        "contradicted": {"sharpness, ratio": 1},
    },
    "no-compression-without-saturation": three(
        {
            f"{kind}, T5, {how}": lost
            for kind, lost in (("tanh", 2), ("ReLU", 0), ("linear", 0))
            for how in ("fixed bins", "noise")
        },
        {"linear, T5, fixed bins": 4},
        {"tanh, T5, noise": 0},
    ),
    "adaptive-estimates-compress": three(
        {
            f"{units}, from {since}": 2
            for units in ("ReLU", "linear")
            for since in ("epoch 25", "the start")
        },
        {"ReLU, from epoch 25": 0.1, "linear, from epoch 25": 0.1},
        {
            f"{units}, from {since}": 0.1
            for units in ("ReLU", "linear")
            for since in ("epoch 25", "the start")
        },
    ),
    # -- flatness
    "P02": proved({"below zero, %": 0, "ratio": 70}, {"below zero, %": 100}),
    "P28": either({"flat": 3, "sharp": 3.5}, {"sharp": 2}, yes="partly"),
    "P29": either({"tau, bits and error": 0.8}, {"tau, bits and error": WIDE}),
    "P30": either(
        {"λmax, 100, lr .01, doublings": 2, "points lost, 100, lr .01": 3},
        {"points lost, 100, lr .01": -1},
        yes="partly",
    ),
    "P31": three(
        {
            "gap, flat": 3,
            "gap, sharp": 4,
            **{f"predicted by batch {b}, flat": 2 for b in (100, 10)},
            **{f"predicted by batch {b}, sharp": 3 for b in (100, 10)},
        },
        {"predicted by batch 10, sharp": 20},
        {"predicted by batch 10, sharp": 20, "predicted by batch 100, flat": 5},
    ),
    "flat-boxes-are-larger": either(
        {"absolute": 1.7, "relative": 1.5}, {"relative": 0.9}
    ),
    "large-batches-are-sharper": three(
        {
            "10, ε = 0.001": 1,
            "100, ε = 0.001": 2,
            "10, ε = 0.0005": 1,
            "100, ε = 0.0005": 2,
        },
        {"100, ε = 0.0005": 1},
        {"100, ε = 0.0005": 1, "100, ε = 0.001": 1},
    ),
    "large-batches-are-sharper-in-subspace": either(
        {"10, ε = 0.001": 1, "100, ε = 0.001": 4}, {"100, ε = 0.001": 1}
    ),
    "large-batches-test-worse": either(
        {"lost, 100, lr .01": 3}, {"lost, 100, lr .01": WIDE}
    ),
    "large-batch-end-is-steeper": either(
        {"steeper, 100, lr .01": 1.5}, {"steeper, 100, lr .01": WIDE}
    ),
    "edge-of-stability": three(
        {"mse, 0.2": 1, "mse, 0.4": 1, "cross_entropy, 0.2": 1},
        {"cross_entropy, 0.2": 0.2},
        {"mse, 0.4": 0.5},
    ),
    "curvature-without-accuracy": either(
        {"flat, λmax, factor": 5, "flat, points gained": 0.2},
        {"flat, points gained": 4},
    ),
    # -- sam
    "P32": three(
        {"both if M lower": 99, "M lower if both": 99, "both by chance": 10},
        {"both if M lower": 50},
        {"both if M lower": 50, "M lower if both": 50},
    ),
    "P35": three(
        {"points gained": 4, "λmax, SAM over SGD": -1},
        {"λmax, SAM over SGD": 1},
        {"points gained": 0, "λmax, SAM over SGD": 1},
    ),
    "sam-improves-accuracy": {
        "reproduced": {"SAM over SGD": 4, "SAM over SGD, both with decay": 3},
        "partly": {"SAM over SGD, both with decay": 0},
        "not at this scale": {k: WIDE for k in SAM_GAINS},
        "contradicted": dict.fromkeys(SAM_GAINS, 0.5),
    },
    "sam-flattens": three(
        {"λmax, SAM over SGD": -2, "λmax/λ5, SAM over SGD": -1},
        {"λmax, SAM over SGD": 1},
        {"λmax, SAM over SGD": 1, "λmax/λ5, SAM over SGD": 0},
    ),
    "sam-late": {
        "reproduced": {
            "all along": 4,
            "first half": 1,
            "last half": 5,
            "last tenth": 3.5,
        },
        "partly": {"last tenth": 1},
        "contradicted": {"last tenth": 1, "last half": 2},
        "not at this scale": {"all along": 0},
    },
    "m-sharpness": {
        "reproduced": {"m = 64": 47, "m = 16": 48, "m = 4": 49},
        "not at this scale": {"m = 4": 47},
        "contradicted": {"m = 4": 45},
    },
    "three-sharpnesses": three(
        {"worst": -1, "ascent": 1, "average": -1},
        {"ascent": -0.5},
        {"worst": -1, "ascent": -1, "average": -1},
    ),
    "sam-label-noise": three(
        {
            f"{m}, {p} %": v
            for p in (20, 40, 60, 80)
            for m, v in (("SGD", 50), ("SAM", 90))
        },
        {"SAM, 80 %": 50},
        {f"SAM, {p} %": 50 for p in (20, 40, 60, 80)},
    ),
    "noise-early-stopping": three(
        {f"{p} %": 2 for p in (20, 40, 60, 80)},
        {"20 %": 0},
        {f"{p} %": 0 for p in (20, 40, 60, 80)},
    ),
    "noise-is-not-flatness": {
        "partly": {
            f"{p} %, {what}": value
            for p in (20, 40, 60, 80)
            for what, value in (
                ("SGD, points over SAM", 0),
                ("λmax over SAM's, doublings", 2),
                ("loss over SAM's, doublings", 0.1),
            )
        },
        "contradicted": {
            f"{p} %, λmax over SAM's, doublings": -1 for p in (20, 40, 60, 80)
        },
        "not at this scale": {
            f"{p} %, SGD, points over SAM": -9 for p in (20, 40, 60, 80)
        },
    },
    # -- sam_bound
    "P34": {
        "reproduced": {
            "maximum, ρ = 0.05, at least": 0.1,
            "maximum, ρ = 0.05, at most": 0.2,
            "test error": 0.05,
            "lowest bound": 1.4,
        },
        "not at this scale": {"maximum, ρ = 0.05, at least": 0},
        "partly": {
            "maximum, ρ = 0.05, at least": 0,
            "maximum, ρ = 0.05, at most": 0,
            "lowest bound": 0.4,
        },
        "contradicted": {
            "maximum, ρ = 0.05, at least": 0,
            "maximum, ρ = 0.05, at most": 0,
        },
    },
    "bound-is-trivial-for-large-norms": proved(
        {"n/k = 1": 2, "n/k = 5": 2}, {"n/k = 5": 0.9}
    ),
    "assumption-at-the-solution": three(
        {"rise/(σ²/2), trained": 5, "trained, σ = ρ": 2, "turned, σ = ρ": -0.2},
        {"turned, σ = ρ": 1},
        {"rise/(σ²/2), trained": WIDE},
    ),
    "pac-bayes-bounds-the-average": either({"difference": 0.4}, {"difference": WIDE}),
    "optimised-bound-is-not-vacuous": three(
        {"bound": 0.4, "weights per example": [2]}, {"bound": 0.7}, {"bound": 1.1}
    ),
    # -- reparameterization
    "P37": proved(
        {"λmax, factor": 3e5, "digits of outputs": 12}, {"digits of outputs": 3}
    ),
    "P38": three(
        {"sharpest, factor": 3e5, "floor, factor": 1e-4},
        {"floor, factor": 0.4},
        {"sharpest, factor": 2},
    ),
    "P40": either(
        {"τ, λmax, found": 0.7, "τ, λmax, rescaled": 0},
        {"τ, λmax, rescaled": 0.7},
        yes="partly",
    ),
    "hessian-of-a-rescaling": proved({"both sides agree": 12}, {"both sides agree": 4}),
    "spectral-norm-without-limit": proved(
        {"M = 1e+02": 1, "M = 1e+08": 1}, {"M = 1e+08": 0.9}
    ),
    "many-eigenvalues-without-limit": proved(
        {"above M": 198, "promised": 22}, {"above M": 20}
    ),
    "random-subspace-sharpness-resists": either(
        {"factor, α = 10": 1.1}, {"factor, α = 10": 9}
    ),
    "bijections-sharpen-and-flatten": proved(
        {"λmax, factor, c = 0.001": 1e-6, "λmax, factor, c = 1000": 1e6},
        {"λmax, factor, c = 0.001": 0.3},
    ),
    # -- asam
    "P41": proved({"two weights": [4000], "networks": 16}, {"networks": 1}),
    "P42": proved(
        {"loss halfway between two minima": [0]},
        {"loss halfway between two minima": [3]},
    ),
    "P43": proved(
        {"by weight, powers of ten": [0]}, {"by weight, powers of ten": [0.1]}
    ),
    "P44": proved(
        {"distance from the ellipsoid, p = 2": 0},
        {"distance from the ellipsoid, p = 2": 0.1},
    ),
    "adaptive-sharpness-is-invariant": proved(
        {"by weight": 0, "by filter": 0}, {"by filter": 1}
    ),
    "asam-beats-sam": {
        "reproduced": {"above SGD": 2, "above SAM": 1},
        "partly": {"above SAM": WIDE},
        "not at this scale": {"above SGD": WIDE},
        "contradicted": {"above SGD": [-0.1, 0.1, -0.1, 0.1]},
    },
    "adaptive-sharpness-correlates-better": three(
        {
            f"{what}, {size}": value
            for what, value in (
                ("τ with the gap, gained", 0.1),
                ("lower end over settings", [0.1]),
            )
            for size in ("weak", "middle", "strong", "strongest")
        },
        {"lower end over settings, weak": [-0.1]},
        {"τ with the gap, gained, weak": -0.1},
    ),
    "P36": three(
        {
            "trace, all pairs": 0.5,
            "trace, lower end over settings": [0.2],
            "trace, decay only": 0.3,
        },
        {"trace, decay only": -0.3},
        {"trace, lower end over settings": [-0.1]},
    ),
    "averages-hide-failures": either({"failures": [2]}, {"failures": [0]}),
    # -- verdict
    "P45": either(
        {"pass every test": [2], "best of these, R²": [0.4]},
        {"best of these, R²": [0.95]},
        yes="partly",
    ),
    "some-measures-fail": three(
        {"fail": [3], "promising": [2]}, {"fail": [0]}, {"fail": [0], "promising": [0]}
    ),
    "adaptive-sharpness-out-of-distribution": {
        "reproduced": {
            "ASAM, test error": 0.05,
            "ASAM, under shift": -0.1,
            "relative, test error": 0.02,
            "relative, under shift": -0.1,
        },
        "partly": {"ASAM, under shift": 0.1},
        "contradicted": {
            "ASAM, test error": 0.3,
            "ASAM, under shift": 0.1,
            "relative, test error": 0.2,
            "relative, under shift": 0.2,
        },
        "not at this scale": {
            "ASAM, test error": 0.3,
            "ASAM, under shift": WIDE,
            "relative, test error": 0.2,
            "relative, under shift": WIDE,
        },
    },
    "flattest-may-not-generalize": three(
        {"λmax": 0.1, "trace": 0.2, "ASAM": 0.9},
        {"trace": 0.9},
        {"λmax": 0.9, "trace": 0.9},
    ),
    # -- after the post: training
    "sam-balances-features": {
        "reproduced": {
            "i.i.d., both tuned i.i.d.": 0.1,
            "absent, both tuned i.i.d.": 6,
            "absent, both tuned on it": 6,
        },
        "partly": {"absent, both tuned i.i.d.": 0},
        "contradicted": {
            "absent, both tuned i.i.d.": 0,
            "absent, both tuned on it": -1,
        },
        "not at this scale": {
            "absent, both tuned i.i.d.": WIDE,
            "absent, both tuned on it": WIDE,
        },
    },
    "sam-suppresses-the-learned": {
        "reproduced": {"both tuned i.i.d.": 4, "both tuned on it": 4},
        "partly": {"both tuned on it": -4},
        "contradicted": {"both tuned i.i.d.": WIDE, "both tuned on it": -4},
        "not at this scale": {"both tuned i.i.d.": WIDE, "both tuned on it": WIDE},
    },
    "regularised-is-sharper": three(
        {
            f"{arm}, {what}": 2
            for arm in ("SAM", "weight decay")
            for what in ("sharper", "better")
        },
        {"SAM, better": WIDE},
        {"SAM, better": WIDE, "weight decay, sharper": -1},
    ),
    "stable-minima-cannot-overfit": {
        "reproduced": {
            "training error, n = 50": 0.9,
            "training error, n = 200": 1,
            "rate": 0.9,
        },
        "partly": {"rate": 0.2},
        "contradicted": {"training error, n = 50": 0.1},
        "not at this scale": {"rate": WIDE},
    },
    "flat-rate-dies-with-d": {
        "reproduced": {"d = 1": 1, "d = 3": 0.5, "d = 10": 0.1},
        "partly": {"d = 10": [0.3, 0.7, 0.3, 0.7]},
        "contradicted": {"d = 10": 0.9},
        "not at this scale": {"d = 10": WIDE},
    },
    "small-escapes-the-dimension": {
        "reproduced": {"flat, fall": 0.9, "small, fall": 0.1},
        "partly": {"small, fall": 0.7},
        "contradicted": {"small, fall": 0.9},
        "not at this scale": {"small, fall": WIDE},
    },
    "neural-shattering": three(
        {"share of inputs, flat over small": -2, "norm, flat over small": 1},
        {"norm, flat over small": -1},
        {"share of inputs, flat over small": 0.1},
    ),
    "norm-against-sharpness": three(
        {"λmax, d = 1": -2, "norm, d = 1": 1, "λmax, d = 10": -2, "norm, d = 10": 1},
        {"norm, d = 1": -1},
        {"norm, d = 1": -1, "norm, d = 10": WIDE},
    ),
    "neither-bias-alone": three(
        {"flattest, d = 1": 2, "smallest, d = 1": 1},
        {"smallest, d = 1": WIDE},
        {"flattest, d = 1": WIDE},
    ),
    "optimizer-breaks-correlation": {
        "reproduced": {"trained alike": 70, "another optimizer": 30},
        "partly": {"another optimizer": [40, 60, 40, 60]},
        "contradicted": {"another optimizer": 70},
        "not at this scale": {"trained alike": WIDE},
    },
    # -- after_geometry
    "sharper-minima-generalize": three(
        {"top eigenvalue, ratio": 1.5, "trace, ratio": 2, "accuracy gained": 10},
        {"top eigenvalue, ratio": 1},
        {"top eigenvalue, ratio": 0.5},
    ),
    "poisoned-minima-are-sharper": three(
        {"top eigenvalue, ratio": 2, "trace, ratio": 2},
        {"top eigenvalue, ratio": 1},
        {"top eigenvalue, ratio": 0.5, "trace, ratio": 0.5},
    ),
    "random-fits-generalize-like-sgd": three(
        {"lead at most examples": 1, "lead at most examples, stopped early": 0},
        {"lead at most examples": 8, "lead at most examples, stopped early": 1},
        {"lead at most examples": 9, "lead at most examples, stopped early": 9},
    ),
    "lead-of-sgd-shrinks": either({"lead lost": 3}, {"lead lost": WIDE}),
    "critical-sharpness-tracks": three(
        {"at the edge, ratio": 1, "before it, ratio": 1},
        {"before it, ratio": 0.1},
        {"at the edge, ratio": 0.5, "before it, ratio": 0.1},
    ),
    "central-flow-predicts": three(
        {"distance, central over gradient flow": 0.2},
        {"distance, central over gradient flow": 0.8},
        {"distance, central over gradient flow": 1.2},
    ),
    "coefficient-is-half-the-soft-rank": proved(1e-9, 1e-3),
    "coefficient-is-recovered": three(
        {"w⁴": 1, "rank 1": 0.9}, {"rank 1": 0.5}, {"w⁴": 0.5, "rank 1": 2}
    ),
    "sampler-needs-calibration": either({"a": 1, "b": 0.5}, {"a": 1, "b": 1}),
    "coefficient-orders-minima": three(
        {"tau, coefficient and error": 0.9},
        {"tau, coefficient and error": 0.3},
        {"tau, coefficient and error": -0.3},
    ),
}
CASES = [(claim, verdict) for claim, sets in MADE.items() for verdict in sets]


def arrays(figures):
    if isinstance(figures, dict):
        return {label: arrays(values) for label, values in figures.items()}
    values = [figures] * 4 if np.isscalar(figures) else figures
    return np.array(values, dtype=np.float64)


@pytest.fixture(scope="module")
def registry():
    return read_registry(REGISTRY)


@pytest.fixture(scope="module")
def rules():
    return read_rules(REGISTRY)


def test_every_claim_that_is_measured_or_calculated_has_a_rule(registry, rules):
    ruled = {k for k, c in registry.items() if c.kind != "worded" and not c.untested}
    assert set(rules) == ruled
    assert set(MADE) == ruled


@pytest.mark.parametrize(("claim", "verdict"), CASES)
def test_made_up_figures_get_their_verdict(rules, claim, verdict):
    figures = next(iter(MADE[claim].values()))
    other = MADE[claim][verdict]
    figures = figures | other if isinstance(other, dict) else other
    assert rules[claim].judge(arrays(figures)) == verdict


@pytest.mark.parametrize("claim", MADE)
def test_a_rule_that_cannot_fail_is_refused(registry, rules, claim):
    allowed = KINDS[registry[claim].kind]
    assert set(MADE[claim]) <= set(allowed)
    assert not rules[claim].overturned.startswith("nothing")
    assert {"contradicted", "fails"} & set(MADE[claim])


def test_a_rule_says_in_a_sentence_what_it_asks(rules):
    for claim, rule in rules.items():
        for text in (rule.asks, rule.overturned):
            assert text.endswith(".") and 10 < len(text) < 300, (claim, text)


def test_one_member_decides_nothing_by_an_interval(rules):
    """An interval that is not there must not pass for one that excludes a value."""
    one = {
        "P29": {"tau, bits and error": 0.8},
        "large-batches-test-worse": {"lost, 100, lr .01": 3},
    }
    for claim, figures in one.items():
        single = {label: np.array([value]) for label, value in figures.items()}
        assert rules[claim].judge(single) == "contradicted"


def test_stored_verdicts_follow_from_stored_figures(registry, rules):
    """A rule that was changed after the last run shows here, before a notebook runs."""
    judged, wrong = 0, []
    for path in sorted(RESULTS.glob("*/*.json")):
        for claim, entry in (
            json.loads(path.read_text("utf-8")).get("claims", {}).items()
        ):
            figures = {m["label"]: m["values"] for m in entry["measured"]}
            if registry[claim].kind == "worded" or None in figures.values():
                continue  # argued, or too many members to list
            try:
                found = rules[claim].judge(arrays(figures.get("", figures)))
            except (KeyError, ValueError):
                continue  # it has come to need another figure: the chapter says so
            judged += 1
            if found != entry["verdict"]:
                wrong.append((path.name, claim, found, entry["verdict"]))
    assert not wrong
    assert judged > 50
