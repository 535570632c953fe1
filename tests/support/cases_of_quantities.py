"""Captured networks, the gradient of each example by autodiff, and what follows from it in NumPy.

The witness is `vmap(jax.grad)` of the plain network's losses; every quantity is then written out
over its rows, with no factor in sight.
"""

import functools
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fbackprop as fb
from fbackprop import quantities as q
from tests.support.witness import jit_quickly

N = 4
CLIPPED = ("clipped_flat", "clipped_automatic", "clipped_per_layer")


def plain_mlp(wrap):
  return fb.mlp([3, 4, 2], fb.tanh, dense=wrap(fb.dense), dtype=jnp.float64)


def no_bias(wrap):
  return fb.mlp([3, 4, 2], fb.softplus, dense=wrap(fb.dense), bias=False, dtype=jnp.float64)


def deep_mlp(wrap):
  """Build layer normalisation, dropout, skips and a loop, as combined by `mlp`."""
  return fb.mlp(
    [3, 4, 4, 4, 2],
    dense=wrap(fb.dense),
    normalization=wrap(partial(fb.layer_norm, eps=1e-3)),
    dropout=0.3,
    skip=True,
    repeat_hidden=True,
    dtype=jnp.float64,
  )


def mixed(wrap):
  """Build every kind of factors, alone and in a loop, with rematerialisation and dropout."""
  dense, layer_norm, rms_norm = (
    partial(wrap(make), dtype=jnp.float64) for make in (fb.dense, fb.layer_norm, fb.rms_norm)
  )
  return fb.serial(
    layer_norm(3),
    fb.remat(fb.serial(dense(3, 3), fb.dropout(0.3))),
    fb.repeat(fb.skip(fb.serial(fb.silu, rms_norm(3), dense(3, 3, bias=False))), 2),
    dense(3, 2),
  )


def loops(wrap):
  """Build a loop in a loop, and a loop of a rematerialised layer."""
  dense, norm = (partial(wrap(make), dtype=jnp.float64) for make in (fb.dense, fb.rms_norm))
  block = fb.serial(fb.silu, norm(3), dense(3, 3, bias=False))
  return fb.serial(
    norm(3),
    fb.repeat(fb.skip(fb.repeat(block, 2)), 3),
    fb.repeat(fb.remat(dense(3, 3)), 2),
    dense(3, 2),
  )


class Problem(NamedTuple):
  """A network, captured and plain, with its loss and arguments."""

  captured: fb.Layer
  plain: fb.Layer
  loss: fb.Loss
  arguments: tuple[Any, ...]
  """params, x, targets, key."""


# Name: the network, its loss, and for each layer how many axes of copies its arrays have in front.
PROBLEMS = {
  "plain_mlp": (plain_mlp, fb.softmax_cross_entropy, (0, 0)),
  "mixed": (mixed, fb.squared_error, (0, 0, 1, 1, 0)),
  "no_bias": (no_bias, fb.squared_error, (0, 0)),
  "deep_mlp": (deep_mlp, fb.softmax_cross_entropy, (0, 0, 1, 1, 0)),
  "loops": (loops, fb.squared_error, (0, 2, 2, 1, 0)),
}
FAST = ("plain_mlp", "mixed")
"""The other problems repeat the same tests on other networks."""


@functools.cache
def problem_of(name):
  """Build a problem in float64, cached."""
  make, loss, _ = PROBLEMS[name]
  captured, plain = make(q.captured), make(lambda constructor: constructor)
  rng = np.random.default_rng(sorted(PROBLEMS).index(name))
  shapes = jax.eval_shape(plain.init, jax.random.key(0))
  params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), shapes)
  x = jnp.asarray(rng.normal(size=(N, 3)))
  labels = loss is fb.softmax_cross_entropy
  targets = rng.integers(0, 2, N).astype(np.int32) if labels else rng.normal(size=(N, 2))
  key = jax.random.key(5) if plain.draws else None
  return Problem(captured, plain, loss, (params, x, jnp.asarray(targets), key))


def factors_of(problem, params, x, targets, key):
  """Return the factors of the captured network's backward pass, with the seed 1 per example."""
  outputs, residuals = problem.captured.forward(params, x, key)
  losses, loss_residuals = problem.loss.forward(outputs, targets)
  outputs_bar = problem.loss.backward(loss_residuals, jnp.ones_like(losses))
  return problem.captured.backward(params, residuals, outputs_bar)[0]


PLAIN = (
  "gradient", "example_gradients", "example_sqnorms", "second_moment", "variance", "gram",
  "cosine_similarities", "noise_scale", "global_norm",
)  # fmt: skip


def quantities_of(factors, bound):
  """Compute every quantity, and the clipped gradient in every way."""
  ways = {name: name.removeprefix("clipped_") for name in CLIPPED}
  clipped = {name: q.clipped_gradient(factors, bound, clipping=own) for name, own in ways.items()}
  return {name: getattr(q, name)(factors) for name in PLAIN} | clipped


def everything(problem, *arguments):
  """Compute every quantity with every option, as one program."""
  factors = factors_of(problem, *arguments)
  n = arguments[1].shape[0]
  return {
    **quantities_of(factors, 0.7),
    "factors": factors,
    "layer_sqnorms": q.example_sqnorms(factors, per_layer=True),
    "half_gram": q.gram(factors, jax.tree.map(lambda f: f[..., : n // 2, :], factors)),
  }


@functools.cache
def found(name):
  """Run the compiled `everything` of a problem, cached."""
  problem = problem_of(name)
  return jit_quickly(partial(everything, problem))(*problem.arguments)


def example_gradients_by_autodiff(problem, params, x, targets, key):
  """Compute `vmap(jax.grad)`, with each example's dropout mask of the batch."""

  def loss_of(params, i):
    return problem.loss.forward(problem.plain.forward(params, x, key)[0], targets)[0][i]

  return jax.vmap(jax.grad(loss_of), (None, 0))(params, jnp.arange(x.shape[0]))


@functools.cache
def truth(name):
  """Return the true quantities of a problem: `{quantity: (value, scale)}`."""
  problem = problem_of(name)
  grads = jax.jit(partial(example_gradients_by_autodiff, problem))(*problem.arguments)
  return from_rows(jax.tree.map(np.asarray, grads), PROBLEMS[name][2])


def is_params(node):
  return isinstance(node, fb.DenseParams | fb.NormParams)


def from_rows(grads, copies, bound=0.7, stability=0.01):
  """Compute every quantity by its definition from per-example gradients, and its largest term."""
  n = jax.tree.leaves(grads)[0].shape[0]
  layers, structure = jax.tree.flatten(grads, is_leaf=is_params)
  rows = np.concatenate([g.reshape(n, -1) for g in jax.tree.leaves(grads)], 1)
  sqnorms = (rows**2).sum(1)

  def layer_squares(layer, axes):
    """Return `[*copies, N]`: copies are behind N in a gradient, and in front of it in factors."""
    total = sum((g**2).reshape(*g.shape[: 1 + axes], -1).sum(-1) for g in jax.tree.leaves(layer))
    return np.moveaxis(total, 0, -1)

  per_layer = [layer_squares(*pair) for pair in zip(layers, copies, strict=True)]

  def weighted(coefficients):
    """Compute Σ_i c_i g_i, with c [N] for all layers, or [*copies, N] for each."""
    made = []
    for layer, c in zip(layers, coefficients, strict=True):
      c = np.moveaxis(c, -1, 0)
      made.append(
        jax.tree.map(
          lambda g, c=c: (g * c.reshape(c.shape + (1,) * (g.ndim - c.ndim))).sum(0), layer
        )
      )
    return jax.tree.unflatten(structure, made)

  def entrywise(function):
    return jax.tree.map(function, grads)

  norms, everywhere = np.sqrt(sqnorms), len(layers)
  layer_bound = bound / math.sqrt(sum(math.prod(s.shape[:-1]) for s in per_layer))
  kernel = rows @ rows.T
  mean = rows.mean(0)
  trace, noise_of_mean = rows.var(0, ddof=1).sum(), rows.var(0, ddof=1).sum() / n
  sqnorm = (mean**2).sum() - noise_of_mean
  terms = np.abs(rows).sum(0).max()
  clipped_terms = np.abs(rows * np.minimum(1, bound / norms)[:, None]).sum(0).max()
  squares = (rows**2).sum(0).max()
  return {
    "gradient": (entrywise(lambda g: g.sum(0)), terms),
    "example_gradients": (grads, terms),
    "example_sqnorms": (sqnorms, sqnorms.max()),
    "layer_sqnorms": (jax.tree.unflatten(structure, per_layer), sqnorms.max()),
    "second_moment": (entrywise(lambda g: (g**2).sum(0)), squares),
    "variance": (entrywise(lambda g: g.var(0, ddof=1)), squares),
    "gram": (kernel, sqnorms.max()),
    "half_gram": (kernel[:, : n // 2], sqnorms.max()),
    "cosine_similarities": (kernel / np.outer(norms, norms), 1.0),
    "noise_scale": (
      q.NoiseScale(trace / sqnorm, trace, sqnorm),
      # The quotient has the relative error of its denominator.
      sqnorms.sum() * max(1.0, abs(trace / sqnorm**2), abs(1 / sqnorm)),
    ),
    "global_norm": (np.linalg.norm(rows.sum(0)), norms.sum()),
    "clipped_flat": (weighted([np.minimum(1, bound / norms)] * everywhere), clipped_terms),
    "clipped_automatic": (weighted([bound / (norms + stability)] * everywhere), clipped_terms),
    "clipped_per_layer": (
      weighted([np.minimum(1, layer_bound / np.sqrt(s)) for s in per_layer]),
      clipped_terms,
    ),
  }


QUANTITIES = (*PLAIN, *CLIPPED, "layer_sqnorms", "half_gram")


def assert_near(got, want, scale, tolerance=1e-12):
  """Raise unless structure and shapes agree, and each entry to 1e-12 of the largest term."""
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True
  ):
    place = jax.tree_util.keystr(path)
    assert a.shape == np.shape(b), place
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=place)
