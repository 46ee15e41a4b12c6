// A measured surface of the loss: drag the point, look along any direction through it.

function build(view) {
  const { networks, directions, xlabel, ylabel, unit, points } = view.data;
  const surfaces = view.data.surfaces.map((row) => row.map(surface));
  const all = surfaces.flat();
  const [low, high] = extent(all.map((s) => s.values));
  // Colours and levels are the same for all surfaces, so that they can be compared.
  const floor = Math.max(low, high * 1e-4);
  const share = (v) => Math.log(Math.max(v, floor) / floor) / Math.log(high / floor);
  const levels = logTicks(floor, high, 99).flatMap((v) => [v, 2 * v, 5 * v]).filter((v) => v < high);

  if (networks.length > 1) choice(view, "network", { label: view.data.label, options: networks });
  if (directions.length > 1)
    choice(view, "directions", { label: "directions", options: directions });
  slider(view, "angle", { label: "look along", count: 37, text: (i) => `${5 * i - 90}°` });

  const map = panel(view, { x: xlabel, y: ylabel, square: true, grid: false });
  const cut = panel(view, { x: "distance from the point", y: `loss along the line, ${unit}` });
  const legend = html("div", { class: "fx-scale", "aria-hidden": "true" });
  const gradient = STOPS.map((c) => `rgb(${c})`).join(",");
  legend.append(short(floor, 2), html("span", { style: `background:linear-gradient(90deg,${gradient})` }), short(high, 2), ` ${unit}`);
  map.figure.append(legend);

  const knob = map.knob({
    label: "Point on the surface",
    move: (x, y) => view.set({ x, y }),
  });

  const known = new Map(); // contours of a surface at a width: a drag needs none anew
  function contours(s) {
    const { to } = map.scale.x;
    const key = `${all.indexOf(s)} ${to(1)} ${to(0)}`;
    const at = (i, j) => s.values[i * s.y.length + j];
    if (!known.has(key))
      known.set(key, levels.map((v) => contour(s.x, s.y, at, v, to, map.scale.y.to)));
    return known.get(key);
  }

  return () => {
    const { network, directions: d, angle } = view.values;
    const s = surfaces[network][d];
    const { domain } = s;
    const x = clamp(view.values.x, ...domain.x);
    const y = clamp(view.values.y, ...domain.y);
    const loss = (px, py) => bilinear(s, px, py);

    map.start(domain);
    map.heat(`${network} ${d}`, (px, py) => colour(share(loss(px, py))));
    for (const d of contours(s)) map.path(d, "fx-thin fx-over");
    // The line through the point, as far as the surface was measured.
    const [c, e] = [Math.cos, Math.sin].map((f) => f(((5 * angle - 90) * Math.PI) / 180));
    const reach = (p, way, [a, b]) =>
      Math.abs(way) < 1e-12 ? [-Infinity, Infinity] : [(a - p) / way, (b - p) / way].sort((u, v) => u - v);
    const [ax, ay] = [reach(x, c, domain.x), reach(y, e, domain.y)];
    const [from, to] = [Math.max(ax[0], ay[0]), Math.min(ax[1], ay[1])];
    map.line([x + from * c, x + to * c], [y + from * e, y + to * e], { name: "fx-line fx-white", dash: "6 4" });
    for (const [px, py, name] of points) {
      map.dot(px, py, { look: 1, size: 5 });
      map.text(px, py, name);
    }
    const value = loss(x, y);
    const where = `(${short(x, 2)}, ${short(y, 2)})`;
    knob.put(x, y, `${where}, loss ${short(value)} ${unit}`);
    map.finish(`Loss of ${networks[network]}, ${directions[d]}, over two directions. It runs from ${short(low, 2)} to ${short(high, 2)} ${unit}.`);

    const longest = Math.hypot(domain.x[1] - domain.x[0], domain.y[1] - domain.y[0]);
    const ts = Float32Array.from({ length: 121 }, (_, i) => from + ((to - from) * i) / 120);
    const along = ts.map((t) => loss(x + t * c, y + t * e));
    cut.start({ x: [-0.75 * longest, 0.75 * longest], y: [0.8 * floor, 1.2 * high], logY: true });
    cut.rule({ x: 0, name: "fx-now" });
    cut.line(ts, along.map((v) => Math.max(v, floor)));
    cut.dot(0, Math.max(value, floor), { look: 1, size: 5 });
    const least = Math.min(...along);
    cut.finish(`Loss along the line at ${5 * angle - 90} degrees, lowest ${short(least)} ${unit}.`);
    view.say(
      `At ${where} the loss is ${short(value)} ${unit}, at the centre ${short(loss(0, 0))}. ` +
        `Along this line it is between ${short(least)} and ${short(Math.max(...along))}.`,
    );
  };
}

export default { render: (context) => explorer(context, build) };
export { surface, bilinear };
