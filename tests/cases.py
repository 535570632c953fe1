"""The table of everything that has a backward rule: one row for each, and each row obeys each law.

A new gate, layer or loss joins by a row, here or in a file of its own (`laws.check(case)` runs
every law on any row). A row names the unit, says how to draw its arguments, and gives a reference:
the same function in plain `jax.numpy`, whose autodiff has the stated policy at kinks and ties.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb

TOLERANCE = {
  # Relative to the largest term that is summed for the leaf: see `witness.Truth`. An error of
  # rounding is a small multiple of eps of that term, whatever the sum came to; so no bound below is
  # relative to a result, or grows with the size of an array.
  #
  # 4,500 eps, as DESIGN states the law. Both sides round, each in its own order: sums of fewer than
  # 100 terms, three layers, exp and erfc of a few ULP. Right rules stay below 10 eps.
  "float64": 1e-12,
  # 34 eps. Only our side rounds, for the witness computes with the same numbers in float64. Right
  # rules stay below 6 eps here; the rest is room for other machines' exp, tanh and erfc.
  "float32": 4e-6,
  # Central differences of step 1e-5 in float64: truncated at step² = 1e-10 times the third
  # derivative, rounded at eps / step = 2e-11, times the terms of the sum.
  "differences": 1e-8,
}

CLASSES = 4
"""Outputs of the networks and inputs of the losses, so that any two of them make a model."""


class Case(NamedTuple):
  """A row: a unit, its arguments, and what it should be.

  Attributes:
    id: short and stable; documents link to `test_laws.py::test_...[id-dtype]`.
    make: `make(dtype)` builds the `Gate`, `Layer` or `Loss`.
    primals: `primals(rng, n, dtype)` draws the arguments of the forward rule for n examples, as
      NumPy arrays, away from kinks and ties: a gate's inputs, a layer's (params, x), or also a key,
      a loss's (outputs, targets).
    reference: the function of the same arguments, for autodiff to differentiate. It is given one
      example at a time, so that an example that sees another one in the unit is found out.
    kinks: `kinks(dtype)` lists arguments at kinks and ties, or where a rule is delicate.
    reads_own_params: true for a layer that isn't affine in its parameters (or that computes its
      forward pass again), and so is free to read them for its `params_bar`.
  """

  id: str
  make: Callable[[Any], fb.Gate | fb.Layer | fb.Loss]
  primals: Callable[[np.random.Generator, int, Any], tuple[Any, ...]]
  reference: Callable[..., jax.Array]
  kinks: Callable[[Any], list[tuple[Any, ...]]] | None = None
  reads_own_params: bool = False


def always(unit, dtype):
  """`make` of a unit that serves every dtype."""
  return unit


# --- Gates ----------------------------------------------------------------------------------------


def normal(rng, n, dtype, count):
  return tuple(rng.normal(size=(n, 3)).astype(dtype) for _ in range(count))


def away_from_zero(rng, n, dtype, count):
  """Sizes from 0.5 to 2, for what is divided by."""
  signs = rng.choice([-1, 1], size=(count, n, 3))
  return tuple((signs * rng.uniform(0.5, 2, size=(count, n, 3))).astype(dtype))


def positive(rng, n, dtype, count):
  return tuple(rng.uniform(0.5, 2, size=(count, n, 3)).astype(dtype))


def at_zero(dtype):
  return [(np.array([[0.0, -0.0, 1.0], [-1.0, 2.0, 0.0]], dtype),)]


def two_tied(dtype):
  a = np.array([[1.0, -2.0, 0.0], [3.0, 1.0, 0.0]], dtype)
  return [(a, np.array([[1.0, -2.0, -0.0], [2.0, 4.0, 0.0]], dtype))]


def three_tied(dtype):
  """No tie, each pair above or below the third, and all three."""
  a = np.array([[1.0, 2.0, 2.0], [0.0, 5.0, -0.0]], dtype)
  b = np.array([[2.0, 2.0, 0.0], [2.0, 5.0, 0.0]], dtype)
  return [(a, b, np.array([[3.0, 0.0, 2.0], [2.0, 5.0, 0.0]], dtype))]


def with_zeros(dtype, count):
  """Where the product of the others can't be had by dividing."""
  a, b = [[0.0, 0.0, 2.0], [0.0, 1.0, 2.0]], [[3.0, 0.0, 0.0], [0.0, 3.0, 1.0]]
  c = [[1.0, 4.0, 0.0], [0.0, 0.0, 5.0]]
  return [tuple(np.array(rows, dtype) for rows in (a, b, c)[:count])]


def sum_of(*xs):
  return jnp.stack(xs).sum(0)


def product_of(*xs):
  return jnp.stack(xs).prod(0)


def max_of(*xs):
  return jnp.stack(xs).max(0)


def min_of(*xs):
  return jnp.stack(xs).min(0)


def same(x):
  return x


exact_gelu = partial(jax.nn.gelu, approximate=False)


def gate_row(gate, reference, draw=normal, count=None, kinks=None):
  suffix = "" if count is None else f"_{count}"
  draw = partial(draw, count=gate.arity if count is None else count)
  return Case(f"gate_{gate.name}{suffix}", partial(always, gate), draw, reference, kinks)


GATES = (
  *(gate_row(fb.gates.add, sum_of, count=k) for k in (1, 2, 3)),
  gate_row(fb.gates.subtract, jnp.subtract),
  gate_row(fb.gates.negate, jnp.negative),
  *(
    gate_row(fb.gates.multiply, product_of, count=k, kinks=partial(with_zeros, count=k))
    for k in (1, 2, 3)
  ),
  gate_row(fb.gates.divide, jnp.divide, away_from_zero),
  gate_row(fb.gates.square, jnp.square, kinks=at_zero),
  gate_row(fb.gates.reciprocal, jnp.reciprocal, away_from_zero),
  gate_row(fb.gates.max, max_of, count=1),
  gate_row(fb.gates.max, max_of, count=2, kinks=two_tied),
  gate_row(fb.gates.max, max_of, count=3, kinks=three_tied),
  gate_row(fb.gates.min, min_of, count=1),
  gate_row(fb.gates.min, min_of, count=2, kinks=two_tied),
  gate_row(fb.gates.min, min_of, count=3, kinks=three_tied),
  gate_row(fb.gates.relu, jax.nn.relu, kinks=at_zero),
  gate_row(fb.gates.identity, same),
  gate_row(fb.gates.exp, jnp.exp),
  gate_row(fb.gates.log, jnp.log, positive),
  gate_row(fb.gates.sigmoid, jax.nn.sigmoid, kinks=at_zero),
  gate_row(fb.gates.tanh, jnp.tanh, kinks=at_zero),
  gate_row(fb.gates.gelu, exact_gelu, kinks=at_zero),
)


# --- Layers ---------------------------------------------------------------------------------------


def params_and_x(rng, n, dtype, make, d_in):
  """Parameters of the shapes that `init` makes, with biases that aren't zero."""
  shapes = jax.eval_shape(make(dtype).init, jax.random.key(0))

  def drawn(leaf):
    return (0.7 * rng.normal(size=leaf.shape)).astype(leaf.dtype)

  return jax.tree.map(drawn, shapes), rng.normal(size=(n, d_in)).astype(dtype)


def at_rest(dtype, make, d_in):
  """x = 0 and b = 0: every pre-activation is exactly zero."""
  params, x = params_and_x(np.random.default_rng(0), 2, dtype, make, d_in)

  def without_bias(leaf):
    return leaf if leaf.ndim > 1 else np.zeros_like(leaf)

  return [(jax.tree.map(without_bias, params), np.zeros_like(x))]


def layer_row(name, make, d_in, reference, rest=False, reads_own_params=False):
  kinks = partial(at_rest, make=make, d_in=d_in) if rest else None
  draw = partial(params_and_x, make=make, d_in=d_in)
  return Case(name, make, draw, reference, kinks, reads_own_params)


def affine(params, x):
  return x @ params.w if params.b is None else x @ params.w + params.b[None, :]


def without_params(function, params, x):
  return function(x)


def chain_of(*references):
  """The reference of a chain, from those of its layers."""

  def reference(params, x):
    for layer_params, f in zip(params, references, strict=True):
      x = f(layer_params, x)
    return x

  return reference


def activation_row(layer, function, kinks):
  reference = partial(without_params, function)
  return layer_row(layer.name, partial(always, layer), 3, reference, rest=kinks)


def make_dense(dtype, bias=True):
  return fb.dense(3, 4, bias=bias, dtype=dtype)


def make_chain(dtype):
  return fb.serial(fb.dense(3, 4, dtype=dtype), fb.tanh, fb.dense(4, 2, bias=False, dtype=dtype))


def make_nested(dtype):
  return fb.serial(make_chain(dtype), fb.sigmoid, fb.serial(fb.dense(2, 5, dtype=dtype), fb.relu))


def make_empty(dtype):
  return fb.serial()


def make_mlp(dtype, sizes, **options):
  return fb.mlp(sizes, dtype=dtype, **options)


tanh_of = partial(without_params, jnp.tanh)
relu_of = partial(without_params, jax.nn.relu)
gelu_of = partial(without_params, exact_gelu)
sigmoid_of = partial(without_params, jax.nn.sigmoid)
chain = chain_of(affine, tanh_of, affine)
nested = chain_of(chain, sigmoid_of, chain_of(affine, relu_of))


def mlp_row(name, sizes, hidden, last=(), rest=False, **options):
  reference = chain_of(*(affine, hidden) * (len(sizes) - 2), affine, *last)
  return layer_row(name, partial(make_mlp, sizes=sizes, **options), 3, reference, rest)


LAYERS = (
  activation_row(fb.relu, jax.nn.relu, kinks=True),
  activation_row(fb.sigmoid, jax.nn.sigmoid, kinks=False),
  activation_row(fb.tanh, jnp.tanh, kinks=False),
  activation_row(fb.gelu, exact_gelu, kinks=False),
  activation_row(fb.identity, same, kinks=False),
  layer_row("dense", make_dense, 3, affine),
  layer_row("dense_no_bias", partial(make_dense, bias=False), 3, affine),
  layer_row("chain", make_chain, 3, chain),
  layer_row("chain_nested", make_nested, 3, nested, rest=True),
  layer_row("chain_empty", make_empty, 3, chain_of()),
  mlp_row("mlp_relu", (3, 5, 2, CLASSES), relu_of, rest=True),
  mlp_row("mlp_tanh", (3, 5, 2, CLASSES), tanh_of, activation=fb.tanh),
  mlp_row("mlp_gelu", (3, 5, CLASSES), gelu_of, activation=fb.gelu),
  mlp_row(
    "mlp_output_activation",
    (3, 5, CLASSES),
    tanh_of,
    (sigmoid_of,),
    activation=fb.tanh,
    output_activation=fb.sigmoid,
  ),
  mlp_row("mlp_no_bias", (3, 5, CLASSES), relu_of, bias=False),
)


# --- Losses ---------------------------------------------------------------------------------------


def outputs_and(rng, n, dtype, targets):
  outputs = (2 * rng.normal(size=(n, CLASSES))).astype(dtype)
  return outputs, targets(rng, n, dtype)


def real_targets(rng, n, dtype):
  return rng.normal(size=(n, CLASSES)).astype(dtype)


def labels(rng, n, dtype):
  return rng.integers(0, CLASSES, n, dtype=np.int32)


def one_hot_rows(rng, n, dtype):
  return np.eye(CLASSES, dtype=dtype)[labels(rng, n, dtype)]


def rows(rng, n, dtype):
  """Weights that don't sum to one."""
  return rng.uniform(0.1, 1, size=(n, CLASSES)).astype(dtype)


def at_equal_outputs(dtype, targets):
  """All outputs 0: tied logits, σ = ½."""
  return [(np.zeros((2, CLASSES), dtype), targets(np.random.default_rng(0), 2, dtype))]


def half_squares(outputs, targets):
  return ((outputs - targets) ** 2).sum(1) / 2


def cross_entropy(outputs, targets):
  if targets.ndim == 1:
    targets = jax.nn.one_hot(targets, outputs.shape[1], dtype=outputs.dtype)
  return -(targets * jax.nn.log_softmax(outputs, axis=1)).sum(1)


def binary_cross_entropy(outputs, targets):
  yes, no = jax.nn.log_sigmoid(outputs), jax.nn.log_sigmoid(-outputs)
  return -(targets * yes + (1 - targets) * no).sum(1)


def loss_row(name, loss, targets, reference):
  kinks = partial(at_equal_outputs, targets=targets)
  return Case(name, partial(always, loss), partial(outputs_and, targets=targets), reference, kinks)


LOSSES = (
  loss_row("squared_error", fb.squared_error, real_targets, half_squares),
  loss_row("softmax_cross_entropy_labels", fb.softmax_cross_entropy, labels, cross_entropy),
  loss_row("softmax_cross_entropy_one_hot", fb.softmax_cross_entropy, one_hot_rows, cross_entropy),
  loss_row("softmax_cross_entropy_rows", fb.softmax_cross_entropy, rows, cross_entropy),
  loss_row("sigmoid_cross_entropy", fb.sigmoid_cross_entropy, rows, binary_cross_entropy),
)

CASES = (*GATES, *LAYERS, *LOSSES)
