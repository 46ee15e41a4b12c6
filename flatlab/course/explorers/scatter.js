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
  const { ylabel } = view.data;
  // Ranks are exact and give the correlations; values are rounded and give the picture.
  const column = ({ name, log, values, ranks }) => {
    const numbers = unpack(values).values;
    return { name, log, ranks: unpack(ranks).values, values: log ? numbers.map(Math.exp) : numbers };
  };
  const measures = view.data.measures.map(column);
  const gaps = column(view.data.gaps);
  const settings = view.data.axes.map(({ groups, ...axis }) => ({ ...axis, groups: unpack(groups).values }));
  choice(view, "measure", { label: "measure", options: measures.map((m) => m.name) });
  choice(view, "axis", { label: "colour", options: settings.map((a) => a.name) });
  const map = panel(view, { y: ylabel, height: 380 });
  map.figure.classList.add("fx-wide");
  const taus = new Map(); // pairs of networks are many: counted once for each choice
  const tau = (key, count) => {
    if (!taus.has(key)) taus.set(key, count());
    return taus.get(key);
  };
  const size = gaps.values.length > 300 ? 3 : 4.5; // dots, smaller where there are many
  const room = ([a, b]) => [a - 0.04 * (b - a || 1), b + 0.04 * (b - a || 1)];

  return () => {
    const { measure, axis } = view.values;
    const { name, log, values, ranks } = measures[measure];
    const { name: setting, groups, texts } = settings[axis];
    const ends = extent([values]);
    map.x = name;
    map.start({ x: log ? [ends[0] / 1.15, ends[1] * 1.15] : room(ends), y: room(extent([gaps.values])), logX: log });
    values.forEach((v, i) =>
      map.shape(v, gaps.values[i], { look: groups[i], size }),
    );
    map.names(texts.map((text, look) => [look, `${setting} ${text}`, "dot"]));
    const all = tau(`${measure}`, () => kendall(ranks, gaps.ranks));
    const same = tau(`${measure} ${axis}`, () => within(ranks, gaps.ranks, groups));
    const text =
      `Kendall's τ of ${name} and ${ylabel}: ${three(all)} over all ${gaps.ranks.length} networks, ` +
      `${three(same)} in the mean over networks of equal ${setting}`;
    map.finish(`One mark per network, ${ylabel} against ${name}, with a colour and a shape for each ${setting}. ${text}.`);
    view.say(`${text}.`);
  };
}

const HINT = "Choose a measure, and the setting that gives the colour.";

export default { render: (context) => explorer(context, HINT, build) };
export { kendall, within };
