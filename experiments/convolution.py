"""Can a layer that the package doesn't have be added from outside? A convolution, and a net of it.

Multilayer perceptrons are the basis of convolutional networks: a convolution is a dense layer that
is shared by all the places of a signal. Here it is one forward rule with its backward rule beside
it, written by hand and with public names only, and its rows for the table of cases.

  python experiments/convolution.py     three minutes or so on two cores

First every law is held against every row. Then a network of three convolutions and a multilayer
perceptron learn to tell ten shapes apart that may stand anywhere in a signal, as in MNIST-1D
(Greydanus, arXiv:2011.14439, 2020), and the gradient is compared with `jax.grad` meanwhile. The
results are in results/convolution.json.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fbackprop as fb
from fbackprop.quantities import Each, Outer
from fbackprop.verify.cases.layers import REFERENCES, affine, chain_of, layer_row
from tests.support import laws

RESULTS = Path(__file__).parent / "results" / "convolution.json"

# --- The rule -------------------------------------------------------------------------------------


class ConvParams(NamedTuple):
  """`w` `[K, C_in, C_out]`, a matrix for each of the K taps, and `b` `[C_out]`."""

  w: Any
  b: Any


class Places(NamedTuple):
  """How the window moves: by `stride`, over x with `padding` zeros at either end."""

  stride: int
  padding: int


def conv_forward(params: ConvParams, x: Any, places: Places) -> tuple[Any, Any]:
  """y_npo = Σ_k Σ_c x_n,sp+k,c w_kco + b_o: the sum of K dense layers on shifted inputs.

  Args:
    params: `w` `[K, C_in, C_out]`, `b` `[C_out]`.
    x: `[N, T, C_in]`, T points of C_in channels.
    places: stride s, and the zeros around x.

  Returns:
    `(y, residuals)`: y `[N, P, C_out]` for P places of the window; kept is x.
  """
  taps = tap_slices(params.w.shape[0], x.shape[1], places)
  padded = pad(x, places.padding)
  y = params.b[None, None, :]
  for k, tap in enumerate(taps):
    y = y + jnp.einsum("npc,co->npo", padded[:, tap], params.w[k])
  return y, x


def conv_backward(params: ConvParams, x: Any, y_bar: Any, places: Places) -> tuple[ConvParams, Any]:
  """Pulls a cotangent back through `conv_forward`: each tap is a dense layer, and the shares add.

  For each tap k, with x_k the points that it saw:   w_k_bar = Σ_n x_kᵀ y_bar,
  b_bar = Σ_np y_bar,   x_k_bar = y_bar w_kᵀ, which is added to x_bar where x_k was taken.

  Args:
    params: read for `x_bar` only.
    x: the residual: the layer's input, `[N, T, C_in]`.
    y_bar: cotangent of the output, `[N, P, C_out]`.
    places: as in the forward pass.

  Returns:
    `(params_bar, x_bar)`, `params_bar` summed over examples and places.
  """
  taps = tap_slices(params.w.shape[0], x.shape[1], places)
  padded = pad(x, places.padding)
  w_bar, padded_bar = [], jnp.zeros_like(padded)
  for k, tap in enumerate(taps):
    # On a mesh with Explicit axes JAX wants to know where a sum over split examples lives.
    whole = jax.typeof(params.w[k]).to_ct_aval().sharding
    w_bar.append(jnp.einsum("npc,npo->co", padded[:, tap], y_bar, out_sharding=whole))
    padded_bar += put_back(jnp.einsum("npo,co->npc", y_bar, params.w[k]), tap, padded.shape[1])
  x_bar = padded_bar[:, places.padding : places.padding + x.shape[1]]
  return ConvParams(jnp.stack(w_bar), y_bar.sum((0, 1))), x_bar


def tap_slices(taps: int, length: int, places: Places) -> list[slice]:
  """The points of the padded signal that each tap meets on its way."""
  last = places.stride * (place_count(taps, length, places) - 1)
  return [slice(k, k + last + 1, places.stride) for k in range(taps)]


def place_count(taps: int, length: int, places: Places) -> int:
  """How many places P the window has."""
  return (length + 2 * places.padding - taps) // places.stride + 1


def pad(x: Any, zeros: int) -> Any:
  """Zeros at either end of the signal."""
  return jnp.pad(x, ((0, 0), (zeros, zeros), (0, 0)))


def put_back(tap_bar: Any, tap: slice, length: int) -> Any:
  """Zeros `[N, length, C]` with `tap_bar` at the points that the slice took."""
  zero = jnp.zeros((), tap_bar.dtype)
  along = (tap.start, length - tap.stop, tap.step - 1)
  return jax.lax.pad(tap_bar, zero, ((0, 0, 0), along, (0, 0, 0)))


# --- The layer ------------------------------------------------------------------------------------


def conv(
  length: int,
  c_in: int,
  c_out: int,
  *,
  taps: int,
  stride: int = 1,
  padding: int = 0,
  dtype: Any = jnp.float32,
) -> fb.Layer:
  """A one-dimensional convolution as a `Layer`.

  A layer's batch is `[N, D]`, and so is this one's: point by point and, of a point, channel by
  channel, D_in = length · c_in. Then data enter as they are, a dense layer may follow as it is, and
  reshaping costs nothing.

  Args:
    length: points T of the signal.
    c_in, c_out: channels of a point that enter, and leave.
    taps: width K of the window.
    stride: points from one place of the window to the next.
    padding: zeros at either end.
    dtype: floating dtype of the parameters.

  Returns:
    The `Layer`, with parameters `ConvParams(w [taps, c_in, c_out], b [c_out])` and
    D_out = P · c_out, where P = (length + 2 padding - taps) // stride + 1.

  Raises:
    ValueError: the window doesn't fit in the signal; when traced: x or `params` don't fit.
  """
  name = f"conv({length}, {c_in}, {c_out})"
  places = Places(stride, padding)
  sizes_fit = min(length, c_in, c_out, taps, stride) >= 1 and padding >= 0
  if not sizes_fit or taps > length + 2 * padding:
    raise fb.ShapeError(f"{name}: {taps} taps, stride {stride}, padding {padding} have no place")
  count = place_count(taps, length, places)

  def init(key: Any) -> ConvParams:
    w = jax.nn.initializers.he_normal()(key, (taps, c_in, c_out), dtype)
    return ConvParams(w, jnp.zeros((c_out,), dtype))

  def check(params: Any) -> None:
    if not isinstance(params, ConvParams):
      raise fb.StructureError(f"{name}: params must be ConvParams(w, b), got {params!r}")
    check_shape("params.w", params.w, (taps, c_in, c_out))
    check_shape("params.b", params.b, (c_out,))

  def check_shape(what: str, value: Any, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
      raise fb.ShapeError(f"{name}: {what} must have shape {shape}, got {value.shape}")

  def forward(params: ConvParams, x: Any, key: Any = None) -> tuple[Any, Any]:
    check(params)
    n = x.shape[0]
    check_shape("x", x, (n, length * c_in))
    if x.dtype != params.w.dtype:
      raise fb.DtypeError(f"{name}: x must have dtype {params.w.dtype}, got {x.dtype}")
    y, _ = conv_forward(params, x.reshape(n, length, c_in), places)
    # x is kept as it came: so it is the array that the layer before keeps, and is stored once.
    return y.reshape(n, count * c_out), x

  def backward(params: ConvParams, x: Any, y_bar: Any) -> tuple[ConvParams, Any]:
    check(params)
    n = x.shape[0]
    check_shape("y_bar", y_bar, (n, count * c_out))
    params_bar, x_bar = conv_backward(
      params, x.reshape(n, length, c_in), y_bar.reshape(n, count, c_out), places
    )
    return params_bar, x_bar.reshape(x.shape)

  def factors(params: ConvParams, x: Any, y_bar: Any) -> tuple[ConvParams, Any]:
    """The gradient before it is summed over examples: each place is one use of the weights."""
    n, x_bar = x.shape[0], backward(params, x, y_bar)[1]
    padded, bars = pad(x.reshape(n, length, c_in), padding), y_bar.reshape(n, count, c_out)
    seen = [padded[:, tap] for tap in tap_slices(taps, length, places)]
    w = Outer(jnp.concatenate(seen, 2), bars, shape=(taps, c_in, c_out))
    return ConvParams(w, Each(bars.sum(1))), x_bar

  options = {"length": length, "c_in": c_in, "c_out": c_out, "taps": taps, **places._asdict()}
  layer = fb.Layer("conv", init, forward, backward, options=tuple(options.items()))
  return layer._replace(factors=factors)


# --- Its rows in the table ------------------------------------------------------------------------


def make_conv(dtype: Any, **options: int) -> fb.Layer:
  """A convolution small enough for every law."""
  return conv(**options, dtype=dtype)


def lax_conv(params: Any, x: Any, options: dict[str, int]) -> Any:
  """The same by `jax.lax`, which shares nothing with the rule above."""
  n, zeros = x.shape[0], options.get("padding", 0)
  y = jax.lax.conv_general_dilated(
    x.reshape(n, options["length"], options["c_in"]),
    params.w,
    window_strides=(options.get("stride", 1),),
    padding=[(zeros, zeros)],
    dimension_numbers=("NWC", "WIO", "NWC"),
  )
  return (y + params.b[None, None, :]).reshape(n, -1)


def make_net(dtype: Any, **options: int) -> fb.Layer:
  """A convolution, relu, and a dense layer that reads its places and channels as they come."""
  return fb.serial(make_conv(dtype, **options), fb.relu, fb.dense(9, 4, dtype=dtype))


PLAIN = {"length": 6, "c_in": 2, "c_out": 3, "taps": 3}
# Three places, at both ends over zeros; the last point of padding meets no tap.
STRIDED = {"length": 7, "c_in": 2, "c_out": 3, "taps": 4, "stride": 2, "padding": 1}

ROWS = (
  layer_row("conv", partial(make_conv, **PLAIN), 12, partial(lax_conv, options=PLAIN)),
  layer_row("conv_strided", partial(make_conv, **STRIDED), 14, partial(lax_conv, options=STRIDED)),
  layer_row(
    "conv_net",
    partial(make_net, **STRIDED),
    14,
    chain_of(partial(lax_conv, options=STRIDED), REFERENCES["relu"], affine),
    rest=True,
  ),
)


def check_laws() -> None:
  """Every law for every row; a law that is broken raises, and says where."""
  for row in ROWS:
    print(f"{row.id:<13}", end="", flush=True)
    checks = 0
    for law in laws.LAWS.values():
      for case, dtype in laws.rows(law, [row]):
        law(case, dtype)
        checks += 1
        print(".", end="", flush=True)
    print(f" {checks} checks hold")


# --- What it is good for --------------------------------------------------------------------------

CLASSES, LENGTH = 10, 40


def draw_signals(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
  """Ten smooth shapes, each stretched, tilted, scaled and put anywhere, under noise.

  Returns:
    `(x [n, 40], labels [n])`.
  """
  walks = np.random.default_rng(0).normal(size=(CLASSES, 12)).cumsum(1)  # The same for any seed.
  walks -= np.linspace(walks[:, 0], walks[:, -1], 12).T  # From zero to zero.
  walks /= walks.std(1, keepdims=True)
  rng = np.random.default_rng([1, seed])
  labels = rng.integers(CLASSES, size=n)
  x = np.zeros((n, LENGTH))
  for i, label in enumerate(labels):
    width = rng.integers(12, 19)
    start = rng.integers(0, LENGTH - width + 1)
    shape = np.interp(np.linspace(0, 11, width), np.arange(12), walks[label])
    x[i, start : start + width] = rng.uniform(0.7, 1.3) * shape
  x += rng.uniform(-1, 1, (n, 1)) * np.linspace(-1, 1, LENGTH)
  x += 0.2 * rng.normal(size=x.shape)
  return x.astype(np.float32), labels.astype(np.int32)


def conv_net() -> fb.Layer:
  """Three convolutions, each of which halves the signal; 6,000 parameters."""
  return fb.serial(
    conv(40, 1, 16, taps=5, stride=2, padding=2),
    fb.relu,
    conv(20, 16, 32, taps=3, stride=2, padding=1),
    fb.relu,
    conv(10, 32, 32, taps=3, stride=2, padding=1),
    fb.relu,
    fb.dense(5 * 32, CLASSES),
  )


def train(net: fb.Layer, seed: int, steps: int = 3000, n: int = 4000) -> fb.train.Result:
  """Adam on `n` signals, with a test on 1,000 others; our gradient is checked as it goes."""
  x, labels = draw_signals(seed, n + 1000)
  return fb.train.fit(
    net,
    fb.softmax_cross_entropy,
    (x[:n], labels[:n]),
    optimizer=optax.adam(2e-3),
    stop=fb.train.StopRules(max_steps=steps),
    key=jax.random.key(seed),
    batch_size=100,
    monitor=fb.train.Monitor(check_every=1000, test=(x[n:], labels[n:])),
  )


def main() -> None:
  """Checks the laws, trains, prints what was reached, and writes it down."""
  # One of the laws needs two devices.
  jax.config.update("jax_num_cpu_devices", 2)  # type: ignore[no-untyped-call]
  check_laws()
  nets = {"three convolutions": conv_net(), "mlp 40-100-100-10": fb.mlp([40, 100, 100, CLASSES])}
  rows: dict[str, list[float]] = {}
  for name, net in nets.items():
    leaves = jax.tree.leaves(jax.eval_shape(net.init, jax.random.key(0)))
    count = sum(leaf.size for leaf in leaves)
    results = [train(net, seed) for seed in range(3)]
    accuracies = rows[name] = [float(r.evaluations[-1].test_accuracy or 0) for r in results]
    error = max(check.rel_error for r in results for _, check in r.checks)
    shown = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies)
    print(
      f"{name} ({count} parameters): test accuracy {shown}; "
      f"worst gradient error against jax.grad {error:.1e}",
      flush=True,
    )
  RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
  main()
