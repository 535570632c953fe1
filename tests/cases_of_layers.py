"""The rows of activations, dense layers, chains, and plain networks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from tests.cases_of_gates import clipped, exact_gelu, leaky, same, tanh_gelu
from tests.table import CLASSES, Case, always


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


def activation_row(layer, function, kinks=False, slow=False):
  """The row of a lifted gate; slow, as the gate has a row of its own."""
  reference = partial(without_params, function)
  return layer_row(layer.name, partial(always, layer), 3, reference, kinks)._replace(slow=slow)


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
  activation_row(fb.softmax, jax.nn.softmax, kinks=True),
  *(
    activation_row(layer, function, slow=True)
    for layer, function in (
      (fb.leaky_relu, leaky),
      (fb.relu6, partial(clipped, low=0, high=6)),
      (fb.hard_tanh, partial(clipped, low=-1, high=1)),
      (fb.sigmoid, jax.nn.sigmoid),
      (fb.tanh, jnp.tanh),
      (fb.softplus, jax.nn.softplus),
      (fb.elu, jax.nn.elu),
      (fb.selu, jax.nn.selu),
      (fb.gelu, exact_gelu),
      (fb.gelu_tanh, tanh_gelu),
      (fb.silu, jax.nn.silu),
      (fb.mish, jax.nn.mish),
      (fb.identity, same),
    )
  ),
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
