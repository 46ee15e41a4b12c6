// SAM's circle and ASAM's ellipse for a loss that sees only the product of two weights.

// (w1 w2 - target)²: the same all along a hyperbola.
const lossOf = (w1, w2, target) => (w1 * w2 - target) ** 2;

// The highest loss within rho of w; adaptive: within rho after dividing by |w|. The
// product has no maximum or minimum inside, so that the border is enough.
function worstCase([w1, w2], rho, target, adaptive) {
  const [a, b] = adaptive ? [rho * Math.abs(w1), rho * Math.abs(w2)] : [rho, rho];
  const at = (t) => lossOf(w1 + a * Math.cos(t), w2 + b * Math.sin(t), target);
  const count = 90;
  let best = 0;
  for (let i = 1; i < count; i += 1)
    if (at((2 * Math.PI * i) / count) > at((2 * Math.PI * best) / count)) best = i;
  // Golden section between the neighbours of the best of them.
  const ratio = (Math.sqrt(5) - 1) / 2;
  let [low, high] = [best - 1, best + 1].map((i) => (2 * Math.PI * i) / count);
  for (let i = 0; i < 50; i += 1) {
    const [c, d] = [high - ratio * (high - low), low + ratio * (high - low)];
    if (at(c) > at(d)) high = d;
    else low = c;
  }
  const t = (low + high) / 2;
  return { value: at(t), epsilon: [a * Math.cos(t), b * Math.sin(t)] };
}

const RADII = Array.from({ length: 24 }, (_, i) => (i + 2) / 50);

function build(view) {
  const { target, product, reach } = view.data;
  // As far as circles and ellipses reach.
  const most = RADII[RADII.length - 1];
  const end = Math.sqrt(product) * reach * (1 + most) + 0.05;
  const begin = Math.min(0, Math.sqrt(product) / reach - most) - 0.05;
  slider(view, "circle", { label: "ρ of the circle", count: RADII.length, text: (i) => short(RADII[i]) });
  slider(view, "ellipse", { label: "ρ of the ellipse", count: RADII.length, text: (i) => short(RADII[i]) });
  const map = panel(view, { x: "w₁", y: "w₂", square: true, grid: false });
  const graph = panel(view, { x: "w₁, along the hyperbola", y: "rise of the loss" });
  const names = ["circle (SAM)", "ellipse (ASAM)"];
  map.names([[1, names[0]], [0, names[1]]]);
  graph.names([[1, names[0]], [0, names[1]]]);

  const clip = (s) => clamp(s, -Math.log(reach), Math.log(reach));
  // The place on the hyperbola is log(w1 / sqrt(product)).
  const knob = map.knob({
    label: "Weights on the hyperbola",
    move: (x, y) => view.set({ place: clip(Math.log(Math.max(x, 0.01) / Math.max(y, 0.01)) / 2) }),
    nudge: (way, far) => view.set({ place: clip(view.values.place + way * far) }),
  });
  const weights = (s) => [Math.sqrt(product) * Math.exp(s), Math.sqrt(product) * Math.exp(-s)];
  const places = Float64Array.from({ length: 81 }, (_, i) => ((i - 40) / 40) * Math.log(reach));
  const grid = Float64Array.from({ length: 61 }, (_, i) => begin + ((end - begin) * i) / 60);
  const top = lossOf(end, end, target);
  const levels = [0.05, 0.2, 0.5, 1, 2, 5, 10, 20, 50].filter((v) => v < top);
  // The same function on a grid, for the contours.
  const f = {
    x: grid, y: grid,
    values: Float64Array.from({ length: 61 * 61 }, (_, i) =>
      lossOf(grid[Math.floor(i / 61)], grid[i % 61], target),
    ),
  };
  const contours = contourLines(map, levels);

  // The highest rise all along the hyperbola, counted again only for another radius.
  const known = [];
  function curve(i) {
    const rho = RADII[i ? view.values.ellipse : view.values.circle];
    if (known[i]?.rho !== rho) {
      const rise = (p) => worstCase(p, rho, target, i === 1).value - lossOf(...p, target);
      known[i] = { rho, rises: Array.from(places, weights).map(rise) };
    }
    return known[i].rises;
  }

  return () => {
    const s = view.values.place;
    const w = weights(s);
    const rho = [RADII[view.values.circle], RADII[view.values.ellipse]];
    const now = lossOf(...w, target);
    const domain = { x: [begin, end], y: [begin, end] };
    map.start(domain);
    map.heat("f", (a, b) => colour(Math.log1p(8 * lossOf(a, b, target)) / Math.log1p(8 * top)));
    for (const d of contours(f)) map.path(d, "fx-thin fx-over");
    const along = Array.from(places, weights);
    map.line(along.map((p) => p[0]), along.map((p) => p[1]), { name: "fx-line fx-white", dash: "2 4" });
    const worst = [false, true].map((adaptive, i) => worstCase(w, rho[i], target, adaptive));
    for (const [i, look] of [[0, 1], [1, 0]]) {
      const [a, b] = i ? [rho[i] * w[0], rho[i] * w[1]] : [rho[i], rho[i]];
      const d = map.ellipse(...w, a, b);
      map.path(d, "fx-halo");
      map.path(d, "fx-set", look, DASHES[look]);
      const [e1, e2] = worst[i].epsilon;
      map.dot(w[0] + e1, w[1] + e2, { look, size: 6 });
    }
    const rises = worst.map(({ value }) => value - now);
    const where = `(${short(w[0])}, ${short(w[1])})`;
    const text = `circle ${short(rises[0])}, ellipse ${short(rises[1])}`;
    knob.put(w[0], w[1], `${where}, loss ${short(now)}, rise in the ${text}`, (s / Math.log(reach) + 1) / 2);
    map.finish(`The loss over two weights, low along a hyperbola. Around ${where} lie a circle and an ellipse, each with the point of its highest loss.`);

    const xs = along.map((p) => p[0]);
    const curves = [curve(0), curve(1)];
    graph.start({ x: [xs[0], xs[80]], y: [0, 1.1 * Math.max(...extent(curves))], logX: true });
    graph.rule({ x: w[0], name: "fx-now" });
    for (const [i, look] of [[0, 1], [1, 0]]) {
      graph.line(xs, curves[i], { look });
      graph.dot(w[0], rises[i], { look, size: 5 });
    }
    graph.finish(`Highest rise of the loss along the hyperbola, here ${text}: it changes for the circle and not for the ellipse.`);
    view.say(`At ${where} the loss is ${short(now)}. Highest rise: ${text}.`);
  };
}

const HINT = "Drag the weights along the hyperbola, on which the function is the same.";

export default { render: (context) => explorer(context, HINT, build) };
export { worstCase };
