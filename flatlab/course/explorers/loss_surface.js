// A measured surface of the loss: drag the point, look along any direction through it.

function build(view) {
  const { networks, directions, xlabel, ylabel } = view.data;
  const surfaces = view.data.surfaces.map((row) => row.map(surface));
  const all = surfaces.flat();
  const { low, high, floor, levels, legend, ...height } = heights(all, "nats");

  if (networks.length > 1) choice(view, "network", { label: "network", options: networks });
  if (directions.length > 1)
    choice(view, "directions", { label: "directions", options: directions });
  slider(view, "angle", { label: "look along", count: 37, text: (i) => `${short(5 * i - 90)}°` });

  const map = panel(view, { x: xlabel, y: ylabel, square: true, grid: false });
  const cut = panel(view, { x: "distance from the point", y: `loss along the line, nats` });
  map.figure.append(legend);

  const knob = map.knob({
    label: "Point on the surface",
    move: (x, y) => view.set({ x, y }),
  });

  const contours = contourLines(map, levels);

  return () => {
    const { network, directions: d, angle } = view.values;
    const s = surfaces[network][d];
    const { domain } = s;
    const x = clamp(view.values.x, ...domain.x);
    const y = clamp(view.values.y, ...domain.y);
    const loss = (px, py) => bilinear(s, px, py);

    map.start(domain);
    map.heat(`${network} ${d}`, (px, py) => height.colour(loss(px, py)));
    for (const d of contours(s)) map.path(d, "fx-thin fx-over");
    // The line through the point, as far as the surface was measured.
    const [c, e] = [Math.cos, Math.sin].map((f) => f(((5 * angle - 90) * Math.PI) / 180));
    const reach = (p, way, [a, b]) =>
      Math.abs(way) < 1e-12 ? [-Infinity, Infinity] : [(a - p) / way, (b - p) / way].sort((u, v) => u - v);
    const [ax, ay] = [reach(x, c, domain.x), reach(y, e, domain.y)];
    const [from, to] = [Math.max(ax[0], ay[0]), Math.min(ax[1], ay[1])];
    map.line([x + from * c, x + to * c], [y + from * e, y + to * e], { name: "fx-line fx-white", dash: "6 4" });
    const value = loss(x, y);
    const where = `(${short(x, 2)}, ${short(y, 2)})`;
    knob.put(x, y, `${where}, loss ${short(value)} nats`);
    map.finish(`Loss of ${networks[network]}, ${directions[d]}, over two directions. It runs from ${short(low, 2)} to ${short(high, 2)} nats.`);

    const longest = Math.hypot(domain.x[1] - domain.x[0], domain.y[1] - domain.y[0]);
    const ts = Float32Array.from({ length: 121 }, (_, i) => from + ((to - from) * i) / 120);
    const along = ts.map((t) => loss(x + t * c, y + t * e));
    cut.start({ x: [-0.75 * longest, 0.75 * longest], y: [0.8 * floor, 1.2 * high], logY: true });
    cut.rule({ x: 0, name: "fx-now" });
    cut.line(ts, along.map((v) => Math.max(v, floor)));
    cut.dot(0, Math.max(value, floor), { look: 1, size: 5 });
    const least = Math.min(...along);
    cut.finish(`Loss along the line at ${5 * angle - 90} degrees, lowest ${short(least)} nats.`);
    view.say(
      `At ${where} the loss is ${short(value)} nats, at the centre ${short(loss(0, 0))}. ` +
        `Along this line it is between ${short(least)} and ${short(Math.max(...along))}.`,
    );
  };
}

const HINT = "Drag the point, or move it with the arrow keys, and turn the line.";

export default { render: (context) => explorer(context, HINT, build) };
export { surface, bilinear };
