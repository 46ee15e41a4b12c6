"""One of every explorer, with made-up numbers in it."""

import numpy as np

from flatlab.course import explorers

EPOCHS_SEEN = [0, 1, 10, 100]


def series(seed, *shape):
    return np.random.default_rng(seed).random(shape)


def surface_widget():
    a = np.linspace(-1, 1, 9)
    x, y = np.meshgrid(a, a, indexing="ij")
    one = (a, a, 0.1 + x**2 + 2 * y**2)
    two = (a, a, 0.2 + 4 * x**2 + y**2 + x * y)
    small, large = {"plain": one, "filters": two}, {"plain": two, "filters": one}
    both = {"batch 10": small, "batch 100": large}
    return explorers.loss_surface(both, title="The loss on a plane")


def planes():
    """Two activations, of which one was measured with one kind of bins only."""
    random = np.random.default_rng(0)
    return {
        key: (EPOCHS_SEEN, 12 * random.random((4, 3, 2)), random.random((4, 3, 2)))
        for key in (("tanh", 30), ("tanh", 100), ("relu", 30))
    }


AXES = dict(xlabel="first direction", ylabel="second direction")
STEPS = dict(
    radii=np.linspace(0, 0.5, 26),
    rates=np.geomspace(0.004, 0.12, 16),
    start=(0.5, 0.5),
    steps=30,
    title="Up, then down",
    **AXES,
)
WINDOW = dict(radius=0.25, window=1, **AXES)


def information(given, choices=("activation", "bins")):
    (_, xt, _), *_ = given.values()
    layers = [f"layer {i + 1}" for i in range(xt.shape[-1])]
    options = dict(choices=choices, layers=layers, limits=(12, 1))
    return explorers.information_plane(given, **options)


def everything():
    a = np.linspace(-1, 1, 21)
    surface = (a, a, 0.1 + a[:, None] ** 2 + 2 * a**2)
    x = np.arange(1, 60)
    panel = explorers.lines(
        x, {"a": series(0, 7, 59, 5)}, xlabel="epoch", ylabel="accuracy"
    )
    w = explorers
    return {
        "explore": w.explore({"p": range(7)}, [panel], title="Explore"),
        "loss_surface": surface_widget(),
        "bound_terms": w.bound_terms([0.1, 1], [0.1, 0.5], norm=1, n=100, k=50),
        "asam_picture": w.asam_picture(),
        "sam_step": w.sam_step(surface, **STEPS),
        "rescaling": w.rescaling(surface, [0.5, 1, 2], {"a": [1, 2, 3]}, **WINDOW),
        "information_plane": information(planes()),
        "scatter": w.scatter(
            {"one": series(1, 200), "two": series(3, 200)},
            series(2, 200),
            {"depth": [1, 2] * 100},
            ylabel="generalization gap",
        ),
    }
