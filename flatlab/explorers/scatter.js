// Many networks: a measure against what it should predict, with rank correlations.

// Kendall's tau-b of numbers, NaN where all are tied.
function kendall(a, b) {
  let [score, ties_a, ties_b] = [0, 0, 0];
  const n = a.length;
  for (let i = 0; i < n; i += 1)
    for (let j = 0; j < i; j += 1) {
      const [da, db] = [Math.sign(a[i] - a[j]), Math.sign(b[i] - b[j])];
      score += da * db;
      ties_a += da === 0;
      ties_b += db === 0;
    }
  const pairs = (n * (n - 1)) / 2;
  return score / Math.sqrt(pairs - ties_a) / Math.sqrt(pairs - ties_b);
}

// Mean of tau over groups of networks that agree in a setting.
function within(a, b, groups) {
  const found = [...new Set(groups)]
    .map((g) => {
      const members = [...groups.keys()].filter((i) => groups[i] === g);
      return kendall(members.map((i) => a[i]), members.map((i) => b[i]));
    })
    .filter((tau) => !Number.isNaN(tau));
  return found.length ? found.reduce((p, q) => p + q) / found.length : NaN;
}

const three = (tau) => (Number.isNaN(tau) ? "none" : tau.toFixed(3).replace("-", "−"));

function build(view) {
  const { ylabel, axes } = view.data;
  const measures = view.data.measures.map(({ name, values }) => ({ name, values: unpack(values).values }));
  const gaps = unpack(view.data.gaps).values;
  choice(view, "measure", { label: "measure", options: measures.map((m) => m.name) });
  choice(view, "axis", { label: "colour", options: axes.map((a) => a.name) });
  const map = panel(view, { y: ylabel, height: 380 });
  map.figure.classList.add("fx-wide");
  const taus = new Map(); // pairs of networks are many: counted once for each choice
  const tau = (key, count) => {
    if (!taus.has(key)) taus.set(key, count());
    return taus.get(key);
  };
  const room = ([a, b]) => [a - 0.04 * (b - a || 1), b + 0.04 * (b - a || 1)];

  return () => {
    const { measure, axis } = view.values;
    const { name, values } = measures[measure];
    const { name: setting, groups, texts } = axes[axis];
    const ends = extent([values]);
    const log = ends[0] > 0 && ends[1] > 30 * ends[0];
    map.x = name;
    map.start({ x: log ? [ends[0] / 1.15, ends[1] * 1.15] : room(ends), y: room(extent([gaps])), logX: log });
    values.forEach((v, i) =>
      map.dot(v, gaps[i], { look: groups[i], size: 4.5, name: groups[i] < 7 ? "fx-dot" : "fx-open" }),
    );
    map.names(texts.map((text, look) => [look, `${setting} ${text}`, look < 7 ? "fx-dot" : "fx-open"]));
    const all = tau(`${measure}`, () => kendall(values, gaps));
    const same = tau(`${measure} ${axis}`, () => within(values, gaps, groups));
    const text =
      `Kendall's τ of ${name} and ${ylabel}: ${three(all)} over all ${gaps.length} networks, ` +
      `${three(same)} in the mean over networks of equal ${setting}`;
    map.finish(`One dot per network, ${ylabel} against ${name}, coloured by ${setting}. ${text}.`);
    view.say(`${text}.`);
  };
}

export default { render: (context) => explorer(context, build) };
export { kendall, within };
