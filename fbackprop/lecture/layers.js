// Dense layers, activations and losses in float64, each forward rule beside its backward rule.
//
// A batch is an array of N rows. As in the library, parameters are w [D_in][D_out] and b [D_out],
// the loss of a batch is the mean of its examples, and the mean enters as the seed cotangent 1/N.

const transposed = (rows) => rows[0].map((_, j) => rows.map((row) => row[j]));

function denseForward({ w, b }, x) {
  return x.map((row) => b.map((bias, j) => row.reduce((sum, value, i) => sum + value * w[i][j], 0) + bias));
}

function denseBackward({ w }, x, zBar) {
  // w_bar = xᵀ z_bar, b_bar = Σ_n z_bar, x_bar = z_bar wᵀ.
  const columns = transposed(zBar);
  const product = (a, b) => a.reduce((sum, value, n) => sum + value * b[n], 0);
  return {
    w: transposed(x).map((feature) => columns.map((column) => product(feature, column))),
    b: columns.map((column) => column.reduce((sum, value) => sum + value)),
    x: zBar.map((row) => w.map((weights) => product(row, weights))),
  };
}

function activationForward(name, z) {
  return z.map((row) => row.map((value) => GATES[name][0](value)));
}

function activationBackward(name, z, h, hBar) {
  return hBar.map((row, n) => row.map((bar, j) => GATES[name][1](bar, h[n][j], z[n][j])[0]));
}

const LOSSES = {
  // For each: the loss of an example, and its derivative by the output z; t is the target.
  sigmoid_cross_entropy: [
    (z, t) => t * softplus(-z) + (1 - t) * softplus(z),
    (z, t) => (1 - t) * sigmoid(z) - t * sigmoid(-z),
  ],
  squared_error: [(z, t) => 0.5 * (z - t) ** 2, (z, t) => z - t],
};

function networkForward(params, activation, x) {
  // Every layer's input, pre-activation and output; the last layer has no activation.
  const layers = [];
  for (const [l, layer] of params.entries()) {
    const z = denseForward(layer, x);
    const h = l < params.length - 1 ? activationForward(activation, z) : z;
    layers.push({ x, z, h });
    x = h;
  }
  return layers;
}

function lossForward(loss, outputs, targets) {
  const losses = outputs.map(([z], n) => LOSSES[loss][0](z, targets[n]));
  return losses.reduce((sum, each) => sum + each, 0) / losses.length;
}

function networkBackward(params, activation, loss, layers, targets) {
  // From the last layer to the first: the gradient by every weight, and every layer's cotangents.
  const seed = 1 / targets.length;
  let bar = layers.at(-1).h.map(([z], n) => [LOSSES[loss][1](z, targets[n]) * seed]);
  const found = [];
  for (let l = params.length - 1; l >= 0; l--) {
    const { x, z, h } = layers[l];
    const hBar = bar;
    const zBar = l < params.length - 1 ? activationBackward(activation, z, h, hBar) : hBar;
    const { w, b, x: xBar } = denseBackward(params[l], x, zBar);
    found.unshift({ w, b, zBar, hBar });
    bar = xBar;
  }
  return found;
}

function valueAndGrad({ params, activation, loss, x, targets }) {
  const layers = networkForward(params, activation, x);
  const value = lossForward(loss, layers.at(-1).h, targets);
  return { layers, value, grads: networkBackward(params, activation, loss, layers, targets) };
}

function descend(params, grads, rate) {
  // w ← w − η ∂L/∂w, for every weight and bias.
  return params.map(({ w, b }, l) => ({
    w: w.map((row, i) => row.map((value, j) => value - rate * grads[l].w[i][j])),
    b: b.map((value, j) => value - rate * grads[l].b[j]),
  }));
}

function initialise(sizes, activation, random) {
  // Normal weights of He's variance for relu and its kin, else Glorot's; biases are 0.
  const isHe = /relu|gelu|silu|mish/.test(activation);
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return sizes.slice(1).map((wide, l) => {
    const deviation = Math.sqrt(isHe ? 2 / sizes[l] : 2 / (sizes[l] + wide));
    const row = () => Array.from({ length: wide }, () => normal() * deviation);
    return { w: Array.from({ length: sizes[l] }, row), b: Array(wide).fill(0) };
  });
}

function generator(seed) {
  // Mulberry32, a small generator of uniform numbers, so that a seed repeats a network.
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function testNetworks(cases) {
  // Compare loss and gradients of every case with JAX's; each relative to the largest of its kind.
  let count = 0;
  let error = 0;
  for (const each of cases) {
    const { value, grads } = valueAndGrad(each);
    const ours = grads.flatMap(({ w, b }) => [...w.flat(), ...b]);
    const theirs = each.grads.flatMap(({ w, b }) => [...w.flat(), ...b]);
    count += 1 + theirs.length;
    error = Math.max(error, largestError([value], [each.value]), largestError(ours, theirs));
  }
  return { count, error, ok: error <= 1e-12 };
}
