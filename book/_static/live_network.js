// A network that trains in the page, with the sharpness of its loss measured as it goes.
//
// Two layers, 64 pixels to 24 hidden units (tanh) to 10 digits: 1,810 weights in the order
// of `flatlab`, 200 training examples. The loss is half the squared distance from the
// one-hot label, averaged over examples (criterion "mse" in `flatlab`), with which the
// edge of stability is plainer than with cross-entropy. Gradients and products with the
// Hessian are exact; tests/book/test_live_network.py compares them with `flatlab`.
//
// The page needs live_digits.js, which holds the data, and an element
//   <div class="live-network" data-lr=".1" data-fork-lr=".05"></div>
// with any of lr, batch, rho, decay and seed; with data-fork-… a second run starts beside
// the first. Works without a server.
(() => {
  "use strict";

  // -- the network ---------------------------------------------------------------------

  const HIDDEN = 24; // an even number, as `dots` needs
  const TRAIN = 200;

  // z[i r + j s] = sum over p of a[i, p] b[j, p], for n rows of a and m (even) of b: four
  // by two sums at once, in registers, is several times as fast as one by one.
  function dots(a, n, b, m, length, z, r, s) {
    let i = 0;
    for (; i + 3 < n; i += 4) {
      const a0 = i * length;
      const a1 = a0 + length;
      const a2 = a1 + length;
      const a3 = a2 + length;
      for (let j = 0; j < m; j += 2) {
        const b0 = j * length;
        const b1 = b0 + length;
        let z00 = 0, z01 = 0, z10 = 0, z11 = 0, z20 = 0, z21 = 0, z30 = 0, z31 = 0;
        for (let p = 0; p < length; p += 1) {
          const u = b[b0 + p];
          const v = b[b1 + p];
          const x0 = a[a0 + p];
          const x1 = a[a1 + p];
          const x2 = a[a2 + p];
          const x3 = a[a3 + p];
          z00 += x0 * u; z01 += x0 * v; z10 += x1 * u; z11 += x1 * v;
          z20 += x2 * u; z21 += x2 * v; z30 += x3 * u; z31 += x3 * v;
        }
        let at = i * r + j * s;
        z[at] = z00; z[at + s] = z01; at += r;
        z[at] = z10; z[at + s] = z11; at += r;
        z[at] = z20; z[at + s] = z21; at += r;
        z[at] = z30; z[at + s] = z31;
      }
    }
    for (; i < n; i += 1)
      for (let j = 0; j < m; j += 1) {
        let sum = 0;
        for (let p = 0; p < length; p += 1) sum += a[i * length + p] * b[j * length + p];
        z[i * r + j * s] = sum;
      }
  }

  function transpose(a, rows, columns, to) {
    for (let i = 0; i < rows; i += 1)
      for (let j = 0; j < columns; j += 1) to[j * rows + i] = a[i * columns + j];
  }

  // Numbers from 0 to 1 (mulberry32).
  function random(seed) {
    let a = (seed + 1) * 0x9e3779b9;
    return () => {
      a = (a + 0x6d2b79f5) | 0;
      let t = Math.imul(a ^ (a >>> 15), 1 | a);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  const dot = (a, b) => {
    let sum = 0;
    for (let i = 0; i < a.length; i += 1) sum += a[i] * b[i];
    return sum;
  };

  // Pixels from 0 to 1 and one-hot labels of some examples.
  function examples({ pixels, labels }, from, to) {
    const size = pixels.length / labels.length;
    const n = to - from;
    const x = new Float64Array(n * size);
    for (let i = 0; i < n * size; i += 1) x[i] = (pixels.charCodeAt(from * size + i) - 65) / 16;
    const y = new Float64Array(n * 10);
    for (let i = 0; i < n; i += 1) y[i * 10 + Number(labels[from + i])] = 1;
    const xt = new Float64Array(n * size);
    transpose(x, n, size, xt);
    return { n, x, xt, y };
  }

  // Loss, gradient and Hessian of one network; arrays are made once and used again.
  class Network {
    constructor(data, hidden = HIDDEN) {
      this.train = examples(data, 0, TRAIN);
      this.test = examples(data, TRAIN, data.labels.length);
      const [d, h, c] = [this.train.x.length / TRAIN, hidden, 10];
      Object.assign(this, { d, h, c, weights: h * d + h + c * h + c });
      const most = Math.max(this.train.n, this.test.n);
      const array = (size) => new Float64Array(size);
      for (const name of ["a", "at", "da", "dat", "e", "et", "re", "ret"])
        this[name] = array(most * (name.startsWith("r") || name[0] === "e" ? c : h));
      for (const name of ["g", "gt", "back", "rg", "rback"]) this[name] = array(most * h);
      this.wt = array(h * c);
      this.vt = array(h * c);
      this.up = array(this.weights);
      this.batch = { n: 0, x: array(TRAIN * d), xt: array(TRAIN * d), y: array(TRAIN * c) };
    }

    // Views of the layers of w (or of anything of its shape).
    layers(w) {
      const { d, h, c } = this;
      const [p, q, r] = [h * d, h * d + h, h * d + h + c * h];
      return [w.subarray(0, p), w.subarray(p, q), w.subarray(q, r), w.subarray(r)];
    }

    // PyTorch's own: uniform within one over the root of the inputs.
    initial(seed) {
      const draw = random(seed);
      const w = new Float64Array(this.weights);
      this.layers(w).forEach((part, i) => {
        const bound = 1 / Math.sqrt(i < 2 ? this.d : this.h);
        for (let j = 0; j < part.length; j += 1) part[j] = (2 * draw() - 1) * bound;
      });
      return w;
    }

    // Hidden activations a and errors e = output - label.
    forward(w, { n, x, y }) {
      const { d, h, c, a, e } = this;
      const [w1, b1, w2, b2] = this.layers(w);
      dots(x, n, w1, h, d, a, h, 1);
      for (let i = 0, at = 0; i < n; i += 1)
        for (let j = 0; j < h; j += 1, at += 1) a[at] = 1 - 2 / (Math.exp(2 * (a[at] + b1[j])) + 1);
      dots(a, n, w2, c, h, e, c, 1);
      for (let i = 0, at = 0; i < n; i += 1)
        for (let j = 0; j < c; j += 1, at += 1) e[at] += b2[j] - y[at];
    }

    loss(w, data = this.train) {
      this.forward(w, data);
      let sum = 0;
      for (let i = 0; i < data.n * this.c; i += 1) sum += this.e[i] * this.e[i];
      return sum / (2 * data.n);
    }

    // Share of examples for which another digit has the highest output.
    error(w, data = this.test) {
      const { c, e } = this;
      this.forward(w, data);
      let wrong = 0;
      for (let i = 0; i < data.n; i += 1) {
        let [best, truth] = [0, 0];
        const output = (j) => e[i * c + j] + data.y[i * c + j];
        for (let j = 0; j < c; j += 1) {
          if (output(j) > output(best)) best = j;
          if (data.y[i * c + j]) truth = j;
        }
        wrong += best !== truth;
      }
      return wrong / data.n;
    }

    // The gradient of the loss at w goes to `to`; returns the loss.
    gradient(w, to, data = this.train) {
      const { d, h, c, a, at, e, et, g, gt, back, wt } = this;
      const { n } = data;
      const loss = this.loss(w, data);
      const [, , w2] = this.layers(w);
      const [g1, gb1, g2, gb2] = this.layers(to);
      for (let i = 0; i < n * c; i += 1) e[i] /= n;
      transpose(w2, c, h, wt);
      dots(e, n, wt, h, c, back, h, 1); // what comes back to the hidden units
      for (let i = 0; i < n * h; i += 1) g[i] = back[i] * (1 - a[i] * a[i]);
      transpose(a, n, h, at);
      transpose(e, n, c, et);
      transpose(g, n, h, gt);
      dots(data.xt, d, gt, h, n, g1, 1, d);
      dots(at, h, et, c, n, g2, 1, h);
      sums(gt, h, n, gb1);
      sums(et, c, n, gb2);
      return loss;
    }

    // H v by differentiating the gradient along v (Pearlmutter's R). Needs the arrays that
    // `gradient(w, …)` of all training examples has just left.
    product(w, v, to) {
      const { d, h, c, a, at, da, dat, e, et, re, ret, back, rg, gt, rback, wt, vt } = this;
      const { n, x, xt } = this.train;
      const [, , w2] = this.layers(w);
      const [v1, vb1, v2, vb2] = this.layers(v);
      const [h1, hb1, h2, hb2] = this.layers(to);
      dots(x, n, v1, h, d, da, h, 1);
      for (let i = 0, k = 0; i < n; i += 1)
        for (let j = 0; j < h; j += 1, k += 1) da[k] = (da[k] + vb1[j]) * (1 - a[k] * a[k]);
      // R of the errors: along a change of the activations, and of the outer weights.
      dots(da, n, w2, c, h, re, c, 1);
      dots(a, n, v2, c, h, ret, c, 1);
      for (let i = 0, k = 0; i < n; i += 1)
        for (let j = 0; j < c; j += 1, k += 1) re[k] = (re[k] + ret[k] + vb2[j]) / n;
      transpose(v2, c, h, vt);
      dots(re, n, wt, h, c, rback, h, 1);
      dots(e, n, vt, h, c, rg, h, 1);
      for (let k = 0; k < n * h; k += 1)
        rg[k] = (rback[k] + rg[k]) * (1 - a[k] * a[k]) - 2 * back[k] * a[k] * da[k];
      transpose(rg, n, h, gt);
      transpose(re, n, c, ret);
      transpose(da, n, h, dat);
      dots(xt, d, gt, h, n, h1, 1, d);
      sums(gt, h, n, hb1);
      const one = this.up.subarray(0, c * h);
      dots(at, h, ret, c, n, h2, 1, h);
      dots(dat, h, et, c, n, one, 1, h);
      for (let i = 0; i < c * h; i += 1) h2[i] += one[i];
      sums(ret, c, n, hb2);
    }

    // Some of the training examples, as data of their own.
    some(indices) {
      const { d, c, batch, train } = this;
      const n = indices.length;
      batch.n = n;
      indices.forEach((from, i) => {
        for (let j = 0; j < d; j += 1) {
          const pixel = train.x[from * d + j];
          batch.x[i * d + j] = pixel;
          batch.xt[j * n + i] = pixel;
        }
        for (let j = 0; j < c; j += 1) batch.y[i * c + j] = train.y[from * c + j];
      });
      return batch;
    }

    // One step, in place: w - lr (gradient at w + ε + decay w), where SAM's ε has length
    // rho along the gradient at w. Returns the loss at w.
    step(w, to, { lr, rho, decay }, data = this.train) {
      const { up } = this;
      const loss = this.gradient(w, to, data);
      if (rho > 0) {
        const length = Math.sqrt(dot(to, to));
        const far = length > 0 ? rho / length : 0;
        for (let i = 0; i < w.length; i += 1) up[i] = w[i] + far * to[i];
        this.gradient(up, to, data);
      }
      for (let i = 0; i < w.length; i += 1) w[i] -= lr * (to[i] + decay * w[i]);
      return loss;
    }
  }

  function sums(rows, many, length, to) {
    for (let j = 0; j < many; j += 1) {
      let sum = 0;
      for (let i = 0; i < length; i += 1) sum += rows[j * length + i];
      to[j] = sum;
    }
  }

  // -- the largest eigenvalue ----------------------------------------------------------

  // Eigenvector of the largest eigenvalue of a small symmetric matrix, by Jacobi rotations.
  function topOf(matrix) {
    const m = matrix.length;
    const a = matrix.map((row) => [...row]);
    const vectors = a.map((_, i) => a.map((__, j) => Number(i === j)));
    for (let sweep = 0; sweep < 30; sweep += 1)
      for (let p = 0; p < m; p += 1)
        for (let q = p + 1; q < m; q += 1) {
          if (Math.abs(a[p][q]) < 1e-300) continue;
          const theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
          const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1));
          const cos = 1 / Math.hypot(t, 1);
          const sin = t * cos;
          for (let k = 0; k < m; k += 1)
            [a[k][p], a[k][q]] = [cos * a[k][p] - sin * a[k][q], sin * a[k][p] + cos * a[k][q]];
          for (let k = 0; k < m; k += 1)
            [a[p][k], a[q][k]] = [cos * a[p][k] - sin * a[q][k], sin * a[p][k] + cos * a[q][k]];
          for (const row of vectors)
            [row[p], row[q]] = [cos * row[p] - sin * row[q], sin * row[p] + cos * row[q]];
        }
    let best = 0;
    for (let i = 1; i < m; i += 1) if (a[i][i] > a[best][best]) best = i;
    return { value: a[best][best], vector: vectors.map((row) => row[best]) };
  }

  // Lanczos from the best vector so far, again and again. As weights move little between
  // two frames, a few products from where the last frame ended are enough while it runs.
  class TopEigenvalue {
    constructor(network, seed = 0, size = 4) {
      const draw = random(seed + 1000);
      Object.assign(this, { network, size, products: 0 });
      this.vector = Float64Array.from({ length: network.weights }, () => draw() - 0.5);
      this.basis = Array.from({ length: size }, () => new Float64Array(network.weights));
      this.images = Array.from({ length: size }, () => new Float64Array(network.weights));
      this.scratch = new Float64Array(network.weights);
    }

    copy(network) {
      const twin = new TopEigenvalue(network, 0, this.size);
      twin.vector.set(this.vector);
      return twin;
    }

    // One round; needs what `gradient(w, …)` has left. Returns the eigenvalue found and
    // the length of H v - value v.
    round(w) {
      const { network, basis, images, size, vector, scratch } = this;
      scratch.set(vector);
      let m = 0;
      while (m < size) {
        // Orthogonal to what is there, twice, since once leaves rounding behind.
        for (let again = 0; again < 2; again += 1)
          for (let j = 0; j < m; j += 1) {
            const share = dot(scratch, basis[j]);
            for (let i = 0; i < scratch.length; i += 1) scratch[i] -= share * basis[j][i];
          }
        const length = Math.sqrt(dot(scratch, scratch));
        if (!(length > 1e-12)) break;
        for (let i = 0; i < scratch.length; i += 1) basis[m][i] = scratch[i] / length;
        network.product(w, basis[m], images[m]);
        this.products += 1;
        scratch.set(images[m]);
        m += 1;
      }
      const matrix = [];
      for (let i = 0; i < m; i += 1) {
        matrix.push([]);
        for (let j = 0; j < m; j += 1)
          matrix[i].push((dot(basis[i], images[j]) + dot(basis[j], images[i])) / 2);
      }
      if (!matrix.flat().every(Number.isFinite)) return { value: NaN, residual: NaN };
      const { value, vector: mix } = topOf(matrix);
      vector.fill(0);
      scratch.fill(0);
      mix.forEach((share, j) => {
        for (let i = 0; i < vector.length; i += 1) {
          vector[i] += share * basis[j][i];
          scratch[i] += share * images[j][i];
        }
      });
      let residual = 0;
      for (let i = 0; i < vector.length; i += 1) residual += (scratch[i] - value * vector[i]) ** 2;
      return { value, residual: Math.sqrt(residual) };
    }

    // Rounds until the residual is within tol times the value.
    converged(w, tol = 1e-6, most = 400) {
      this.network.gradient(w, new Float64Array(w.length));
      let found = this.round(w);
      for (let i = 1; i < most && found.residual > tol * Math.abs(found.value); i += 1)
        found = this.round(w);
      return found.value;
    }
  }

  // -- a run ---------------------------------------------------------------------------

  const MOST_POINTS = 1200; // of a curve; beyond, every other one is dropped

  class Run {
    constructor(network, settings, seed) {
      Object.assign(this, { network, settings: { ...settings } });
      this.gradient = new Float64Array(network.weights);
      this.restart(seed);
    }

    restart(seed) {
      this.w = this.network.initial(seed);
      this.draw = random(seed + 2000);
      this.top = new TopEigenvalue(this.network, seed);
      Object.assign(this, { steps: 0, order: [], diverged: false, history: [] });
      this.measure(20);
    }

    // Another run that goes on from here.
    fork() {
      const twin = Object.create(Run.prototype);
      return Object.assign(twin, this, {
        settings: { ...this.settings },
        gradient: new Float64Array(this.w.length),
        w: this.w.slice(),
        order: [...this.order],
        draw: random(this.steps + 3000),
        top: this.top.copy(this.network),
        history: [{ ...this.history[this.history.length - 1] }],
      });
    }

    nextBatch() {
      const { batch } = this.settings;
      if (batch >= TRAIN) return this.network.train;
      if (this.order.length < batch) {
        this.order = Array.from({ length: TRAIN }, (_, i) => i);
        for (let i = TRAIN - 1; i > 0; i -= 1) {
          const j = Math.floor(this.draw() * (i + 1));
          [this.order[i], this.order[j]] = [this.order[j], this.order[i]];
        }
      }
      return this.network.some(this.order.splice(0, batch));
    }

    step() {
      if (this.diverged) return;
      const loss = this.network.step(this.w, this.gradient, this.settings, this.nextBatch());
      this.steps += 1;
      if (!(loss < 100)) this.diverged = true;
    }

    // A point of the curves; λmax by so many rounds of Lanczos.
    measure(rounds = 1) {
      const { network, w, history } = this;
      const loss = network.gradient(w, this.gradient);
      if (!(loss < 100)) this.diverged = true;
      if (this.diverged && history.length) return;
      let sharpness = NaN;
      for (let i = 0; i < rounds; i += 1) sharpness = this.top.round(w).value;
      const error = network.error(w);
      const point = { step: this.steps, loss, error, sharpness, limit: 2 / this.settings.lr };
      if (history.length && history[history.length - 1].step === point.step) history.pop();
      history.push(point);
      if (history.length > MOST_POINTS)
        this.history = history.filter((_, i) => i % 2 === 0 || i === history.length - 1);
    }

    get last() {
      return this.history[this.history.length - 1];
    }
  }

  // -- elements ------------------------------------------------------------------------

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes))
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  let names = 0;
  const uniqueName = () => `live-network-${(names += 1)}`;

  // A number as text, with three digits.
  const short = (v) => {
    if (!Number.isFinite(v)) return "none";
    if (v === 0) return "0";
    return Math.abs(v) < 1e-3 ? v.toExponential(0).replace("e-", "·10^−") : String(Number(v.toPrecision(3)));
  };
  const whole = (v) => v.toLocaleString("en");

  // -- curves --------------------------------------------------------------------------

  function niceEnd(v) {
    const power = 10 ** Math.floor(Math.log10(v));
    return [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10].find((m) => m * power >= v * 0.9999) * power;
  }

  const LEFT = 42;
  const TOP = 22;
  const BOTTOM = 20;

  // A picture of one quantity over the steps, drawn anew in every frame.
  class Chart {
    constructor({ title, log = false, value, text, limit = false }) {
      Object.assign(this, { title, log, value, text, limit });
      this.canvas = element("canvas", { role: "img", "aria-label": title });
      this.box = element("div", { class: "ln-chart" }, this.canvas);
    }

    measure() {
      const ratio = globalThis.devicePixelRatio || 1;
      this.width = Math.max(120, this.box.clientWidth);
      this.height = this.canvas.clientHeight || 150;
      this.canvas.width = Math.round(this.width * ratio);
      this.canvas.height = Math.round(this.height * ratio);
      this.context = this.canvas.getContext("2d");
      this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    }

    range(runs) {
      let [low, high] = [Infinity, 0];
      for (const run of runs)
        for (const point of run.history) {
          const v = this.value(point);
          if (v > 0 && v < low) low = v;
          if (v > high && v < 1e3) high = v;
        }
      if (!(high > 0)) return this.log ? [0.1, 1] : [0, 1];
      if (this.log) return [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high))];
      // The line 2/η belongs in the picture, unless it is far above the curve.
      if (this.limit)
        for (const run of runs) if (run.last.limit < 2.5 * high) high = Math.max(high, run.last.limit);
      return [0, niceEnd(high * 1.08)];
    }

    draw(runs, steps, ink) {
      const { context, width, height } = this;
      const [low, high] = this.range(runs);
      const scale = this.log ? Math.log : (v) => v;
      const bottom = height - BOTTOM;
      const x = (step) => LEFT + (step / steps) * (width - LEFT - 10);
      const y = (v) =>
        bottom - ((scale(v) - scale(low)) / (scale(high) - scale(low))) * (bottom - TOP);
      context.clearRect(0, 0, width, height);
      context.font = "12px system-ui, sans-serif";
      context.fillStyle = ink.ink;
      context.textAlign = "left";
      context.fillText(this.title, 0, 12);
      context.strokeStyle = ink.grid;
      context.lineWidth = 1;
      context.setLineDash([]);
      context.beginPath();
      const marks = [];
      if (this.log) for (let v = low; v <= high * 1.001; v *= 10) marks.push(v);
      else for (let i = 0; i <= 2; i += 1) marks.push((high * i) / 2);
      context.textAlign = "right";
      for (const v of marks) {
        context.moveTo(LEFT, y(v));
        context.lineTo(width - 10, y(v));
        context.fillText(this.text(v), LEFT - 5, y(v) + 4);
      }
      context.stroke();
      context.textAlign = "center";
      for (const step of [0, steps / 2]) context.fillText(whole(step), x(step), height - 5);
      context.textAlign = "right";
      context.fillText(`${whole(steps)} steps`, width, height - 5);
      context.save();
      context.beginPath();
      context.rect(LEFT, TOP - 3, width - LEFT, bottom - TOP + 6);
      context.clip();
      runs.forEach((run, i) => {
        const line = (value, dash, thick) => {
          context.setLineDash(dash);
          context.lineWidth = thick;
          context.strokeStyle = ink.runs[i];
          context.beginPath();
          let pen = false;
          for (const point of run.history) {
            const v = value(point);
            if (!Number.isFinite(v) || (this.log && v <= 0)) {
              pen = false;
              continue;
            }
            if (pen) context.lineTo(x(point.step), y(v));
            else context.moveTo(x(point.step), y(v));
            pen = true;
          }
          context.stroke();
        };
        if (this.limit) line((point) => point.limit, [3, 3], 1.2);
        line(this.value, i ? [7, 3] : [], 1.8);
      });
      context.restore();
      if (!this.limit) return;
      runs.forEach((run, i) => {
        const at = run.last.limit;
        if (i && at === runs[0].last.limit) return;
        context.fillStyle = ink.runs[i];
        context.textAlign = "left";
        const words = `2/η = ${short(at)}`;
        if (at > high) context.fillText(`${words} ↑`, LEFT + 5 + 92 * i, TOP + 10);
        else context.fillText(words, LEFT + 5 + 92 * i, y(at) + (y(at) < TOP + 14 ? 13 : -4));
      });
    }

    describe(runs) {
      const said = runs.map((run, i) => {
        const from = this.text(this.value(run.history[0]));
        const line = this.limit ? `, with 2/η at ${short(run.last.limit)}` : "";
        return `run ${"AB"[i]} went from ${from} to ${this.text(this.value(run.last))}${line}`;
      });
      this.canvas.setAttribute("aria-label", `${this.title} over the steps: ${said.join("; ")}.`);
    }
  }

  const percent = (v) => `${Number((100 * v).toPrecision(2))} %`;
  const charts = () => [
    new Chart({ title: "training loss", log: true, value: (p) => p.loss, text: short }),
    new Chart({ title: "test error", log: true, value: (p) => p.error, text: percent }),
    new Chart({ title: "sharpness λmax, and 2/η", value: (p) => p.sharpness, text: short, limit: true }),
  ];

  // -- the explorer --------------------------------------------------------------------

  const SETTINGS = [
    { key: "lr", label: "learning rate η", values: [0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.5] },
    { key: "batch", label: "batch", values: [8, 20, 40, 100, 200], all: "200 (all)" },
    { key: "rho", label: "SAM’s ρ", values: [0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5], none: "0 (off)" },
    { key: "decay", label: "weight decay", values: [0, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1] },
  ];
  const START = { lr: 0.1, batch: 200, rho: 0, decay: 0, seed: 0 };
  const PER_FRAME = 20;
  const BUDGET = 12; // milliseconds of a frame; a slow machine takes fewer steps in each
  const PAUSE_AT = 20000; // steps, lest a page left open goes on for ever

  class LiveNetwork {
    constructor(root) {
      this.root = root;
      this.network = new Network(globalThis.liveDigits);
      const given = (prefix = "") => {
        const found = {};
        for (const key of ["lr", "batch", "rho", "decay", "seed"]) {
          const name = prefix ? prefix + key[0].toUpperCase() + key.slice(1) : key;
          if (root.dataset[name] !== undefined) found[key] = Number(root.dataset[name]);
        }
        return found;
      };
      const { seed, ...settings } = { ...START, ...given() };
      Object.assign(this, { seed, playing: false, seen: false, frames: [] });
      this.runs = [new Run(this.network, settings, seed)];
      this.charts = charts();
      this.build();
      const other = given("fork");
      if (Object.keys(other).length) {
        this.fork();
        Object.assign(this.runs[1].settings, other);
        this.showSettings();
      }
      this.wanted = !matchMedia("(prefers-reduced-motion: reduce)").matches;
      new IntersectionObserver(([entry]) => {
        this.seen = entry.isIntersecting;
        this.turn();
      }).observe(root);
      new ResizeObserver(() => {
        for (const chart of this.charts) chart.measure();
        this.draw();
      }).observe(this.panels);
      new MutationObserver(() => {
        this.colours();
        this.draw();
      }).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
      document.addEventListener("visibilitychange", () => this.turn());
      this.colours();
      this.refresh();
    }

    build() {
      const { root } = this;
      const title = uniqueName();
      const button = (text, onclick) => element("button", { type: "button", onclick }, text);
      this.playButton = button("Pause", () => this.play(!this.wanted));
      this.stepButton = button("Step", () => this.stepOnce());
      this.forkButton = button("Fork with other settings", () => this.fork());
      const seed = uniqueName();
      this.seedBox = element("select", {
        id: seed,
        onchange: () => {
          this.seed = Number(this.seedBox.value);
          this.reset();
        },
      });
      for (let i = 0; i < 10; i += 1) this.seedBox.append(element("option", { value: i }, String(i)));
      this.seedBox.value = this.seed;
      this.rows = element("div", { class: "ln-rows" });
      this.panels = element("div", { class: "ln-charts" }, ...this.charts.map((chart) => chart.box));
      this.readings = element("ul", { class: "ln-readings" });
      this.status = element("p", { class: "ln-status", role: "status" });
      root.classList.add("fx");
      root.setAttribute("role", "group");
      root.setAttribute("aria-labelledby", title);
      root.replaceChildren(
        element("p", { class: "fx-title", id: title }, root.dataset.title ?? "A network, training in this page"),
        element("p", { class: "fx-hint" }, root.dataset.hint ?? HINT),
        this.panels,
        this.readings,
        element(
          "div",
          { class: "fx-controls ln-buttons" },
          this.playButton, this.stepButton,
          button("Reset", () => this.reset()),
          element("span", { class: "fx-control" }, element("label", { for: seed }, "seed"), this.seedBox),
          this.forkButton,
        ),
        this.rows,
        this.status,
      );
      this.showSettings();
    }

    // A row of sliders for each run.
    showSettings() {
      this.rows.replaceChildren(
        ...this.runs.map((run, i) => {
          const name = `run ${"AB"[i]}`;
          const row = element("div", { class: `ln-row ln-run${i}`, role: "group", "aria-label": `Settings of ${name}` });
          if (this.runs.length > 1) row.append(element("span", { class: "ln-name" }, "AB"[i]));
          for (const { key, label, values, all, none } of SETTINGS) {
            const id = uniqueName();
            const text = (v) => (v === 200 && all) || (v === 0 && none) || short(v);
            const nearest = values.reduce((best, v, j) =>
              Math.abs(v - run.settings[key]) < Math.abs(values[best] - run.settings[key]) ? j : best, 0);
            const shown = element("output", { for: id }, text(run.settings[key]));
            const input = element("input", {
              id, type: "range", min: 0, max: values.length - 1, step: 1, value: nearest,
              "aria-valuetext": text(run.settings[key]),
              oninput: () => {
                run.settings[key] = values[Number(input.value)];
                shown.textContent = text(run.settings[key]);
                input.setAttribute("aria-valuetext", shown.textContent);
                if (run.diverged) this.say(`Run ${"AB"[i]} has diverged: reset to train again.`);
                run.measure();
                this.refresh();
              },
            });
            row.append(element("span", { class: "ln-setting" }, element("label", { for: id }, `${label} `), shown, input));
          }
          return row;
        }),
      );
    }

    say(text) {
      this.status.textContent = text;
    }

    colours() {
      const style = getComputedStyle(this.root);
      const read = (name) => style.getPropertyValue(name).trim();
      this.ink = { ink: read("--fx-ink"), grid: read("--fx-grid"), runs: [read("--fx-0"), read("--fx-1")] };
    }

    // -- what the buttons do

    play(wanted) {
      this.wanted = wanted;
      if (wanted && this.runs.every((run) => run.diverged)) this.reset();
      if (wanted) this.until = Math.max(PAUSE_AT, this.runs[0].steps + PAUSE_AT / 2);
      this.turn();
      if (!wanted) this.say(`Paused. ${this.report().join(" ")}`);
    }

    // Runs while it is wanted, in sight, and the page is in front.
    turn() {
      const going = this.wanted && this.seen && !document.hidden;
      this.playButton.textContent = this.wanted ? "Pause" : "Train";
      if (going === this.playing) return;
      this.playing = going;
      cancelAnimationFrame(this.next); // stopped and begun again within one frame
      if (going) this.next = requestAnimationFrame((now) => this.frame(now));
      else this.refresh();
    }

    stepOnce() {
      if (this.wanted) this.play(false);
      for (const run of this.runs) {
        run.step();
        run.measure(20);
      }
      this.say(this.report().join(" "));
      this.refresh();
    }

    reset() {
      for (const run of this.runs) run.restart(this.seed);
      this.until = PAUSE_AT;
      this.say(`Back at the start, with the weights of seed ${this.seed}.`);
      this.refresh();
    }

    fork() {
      if (this.runs.length > 1) {
        this.runs.pop();
        this.say("Run B is removed.");
      } else {
        this.runs.push(this.runs[0].fork());
        this.say("Run B goes on from the weights of run A: change one of its settings.");
      }
      this.forkButton.textContent = this.runs.length > 1 ? "Remove run B" : "Fork with other settings";
      this.showSettings();
      this.refresh();
    }

    // -- while it runs

    frame(now) {
      if (!this.playing || !this.root.isConnected) return;
      const started = performance.now();
      let taken = 0;
      while (taken < PER_FRAME && performance.now() - started < BUDGET) {
        for (const run of this.runs) run.step();
        taken += 1;
      }
      for (const run of this.runs) run.measure();
      this.refresh(false);
      this.frames.push({ now, taken, spent: performance.now() - started });
      if (this.frames.length > 600) this.frames.shift();
      const ended = this.runs.every((run) => run.diverged);
      if (ended || this.runs[0].steps >= (this.until ?? PAUSE_AT)) this.play(false);
      else this.next = requestAnimationFrame((next) => this.frame(next));
    }

    report() {
      return this.runs.map((run, i) => {
        const name = this.runs.length > 1 ? `${"AB"[i]}: ` : "";
        const { loss, error, sharpness, limit } = run.last;
        if (run.diverged) return `${name}diverged after ${whole(run.steps)} steps.`;
        return (
          `${name}step ${whole(run.steps)}, training loss ${short(loss)}, test error ` +
          `${(100 * error).toFixed(1)} %, λmax ${short(sharpness)}, 2/η ${short(limit)}.`
        );
      });
    }

    refresh(words = true) {
      this.draw();
      const now = performance.now();
      if (!words && now - (this.told ?? 0) < 200) return; // numbers that can be read
      this.told = now;
      const lines = this.report();
      if (this.readings.children.length !== lines.length)
        this.readings.replaceChildren(...lines.map((_, i) => element("li", { class: `ln-run${i}` })));
      lines.forEach((line, i) => {
        if (this.readings.children[i].textContent !== line) this.readings.children[i].textContent = line;
      });
      for (const chart of this.charts) chart.describe(this.runs);
    }

    draw() {
      if (!this.ink || !this.charts[0].context) return;
      const most = Math.max(...this.runs.map((run) => run.steps));
      const steps = niceEnd(Math.max(2000, most));
      for (const chart of this.charts) chart.draw(this.runs, steps, this.ink);
    }
  }

  const HINT =
    "Digits, 1,810 weights, plain gradient descent. The sharpness rises until it meets 2/η, and " +
    "stays there: the edge of stability. Lower η, or give SAM a ρ, and watch where it goes.";

  // -- where a page has one ------------------------------------------------------------

  // A switch between a network and the static figure before it, which it hides. Out of
  // sight the network waits.
  function offerFigure(root) {
    const figure = root.previousElementSibling;
    if (!figure?.matches(".live-figure")) return;
    const button = element("button", { class: "figure-switch", type: "button" }, "Static figure");
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(figure.classList.toggle("figure-shown")));
    });
    root.after(button);
  }

  const shown = [];
  globalThis.liveNetwork = { Network, Run, TopEigenvalue, topOf, shown };

  function start() {
    for (const root of document.querySelectorAll(".live-network")) {
      shown.push(new LiveNetwork(root));
      offerFigure(root);
    }
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
