// The information plane: layers as points, epochs as time.

function build(view) {
  const { choices, limits, layers } = view.data;
  const epochs = unpack(view.data.epochs).values;
  const planes = view.data.planes.map((plane) =>
    Object.fromEntries(Object.entries(plane).map(([key, packed]) => [key, packed && unpack(packed)])),
  );
  choices.forEach(({ label, options }, i) => {
    if (options.length > 1) choice(view, `choice${i}`, { label, options });
  });
  slider(view, "epoch", { label: "epoch", count: epochs.length, text: (i) => short(epochs[i]) });
  player(view, "epoch", { count: epochs.length });
  toggle(view, "trails", { label: "trails" });
  const map = panel(view, { x: "I(X; T), bits", y: "I(T; Y), bits", height: 330 });
  const graph = panel(view, { x: "epoch", y: "I(X; T), bits", height: 330 });
  const names = layers.map((name, look) => [look, name]);
  map.names(names);
  graph.names(names);
  const first = epochs[0] > 0 ? 0 : 1; // a logarithmic axis has no zero
  const ends = [epochs[first], epochs[epochs.length - 1]];

  return () => {
    const t = view.values.epoch;
    const which = choices.reduce((at, { options }, i) => at * options.length + view.values[`choice${i}`], 0);
    const plane = planes[which];
    const track = (key, layer) =>
      Float32Array.from(epochs, (_, i) => plane[key].values[i * layers.length + layer]);
    map.start({ x: [0, 1.04 * limits[0]], y: [0, 1.06 * limits[1]] });
    graph.start({ x: ends, y: [0, 1.04 * limits[0]], logX: true });
    graph.rule({ x: Math.max(epochs[t], ends[0]), name: "fx-now" });
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
      return `${name} (${short(xs[t])}, ${short(ys[t])})`;
    });
    layers.forEach((name, look) => {
      const [x, y] = [track("xt", look)[t], track("ty", look)[t]];
      map.dot(x, y, { look, size: 6 });
      map.text(x, y, name, { dx: 8, dy: 4 });
    });
    const where = choices.map(({ label, options }, i) => `${label} ${options[view.values[`choice${i}`]]}`);
    const text = `${[...where, `epoch ${short(epochs[t])}`].join(", ")}: ${said.join(", ")}`;
    map.finish(`Information that each layer keeps of the input and of the label, in bits. ${text}.`);
    graph.finish(`Information that each layer keeps of the input, over the epochs. ${text}.`);
    view.say(`${sentence(text)}.`);
  };
}

export default { render: (context) => explorer(context, build) };
