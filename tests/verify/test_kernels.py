"""Kernels that compute in float32 whatever they are given, so that their values are rounded."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from fbackprop.verify import vjp

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8)), jnp.float32)
W = jnp.asarray(np.random.default_rng(1).uniform(0.5, 2.0, size=8), jnp.float32)


def scale_of(x):
  return 1 / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)


def normalize_kernel(x_ref, w_ref, y_ref):
  x, w = x_ref[...].astype(jnp.float32), w_ref[...].astype(jnp.float32)
  y_ref[...] = (x * scale_of(x) * w[None]).astype(y_ref.dtype)


def backward_kernel(x_ref, w_ref, y_bar_ref, x_bar_ref, w_bar_ref, *, factor, share):
  x, w, y_bar = (r[...].astype(jnp.float32) for r in (x_ref, w_ref, y_bar_ref))
  s = scale_of(x)
  u_bar = y_bar * w[None]
  own = (u_bar * x).mean(-1, keepdims=True)
  x_bar_ref[...] = (s * u_bar - share * s**3 * x * own).astype(x_bar_ref.dtype)
  w_bar_ref[...] = (factor * (y_bar * x * s).sum(0)).astype(w_bar_ref.dtype)


def normalize(x, w):
  shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
  return pl.pallas_call(normalize_kernel, out_shape=shape, interpret=True)(x, w)


def normalize_vjp(x, w, factor=1.0, share=1.0):
  kernel = partial(backward_kernel, factor=factor, share=share)
  shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in (x, w)]
  call = pl.pallas_call(kernel, out_shape=shapes, interpret=True)
  return normalize(x, w), lambda y_bar: tuple(call(x, w, y_bar))


@pytest.mark.slow
@pytest.mark.parametrize("x", [X, X.at[0, 1].set(1e-3), 100 * X])
def test_a_right_kernel(x):
  """An entry that is small beside its leaf changes the scale by less than its rounding."""
  report = vjp(normalize, x, W, f_vjp=normalize_vjp, level="quick")
  assert report.verdict == "pass", report.table()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("leaf", "options"), [("w", {"factor": 1.01}), ("x", {"share": 0.0}), ("x", {"share": 0.9})]
)
def test_a_wrong_kernel(leaf, options):
  report = vjp(normalize, X, W, f_vjp=partial(normalize_vjp, **options), level="quick")
  assert report.verdict == "fail", report.table()
  assert report.findings[0].leaf == leaf, report.table()
  assert report.findings[0].index
