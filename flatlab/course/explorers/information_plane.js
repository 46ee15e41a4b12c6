// The information plane: layers as points, epochs as time.

// The plane that was chosen; where there is none, the first that agrees in the most
// choices from the left.
function nearest(planes, wanted) {
  const agree = ({ at }) => {
    const differs = at.findIndex((option, i) => option !== wanted[i]);
    return differs < 0 ? at.length : differs;
  };
  return planes.reduce((best, plane) => (agree(plane) > agree(best) ? plane : best));
}

function build(view) {
  const { choices, limits, layers } = view.data;
  const planes = view.data.planes.map(({ at, epochs, ...values }) => ({
    at,
    epochs: unpack(epochs).values,
    ...Object.fromEntries(Object.entries(values).map(([key, v]) => [key, v && unpack(v)])),
  }));
  const chosen = () => choices.map((_, i) => view.values[`choice${i}`]);
  const selects = choices.map(({ label, options }, i) => choice(view, `choice${i}`, { label, options }));
  // Positions of the slider are shares of the snapshots, of which planes have as many as
  // were taken.
  const count = Math.max(...planes.map(({ epochs }) => epochs.length));
  const time = ({ epochs }) => Math.round((view.values.epoch / (count - 1)) * (epochs.length - 1));
  slider(view, "epoch", {
    label: "epoch",
    count,
    text: () => {
      const plane = nearest(planes, chosen());
      return short(plane.epochs[time(plane)]);
    },
  });
  player(view, "epoch", { count });
  toggle(view, "trails", { label: "trails" });
  const map = panel(view, { x: "I(X; T), bits", y: "I(T; Y), bits", height: 330 });
  const graph = panel(view, { x: "epoch", y: "I(X; T), bits", height: 330 });
  const names = layers.map((name, look) => [look, name]);
  map.names(names);
  graph.names(names);

  // What was not measured cannot be chosen.
  view.followers.push(() => {
    const plane = nearest(planes, chosen());
    plane.at.forEach((option, i) => {
      view.values[`choice${i}`] = option;
      selects[i].selectedIndex = option;
      [...selects[i].options].forEach((entry, o) => {
        const fits = ({ at }) => at[i] === o && at.slice(0, i).every((v, j) => v === plane.at[j]);
        entry.disabled = !planes.some(fits);
      });
    });
  });

  return () => {
    const plane = nearest(planes, chosen());
    const { epochs } = plane;
    const t = time(plane);
    const first = epochs[0] > 0 ? 0 : 1; // a logarithmic axis has no zero
    const track = (key, layer) =>
      Float32Array.from(epochs, (_, i) => plane[key].values[i * layers.length + layer]);
    map.start({ x: [0, 1.04 * limits[0]], y: [0, 1.12 * limits[1]] });
    const last = Math.max(epochs[epochs.length - 1], 2 * epochs[first]); // also for one
    graph.start({ x: [epochs[first], last], y: [0, 1.04 * limits[0]], logX: true });
    graph.rule({ x: Math.max(epochs[t], epochs[first]), name: "fx-now" });
    const said = layers.map((name, look) => {
      const [xs, ys] = [track("xt", look), track("ty", look)];
      if (view.values.trails)
        map.line(xs.slice(0, t + 1), ys.slice(0, t + 1), { look, name: "fx-thin", dash: "" });
      if (plane.xt_half) {
        const [hx, hy] = [track("xt_half", look)[t], track("ty_half", look)[t]];
        map.line([xs[t] - hx, xs[t] + hx], [ys[t], ys[t]], { look, dash: "" });
        map.line([xs[t], xs[t]], [ys[t] - hy, ys[t] + hy], { look, dash: "" });
      }
      graph.line(epochs.slice(first), xs.slice(first), { look });
      if (t >= first) graph.dot(epochs[t], xs[t], { look, size: 4 });
      return [name, xs[t], ys[t]];
    });
    const labels = []; // layers that lie together share one
    said.forEach(([name, x, y], look) => {
      map.dot(x, y, { look, size: 6 });
      const [px, py] = [map.scale.x.to(x), map.scale.y.to(y)];
      const before = labels[labels.length - 1];
      if (before && Math.hypot(before.px - px, before.py - py) < 20) before.names.push(name);
      else labels.push({ names: [name], x, y, px, py });
    });
    labels.forEach(({ names, x, y }, i) => {
      const words = names.length > 1 ? `${names[0]} to ${names[names.length - 1]}` : names[0];
      map.text(x, y, words, { dx: -7, dy: i % 2 ? 19 : -10 }); // neighbours do not collide
    });
    const where = choices.map(({ label, options }, i) => `${label} ${options[plane.at[i]]}`);
    const points = said.map(([name, x, y]) => `${name} (${short(x)}, ${short(y)})`).join(", ");
    const text = `${[...where, `epoch ${short(epochs[t])}`].join(", ")}: ${points}`;
    map.finish(`Information that each layer keeps of the input and of the label, in bits. ${text}.`);
    graph.finish(`Information that each layer keeps of the input, over the epochs. ${text}.`);
    view.say(`${sentence(text)}.`);
  };
}

const HINT = "Play, or move through the epochs.";

export default { render: (context) => explorer(context, HINT, build) };
