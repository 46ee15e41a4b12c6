// SAM's two steps, up and then down, on a measured surface.

// Weights of the four neighbours in cubic interpolation (Catmull and Rom), and slopes.
function cubic(u) {
  return [
    [-0.5 * u + u ** 2 - 0.5 * u ** 3, -0.5 + 2 * u - 1.5 * u ** 2],
    [1 - 2.5 * u ** 2 + 1.5 * u ** 3, -5 * u + 4.5 * u ** 2],
    [0.5 * u + 2 * u ** 2 - 1.5 * u ** 3, 0.5 + 4 * u - 4.5 * u ** 2],
    [-0.5 * u ** 2 + 0.5 * u ** 3, -u + 1.5 * u ** 2],
  ];
}

// Loss and gradient between the measured points. Beyond the border the surface goes on
// straight, which the outermost cells need as their neighbours.
function smooth({ x, y, values }, px, py) {
  const n = y.length;
  const [i, u] = cell(x, px);
  const [j, v] = cell(y, py);
  const beyond = (k, last, f) =>
    k < 0 ? 2 * f(0) - f(1) : k > last ? 2 * f(last) - f(last - 1) : f(k);
  const at = (a, b) =>
    beyond(a, x.length - 1, (p) => beyond(b, n - 1, (q) => values[p * n + q]));
  const [cu, cv] = [cubic(u), cubic(v)];
  let [loss, gx, gy] = [0, 0, 0];
  for (let a = 0; a < 4; a += 1)
    for (let b = 0; b < 4; b += 1) {
      const f = at(i + a - 1, j + b - 1);
      loss += cu[a][0] * cv[b][0] * f;
      gx += cu[a][1] * cv[b][0] * f;
      gy += cu[a][0] * cv[b][1] * f;
    }
  return { loss, gradient: [gx / (x[1] - x[0]), gy / (y[1] - y[0])] };
}

// One step from p: up to the border of the ball (SAM), gradient there, down from p.
function samStep(s, [px, py], rho, rate) {
  const here = smooth(s, px, py);
  const [gx, gy] = here.gradient;
  const length = Math.hypot(gx, gy);
  const up = length > 0 ? [px + (rho * gx) / length, py + (rho * gy) / length] : [px, py];
  const there = smooth(s, ...up);
  const down = (g) => [px - rate * g[0], py - rate * g[1]];
  return { here, up, there, plain: down(here.gradient), sam: down(there.gradient) };
}

// Of many steps the zigzag hides where they lead: each point becomes the mean of the
// last ten.
function smoothed(path) {
  return path.map((_, t) => {
    const near = path.slice(Math.max(0, t - 9), t + 1);
    return [0, 1].map((axis) => near.reduce((sum, p) => sum + p[axis], 0) / near.length);
  });
}

// Second derivative of the loss at p along the second direction.
function across(s, [px, py]) {
  const h = (s.y[s.y.length - 1] - s.y[0]) / 100;
  const at = (d) => smooth(s, px, py + d).loss;
  return (at(h) - 2 * at(0) + at(-h)) / h ** 2;
}

function build(view) {
  const s = surface(view.data.surface);
  const { domain } = s;
  const { xlabel, ylabel, radii, rates, steps: many } = view.data;
  const { levels, legend, ...height } = heights([s], "nats");
  slider(view, "rho", { label: "ρ", count: radii.length, text: (i) => short(radii[i]) });
  slider(view, "rate", { label: "learning rate", count: rates.length, text: (i) => short(rates[i]) });
  toggle(view, "walk", { label: `go on for ${many} steps` });
  const map = panel(view, { x: xlabel, y: ylabel, square: true, grid: false });
  const graph = panel(view, { x: "step", y: "loss, nats" });
  map.names([[4, "up"], [1, "down, plain gradient"], [0, "down, SAM"]]);
  graph.names([[1, "plain gradient"], [0, "SAM"]]);
  const knob = map.knob({ label: "Weights", move: (x, y) => view.set({ x, y }) });
  const inside = ([x, y]) =>
    x >= domain.x[0] && x <= domain.x[1] && y >= domain.y[0] && y <= domain.y[1];
  const contours = contourLines(map, levels);
  map.figure.append(legend);

  function arrow(from, to, look) {
    const [ax, ay] = [map.scale.x.to(from[0]), map.scale.y.to(from[1])];
    const [bx, by] = [map.scale.x.to(to[0]), map.scale.y.to(to[1])];
    const long = Math.hypot(bx - ax, by - ay);
    let d = `M${ax} ${ay}L${bx} ${by}`;
    if (long > 4) {
      const [ux, uy] = [((bx - ax) / long) * 9, ((by - ay) / long) * 9];
      d += `M${bx - ux - uy / 2} ${by - uy + ux / 2}L${bx} ${by}L${bx - ux + uy / 2} ${by - uy - ux / 2}`;
    }
    map.path(d, "fx-halo");
    map.path(d, "fx-set", look);
  }

  return () => {
    const w = [clamp(view.values.x, ...domain.x), clamp(view.values.y, ...domain.y)];
    const rho = radii[view.values.rho];
    const rate = rates[view.values.rate];
    map.start(domain);
    map.heat("s", (a, b) => height.colour(bilinear(s, a, b)));
    for (const d of contours(s)) map.path(d, "fx-thin fx-over");

    // Both ways from here, until they leave what was measured.
    const ways = ["plain", "sam"].map((kind) => {
      const path = [w];
      while (path.length <= (view.values.walk ? many : 1)) {
        const next = samStep(s, path[path.length - 1], rho, rate)[kind];
        if (!inside(next)) break;
        path.push(next);
      }
      return path;
    });
    const one = samStep(s, w, rho, rate);
    map.path(map.ellipse(...w, rho, rho), "fx-thin fx-over");
    const drawn = view.values.walk ? ways.map(smoothed) : ways;
    drawn.forEach((path, i) => {
      const [xs, ys] = [0, 1].map((axis) => path.map((p) => p[axis]));
      map.line(xs, ys, { name: "fx-halo", dash: "" });
      map.line(xs, ys, { look: 1 - i });
    });
    if (view.values.walk)
      drawn.forEach((path, i) => map.dot(...path[path.length - 1], { look: 1 - i, size: 6 }));
    else [one.up, one.plain, one.sam].forEach((to, i) => arrow(w, to, [4, 1, 0][i]));
    const where = `(${short(w[0], 2)}, ${short(w[1], 2)})`;
    const loss = short(one.here.loss);
    knob.put(w[0], w[1], `${where}, loss ${loss} nats`);
    map.finish(`A measured loss surface with the weights at ${where}, a step of length ${short(rho)} up, and two steps down from the weights: along the plain gradient and along SAM's.`);

    const losses = ways.map((path) => path.map((p) => smooth(s, ...p).loss));
    const steps = view.values.walk ? many : 1;
    const seen = [one.there.loss, ...losses.flat()].map((v) => Math.max(v, 1e-6));
    const y = [0.8 * Math.min(...seen), 1.25 * Math.max(...seen)];
    graph.start({ x: [0, steps], y, logY: true, ticksX: steps === 1 ? [0, 1] : null });
    losses.forEach((values, i) => {
      graph.line(values.map((_, t) => t), values, { look: 1 - i });
      graph.dot(values.length - 1, values[values.length - 1], { look: 1 - i, size: 5 });
    });
    graph.dot(0, one.there.loss, { look: 4, size: 5 });
    graph.text(0, one.there.loss, "at the top of the step up");
    const ends = losses.map((values) => short(values[values.length - 1]));
    graph.finish(`Loss over the steps: from ${loss} to ${ends[0]} along the plain gradient and ${ends[1]} with SAM.`);
    const said = ["The plain gradient", "SAM"].map((who, i) => {
      const taken = ways[i].length - 1;
      if (!taken) return `${who} leaves the measured surface at once.`;
      const left = taken < steps ? ", and then leaves the measured surface" : "";
      return `${who} leads to ${ends[i]} in ${taken} step${taken > 1 ? "s" : ""}${left}.`;
    });
    const bends = drawn.map((path) => short(across(s, path[path.length - 1])));
    const wide = `There the curvature across (${ylabel}) is ${bends[0]} for the plain gradient and ${bends[1]} for SAM.`;
    view.say(
      `At ${where} the loss is ${loss} nats, and ${short(one.there.loss)} after the step up. ${said.join(" ")} ${wide}`,
    );
  };
}

const HINT = "Drag the weights; change how far up SAM looks before it steps down.";

export default { render: (context) => explorer(context, HINT, build) };
export { smooth, samStep, across };
