"""Checks without a tolerance: what holds to the last bit, in the rule's own dtype, run as it is.

A zero cotangent gives zero; a cotangent times a power of two gives the same bits, scaled; the same
call gives the same bits after another call, and while another one is open; every cotangent has the
shape, dtype and weak type of its argument; arguments aren't changed.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.report.findings import Finding, RuleError
from fbackprop.verify.witnesses.arguments import Leaves, with_float0
from fbackprop.verify.witnesses.rules import Rule, first_line

# Powers of two, one of them negative: |y_bar| is linear in what is positive.
FACTORS = (2.0**7, 2.0**-7, -0.5)


def own_cotangents(outputs: Sequence[Any], y_bar: Sequence[np.ndarray]) -> Leaves:
  """The cotangents of all outputs, in their own dtypes."""
  floats = [o.dtype for o in outputs if is_float(o.dtype)]
  return with_float0(list(outputs), [jnp.asarray(b, d) for b, d in zip(y_bar, floats, strict=True)])


def call(rule: Rule, leaves: Sequence[Any], y_bar: Sequence[Any]) -> tuple[Leaves, Leaves]:
  """The rule as it is; whatever it raises comes as a RuleError.

  Raises:
    RuleError: also where JAX refuses what the rule returns.
  """
  try:
    return rule.both(leaves, y_bar)
  except RuleError:
    raise
  except Exception as error:
    raise as_rule_error(error) from error


def shapes_of_call(rule: Rule, leaves: Sequence[Any], y_bar: Sequence[Any]) -> None:
  """The same for its shapes and structure alone: nothing is computed.

  Raises:
    RuleError: as `call`.
  """
  backward, bars = rule.of_floats(y_bar)
  try:
    jax.eval_shape(backward, list(leaves), bars)
  except Exception as error:
    raise as_rule_error(error) from error


def as_rule_error(error: Exception) -> RuleError:
  """An error of the rule: of structure where JAX complains of what a custom rule returned."""
  if isinstance(error, RuleError):
    return error
  text = str(error)
  lowered = text.lower()
  is_structure = ("custom vjp" in lowered or "custom_vjp" in lowered or "bwd" in lowered) and any(
    word in lowered for word in ("structure", "shape", "dtype", "tuple", "cotangent", "produce")
  )
  check = "structure" if is_structure else "raises"
  return RuleError(check, f"{type(error).__name__}: {first_line(error)}")


def of_error(error: RuleError, regime: str) -> Finding:
  """The finding of an error."""
  return Finding(
    "fail", error.check, regime, error.leaf, message=str(error), cause=f"{error.check}:"
  )


def check_types(rule: Rule, leaves: Leaves, bars: Leaves) -> list[Finding]:
  """Dtype and weak type of every cotangent."""
  found = []
  for name, place, bar in zip(rule.signature.float_names, rule.signature.floats, bars, strict=True):
    leaf = leaves[place]
    if jnp.dtype(bar.dtype) != leaf.dtype:
      message = f"the cotangent of {name} must have dtype {leaf.dtype}, got {bar.dtype}"
      found.append(Finding("fail", "dtype", leaf=name, message=message, cause="dtype:"))
    elif getattr(bar, "weak_type", False) and not getattr(leaf, "weak_type", False):
      message = f"the cotangent of {name} is weakly typed: what it is added to decides its dtype"
      found.append(Finding("fail", "dtype", leaf=name, message=message, cause="dtype: weak type"))
  return found


def check_repeats(
  rule: Rule,
  first: tuple[Leaves, Leaves],
  other: tuple[Leaves, Leaves],
  bars: Leaves,
) -> list[Finding]:
  """The same call again, after another one; and a pullback kept open while another call runs."""
  call(rule, *other)
  again = call(rule, *first)[1]
  found = differing_bits(rule, "repeated call", again, bars)
  if found:
    return found
  leaves, y_bar = first
  try:
    y, pull = rule.pullback(leaves)
    call(rule, *other)
    tree = jax.tree.unflatten(jax.tree.structure(y), list(y_bar))
    opened, twice = pull(tree), pull(tree)
  except RuleError:
    raise
  except Exception as error:
    raise as_rule_error(error) from error
  found = differing_bits(rule, "pullback after another call", opened, bars)
  return found or differing_bits(rule, "pullback called twice", twice, bars)


def differing_bits(rule: Rule, check: str, got: Leaves, want: Leaves) -> list[Finding]:
  """A finding of the first leaf that isn't bitwise the same; NaN equals NaN."""
  for name, g, w in zip(rule.signature.float_names, got, want, strict=True):
    a, b = np.asarray(g, np.float64), np.asarray(w, np.float64)
    wrong = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if wrong.any():
      index = tuple(int(i) for i in np.argwhere(wrong)[0])
      return [
        Finding(
          "fail", check, "as given", name, index, float(a[index]), float(b[index]), 0.0,
          int(wrong.sum()), wrong.size, wrong.shape, "state: the result depends on other calls",
          "the same call gave other bits",
        )
      ]  # fmt: skip
  return []


def check_zero(
  rule: Rule, leaves: Leaves, y_bar: Leaves, bars: Leaves, regime: str
) -> list[Finding]:
  """A zero cotangent gives exactly zero.

  Where the derivative itself leaves the range of the dtype, 0 times infinity is NaN, and no fault:
  `bars`, of the cotangents `y_bar`, aren't finite there, which is judged elsewhere.
  """
  zero = [b if b.dtype == jax.dtypes.float0 else jnp.zeros_like(b) for b in y_bar]
  y, got = call(rule, leaves, zero)
  if not all(np.isfinite(np.asarray(v, np.float64)).all() for v in y if is_float(v.dtype)):
    return []
  for name, bar, usual in zip(rule.signature.float_names, got, bars, strict=True):
    numbers = np.asarray(bar, np.float64)
    wrong = (numbers != 0) & ~(np.isnan(numbers) & ~np.isfinite(np.asarray(usual, np.float64)))
    if wrong.any():
      index = tuple(int(i) for i in np.argwhere(wrong)[0])
      return [
        Finding(
          "fail", "zero cotangent", regime, name, index, float(numbers[index]), 0.0, 0.0,
          int(wrong.sum()), wrong.size, wrong.shape, "",
          "a cotangent of zero must give exactly zero",
        )
      ]  # fmt: skip
  return []


def check_scaling(
  rule: Rule, leaves: Leaves, y_bar: Leaves, bars: Leaves
) -> list[tuple[Finding, float]]:
  """Cotangents times ±2^k give the same bits, scaled; with each finding, its factor."""
  found = []
  for factor in FACTORS:
    scaled = [
      b if b.dtype == jax.dtypes.float0 else b * jnp.asarray(factor, b.dtype) for b in y_bar
    ]
    got = call(rule, leaves, scaled)[1]
    for name, g, w in zip(rule.signature.float_names, got, bars, strict=True):
      limits = jnp.finfo(g.dtype)
      a, b = np.asarray(g, np.float64), np.asarray(w, np.float64) * factor
      # What has left the normal range on the way may differ by what was flushed there.
      smallest = float(limits.tiny) * 2.0**40
      in_range = np.isfinite(a) & np.isfinite(b) & ((np.abs(a) > smallest) | (np.abs(b) > smallest))
      wrong = (a != b) & in_range
      if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        finding = Finding(
          "fail", "scaled cotangent", f"cotangent times {factor:g}", name, index,
          float(a[index]), float(b[index]), 0.0, int(wrong.sum()), wrong.size, wrong.shape,
          "cotangent: the rule isn't linear in it", "a power of two must scale every bit alike",
        )  # fmt: skip
        found.append((finding, factor))
        break
  return found


def check_donation(rule: Rule, leaves: Leaves, y_bar: Leaves) -> list[Finding]:
  """Compiled with its arguments' buffers given away, the rule gives the same bits."""
  keys = [jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in leaves]
  backward, bars = rule.of_floats(y_bar)

  def copies() -> tuple[Leaves, Leaves]:
    own = [x if is_key else jnp.array(x, copy=True) for x, is_key in zip(leaves, keys, strict=True)]
    return own, [jnp.array(b, copy=True) for b in bars]

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # JAX warns of each buffer that no output can use.
    try:
      kept = jax.jit(backward)(*copies())
      given = jax.jit(backward, donate_argnums=(1,) if any(keys) else (0, 1))(*copies())
    except Exception as error:
      raise as_rule_error(error) from error
  return [
    f._replace(cause="state: it differs when its buffers are donated")
    for f in differing_bits(rule, "donated arguments", given, kept)
  ]


def check_unchanged(rule: Rule, leaves: Leaves, y_bar: Leaves) -> list[Finding] | None:
  """NumPy arguments, strided ones, are as they were after the call.

  Returns:
    None if the rule doesn't take them: arrays of JAX can't be changed.
  """
  views = [strided(x) if is_float(x.dtype) and x.size else x for x in leaves]
  before = [np.array(v) if isinstance(v, np.ndarray) else v for v in views]
  try:
    rule.both(views, y_bar)
  except Exception:  # Whatever it raises.
    return None
  for name, view, old in zip(rule.signature.names, views, before, strict=True):
    if isinstance(view, np.ndarray) and not np.array_equal(view, old, equal_nan=True):
      message = f"the call has changed its argument {name}"
      return [Finding("fail", "arguments unchanged", leaf=name, message=message, cause="state:")]
  return []


def strided(x: Any) -> np.ndarray:
  """The same numbers in every second place of a larger array."""
  array = np.asarray(x)
  wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]) if array.ndim else (2,), array.dtype)
  view = wide[..., ::2] if array.ndim else wide[:1].reshape(())
  view[...] = array
  return view
