"""Draw the static figure of the live network, and the card that links to the book show.

    python book/_ext/live_figure.py

λmax over the steps of the page's network, trained by ``flatlab`` in three ways.
"""

from pathlib import Path

import flatlab as fl
import torch

STATIC = Path(__file__).parents[1] / "_static"
STEPS, EVERY = 6000, 100
RUNS = {  # name: learning rate, SAM's radius, colour, dashes
    "η = 0.1": (0.1, None, "0", ""),
    "η = 0.2": (0.2, None, "1", "7 4"),
    "η = 0.1, SAM, ρ = 0.1": (0.1, 0.1, "2", "2 3"),
}
COLOURS = {"0": "#0072b2", "1": "#c04f00", "2": "#00785a"}
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 720, 250, 44, 26, 34


def measured():
    """λmax every 100 steps, by name of the run."""
    data = fl.data.digits(seed=0, standardize=False)
    first = data.train[torch.arange(200)]
    x, y = first.x.double(), first.y
    net = fl.Network(fl.models.mlp(64, 24, 10, activation="tanh").double())
    loss = fl.Loss(net, fl.data.Examples(x, y), criterion="mse")
    found = {}
    for name, (lr, rho, *_) in RUNS.items():
        w, values = net.init(seeds=[0])[0].double(), []
        for step in range(STEPS + 1):
            if step % EVERY == 0:
                top = fl.eigenvalues(fl.Hessian(loss, w), k=1, tol=1e-2)
                values.append(float(top.values.max()))
            gradient = loss.gradient(w)
            if rho:
                gradient = loss.gradient(w + rho * gradient / gradient.norm())
            w = w - lr * gradient
        found[name] = values
    return found


def figure(found):
    """The figure as SVG, in the colours of the page that holds it."""
    high = 24

    def at(step, value):
        x = LEFT + step / STEPS * (WIDTH - LEFT - 10)
        y = HEIGHT - BOTTOM - value / high * (HEIGHT - TOP - BOTTOM)
        return f"{x:.1f} {y:.1f}"

    parts = ['<text x="2" y="14">λmax of the training loss</text>']
    for v in (0, 5, 10, 15, 20):
        x, y = at(0, v).split()
        parts.append(f'<path class="lf-grid" d="M{x} {y}H{WIDTH - 10}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{float(y) + 4}" text-anchor="end">{v}</text>'
        )
    for v in (0, 2000, 4000, 6000):
        x, _ = at(v, 0).split()
        end = "end" if v == STEPS else "middle"
        words = f"{v:,} steps" if v == STEPS else f"{v:,}"
        parts.append(
            f'<text x="{x}" y="{HEIGHT - 14}" text-anchor="{end}">{words}</text>'
        )
    for name, values in found.items():
        lr, rho, colour, dash = RUNS[name]
        d = "L".join(at(i * EVERY, v) for i, v in enumerate(values))
        parts.append(
            f'<path class="lf-line lf-{colour}" stroke-dasharray="{dash}" d="M{d}"/>'
        )
        x, y = (
            float(p) for p in at(STEPS * 0.62, values[int(len(values) * 0.62)]).split()
        )
        line = "" if rho else f", 2/η = {2 / lr:g}"
        parts.append(
            f'<text class="lf-{colour}" x="{x:.0f}" y="{y - 9:.0f}">{name}{line}</text>'
        )
    ends = "; ".join(f"{k}: {v[0]:.0f} to {v[-1]:.0f}" for k, v in found.items())
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Largest '
        f"eigenvalue of the Hessian over {STEPS:,} steps of gradient descent. "
        f'{ends}.">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def card(found, path):
    """The picture that a link to the book shows elsewhere, 1200 by 630 pixels."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(12, 6.3), dpi=100, facecolor="white")
    ax = drawing.add_axes((0.09, 0.16, 0.86, 0.55))
    for name, values in found.items():
        lr, rho, colour, dash = RUNS[name]
        steps = [i * EVERY for i in range(len(values))]
        style = {"": "-", "7 4": "--", "2 3": ":"}[dash]
        ax.plot(steps, values, style, color=COLOURS[colour], lw=4)
        words = name if rho else f"{name}, 2/η = {2 / lr:g}"
        ax.text(3700, values[37] + 0.8, words, color=COLOURS[colour], fontsize=20)
    ax.set_ylim(0, 24)
    ax.set_xlabel("steps of gradient descent", fontsize=20)
    ax.set_ylabel("λmax", fontsize=20)
    ax.tick_params(labelsize=16)
    ax.spines[["top", "right"]].set_visible(False)
    drawing.text(
        0.09, 0.87, "Flat minima and generalization", fontsize=40, weight="bold"
    )
    drawing.text(
        0.09, 0.78, "Every claim measured, on networks you can run", fontsize=24
    )
    drawing.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    found = measured()
    (STATIC / "live_network.svg").write_text(figure(found), "utf-8")
    card(found, STATIC / "card.png")
