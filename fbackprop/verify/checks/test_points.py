"""The battery: other arguments for the same rule, of the same shapes or with another N.

What a rule does at one random point says little about zeros, ties, saturation, a single example, a
remainder of a tile. Each regime here is made from the arguments that were given, so that it stays
in their domain as far as that can be seen: what isn't negative stays so, rows that sum to one still
do, a symmetric matrix is only scaled, integers stay within the range that was seen.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify.interpret.primitives import is_float
from fbackprop.verify.witnesses.arguments import Leaves, Signature


class Regime(NamedTuple):
  """Arguments, and the size of the cotangent.

  Attributes:
    name: as it is printed.
    leaves: float64 and others.
    loss_scale: multiplies the cotangent.
    only_finite: whether it may lie outside of what the rule is meant for: then it is asked to be
      finite where the truth is, and no more.
  """

  name: str
  leaves: Leaves
  loss_scale: float = 1.0
  only_finite: bool = False


def value_regimes(signature: Signature, leaves: Leaves, level: str, seed: int) -> list[Regime]:
  """Arguments of the same shapes."""
  rng = np.random.default_rng([seed, 3])

  def changed(name: str, change: Callable[[np.ndarray], np.ndarray], scale: float = 1.0) -> Regime:
    return Regime(name, of_floats(signature, leaves, change), scale)

  found = [changed("redrawn", lambda x: redrawn(rng, x))]
  if level == "quick":
    return found
  found += [
    changed("some entries zero", lambda x: with_zeros(rng, redrawn(rng, x))),
    changed("ties", lambda x: rounded_to_half(redrawn(rng, x))),
    changed("10 times larger", lambda x: scaled(redrawn(rng, x), 10.0)),
    changed("small", lambda x: scaled(redrawn(rng, x), 2.0**-10)),
    Regime("loss times 2^40", leaves, 2.0**40),
    Regime("loss times 2^-40", leaves, 2.0**-40),
    changed("columns of scale 1e-4 to 1e4", lambda x: column_scaled(rng, redrawn(rng, x))),
  ]
  for i in signature.floats:
    if leaves[i].size and len(signature.floats) <= 12:
      own = list(leaves)
      own[i] = np.zeros_like(leaves[i])
      found.append(Regime(f"{signature.names[i]} zero", own))
  if any(is_positive(leaves[i]) and not is_fixed(leaves[i]) for i in signature.floats):
    own = of_floats(signature, leaves, lambda x: with_signs(rng, x))
    found.append(Regime("signs changed", own, only_finite=True))
  found.append(changed("1e4 times larger", lambda x: scaled(redrawn(rng, x), 1e4)))
  if any(kind(x) in "iub" for x in leaves):
    labels = [relabelled(rng, x) if is_integer(x) else x for x in leaves]
    labels = [rng.permutation(np.asarray(x)) if kind(x) == "b" and x.ndim else x for x in labels]
    found.append(Regime("other labels", labels))
  if any(is_repeated(x) for x in leaves):
    for extreme, function in (("smallest", np.min), ("largest", np.max)):
      own = [np.full_like(x, function(x)) if is_repeated(x) else x for x in leaves]
      found.append(Regime(f"{extreme} label everywhere", own))
  if level == "deep":
    for again in range(2, 8):
      found += [
        changed(f"redrawn, {again}", lambda x: redrawn(rng, x)),
        changed(f"zeros and ties, {again}", lambda x: with_zeros(rng, rounded_to_half(x))),
        changed(f"100 times larger, {again}", lambda x: scaled(redrawn(rng, x), 100.0)),
      ]
  return found


def of_floats(
  signature: Signature, leaves: Leaves, change: Callable[[np.ndarray], np.ndarray]
) -> Leaves:
  """The leaves, the floats among them changed."""
  pairs = zip(leaves, signature.is_float, strict=True)
  return [change(np.asarray(x)) if real else x for x, real in pairs]


def is_integer(x: Any) -> bool:
  return kind(x) in "iu"


def kind(x: Any) -> str:
  """NumPy's letter for what an array holds; "V" for keys."""
  return x.dtype.kind if isinstance(x.dtype, np.dtype) else "V"


def is_positive(x: np.ndarray) -> bool:
  """Whether it looks like something that may not be negative."""
  return bool(x.size and (x >= 0).all() and (x > 0).any())


def are_probabilities(x: np.ndarray) -> bool:
  """Whether its rows sum to one."""
  return bool(x.ndim and x.size and (x >= 0).all() and np.allclose(x.sum(-1), 1, atol=1e-4))


def is_mask(x: np.ndarray) -> bool:
  """Whether it holds zeros and ones alone, both of them."""
  return bool(x.size > 1 and np.isin(x, (0.0, 1.0)).all() and (x == 0).any() and (x == 1).any())


def is_fixed(x: np.ndarray) -> bool:
  """Whether scaling it would leave its domain."""
  return are_probabilities(x) or is_mask(x)


def is_symmetric(x: np.ndarray) -> bool:
  """Whether it is a symmetric matrix; one number everywhere is a placeholder, and none."""
  square = x.ndim >= 2 and x.shape[-1] == x.shape[-2] > 1
  return bool(square and np.ptp(x) != 0 and np.array_equal(x, np.swapaxes(x, -1, -2)))


def kept(signature: Signature, leaves: Leaves) -> list[str]:
  """What every regime keeps of the arguments, so that the rule isn't seen without it."""
  found = []
  for i in signature.floats:
    name, x = signature.names[i], np.asarray(leaves[i])
    if is_symmetric(x):
      found.append(f"{name} but for symmetric matrices")
    elif is_mask(x):
      found.append(f"{name} but for zeros and ones")
    elif are_probabilities(x) and x.shape[-1] > 1:
      found.append(f"{name} but for numbers from 0 to 1")
    elif is_positive(x):
      found.append(f"{name} below zero, but for being finite there")
  return found


def redrawn(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """Other numbers of the same kind."""
  if x.size == 0 or is_symmetric(x):
    return x
  if are_probabilities(x) and x.shape[-1] > 1:
    rows = rng.exponential(size=x.shape) + 1e-3
    return np.asarray(rows / rows.sum(-1, keepdims=True))
  if is_mask(x):
    return rng.permutation(x.reshape(-1)).reshape(x.shape)
  if not np.isfinite(x).all():
    return x
  size = float(np.sqrt(np.mean(x**2))) or 1.0
  if is_positive(x):
    mixed = rng.permutation(x.reshape(-1)).reshape(x.shape)
    return np.asarray(mixed * np.exp(0.1 * rng.normal(size=x.shape)))
  if (x <= 0).all() and (x < 0).any():
    return -redrawn(rng, -x)
  return np.asarray(size * rng.normal(size=x.shape))


def with_zeros(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """A third of the entries exactly zero; rows of probabilities become one-hot."""
  if are_probabilities(x):
    return np.asarray(x == x.max(-1, keepdims=True), np.float64)
  if is_symmetric(x) or is_mask(x):
    return x
  return np.where(rng.random(x.shape) < 1 / 3, 0.0, x)


def rounded_to_half(x: np.ndarray) -> np.ndarray:
  """Multiples of 1/2: many entries are equal, and many sums zero; probabilities sum to less."""
  if are_probabilities(x) and x.shape[-1] > 1:
    return x * 0.75
  if is_symmetric(x) or is_mask(x):
    return x
  size = float(np.max(np.abs(x), initial=0.0)) or 1.0
  unit = 2.0 ** np.round(np.log2(size) - 1)
  near = np.round(2 * x / unit) / 2 * unit
  return np.where((near == 0) & is_positive(x), x, near)


def with_signs(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """Half of what was positive, negative."""
  if not is_positive(x) or is_fixed(x):
    return x
  return x * np.where(rng.permutation(np.arange(x.size)) % 2, 1.0, -1.0).reshape(x.shape)


def scaled(x: np.ndarray, factor: float) -> np.ndarray:
  """All entries larger, those of probabilities and masks apart."""
  return x if is_fixed(x) else x * factor


def column_scaled(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
  """The last axis from 1e-4 to 1e4."""
  if x.ndim == 0 or is_fixed(x) or is_symmetric(x):
    return x
  exponents = np.linspace(-4, 4, x.shape[-1])
  return np.asarray(x * 10.0 ** rng.permutation(exponents))


def relabelled(rng: np.random.Generator, x: Any) -> Any:
  """Other integers of the kind that was seen: a permutation stays one, what was sorted stays so."""
  x = np.asarray(x)
  if x.size < 2:
    return x
  seen = np.unique(x)
  if seen.size == x.size:
    return rng.permutation(x.reshape(-1)).reshape(x.shape)
  if seen[0] >= 0 and seen[-1] < 1000:
    seen = np.arange(seen[-1] + 1)
  # Each of them, as far as there is room.
  drawn = rng.permutation(np.resize(rng.permutation(seen), x.size)).reshape(x.shape).astype(x.dtype)
  return np.sort(drawn) if is_sorted(x) else drawn


def is_sorted(x: Any) -> bool:
  """Whether it is a row of integers that never fall."""
  return is_integer(x) and x.ndim == 1 and bool((np.diff(x) >= 0).all())


def is_repeated(x: Any) -> bool:
  """Whether integers repeat, as labels do and the entries of a permutation don't."""
  return is_integer(x) and x.size > 1 and np.unique(np.asarray(x)).size < x.size


def as_numpy(leaves: Sequence[Any]) -> Leaves:
  """Arrays in NumPy; keys stay what they are."""
  return [
    x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else
    np.asarray(x, np.float64) if is_float(x.dtype) else np.asarray(x)
    for x in leaves
  ]  # fmt: skip
