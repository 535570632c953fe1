"""The rows of normalisation, dropout, skip, repeat, remat, and of networks that have them all."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from tests.cases_of_layers import affine, chain, layer_row, make_chain, params_and_x
from tests.table import CLASSES, Case

# --- Normalisation --------------------------------------------------------------------------------


def layer_normed(params, x, eps=1e-5):
  centered = x - x.mean(1, keepdims=True)
  x_hat = centered / jnp.sqrt((centered**2).mean(1, keepdims=True) + eps)
  return x_hat * params.scale[None, :] + params.shift[None, :]


def rms_normed(params, x, eps=1e-5):
  return x / jnp.sqrt((x**2).mean(1, keepdims=True) + eps) * params.scale[None, :]


def make_norm(dtype, norm, width=4, eps=1e-5):
  return norm(width, eps=eps, dtype=dtype)


def norm_row(name, norm, reference, eps=1e-5):
  make = partial(make_norm, norm=norm, eps=eps)
  row = layer_row(name, make, 4, partial(reference, eps=eps))
  return row._replace(kinks=partial(equal_features, make=make))


def equal_features(dtype, make):
  """No variance at all, and nothing but zeros: eps decides."""
  params, _ = params_and_x(np.random.default_rng(0), 2, dtype, make, 4)
  return [(params, np.array([[2.0] * 4, [0.0] * 4], dtype))]


# --- Dropout --------------------------------------------------------------------------------------

RATE = 0.3


def mask_of(key, shape):
  """The mask is a function of the key and the shape, whatever the dtype."""
  return jax.random.bernoulli(key, jnp.float32(1 - RATE), shape)


def dropped(params, x, mask):
  return jnp.where(mask, x / (1 - RATE), 0.0)


def make_dropout(dtype):
  return fb.dropout(RATE)


def with_key(rng, n, dtype, make, d_in):
  params, x = params_and_x(rng, n, dtype, make, d_in)
  return params, x, jax.random.key(int(rng.integers(2**31)))


def drawn_row(name, make, d_in, reference, masks, **options):
  """A layer that gets a key, whose reference gets the masks."""
  draw = partial(with_key, make=make, d_in=d_in)
  return Case(name, make, draw, reference, constants=masks, **options)


def one_mask(params, x, key):
  return (mask_of(key, x.shape),)


# --- Skip, repeat, remat --------------------------------------------------------------------------


def make_skip(dtype):
  return fb.skip(fb.serial(fb.dense(3, 4, dtype=dtype), fb.tanh, fb.dense(4, 3, dtype=dtype)))


def skipped(params, x):
  first, _, second = params
  return x + affine(second, jnp.tanh(affine(first, x)))


def make_repeat(dtype):
  """As `repeat` likes it: the activation first."""
  return fb.repeat(fb.serial(fb.tanh, fb.dense(3, 3, dtype=dtype)), 3)


def repeated(params, x):
  for i in range(3):
    x = affine(jax.tree.map(lambda leaf, i=i: leaf[i], params[1]), jnp.tanh(x))
  return x


# Three features can have hardly any variance, and their normalisation then multiplies every error.
# With this eps it doesn't.
TAME = 0.5


def make_repeat_of_skip(dtype):
  norm = fb.layer_norm(3, eps=TAME, dtype=dtype)
  block = fb.serial(fb.dense(3, 3, dtype=dtype), norm, fb.gelu)
  return fb.repeat(fb.skip(block), 2)


def repeated_skip(params, x):
  for i in range(2):
    dense, norm, _ = jax.tree.map(lambda leaf, i=i: leaf[i], params)
    x = x + jax.nn.gelu(layer_normed(norm, affine(dense, x), TAME), approximate=False)
  return x


def make_remat(dtype):
  return fb.remat(make_chain(dtype))


def make_noisy(dtype):
  """Dropout in a remat in a repeat, and one more in the chain around it."""
  block = fb.serial(fb.tanh, fb.dropout(RATE), fb.dense(3, 3, dtype=dtype))
  return fb.serial(fb.dropout(RATE), fb.repeat(fb.remat(block), 2), fb.dense(3, 2, dtype=dtype))


def noisy_masks(params, x, key):
  """Parts that draw are counted along a chain; a repeat splits its key."""
  keys = jax.random.split(jax.random.fold_in(key, 1), 2)
  inner = (mask_of(jax.random.fold_in(k, 0), x.shape) for k in keys)
  return mask_of(jax.random.fold_in(key, 0), x.shape), *inner


def noisy(params, x, first, *inner):
  x = dropped((), x, first)
  for i, mask in enumerate(inner):
    own = jax.tree.map(lambda leaf, i=i: leaf[i], params[1][2])
    x = affine(own, dropped((), jnp.tanh(x), mask))
  return affine(params[2], x)


# --- Networks -------------------------------------------------------------------------------------


def make_deep(dtype, **options):
  return fb.mlp([3, 4, 4, 4, CLASSES], fb.tanh, normalization=fb.rms_norm, dtype=dtype, **options)


def deep(params, x):
  into, blocks, norm, _, last = params
  x = affine(into, x)
  for i in range(2):
    block_norm, _, dense = jax.tree.map(lambda leaf, i=i: leaf[i], blocks)
    x = affine(dense, jnp.tanh(rms_normed(block_norm, x)))
  return affine(last, jnp.tanh(rms_normed(norm, x)))


def make_everything(dtype):
  return fb.mlp(
    [3, 4, 4, 4, CLASSES],
    fb.silu,
    normalization=fb.layer_norm,
    dropout=RATE,
    skip=True,
    repeat_hidden=True,
    dtype=dtype,
  )


def everything_masks(params, x, key):
  shape = (len(x), 4)
  keys = jax.random.split(jax.random.fold_in(key, 1), 2)
  inner = (mask_of(jax.random.fold_in(k, 0), shape) for k in keys)
  return mask_of(jax.random.fold_in(key, 0), shape), *inner


def everything(params, x, first, *inner):
  into, norm, _, _, blocks, last = params

  def block(dense, norm, x, mask):
    return dropped((), jax.nn.silu(layer_normed(norm, affine(dense, x))), mask)

  x = block(into, norm, x, first)
  for i, mask in enumerate(inner):
    dense, block_norm, _, _ = jax.tree.map(lambda leaf, i=i: leaf[i], blocks)
    x = x + block(dense, block_norm, x, mask)
  return affine(last, x)


# A loop hides from the law about reading parameters which copy they belong to: `test_structure.py`
# has it for `repeat`.
STRUCTURE = (
  norm_row("layer_norm", fb.layer_norm, layer_normed),
  norm_row("layer_norm_eps", fb.layer_norm, layer_normed, eps=0.5)._replace(slow=True),
  norm_row("rms_norm", fb.rms_norm, rms_normed),
  drawn_row("dropout", make_dropout, 3, dropped, one_mask),
  layer_row("skip", make_skip, 3, skipped),
  layer_row("repeat", make_repeat, 3, repeated, reads_own_params=True),
  layer_row("repeat_skip", make_repeat_of_skip, 3, repeated_skip, reads_own_params=True)._replace(
    slow=True
  ),
  layer_row("remat", make_remat, 3, chain, reads_own_params=True),
  drawn_row("noisy", make_noisy, 3, noisy, noisy_masks, reads_own_params=True, slow=True),
  layer_row(
    "mlp_deep", partial(make_deep, repeat_hidden=True), 3, deep, reads_own_params=True
  )._replace(slow=True),
  drawn_row(
    "mlp_everything",
    make_everything,
    3,
    everything,
    everything_masks,
    reads_own_params=True,
    slow=True,
  ),
)
