// Sliders over measured series and pictures.

function drawLines(p, spec, index) {
  const { series } = spec;
  const xs = spec.x.values;
  p.start({ x: spec.xlim, y: spec.ylim, logX: spec.log });
  for (const y of spec.rules) p.rule({ y });
  const said = series.map(({ name, mean, half }, look) => {
    const m = block(mean, ...index);
    if (half) {
      const h = block(half, ...index);
      p.band(xs, m.map((v, i) => v - h[i]), m.map((v, i) => v + h[i]), { look });
    }
    p.line(xs, m, { look });
    return `${name} ${short(m[m.length - 1])}`;
  });
  const text = `${spec.y} at ${spec.xlabel} ${short(xs[xs.length - 1])}: ${said.join(", ")}`;
  p.finish(`Curves of ${text}.`);
  return text;
}

// The curve over one slider's own values, with a mark at its position.
function drawAlong(p, spec, index) {
  const xs = spec.x.values;
  const [here] = index;
  p.start({ x: spec.xlim, y: spec.ylim, logX: spec.log });
  for (const y of spec.rules) p.rule({ y });
  p.rule({ x: xs[here], name: "fx-now" });
  const said = spec.series.map(({ name, mean, half }, look) => {
    const [m, h] = [mean.values, half?.values];
    if (h) p.band(xs, m.map((v, i) => v - h[i]), m.map((v, i) => v + h[i]), { look });
    p.line(xs, m, { look });
    p.dot(xs[here], m[here], { look, size: 5 });
    return `${name} ${short(m[here])}${h ? ` ± ${short(h[here], 2)}` : ""}`;
  });
  const text = `${spec.y}: ${said.join(", ")}`;
  p.finish(`Curves over ${spec.xlabel}, here ${text}.`);
  return text;
}

function pictures(view, spec) {
  const canvases = [];
  const captions = [];
  const [height, width] = spec.size;
  const list = html("ul", { class: "fx-pictures" });
  for (let i = 0; i < spec.count; i += 1) {
    const canvas = html("canvas", { width, height, role: "img" });
    const caption = html("span", {});
    canvases.push(canvas);
    captions.push(caption);
    list.append(html("li", {}, canvas, caption));
  }
  view.panels.append(html("div", { class: "fx-panel" }, html("p", {}, spec.y), list));
  return (index) => {
    const pixels = block(spec.pixels, ...index);
    let flat = 0; // position among all captions
    index.forEach((v, a) => (flat = flat * spec.pixels.shape[a] + v));
    canvases.forEach((canvas, i) => {
      const context = canvas.getContext("2d");
      const image = context.createImageData(width, height);
      const n = width * height;
      for (let j = 0; j < n; j += 1)
        for (let c = 0; c < 4; c += 1) {
          const from = spec.channels === 3 ? (i * n + j) * 3 + c : i * n + j;
          image.data[4 * j + c] = c === 3 ? 255 : pixels[from];
        }
      context.putImageData(image, 0, 0);
      const text = spec.captions[flat]?.[i] ?? "";
      captions[i].textContent = text;
      canvas.setAttribute("aria-label", `Picture ${i + 1} of ${spec.y}${text && `: ${text}`}`);
    });
    return "";
  };
}

function build(view) {
  const { sliders, panels } = view.data;
  sliders.forEach(({ label, texts }, i) =>
    slider(view, `slider${i}`, { label, count: texts.length, text: (v) => texts[v] }),
  );
  // Each panel has axes for some of the sliders.
  const drawers = panels.map((given) => {
    const draw = drawer(given);
    return (index) => draw(given.over.map((i) => index[i]));
  });
  function drawer(given) {
    if (given.kind === "pictures")
      return pictures(view, { ...given, pixels: unpack(given.pixels) });
    const series = given.series.map(({ name, mean, half }) => ({
      name, mean: unpack(mean), half: half && unpack(half),
    }));
    const spec = { ...given, x: unpack(given.x), series };
    const p = panel(view, { x: spec.xlabel, y: spec.y });
    p.names(series.map(({ name }, look) => [look, name]));
    const draw = spec.kind === "lines" ? drawLines : drawAlong;
    return (index) => draw(p, spec, index);
  }
  return () => {
    const index = sliders.map((_, i) => view.values[`slider${i}`]);
    const where = sliders.map(({ label, texts }, i) => `${label} ${texts[index[i]]}`);
    const said = drawers.map((draw) => draw(index)).filter(Boolean);
    view.say([where.join(", "), ...said].map((text) => `${sentence(text)}.`).join(" "));
  };
}

const HINT = "Move the sliders.";

export default { render: (context) => explorer(context, HINT, build) };
