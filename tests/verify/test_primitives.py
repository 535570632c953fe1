"""Each primitive that the evaluator computes by NumPy, against JAX in every dtype that it takes."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fbackprop.jaxprs import equations_of
from fbackprop.verify.interpret import primitives
from fbackprop.verify.interpret.evaluation import Evaluator

DTYPES = (
  "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
  "bfloat16", "float32", "float64", "complex64", "complex128",
)  # fmt: skip
KNOWN = sorted({
  *primitives.EXACT, *primitives.ROUNDED, *primitives.TRANSCENDENTAL, *primitives.SUMS,
  *primitives.PASSED, "unstack", "fft",
})  # fmt: skip
MATRIX = (((1,), (0,)), ((), ()))


# These only say where an array lives.
OF_MESHES = {"mesh_cast", "pvary", "sharding_constraint"}


def of(names):
  """The calls of functions of `jax.lax` on arrays of one shape; those that this line has."""
  return {name: getattr(lax, name) for name in names.split() if hasattr(lax, name)}


# By the primitive, a function that is that primitive, of the arrays that it is given.
ONE = (
  of(
    "neg abs sign floor ceil round is_finite sqrt square rsqrt cbrt exp exp2 expm1 log log1p "
    "log2 sin cos tan tanh sinh cosh atan asin acos asinh logistic erf erfc erf_inv lgamma "
    "digamma one_minus_square stop_gradient bessel_i0e bessel_i1e"
  )
  | {
    "not": lax.bitwise_not,
    "digamma": lambda x: lax.digamma(x * x + 1),  # At its poles the lines of JAX differ.
    "round": lambda x: (lax.round(4 * x, 0), lax.round(4 * x, 1)),
    "broadcast_in_dim": lambda x: lax.broadcast_in_dim(x, (2, 3, 4), (1, 2)),
    "reshape": lambda x: lax.reshape(x, (2, 6)),
    "transpose": lambda x: lax.transpose(x, (1, 0)),
    "squeeze": lambda x: lax.squeeze(x[:1], (0,)),
    "slice": lambda x: lax.slice(x, (0, 1), (3, 4), (2, 1)),
    "rev": lambda x: lax.rev(x, (0,)),
    "reduce_max": lambda x: jnp.max(x, 0),
    "reduce_min": lambda x: jnp.min(x, (0, 1)),
    "reduce_sum": lambda x: lax.reduce_sum(x, (0,)),
    "reduce_or": lambda x: jnp.any(x, 0),
    "reduce_and": lambda x: jnp.all(x, 1),
    "argmax": lambda x: lax.argmax(x, 1, np.int32),
    "argmin": lambda x: lax.argmin(x, 0, np.int32),
    "cummax": lambda x: (lax.cummax(x, 0), lax.cummax(x, 1, reverse=True)),
    "cummin": lambda x: (lax.cummin(x, 0), lax.cummin(x, 1, reverse=True)),
    "cumsum": lambda x: (lax.cumsum(x, 0), lax.cumsum(x, 1, reverse=True)),
    "integer_pow": lambda x: (lax.integer_pow(x, 3), lax.integer_pow(x, 2)),
    "copy": jnp.copy,
    "reduce_precision": lambda x: lax.reduce_precision(x, 5, 4),
    "unstack": lambda x: tuple(jnp.unstack(x, axis=1)),
    "iota": lambda x: lax.iota(x.dtype, 4) if x.dtype != bool else x,
    "real": lax.real,
    "imag": lax.imag,
    "conj": lax.conj,
    "fft": lambda x: transforms(x),
  }
)
TWO = of("max min rem lt le gt ge eq ne add sub mul div atan2 pow") | {
  "and": lax.bitwise_and,
  "or": lax.bitwise_or,
  "xor": lax.bitwise_xor,
  "add_any": lambda x, y: jax.linear_transpose(lambda v: (v, v), x)((x, y))[0],
  "concatenate": lambda x, y: lax.concatenate([x, y], 1),
  "dot_general": lambda x, y: lax.dot_general(x, y.T, MATRIX),
  "clamp": lambda x, y: lax.clamp(x[0, 0], y, x[1, 1]),
  "select_n": lambda x, y: (lax.select(x > y, x, y), lax.select_n((x > y).astype(int), y, x, x)),
  "polynomial": lambda x, y: lax.polynomial(x, [y, x, y]) if hasattr(lax, "polynomial") else x,
  "optimization_barrier": lambda x, y: lax.optimization_barrier((x, y)),
  "complex": lax.complex,
  "shift_right_logical": lambda x, y: lax.shift_right_logical(x, 5 * y),
  "igamma": lambda x, y: lax.igamma(y * y + 1, x * x),
  "igammac": lambda x, y: lax.igammac(y * y + 1, x * x),
  "zeta": lambda x, y: lax.zeta(x * x + 2, y * y + 1),
  "regularized_incomplete_beta": lambda x, y: lax.betainc(x * x + 1, y * y + 1, x * x),
}


def transforms(x):
  if jnp.iscomplexobj(x):
    inverse = jnp.fft.irfft(x), jnp.fft.irfftn(x, (4, 5))
    return (jnp.fft.fft(x, axis=0), jnp.fft.ifft(x), jnp.fft.fftn(x), *inverse)
  return lax.fft(x, "rfft", (4,)), lax.fft(x, "rfft", (3, 4))


def cast(x):
  kinds = ("complex64", "complex128") if jnp.iscomplexobj(x) else DTYPES
  return tuple(lax.convert_element_type(x, dtype) for dtype in kinds)


CASTS = {"convert_element_type": cast}


def arrays(dtype):
  """Two arrays of a dtype; some entries are equal, some zero, some negative where that can be."""
  rng = np.random.default_rng(0)
  x, y = rng.integers(-6, 7, (3, 4)) / 8, rng.integers(-6, 7, (3, 4)) / 8
  if dtype == "bool":
    return jnp.asarray(x > 0), jnp.asarray(y > 0)
  if "int" in dtype:
    x, y = 8 * x, 8 * y
    return jnp.asarray(abs(x) if dtype[0] == "u" else x, dtype), jnp.asarray(abs(y), dtype)
  if "complex" in dtype:
    return jnp.asarray(x + 0.3j * y, dtype), jnp.asarray(y + 0.3j * x, dtype)
  return jnp.asarray(x, dtype), jnp.asarray(y, dtype)


def compare(got, want):
  """Integers are the same; floats and complex numbers to a few units of their dtype."""
  want = jnp.asarray(want)
  assert got.shape[1:] == want.shape
  if not jnp.issubdtype(want.dtype, jnp.inexact):
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got[0], want)
    return
  wide = np.complex128 if jnp.issubdtype(want.dtype, jnp.complexfloating) else np.float64
  unit = float(jnp.finfo(want.dtype).eps)
  want = np.asarray(want).astype(wide)
  np.testing.assert_allclose(got[0], want, rtol=8 * unit, atol=8 * unit)


def results(function, taken):
  """What the compiled function gives for each; None in a dtype for which XLA has no code.

  XLA's older emitters, which CI takes, clamp neither bools nor complex numbers.
  """

  def compiled(taken):
    return jax.jit(lambda taken: [function(*own) for own in taken])(taken)

  try:
    return compiled(taken)  # Once for all.
  except jax.errors.JaxRuntimeError as error:
    if "UNIMPLEMENTED" not in str(error):
      raise
    if len(taken) == 1:
      return [None]
  return [want for own in taken for want in results(function, [own])]


def programs(function, count):
  """The function's program in every dtype in which JAX takes it, with arguments and results."""
  taken = []
  for dtype in DTYPES:
    own = arrays(dtype)[:count]
    with contextlib.suppress(TypeError, ValueError, NotImplementedError):  # Not in this dtype.
      jax.jit(function).lower(*own)
      taken.append(own)
  return [
    (jax.make_jaxpr(function)(*own), own, want)
    for own, want in zip(taken, results(function, taken), strict=True)
    if want is not None
  ]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ONE | TWO | CASTS))
def test_equals_jax_in_every_dtype(name):
  function = (ONE | TWO | CASTS)[name]
  seen = 0
  with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
    for program, own, want in programs(function, 2 if name in TWO else 1):
      names = {equation.primitive.name for equation in equations_of(program)}
      seen += bool(names & {name, f"{name}_p"})
      evaluator = Evaluator()
      for got, one in zip(evaluator.run(program, own), jax.tree.leaves(want), strict=True):
        compare(got, one)
  assert seen or name in ("polynomial", "stop_gradient"), "the program has another primitive"


def test_every_primitive_is_compared():
  missing = set(KNOWN) - set(ONE | TWO | CASTS) - OF_MESHES
  absent = {"one_minus_square", "polynomial", "log2"} if not hasattr(lax, "log2") else set()
  assert missing <= absent | {"copy_p", "pcast", "reshard"}  # The latter two: test_meshes.
