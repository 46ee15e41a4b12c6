// The terms of SAM's bound, computed here from the formula.

// As flatlab.bounds.sam_bound: as printed (with 8 ln(6n + 3k) for what the theorem
// leaves open), or re-derived without rounding any constant up.
function samBound({ worst, norm, rho, n, k, delta, derived }) {
  const growth = k * Math.log1p((norm / rho) ** 2 * (1 + Math.sqrt(Math.log(n) / k)) ** 2);
  const terms = derived
    ? {
        norm_term: growth / 4,
        confidence: 0.5 * Math.log((2 * Math.sqrt(n)) / delta),
        constant: 0.25 + 0.5 * Math.log(Math.PI ** 2 / 6) + Math.log(growth + 2),
        tail: (1 - worst) / Math.sqrt(n),
      }
    : {
        norm_term: growth,
        confidence: 4 * Math.log(n / delta),
        constant: 8 * Math.log(6 * n + 3 * k),
        tail: 0,
      };
  const degrees = derived ? n : n - 1;
  const root = Math.sqrt((terms.norm_term + terms.confidence + terms.constant) / degrees);
  const complexity = terms.tail + root;
  return { ...terms, degrees, complexity, worst_loss: worst, value: worst + complexity };
}

const STEPS = 10; // slider positions per factor of ten

function build(view) {
  const { norm, n, k, delta } = view.data;
  const radii = unpack(view.data.radii).values;
  const losses = unpack(view.data.losses).values;
  const last = radii.length - 1;
  const ends = [radii[0], radii[last]];
  const count = { rho: 61, n: view.data.above_n + view.data.below_n + 1, k: 71 };
  const value = {
    rho: (i) => ends[0] * (ends[1] / ends[0]) ** (i / (count.rho - 1)),
    n: (i) => Math.round(n * 10 ** ((i - view.data.below_n) / STEPS)),
    k: (i) => Math.max(1, Math.round(k * 10 ** ((i - 30) / STEPS))),
  };
  // Between the measured radii the loss is taken to be straight over log ρ.
  const worst = (rho) => {
    let i = 0;
    while (i < last - 1 && radii[i + 1] < rho) i += 1;
    const t = Math.log(rho / radii[i]) / Math.log(radii[i + 1] / radii[i]);
    return losses[i] + clamp(t, 0, 1) * (losses[i + 1] - losses[i]);
  };
  const signs = { rho: "ρ", n: "n", k: "k" };
  for (const key of ["rho", "n", "k"])
    slider(view, key, { label: signs[key], count: count[key], text: (i) => short(value[key](i)) });
  choice(view, "over", { label: "drawn over", options: Object.values(signs) });
  choice(view, "form", { label: "form", options: ["as printed", "re-derived"] });

  const sum = panel(view, { y: "bound on the test loss" });
  const parts = panel(view, { y: "terms under the root" });
  sum.names([[0, "bound"], [1, "worst loss in the ball"], [2, "complexity"]]);
  parts.names([[3, "norm and k"], [4, "confidence"], [5, "constant"]]);

  return () => {
    const now = Object.fromEntries(Object.keys(value).map((key) => [key, value[key](view.values[key])]));
    const at = (point) =>
      samBound({ ...point, norm, delta, worst: worst(point.rho), derived: view.values.form === 1 });
    const key = Object.keys(signs)[view.values.over];
    const xs = Float64Array.from({ length: count[key] }, (_, i) => value[key](i));
    const found = Array.from(xs, (x) => at({ ...now, [key]: x }));
    const here = at(now);
    const axes = { x: [xs[0], xs[xs.length - 1]], logX: true, logY: true };
    for (const p of [sum, parts]) p.x = signs[key];

    sum.start({ ...axes, y: [3e-4, 3000] });
    sum.rule({ y: 1 });
    sum.rule({ x: now[key], name: "fx-now" });
    ["value", "worst_loss", "complexity"].forEach((term, look) => {
      sum.line(xs, found.map((b) => b[term]), { look });
      sum.dot(now[key], here[term], { look, size: 5 });
    });
    sum.text(xs[0], 1, "above 1: says nothing");
    parts.start({ ...axes, y: [1e-9, 1e7] });
    parts.rule({ x: now[key], name: "fx-now" });
    ["norm_term", "confidence", "constant"].forEach((term, i) => {
      parts.line(xs, found.map((b) => b[term] / b.degrees), { look: i + 3 });
      parts.dot(now[key], here[term] / here.degrees, { look: i + 3, size: 5 });
    });
    const text =
      `worst loss ${short(here.worst_loss)} + complexity ${short(here.complexity)} = ` +
      `${short(here.value)}${here.value >= 1 ? ", which says nothing" : ""}`;
    sum.finish(`The bound and its two parts over ${signs[key]}: ${text}.`);
    const shares = ["norm_term", "confidence", "constant"].map((term) => short(here[term] / here.degrees));
    parts.finish(`Terms under the root over ${signs[key]}: norm ${shares[0]}, confidence ${shares[1]}, constant ${shares[2]}.`);
    view.say(
      `At ρ ${short(now.rho)}, n ${short(now.n)}, k ${short(now.k)}: ${text}. ` +
        `Under the root: norm ${shares[0]}, confidence ${shares[1]}, constant ${shares[2]}.`,
    );
  };
}

const HINT = "Move ρ, n and k. The norm of w and the measured losses stay as they are.";

export default { render: (context) => explorer(context, HINT, build) };
export { samBound };
