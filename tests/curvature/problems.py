"""Small problems, and their Hessians and Gauss–Newton matrices by autodiff, all entries."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import fbackprop as fb
from tests.support.witness import jit_quickly

N = 5
"""Examples; a prime."""

# Sums of some hundred terms of both signs, rounded in another order: 4,500 eps of the largest
# entry, as the laws of the rules have it.
TOLERANCE = 1e-12


class Problem(NamedTuple):
  """A network with its loss; `draw` gives the targets."""

  net: fb.Layer
  loss: fb.Loss
  d_in: int
  targets: str


def float64(make, *args, **options):
  return make(*args, dtype=jnp.float64, **options)


def mlp(sizes, activation, **options):
  return float64(fb.mlp, sizes, activation, **options)


def dense(d_in, d_out, **options):
  return float64(fb.dense, d_in, d_out, **options)


def forked():
  """A fork that is concatenated, and an addition: no node shares parameters."""
  nodes = {
    "h": (dense(3, 4), "x"),
    "a": (fb.tanh, "h"),
    "b": (fb.relu, "h"),
    "c": (fb.concatenate, "a", "b"),
    "d": (dense(8, 4), "c"),
    "s": (fb.add, "d", "a"),
    "y": (dense(4, 3, bias=False), "s"),
  }
  return fb.graph(nodes, output="y")


def shared(last):
  """One layer used twice in a row."""
  nodes = {
    "h": (dense(3, 3), "x"),
    "a": (fb.tanh, "h"),
    "g": (fb.shared("h"), "a"),
    "b": (fb.relu, "g"),
    "y": (last, "b"),
  }
  return fb.graph(nodes, output="y")


PROBLEMS = {
  "relu": Problem(mlp([3, 4, 5, 3], fb.relu), fb.softmax_cross_entropy, 3, "labels"),
  "norm": Problem(mlp([3, 4, 2], fb.gelu, normalization=fb.layer_norm), fb.log_cosh, 3, "values"),
  "skip": Problem(
    mlp([3, 4, 4, 3], fb.silu, normalization=fb.rms_norm, skip=True, bias=False),
    fb.softmax_cross_entropy_with(class_weights=[0.5, 1.0, 2.0], label_smoothing=0.1), 3, "labels",
  ),
  "repeat": Problem(
    mlp([3, 4, 4, 4, 2], fb.softplus, repeat_hidden=True), fb.poisson_nll, 3, "counts"
  ),
  "remat": Problem(
    fb.serial(fb.remat(fb.serial(dense(3, 4), fb.tanh)), dense(4, 4), fb.softmax, dense(4, 2)),
    fb.sigmoid_cross_entropy, 3, "shares",
  ),
  "graph": Problem(forked(), fb.squared_error, 3, "values"),
  "tied": Problem(
    shared(fb.transposed("h")),
    fb.combine((2.0, fb.huber, slice(0, 2)), (0.5, fb.squared_error, slice(1, 3))), 3, "two",
  ),
}  # fmt: skip


class Data(NamedTuple):
  """The arguments of a problem, in float64."""

  params: Any
  x: jax.Array
  targets: Any
  weights: jax.Array


@functools.cache
def data_of(name: str) -> Data:
  """Draw the arguments of a problem; to be called with x64 on."""
  problem = PROBLEMS[name]
  rng = np.random.default_rng(len(name))
  # Biases that aren't 0, as they begin; and no program is compiled for it.
  shapes = jax.eval_shape(problem.net.init, jax.random.key(0))
  params = jax.tree.map(lambda leaf: jnp.asarray(0.6 * rng.normal(size=leaf.shape)), shapes)
  x = jnp.asarray(rng.normal(size=(N, problem.d_in)))
  c = jax.eval_shape(problem.net.forward, params, x)[0].shape[1]
  targets = {
    "labels": lambda: jnp.asarray(rng.integers(0, c, N)),
    "values": lambda: jnp.asarray(rng.normal(size=(N, c))),
    "counts": lambda: jnp.asarray(rng.poisson(2, size=(N, c)).astype(float)),
    "shares": lambda: jnp.asarray(rng.uniform(size=(N, c))),
    "two": lambda: tuple(jnp.asarray(rng.normal(size=(N, 2))) for _ in range(2)),
  }[problem.targets]()
  return Data(params, x, targets, jnp.asarray(rng.uniform(0.5, 2, size=N)))


class Matrices(NamedTuple):
  """Of the weighted mean loss, `[P, P]`, and of each example's loss, `[N, P, P]`."""

  hessian: np.ndarray
  ggn: np.ndarray
  ggns: np.ndarray
  empirical: np.ndarray


@functools.cache
def matrices_of(name: str) -> Matrices:
  """Compute the matrices of a problem by autodiff; parameters in the order of `ravel_pytree`."""
  net, loss = PROBLEMS[name][:2]
  params, x, targets, weights = data_of(name)
  flat, unravel = ravel_pytree(params)

  def outputs_of(flat, row):
    return net.forward(unravel(flat), row[None])[0]

  def loss_of(outputs, target):
    return loss.forward(outputs, jax.tree.map(lambda t: t[None], target))[0][0]

  @jit_quickly
  def compute(flat):
    shares = weights / weights.sum()

    def of_one(row, target):
      jacobian = jax.jacrev(outputs_of)(flat, row)[0]
      outputs = outputs_of(flat, row)
      inner = jax.hessian(loss_of)(outputs, target)[0, :, 0, :]
      gradient = jax.grad(loss_of)(outputs, target)[0] @ jacobian
      return jacobian.T @ inner @ jacobian, jnp.outer(gradient, gradient)

    def mean(flat):
      return (shares * loss.forward(net.forward(unravel(flat), x)[0], targets)[0]).sum()

    ggns, empirical = jax.vmap(of_one)(x, targets)
    weigh = functools.partial(jnp.einsum, "n,npq->pq", shares)
    return jax.hessian(mean)(flat), weigh(ggns), ggns, weigh(empirical)

  return Matrices(*map(np.asarray, compute(flat)))


def assert_near(what, got, want):
  """Raise unless an array is right to `TOLERANCE` of the largest entry."""
  got, want = np.asarray(got), np.asarray(want)
  assert got.shape == want.shape, (what, got.shape, want.shape)
  scale = np.abs(want).max(initial=1e-3)
  worst = np.abs(got - want).max(initial=0.0) / scale
  assert worst <= TOLERANCE, f"{what}: off by {worst:.1e} of the largest entry"


def flat_of(tree):
  return ravel_pytree(tree)[0]
