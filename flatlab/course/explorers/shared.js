// What all explorers share: measured arrays, controls, panels with axes, points that can
// be dragged. Python puts this text in front of the module of each explorer.

const NS = "http://www.w3.org/2000/svg";
// As many looks of curves as colours in the style sheet; no two differ by colour alone.
const DASHES = ["", "7 4", "8 3 2 3", "2 3", "8 3 2 3 2 3", "12 4", "4 2 1 2"];
// Dots of radius 1 around 0, by look, where their colour is to tell them apart.
const SHAPES = [
  "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0 -2 0Z", // circle
  "M-.9 -.9H.9V.9H-.9Z", // square
  "M0 -1.2L1.1 .8H-1.1Z", // triangle
  "M0 -1.3L1.1 0L0 1.3L-1.1 0Z", // diamond
  "M0 1.2L1.1 -.8H-1.1Z", // triangle on its head
  "M-.4 -1.2H.4V-.4H1.2V.4H.4V1.2H-.4V.4H-1.2V-.4H-.4Z", // cross
  "M0 -1.4L.4 -.4L1.4 0L.4 .4L0 1.4L-.4 .4L-1.4 0L-.4 -.4Z", // star
];
const MARGIN = { left: 48, right: 14, top: 26, bottom: 42 };

// -- elements ------------------------------------------------------------------------

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes))
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const html = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(NS, tag), attributes, children);

// Keys pressed in a control are the control's. JupyterLab looks for this attribute on
// the focused element itself, not on its parents.
function ownKeys(element) {
  element.dataset.lmSuppressShortcuts = "true";
  return element;
}

let lastName = 0;
const uniqueName = () => `fx-${(lastName += 1)}-${Math.random().toString(36).slice(2, 8)}`;

// -- numbers -------------------------------------------------------------------------

// An array as Python packed it: {shape, type, bytes}, and where it was rounded to 16
// bits, the interval that those divide.
function unpack({ shape, type, bytes, low, high }) {
  const { buffer, byteOffset, byteLength } = bytes;
  const Kind = { f4: Float32Array, f8: Float64Array, u1: Uint8Array, u2: Uint16Array }[type];
  let values = new Kind(buffer.slice(byteOffset, byteOffset + byteLength));
  if (low !== undefined)
    values = Float32Array.from(values, (v) => low + ((high - low) * v) / 65535);
  return { shape, values };
}

// The block of an array that belongs to the given leading indices.
function block({ shape, values }, ...index) {
  let size = values.length;
  let start = 0;
  index.forEach((i, axis) => {
    size /= shape[axis];
    start += i * size;
  });
  return values.subarray(start, start + size);
}

// Lowest and highest finite number of some arrays.
function extent(arrays, low = Infinity, high = -Infinity) {
  for (const values of arrays)
    for (const v of values)
      if (Number.isFinite(v)) {
        if (v < low) low = v;
        if (v > high) high = v;
      }
  return low <= high ? [low, high] : [0, 1];
}

const clamp = (v, low, high) => Math.min(high, Math.max(low, v));

// A Greek letter stays small at the start of a sentence.
const sentence = (text) => text.replace(/^[a-z]/, (letter) => letter.toUpperCase());

// A number as text: three digits, no more than it needs.
function short(v, digits = 3) {
  if (Math.abs(v) < 1e-12) return "0"; // what rounding leaves of a zero
  if (!Number.isFinite(v)) return Number.isNaN(v) ? "none" : v > 0 ? "∞" : "−∞";
  const size = Math.abs(v);
  let text;
  if (size >= 1e5 || size < 1e-3) {
    const [mantissa, power] = v.toExponential(digits - 1).split("e");
    const raised = [...String(Number(power))].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("");
    const factor = String(Number(mantissa));
    text = factor === "1" ? `10${raised}` : `${factor}·10${raised}`;
  } else text = String(Number(v.toPrecision(Math.max(digits, Math.floor(Math.log10(size)) + 1))));
  return text.replace("-", "−");
}

// Round numbers between two ends, about as many as asked for.
function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw * 0.999) * power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-6); i * step <= high + 1e-6 * step; i += 1)
    found.push(i * step);
  return found.length < 3 && count < 20 ? ticks(low, high, 2 * count) : found;
}

function logTicks(low, high, count) {
  const decades = Math.log10(high / low);
  const factors = decades < 2.1 ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil(decades / count));
  const found = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high) + 1e-6; e += 1)
    for (const f of factors) {
      const v = f * 10 ** e;
      if (e % every === 0 && v >= low * 0.999 && v <= high * 1.001) found.push(v);
    }
  return found;
}

// -- an explorer ---------------------------------------------------------------------

// Builds the outer element and keeps the values of the controls, also for Python.
// `build(view)` adds controls and panels and returns the function that draws; it runs
// at most once per frame.
function explorer({ model, el }, hint, build) {
  const data = model.get("data");
  const values = { ...model.get("values") };
  const reading = html("p", { class: "fx-reading", "aria-live": "polite" });
  const controls = html("div", { class: "fx-controls" });
  const panels = html("div", { class: "fx-panels" });
  const followers = []; // put controls where the values are
  const panelList = [];
  let draw = () => {};
  let waiting = 0;

  const view = {
    data,
    values,
    controls,
    panels,
    panelList,
    followers,
    say: (text) => {
      if (reading.textContent !== text) reading.textContent = text;
    },
    set(changes) {
      Object.assign(values, changes);
      for (const follow of followers) follow();
      model.set("values", { ...values });
      model.save_changes();
      view.redraw();
    },
    redraw() {
      if (!waiting) waiting = requestAnimationFrame(view.drawn);
    },
    // Draws what waits to be drawn.
    drawn() {
      if (!waiting) return;
      cancelAnimationFrame(waiting);
      waiting = 0;
      draw();
    },
  };

  const name = uniqueName();
  const root = html(
    "div",
    { class: "fx", role: "group", "aria-labelledby": name },
    html("p", { class: "fx-title", id: name }, data.title),
    html("p", { class: "fx-hint" }, hint),
    controls,
    panels,
    reading,
  );
  draw = build(view);
  const listen = () => {
    const given = model.get("values");
    if (Object.keys(given).every((key) => given[key] === values[key])) return;
    Object.assign(values, given);
    for (const follow of followers) follow();
    view.redraw();
  };
  model.on("change:values", listen);
  // Axes are drawn in pixels, so that their text keeps its size on a phone.
  const observer = new ResizeObserver(() => {
    for (const panel of panelList) panel.measure();
    draw();
  });
  for (const follow of followers) follow();
  draw();
  el.append(root);
  observer.observe(panels);
  return () => {
    observer.disconnect();
    cancelAnimationFrame(waiting);
    model.off("change:values", listen);
  };
}

// -- controls ------------------------------------------------------------------------

// A slider over positions 0 ... count - 1; `text(i)` says what position i stands for.
function slider(view, key, { label, count, text }) {
  const id = uniqueName();
  const input = ownKeys(
    html("input", {
      id, type: "range", min: 0, max: count - 1, step: 1,
      oninput: () => view.set({ [key]: Number(input.value) }),
    }),
  );
  const shown = html("output", { for: id, class: "fx-value" });
  view.controls.append(
    html("div", { class: "fx-control" }, html("label", { for: id }, label), input, shown),
  );
  view.followers.push(() => {
    input.value = view.values[key];
    const now = text(view.values[key]);
    input.setAttribute("aria-valuetext", now);
    shown.textContent = now;
  });
  return input;
}

function choice(view, key, { label, options }) {
  const id = uniqueName();
  const select = ownKeys(
    html(
      "select",
      { id, onchange: () => view.set({ [key]: select.selectedIndex }) },
      ...options.map((option) => html("option", {}, option)),
    ),
  );
  view.controls.append(
    html("div", { class: "fx-control" }, html("label", { for: id }, label), select),
  );
  view.followers.push(() => {
    select.selectedIndex = view.values[key];
  });
  return select;
}

function toggle(view, key, { label }) {
  const box = ownKeys(
    html("input", { type: "checkbox", onchange: () => view.set({ [key]: box.checked }) }),
  );
  view.controls.append(
    html("div", { class: "fx-control fx-toggle" }, html("label", {}, box, ` ${label}`)),
  );
  view.followers.push(() => {
    box.checked = view.values[key];
  });
}

// A button that walks a slider to its end. Who asked for less motion is taken there.
function player(view, key, { count, milliseconds = 120 }) {
  let timer = 0;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    button.textContent = "Play";
  };
  const start = () => {
    const from = view.values[key] >= count - 1 ? 0 : view.values[key];
    if (matchMedia("(prefers-reduced-motion: reduce)").matches)
      return view.set({ [key]: count - 1 });
    view.set({ [key]: from });
    button.textContent = "Stop";
    timer = setInterval(() => {
      const next = view.values[key] + 1;
      if (next >= count - 1 || !button.isConnected) stop();
      view.set({ [key]: Math.min(next, count - 1) });
    }, milliseconds);
  };
  const button = ownKeys(
    html("button", { type: "button", onclick: () => (timer ? stop() : start()) }, "Play"),
  );
  view.controls.append(html("div", { class: "fx-control" }, button));
}

// -- panels --------------------------------------------------------------------------

// A filled shape; after seven the same shapes are open.
function shaped(look, size, x, y) {
  return svg("path", {
    class: `${look < 7 ? "fx-dot" : "fx-open"} fx-c${look % 7}`,
    d: SHAPES[look % 7],
    transform: `translate(${x} ${y}) scale(${size})`,
  });
}

// A picture with axes. `start` sets them and forgets the marks, then marks are added,
// then `finish` shows all at once. Knobs stay, so that a drag is not cut off.
function panel(view, { x = "", y = "", height = 270, square = false, grid = true }) {
  // Lines end at the axes; dots and words on the border are shown whole.
  const cuts = [0, 8].map((margin) => ({ margin, id: uniqueName(), rect: svg("rect", {}) }));
  const frame = svg("g", {});
  const [marks, dots] = cuts.map(({ id }) => svg("g", { "clip-path": `url(#${id})` }));
  const knobs = svg("g", {});
  const picture = svg(
    "svg",
    { role: "img" },
    svg("defs", {}, ...cuts.map(({ id, rect }) => svg("clipPath", { id }, rect))),
    frame, marks, dots, knobs,
  );
  const canvas = html("canvas", { "aria-hidden": "true" });
  const box = html("div", { class: "fx-box" }, canvas, picture);
  const legend = html("ul", { class: "fx-legend" });
  const figure = html("div", { class: "fx-panel" }, box, legend);
  view.panels.append(figure);

  let width = 330;
  let drawn = []; // marks since the last start
  let above = []; // dots and words, above them
  let axes = ""; // what the frame shows
  let entries = ""; // what the legend shows
  let shown = null; // what the canvas shows
  let scale = {};
  const inner = () => ({
    left: MARGIN.left,
    right: width - MARGIN.right,
    top: MARGIN.top,
    bottom: self.height - MARGIN.bottom,
  });

  function axis(low, high, from, to, log) {
    const f = log ? Math.log : (v) => v;
    const g = log ? Math.exp : (v) => v;
    const [a, b] = [f(low), f(high)];
    return {
      low, high, log,
      to: (v) => from + ((f(v) - a) / (b - a)) * (to - from),
      from: (p) => g(a + ((p - from) / (to - from)) * (b - a)),
    };
  }

  function drawFrame() {
    const { left, right, top, bottom } = inner();
    const found = [];
    const room = { x: Math.floor((right - left) / 60), y: Math.floor((bottom - top) / 45) };
    const list = (s, count) =>
      s.ticks ?? (s.log ? logTicks : ticks)(s.low, s.high, Math.max(2, count));
    for (const v of list(scale.x, room.x)) {
      const p = scale.x.to(v);
      if (grid) found.push(svg("path", { class: "fx-grid", d: `M${p} ${top}V${bottom}` }));
      found.push(svg("text", { x: p, y: bottom + 16, "text-anchor": "middle" }, short(v)));
    }
    for (const v of list(scale.y, room.y)) {
      const p = scale.y.to(v);
      if (grid) found.push(svg("path", { class: "fx-grid", d: `M${left} ${p}H${right}` }));
      found.push(svg("text", { x: left - 6, y: p + 4, "text-anchor": "end" }, short(v)));
    }
    found.push(svg("text", { class: "fx-label", x: 2, y: 14 }, self.y));
    const middle = { x: (left + right) / 2, y: bottom + 36, "text-anchor": "middle" };
    found.push(svg("text", { class: "fx-label", ...middle }, self.x));
    frame.replaceChildren(...found);
    for (const { margin, rect } of cuts)
      fill(rect, {
        x: left - margin, y: top - margin,
        width: right - left + 2 * margin, height: bottom - top + 2 * margin,
      }, []);
  }

  const self = {
    x, y, height, picture, figure,
    measure() {
      width = Math.max(200, Math.round(box.clientWidth || width));
      if (square) self.height = width - MARGIN.left - MARGIN.right + MARGIN.top + MARGIN.bottom;
    },
    // Domains [low, high] of both axes; logarithmic where asked for.
    start({ x, y, logX = false, logY = false, ticksX = null }) {
      const { left, right, top, bottom } = inner();
      scale = { x: axis(...x, left, right, logX), y: axis(...y, bottom, top, logY) };
      scale.x.ticks = ticksX;
      self.scale = scale;
      drawn = [];
      above = [];
      const now = JSON.stringify([x, y, logX, logY, ticksX, width, self.height, self.x, self.y]);
      if (now === axes) return;
      axes = now;
      picture.setAttribute("viewBox", `0 0 ${width} ${self.height}`);
      drawFrame();
    },
    // Marks with data coordinates.
    line(xs, ys, { look = 0, name = "fx-line", dash = DASHES[look % 7] } = {}) {
      let d = "";
      let pen = "M";
      for (let i = 0; i < xs.length; i += 1) {
        const px = scale.x.to(xs[i]);
        const py = scale.y.to(ys[i]);
        if (Number.isFinite(px) && Number.isFinite(py)) {
          d += `${pen}${px.toFixed(1)} ${clamp(py, -1e4, 1e4).toFixed(1)}`;
          pen = "L";
        } else pen = "M";
      }
      drawn.push(svg("path", { class: `${name} fx-c${look % 7}`, d, "stroke-dasharray": dash }));
    },
    band(xs, low, high, { look = 0 } = {}) {
      const place = (v, x) => [x, clamp(scale.y.to(v), -1e4, 1e4)];
      const up = Array.from(xs, (x, i) => place(high[i], scale.x.to(x)));
      const down = Array.from(xs, (x, i) => place(low[i], scale.x.to(x))).reverse();
      const d = [...up, ...down].filter((p) => p.every(Number.isFinite));
      const points = d.map((p) => p.map((v) => v.toFixed(1)).join(",")).join(" ");
      drawn.push(svg("polygon", { class: `fx-band fx-c${look % 7}`, points }));
    },
    dot(px, py, { look = 0, size = 4 } = {}) {
      const at = { cx: scale.x.to(px), cy: scale.y.to(py), r: size };
      if (!Number.isFinite(at.cx) || !Number.isFinite(at.cy)) return;
      above.push(svg("circle", { class: `fx-dot fx-c${look % 7}`, ...at }));
    },
    // One of many dots, told from others by shape and colour.
    shape(px, py, { look = 0, size = 4 } = {}) {
      const at = [scale.x.to(px), scale.y.to(py)];
      if (at.every(Number.isFinite)) above.push(shaped(look, size, ...at));
    },
    // Words beside a point, on its left where the right edge is near, and above it where
    // the lower one is.
    text(px, py, words, { dx = 6, dy = -6 } = {}) {
      const { right, bottom } = inner();
      const [p, q] = [scale.x.to(px), scale.y.to(py)];
      const left = p + dx + 7 * words.length > right;
      const at = {
        x: left ? p - dx : p + dx,
        y: q + dy > bottom ? q - 10 : q + dy,
        "text-anchor": left ? "end" : "start",
      };
      above.push(svg("text", { class: "fx-note", ...at }, words));
    },
    rule({ x = null, y = null, name = "fx-rule" }) {
      const { left, right, top, bottom } = inner();
      const d =
        x === null ? `M${left} ${scale.y.to(y)}H${right}` : `M${scale.x.to(x)} ${top}V${bottom}`;
      drawn.push(svg("path", { class: name, d }));
    },
    path(d, name, look = 0, dash = "") {
      drawn.push(svg("path", { class: `${name} fx-c${look % 7}`, d, "stroke-dasharray": dash }));
    },
    // An ellipse with half axes a and b around a point, as a path.
    ellipse(px, py, a, b) {
      const [rx, ry] = [scale.x.to(a) - scale.x.to(0), scale.y.to(0) - scale.y.to(b)];
      const arc = (way) => `a${rx} ${ry} 0 1 0 ${way * 2 * rx} 0`;
      return `M${scale.x.to(px) - rx} ${scale.y.to(py)}${arc(1)}${arc(-1)}`;
    },
    // A surface as colours on the canvas; painted again only for another key.
    heat(key, colourAt) {
      const { left, right, top, bottom } = inner();
      const now = `${key} ${axes}`;
      if (now === shown) return;
      shown = now;
      const [w, h] = [120, 120];
      Object.assign(canvas, { width: w, height: h });
      Object.assign(canvas.style, {
        left: `${(100 * left) / width}%`,
        top: `${(100 * top) / self.height}%`,
        width: `${(100 * (right - left)) / width}%`,
        height: `${(100 * (bottom - top)) / self.height}%`,
      });
      const context = canvas.getContext("2d");
      const pixels = context.createImageData(w, h);
      for (let row = 0, i = 0; row < h; row += 1) {
        const yy = scale.y.from(top + ((row + 0.5) / h) * (bottom - top));
        for (let column = 0; column < w; column += 1, i += 4) {
          const xx = scale.x.from(left + ((column + 0.5) / w) * (right - left));
          const painted = colourAt(xx, yy);
          if (!painted) continue; // nothing was measured here
          const [r, g, b] = painted;
          pixels.data[i] = r;
          pixels.data[i + 1] = g;
          pixels.data[i + 2] = b;
          pixels.data[i + 3] = 255;
        }
      }
      context.putImageData(pixels, 0, 0);
    },
    // Names beside the looks of curves: [[look, name], ...].
    names(list) {
      const now = JSON.stringify(list);
      if (now === entries) return;
      entries = now;
      legend.replaceChildren(
        ...list.map(([look, name, kind = "line"]) =>
          html(
            "li",
            {},
            svg(
              "svg",
              { viewBox: "0 0 28 10", width: 28, height: 10, "aria-hidden": "true" },
              kind === "line"
                ? svg("path", {
                    class: `fx-line fx-c${look % 7}`, d: "M0 5H28", "stroke-dasharray": DASHES[look % 7],
                  })
                : shaped(look, 4, 14, 5),
            ),
            ` ${name}`,
          ),
        ),
      );
    },
    finish(description) {
      marks.replaceChildren(...drawn);
      dots.replaceChildren(...above);
      picture.setAttribute("aria-label", description);
    },
    // A point to drag. `move(x, y)` is told data coordinates, from a pointer or from
    // arrow keys, which go `step` of the axes' lengths.
    knob({ label, move, step = 0.02, nudge = null }) {
      picture.setAttribute("role", "group"); // what it holds can be operated
      const handle = ownKeys(
        svg(
          "g",
          {
            class: "fx-knob", tabindex: 0, role: "slider", "aria-label": label,
            "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": 50,
          },
          svg("circle", { class: "fx-hit", r: 24 }),
          svg("circle", { class: "fx-ring", r: 13 }),
          svg("circle", { class: "fx-grip", r: 7 }),
        ),
      );
      knobs.append(handle);
      const place = { x: 0, y: 0 };
      const follow = (event) => {
        const rect = picture.getBoundingClientRect();
        const px = ((event.clientX - rect.left) * width) / rect.width;
        const py = ((event.clientY - rect.top) * self.height) / rect.height;
        move(scale.x.from(px), scale.y.from(py));
      };
      handle.addEventListener("pointerdown", (event) => {
        handle.setPointerCapture(event.pointerId);
        handle.focus({ preventScroll: true });
        event.preventDefault();
      });
      handle.addEventListener("pointermove", (event) => {
        if (handle.hasPointerCapture(event.pointerId)) follow(event);
      });
      // Without this a finger would scroll the page and the drag would end.
      handle.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
      handle.addEventListener("keydown", (event) => {
        const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
        const way = ways[event.key];
        if (!way || event.ctrlKey || event.altKey || event.metaKey) return;
        event.preventDefault();
        view.drawn(); // a key before the next frame starts from where the last one led
        const far = step * (event.shiftKey ? 5 : 1);
        if (nudge) return nudge(way[0] + way[1], far);
        const { left, right, top, bottom } = inner();
        const px = scale.x.to(place.x) + way[0] * far * (right - left);
        const py = scale.y.to(place.y) - way[1] * far * (bottom - top);
        move(scale.x.from(px), scale.y.from(py));
      });
      return {
        handle,
        // Where it is, what it says, and how far along (0 to 1) it counts as being.
        put(px, py, text, share = (px - scale.x.low) / (scale.x.high - scale.x.low)) {
          Object.assign(place, { x: px, y: py });
          handle.setAttribute("transform", `translate(${scale.x.to(px)} ${scale.y.to(py)})`);
          handle.setAttribute("aria-valuenow", Math.round(100 * share));
          handle.setAttribute("aria-valuetext", text);
        },
      };
    },
  };
  view.panelList.push(self);
  self.measure();
  return self;
}

// -- surfaces ------------------------------------------------------------------------

// A measured surface: values (A, B) at evenly spaced alphas and betas.
function surface({ alphas, betas, losses }) {
  const [x, y] = [unpack(alphas).values, unpack(betas).values];
  return {
    x, y, values: unpack(losses).values,
    domain: { x: [x[0], x[x.length - 1]], y: [y[0], y[y.length - 1]] },
  };
}

// Between the points of a grid: straight in each direction.
function bilinear({ x, y, values }, px, py) {
  const [i, u] = cell(x, px);
  const [j, v] = cell(y, py);
  const n = y.length;
  const [a, b] = [values[i * n + j], values[i * n + j + 1]];
  const [c, d] = [values[(i + 1) * n + j], values[(i + 1) * n + j + 1]];
  return (1 - u) * ((1 - v) * a + v * b) + u * ((1 - v) * c + v * d);
}

function cell(axis, p) {
  const last = axis.length - 1;
  const q = clamp(((p - axis[0]) / (axis[last] - axis[0])) * last, 0, last);
  const i = Math.min(Math.floor(q), last - 1);
  return [i, q - i];
}

// The lines on which a function of a grid's points has the given value, as a path.
function contour(xs, ys, at, level, px, py) {
  let d = "";
  const cut = (x0, y0, v0, x1, y1, v1) => {
    const t = (level - v0) / (v1 - v0);
    return `${px(x0 + t * (x1 - x0)).toFixed(1)} ${py(y0 + t * (y1 - y0)).toFixed(1)}`;
  };
  for (let i = 0; i + 1 < xs.length; i += 1)
    for (let j = 0; j + 1 < ys.length; j += 1) {
      const corners = [
        [xs[i], ys[j], at(i, j)],
        [xs[i + 1], ys[j], at(i + 1, j)],
        [xs[i + 1], ys[j + 1], at(i + 1, j + 1)],
        [xs[i], ys[j + 1], at(i, j + 1)],
      ];
      const found = [];
      for (let c = 0; c < 4; c += 1) {
        const [a, b] = [corners[c], corners[(c + 1) % 4]];
        if (a[2] < level !== b[2] < level) found.push(cut(...a, ...b));
      }
      for (let c = 0; c + 1 < found.length; c += 2) d += `M${found[c]}L${found[c + 1]}`;
    }
  return d;
}

// Low values dark, high values light, evenly so to the eye.
const STOPS = [
  [43, 24, 82], [59, 62, 132], [44, 105, 142], [32, 144, 140], [67, 182, 121], [160, 214, 72], [250, 230, 60],
];
function colour(share) {
  const p = clamp(share, 0, 1) * (STOPS.length - 1);
  const i = Math.min(Math.floor(p), STOPS.length - 2);
  return STOPS[i].map((v, c) => v + (p - i) * (STOPS[i + 1][c] - v));
}

// Colours and levels for measured losses, logarithmic and the same for all surfaces.
function heights(surfaces, unit) {
  const [low, high] = extent(surfaces.map((s) => s.values));
  const floor = Math.max(low, high * 1e-4);
  const stops = STOPS.map((c) => `rgb(${c})`).join(",");
  const bar = html("span", { style: `background:linear-gradient(90deg,${stops})` });
  return {
    low, high, floor,
    colour: (v) => colour(Math.log(Math.max(v, floor) / floor) / Math.log(high / floor)),
    levels: logTicks(floor, high, 99).flatMap((v) => [v, 2 * v, 5 * v]).filter((v) => v < high),
    legend: html(
      "div",
      { class: "fx-scale", "aria-hidden": "true" },
      `${low < floor ? "≤ " : ""}${short(floor, 2)}`, bar, `${short(high, 2)} ${unit}`.trim(),
    ),
  };
}

// Contours of measured surfaces as paths, made once per surface and width.
function contourLines(map, levels) {
  const known = new Map();
  return (s) => {
    const { x, y } = map.scale;
    const lines = known.get(s);
    if (lines?.width === x.to(1) - x.to(0)) return lines.paths;
    const at = (i, j) => s.values[i * s.y.length + j];
    const paths = levels.map((v) => contour(s.x, s.y, at, v, x.to, y.to));
    known.set(s, { width: x.to(1) - x.to(0), paths });
    return paths;
  };
}
