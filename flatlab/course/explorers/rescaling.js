// One function, written with larger weights in one layer and smaller ones in the next.

// The surface around the rescaled weights is the measured one, stretched: a step x in
// the first layer counts as x / alpha, a step y in the second as alpha y. What was not
// measured is not there.
function stretched(s, alpha, x, y) {
  const [px, py] = [x / alpha, y * alpha];
  const { domain } = s;
  const out = px < domain.x[0] || px > domain.x[1] || py < domain.y[0] || py > domain.y[1];
  return out ? NaN : bilinear(s, px, py);
}

// Between the measured alphas a measure is taken to be straight in logarithms.
function between(alphas, values, alpha) {
  let i = 0;
  while (i < alphas.length - 2 && alphas[i + 1] < alpha) i += 1;
  const t = Math.log(alpha / alphas[i]) / Math.log(alphas[i + 1] / alphas[i]);
  return values[i] ** (1 - t) * values[i + 1] ** t;
}

const HALF = 30; // slider positions on either side of 1

function build(view) {
  const s = surface(view.data.surface);
  const { xlabel, ylabel, radius, window: half } = view.data;
  const alphas = unpack(view.data.alphas).values;
  const measures = view.data.measures.map(({ name, values }) => ({ name, values: unpack(values).values }));
  const { levels, legend, ...height } = heights([s], "");
  // Alpha goes on evenly to either side of 1, at the middle of the slider.
  const ends = [alphas[0], alphas[alphas.length - 1]];
  const alphaAt = (i) => (i < HALF ? ends[0] : ends[1]) ** (Math.abs(i - HALF) / HALF);
  slider(view, "alpha", { label: "α", count: 2 * HALF + 1, text: (i) => short(alphaAt(i)) });
  const map = panel(view, { x: xlabel, y: ylabel, square: true, grid: false });
  const graph = panel(view, { x: "α", y: "measure, relative to α = 1" });
  graph.names(measures.map(({ name }, look) => [look, name]));
  map.figure.append(legend);
  const at = (i, j) => s.values[i * s.y.length + j];

  return () => {
    const alpha = alphaAt(view.values.alpha);
    map.start({ x: [-half, half], y: [-half, half] });
    const { x, y } = map.scale;
    map.heat(`${alpha}`, (a, b) => {
      const loss = stretched(s, alpha, a, b);
      return Number.isNaN(loss) ? null : height.colour(loss);
    });
    for (const level of levels)
      map.path(contour(s.x, s.y, at, level, (p) => x.to(p * alpha), (p) => y.to(p / alpha)), "fx-thin fx-over");
    const circle = map.ellipse(0, 0, radius, radius);
    map.path(circle, "fx-halo");
    map.path(circle, "fx-set", 1);
    let worst = -Infinity;
    for (let i = 0; i < 360; i += 1) {
      const t = (Math.PI * i) / 180;
      const loss = stretched(s, alpha, radius * Math.cos(t), radius * Math.sin(t));
      if (loss > worst) worst = loss;
    }
    const centre = bilinear(s, 0, 0);
    map.dot(0, 0, { look: 1, size: 5 });
    map.finish(`The loss around the weights rescaled by ${short(alpha)}: the same surface, ${short(alpha)} times as wide in the first layer and as narrow in the second. Within ${short(radius)} it rises to ${short(worst)}.`);

    const [a, b] = extent(measures.map((m) => m.values));
    const range = [Math.min(a, 0.5) / 1.2, Math.max(b, 2) * 1.2];
    graph.start({ x: ends, y: range, logX: true, logY: true });
    graph.rule({ x: alpha, name: "fx-now" });
    const said = measures.map(({ name, values }, look) => {
      graph.line(alphas, values, { look });
      alphas.forEach((v, i) => graph.dot(v, values[i], { look, size: 3 }));
      const now = between(alphas, values, alpha);
      graph.dot(alpha, now, { look, size: 5 });
      return `${name} × ${short(now)}`;
    });
    graph.finish(`Measures over α, relative to their values at α = 1. Here: ${said.join(", ")}.`);
    view.say(
      `α ${short(alpha)}: at the centre the loss is ${short(centre)} as before; ` +
        `within ${short(radius)}, where the plane was measured, it rises to ${short(worst)}. ${sentence(said.join(", "))}.`,
    );
  };
}

const HINT = "Move α: one layer is multiplied by it, the next is divided by it.";

export default { render: (context) => explorer(context, HINT, build) };
export { between, stretched };
