// The gates in float64, each forward rule beside its backward rule, as in fbackprop/gates.
//
// A rule is [forward(...xs), backward(yBar, y, ...xs)]: the backward rule returns, for each input,
// the upstream gradient yBar times the local one. Kinks and ties have the values of the library:
// a kink belongs to the piece that isn't the identity, and k tied inputs of max get 1/k each.

const sigmoid = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
const softplus = (z) => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
const density = (z) => Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI);
const normalCdf = (z) => 0.5 * erfc(-z * Math.SQRT1_2);

function erfc(x) {
  // The complementary error function: Abramowitz and Stegun 1964, 7.1.6 near 0, and the continued
  // fraction 7.1.14 beyond, where the series would cancel; both to about 1e-15 of the result.
  if (Number.isNaN(x)) return NaN;
  if (x < 0) return 2 - erfc(-x);
  if (x > 27.3) return 0;
  if (x < 1) {
    let term = x;
    let sum = x;
    for (let n = 1; n < 40; n++) sum += term *= (2 * x * x) / (2 * n + 1);
    return 1 - (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
  }
  let fraction = x;
  for (let n = 160; n > 0; n--) fraction = x + n / 2 / fraction;
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / fraction;
}

function twiceU(z) {
  // 2u = 2 √(2/π) (z + 0.044715 z³) and its derivative; beyond ±24 σ(2u) is 0 or 1.
  const c = 2 * Math.sqrt(2 / Math.PI);
  const x = Math.min(Math.max(z, -24), 24);
  return [c * (x + 0.044715 * x * x * x), c * (1 + 3 * 0.044715 * x * x)];
}

function mishSlope(z) {
  // t + z (1 - t²) σ(z) with t = tanh(ln(1 + e^z)) = n / (n + 2), n = e^z (e^z + 2); in e^-|z|.
  const e = Math.exp(-Math.abs(z));
  const denominator = z >= 0 ? 1 + 2 * e * (1 + e) : 2 + e * (2 + e);
  const t = (z >= 0 ? 1 + 2 * e : e * (2 + e)) / denominator;
  const rest = (z >= 0 ? 2 * e * e : 2) / denominator;
  return t + z * rest * (1 + t) * sigmoid(z);
}

const clip = (low, high) => [
  (z) => (z <= low ? low : z >= high ? high : z),
  (yBar, y) => [y <= low || y >= high ? 0 : yBar],
];
const elu = (scale, alpha) => [
  (z) => scale * (z > 0 ? z : alpha * Math.expm1(z)),
  (yBar, y) => [yBar * (y > 0 ? scale : y + scale * alpha)],
];
const route = (choose) => [
  (...xs) => choose(...xs),
  (yBar, y, ...xs) => {
    const won = xs.map((x) => x === y || Number.isNaN(x));
    const k = won.filter(Boolean).length;
    return won.map((is) => (is ? yBar / k : 0));
  },
];

const GATES = {
  add: [(...xs) => xs.reduce((a, b) => a + b), (yBar, y, ...xs) => xs.map(() => yBar)],
  subtract: [(a, b) => a - b, (yBar) => [yBar, -yBar]],
  negate: [(x) => -x, (yBar) => [-yBar]],
  multiply: [
    (...xs) => xs.reduce((a, b) => a * b),
    // The product of the others: y / x would be wrong where x is 0.
    (yBar, y, ...xs) => xs.map((_, i) => xs.reduce((p, x, j) => (j === i ? p : p * x), yBar)),
  ],
  divide: [(a, b) => a / b, (yBar, y, a, b) => [yBar / b, -(yBar / b) * y]],
  square: [(x) => x * x, (yBar, y, x) => [2 * x * yBar]],
  reciprocal: [(x) => 1 / x, (yBar, y) => [-yBar * y * y]],
  power: [
    // JavaScript alone has NaN for 1 ** NaN and 1 ** Infinity.
    (a, b) => (a === 1 ? 1 : a ** b),
    (yBar, y, a, b) => [
      yBar * (b === 0 ? 0 : b * a ** (b - 1)),
      // No gradient to the exponent where the base isn't above 0.
      yBar * (a <= 0 && !Number.isNaN(b) ? 0 : y * Math.log(a)),
    ],
  ],
  relu: [(z) => (z <= 0 ? 0 : z), (yBar, y) => [y <= 0 ? 0 : yBar]],
  leaky_relu: [(z) => (z <= 0 ? 0.01 * z : z), (yBar, y) => [y <= 0 ? 0.01 * yBar : yBar]],
  relu6: clip(0, 6),
  hard_tanh: clip(-1, 1),
  abs: [Math.abs, (yBar, y, z) => [yBar * Math.sign(z)]],
  max: route(Math.max),
  min: route(Math.min),
  identity: [(z) => z, (yBar) => [yBar]],
  exp: [Math.exp, (yBar, y) => [yBar * y]],
  log: [Math.log, (yBar, y, z) => [yBar / z]],
  sqrt: [Math.sqrt, (yBar, y) => [yBar / (2 * y)]],
  sin: [Math.sin, (yBar, y, z) => [yBar * Math.cos(z)]],
  cos: [Math.cos, (yBar, y, z) => [yBar * -Math.sin(z)]],
  sigmoid: [sigmoid, (yBar, y) => [yBar * y * (1 - y)]],
  tanh: [Math.tanh, (yBar, y) => [yBar * (1 - y) * (1 + y)]],
  softplus: [softplus, (yBar, y) => [yBar * -Math.expm1(-y)]],
  elu: elu(1, 1),
  selu: elu(1.0507009873554805, 1.6732632423543772),
  gelu: [(z) => z * normalCdf(z), (yBar, y, z) => [yBar * (normalCdf(z) + z * density(z))]],
  gelu_tanh: [
    (z) => z * sigmoid(twiceU(z)[0]),
    (yBar, y, z) => {
      const [v, slope] = twiceU(z);
      const s = sigmoid(v);
      return [yBar * (s + z * (s * sigmoid(-v) * slope))];
    },
  ],
  silu: [(z) => z * sigmoid(z), (yBar, y, z) => [yBar * sigmoid(z) * (1 + z * sigmoid(-z))]],
  mish: [(z) => z * Math.tanh(softplus(z)), (yBar, y, z) => [yBar * mishSlope(z)]],
};

function fanOut(circuit) {
  // The wires that leave each node: into gates in topological order, then as an output.
  const wires = Object.fromEntries(circuit.nodes.map((node) => [node.name, []]));
  for (const node of circuit.nodes)
    node.inputs.forEach((source, slot) => wires[source].push({ target: node.name, slot }));
  for (const [name] of circuit.outputs) wires[name].push({ target: null, slot: 0 });
  return wires;
}

function solve(circuit, inputs) {
  // Forward in topological order, then backward in reverse: as fbackprop/circuit/solver.py.
  const values = {};
  for (const { name, op, inputs: from, value } of circuit.nodes) {
    if (op === "input") values[name] = inputs[name];
    else if (op === "constant") values[name] = value;
    else values[name] = GATES[op][0](...from.map((each) => values[each]));
  }
  const bars = Object.fromEntries(circuit.outputs);
  const local = {};
  const downstream = {};
  for (const { name, op, inputs: from } of [...circuit.nodes].reverse()) {
    if (!from.length) continue;
    const xs = from.map((each) => values[each]);
    local[name] = GATES[op][1](1, values[name], ...xs);
    downstream[name] = from.map(() => 0);
    if (!(name in bars)) continue; // It leads to no output.
    downstream[name] = GATES[op][1](bars[name], values[name], ...xs);
    from.forEach((each, i) => {
      bars[each] = each in bars ? bars[each] + downstream[name][i] : downstream[name][i];
    });
  }
  for (const { name } of circuit.nodes) bars[name] ??= 0;
  const weights = Object.fromEntries(circuit.outputs);
  const shares = {};
  for (const [name, wires] of Object.entries(fanOut(circuit)))
    shares[name] = wires.map((w) => (w.target === null ? weights[name] : downstream[w.target][w.slot]));
  const terms = circuit.outputs.map(([name, w]) => (w === 1 ? values[name] : w * values[name]));
  return { values, bars, local, downstream, shares, value: terms.reduce((a, b) => a + b) };
}

function largestError(ours, theirs) {
  // The largest difference of two lists of numbers, relative to the largest finite one of theirs.
  const scale = Math.max(1e-300, ...theirs.map(Math.abs).filter(Number.isFinite));
  const error = (a, b) => {
    if (Object.is(a, b) || a === b) return 0;
    return Number.isFinite(a) && Number.isFinite(b) ? Math.abs(a - b) / scale : Infinity;
  };
  return Math.max(0, ...ours.map((a, i) => error(a, theirs[i])));
}

function selfTest(circuit) {
  // Compare every number with those that JAX computed at the points of circuit.checks.
  let count = 0;
  let error = 0;
  for (const check of circuit.checks) {
    const solved = solve(circuit, check.inputs);
    for (const kind of ["values", "bars", "local", "downstream"]) {
      const ours = Object.keys(check[kind]).flatMap((name) => solved[kind][name]);
      const theirs = Object.values(check[kind]).flat().map(Number);
      count += theirs.length;
      error = Math.max(error, largestError(ours, theirs));
    }
  }
  return { count, error, ok: error <= 1e-12 };
}
