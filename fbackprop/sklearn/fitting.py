"""What the host does of a fit: padding, the orders of the epochs, L-BFGS, and predictions."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.optimize
import scipy.sparse

from fbackprop.sklearn.programs import (
  Data,
  Numbers,
  Run,
  Spec,
  epochs_of,
  objective_of,
  outputs_of,
  structure_of,
)
from fbackprop.types import Params

# The most epochs of a call, and the most indices in its orders, which are 4 MB.
MOST_EPOCHS, MOST_INDICES = 32, 2**20
# Rows of a prediction: the few sizes that are compiled.
BLOCKS = (256, 2048, 16384)
FEW = 64


@contextmanager
def precision(dtype: Any) -> Iterator[None]:
  """Compute in this dtype, whatever the user's configuration; it is as before after the block."""
  with jax.enable_x64(np.dtype(dtype) == np.float64):
    yield


def padded_count(n: int) -> int:
  """Return the rows to which n rows are padded: a power of two, or an eighth of one more."""
  if n <= FEW:
    return max(16, 2 ** math.ceil(math.log2(n)))
  step: int = 2 ** (n.bit_length() - 4)
  return -(-n // step) * step


def padded_width(d: int, is_ours: bool) -> int:
  """Return the features to which d features are padded: few are cheap to compute with zeros.

  Their weights stay 0. An optimizer of optax isn't to see them: some look at means over a matrix.
  """
  return d if d > 16 or not is_ours else max(4, 2 ** math.ceil(math.log2(d)))


def padded(array: np.ndarray, *sizes: int) -> np.ndarray:
  """Append zeros up to the given sizes of the leading axes."""
  shape = (*sizes, *array.shape[len(sizes) :])
  if shape == array.shape:
    return array
  whole = np.zeros(shape, array.dtype)
  whole[tuple(map(slice, array.shape))] = array
  return whole


def make_data(spec: Spec, x: Any, targets: np.ndarray, weights: Any) -> Data:
  """Pad the rows, and put them on the device once."""
  n, dtype = len(x), np.dtype(spec.dtype)
  rows = padded_count(n)
  weights = np.ones(n, dtype) if weights is None else weights.astype(dtype)
  data = Data(
    padded(x, rows, spec.sizes[0]), padded(targets, rows), padded(weights, rows), np.int32(n)
  )
  return jax.device_put(data)


def pack(spec: Spec, coefs: Any, intercepts: Any) -> Params:
  """Convert scikit-learn's lists of arrays to the network's parameters."""
  dtype = np.dtype(spec.dtype)
  leaves = []
  for k, (w, b) in enumerate(zip(coefs, intercepts, strict=True)):
    w, b = np.asarray(w, dtype), np.asarray(b, dtype)
    leaves += [w if k else padded(w, spec.sizes[0]), b]
  return jax.tree.unflatten(structure_of(spec), leaves)


def unpack(params: Params, d: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Convert the network's parameters to scikit-learn's lists, of d features."""
  leaves = [np.array(leaf) for leaf in jax.tree.leaves(params)]
  return [leaves[0][:d].copy(), *leaves[2::2]], leaves[1::2]


class Course(NamedTuple):
  """What a fit leaves: its last state, the losses and the scores of its epochs, its end."""

  run: Run
  losses: list[float]
  scores: list[float]
  is_interrupted: bool


def run_epochs(
  spec: Spec,
  run: Run,
  data: Data,
  validation: Data | None,
  numbers: Numbers,
  key: Any,
  rng: np.random.RandomState,
  *,
  most: int,
  shuffles: bool,
  report: Callable[[Run, list[float], list[float]], None] | None,
) -> Course:
  """Train for at most `most` epochs, or until a stop rule fires, or an interrupt comes.

  Args:
    spec, run, data, validation, numbers, key: as for `epochs_of`.
    rng: draws the order of each epoch; it ends as if only those of the epochs taken were drawn.
    most: number of epochs.
    shuffles: whether the order is drawn; otherwise it is that of the rows.
    report: called after each epoch with the losses and scores so far; None to take several epochs
      by a call.
  """
  program, n = epochs_of(spec), int(data.n)
  width = -(-data.x.shape[0] // spec.batch) * spec.batch
  capacity = min(MOST_EPOCHS, max(1, MOST_INDICES // width))
  order = np.arange(n, dtype=np.int32)
  losses: list[float] = []
  scores: list[float] = []
  try:
    while len(losses) < most and not run.stopped:
      limit = min(capacity if report is None else 1, most - len(losses))
      orders, states = np.zeros((capacity, width), np.int32), []
      for epoch in range(limit):
        if shuffles:
          order = order[rng.permutation(n)]
          states.append(rng.get_state())
        orders[epoch, :n] = order
      new, own, found = program(run, data, validation, orders, np.int32(limit), numbers, key)
      taken = int(new.epochs) - len(losses)
      run = new._replace(stopped=bool(new.stopped))
      losses += np.asarray(own)[:taken].tolist()
      scores += np.asarray(found)[:taken].tolist()
      if states:
        rng.set_state(states[taken - 1])
      if report is not None:
        report(run, losses, scores)
  except KeyboardInterrupt:
    return Course(run, losses, scores, True)
  return Course(run, losses, scores, False)


def minimize(
  spec: Spec, params: Params, data: Data, numbers: Numbers, *, verbose: bool, **options: Any
) -> tuple[Params, float, Any]:
  """Minimise the loss over all rows by SciPy's L-BFGS-B.

  Args:
    spec, params, data, numbers: as for `objective_of`.
    verbose: whether the loss of each iteration is printed.
    **options: of SciPy's L-BFGS-B.

  Returns:
    `(params, loss, result)`: the loss that is reported, and SciPy's result.

  References:
    Byrd, Lu, Nocedal, Zhu, "A limited memory algorithm for bound constrained optimization", SIAM J.
    Scientific Computing 16 (1995).
  """
  objective = objective_of(spec)
  leaves, structure = jax.tree.flatten(params)
  # scikit-learn's order: all weights, then all biases.
  places = [*range(0, len(leaves), 2), *range(1, len(leaves), 2)]
  ends = np.cumsum([leaves[k].size for k in places])

  def of_vector(flat: np.ndarray) -> Params:
    parts = dict(zip(places, np.split(flat, ends[:-1]), strict=True))
    own = [parts[k].reshape(leaf.shape).astype(leaf.dtype) for k, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, own)

  def to_vector(tree: Params) -> np.ndarray:
    own = jax.tree.leaves(tree)
    return np.concatenate([np.asarray(own[k], np.float64).ravel() for k in places])

  def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
    total, _, grads = objective(of_vector(flat), data, numbers)
    return float(total), to_vector(grads)

  done = 0

  def show(intermediate_result: Any) -> None:
    nonlocal done
    done += 1
    print(f"Iteration {done}, loss = {intermediate_result.fun:.8f}")

  result = scipy.optimize.minimize(
    value_and_gradient, to_vector(params), method="L-BFGS-B", jac=True, options=options,
    callback=show if verbose else None,
  )  # fmt: skip
  params = of_vector(result.x)
  return params, float(objective(params, data, numbers)[1]), result


def outputs(spec: Spec, params: Params, x: Any) -> np.ndarray:
  """Compute the outputs `[N, C]` of rows `[N, D]`, also sparse ones, in blocks of few sizes."""
  program, n, start, found = outputs_of(spec), x.shape[0], 0, []
  while start < n:
    block = next((size for size in BLOCKS if size >= n - start), BLOCKS[-1])
    rows = x[start : start + block]
    rows = rows.toarray() if scipy.sparse.issparse(rows) else rows
    rows = padded(np.asarray(rows, spec.dtype), block, spec.sizes[0])
    found.append(np.asarray(program(params, rows))[: n - start])
    start += block
  return np.concatenate(found)


def is_finite(params: Params) -> bool:
  """Return whether all parameters are finite."""
  return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def draw_params(
  rng: np.random.RandomState, sizes: tuple[int, ...], gain: float, dtype: Any
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Draw weights and biases as scikit-learn does: U(−a, a) with a = √(`gain` / (D_in + D_out)).

  References:
    Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks",
    AISTATS (2010), eq. 16, with the gain 6; the biases too are scikit-learn's.
  """
  coefs, intercepts = [], []
  for d_in, d_out in itertools.pairwise(sizes):
    a = np.sqrt(gain / (d_in + d_out))
    coefs.append(rng.uniform(-a, a, (d_in, d_out)).astype(dtype))
    intercepts.append(rng.uniform(-a, a, d_out).astype(dtype))
  return coefs, intercepts
