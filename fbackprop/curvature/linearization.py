"""The network around a point: one forward pass, and the columns that pull back a curvature.

The generalized Gauss–Newton matrix (GGN) of the mean loss is Σ_n a_n J_nᵀ H_n J_n, with J_n the
derivative of example n's outputs by the parameters, H_n `[C, C]` that of its loss by the outputs,
and a_n its share of the mean. With a root H_n = Σ_r s_rn s_rnᵀ it is

  Σ_n Σ_r (J_nᵀ √a_n s_rn) (J_nᵀ √a_n s_rn)ᵀ:

a sum of squares of gradients, those of backward passes with the cotangents √a_n s_rn. A captured
network returns them as factors, pairs of x and ȳ, and x is the same in every pass.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fbackprop import checks
from fbackprop.combinators import remat
from fbackprop.errors import StructureError, check_choice, check_that
from fbackprop.layers.factors import ByParameter, is_factors
from fbackprop.losses.rows import curvature_of, sampler_of
from fbackprop.quantities.capture import captured, read
from fbackprop.ranges import Range, check_range
from fbackprop.transforms import check_batch, mean_weights
from fbackprop.types import Array, Layer, Loss, Params, Residuals

Kind = Literal["exact", "monte_carlo", "empirical"]
KINDS: tuple[Kind, ...] = ("exact", "monte_carlo", "empirical")


class Linearization(NamedTuple):
  """A network and its loss at one point.

  Attributes:
    net: the network, its layers captured.
    loss: the loss.
    params, targets: the point.
    outputs, residuals: of the network's forward pass.
    losses, loss_residuals: of the loss's, `[N]` and a pytree.
    shares: ∂(mean)/∂losses_n, `[N]`: 1/N, or w_n / Σ w.
  """

  net: Layer
  loss: Loss
  params: Params
  targets: Any
  outputs: Array
  residuals: Residuals
  losses: Array
  loss_residuals: Residuals
  shares: Array


def check_model(where: str, net: Any, loss: Any) -> None:
  """Raise unless these are a network and a loss."""
  checks.check_unit(where, "net", net, Layer)
  checks.check_unit(where, "loss", loss, Loss)


def linearize(
  where: str, net: Layer, loss: Loss, params: Params, x: Any, targets: Any, key: Any, weights: Any
) -> Linearization:
  """Run the forward passes of the network and of the loss, and check their arguments."""
  check_batch(where, x, targets, key)
  outputs, residuals = net.forward(params, x, key)
  losses, kept = loss.forward(outputs, targets)
  shares = mean_weights(losses, weights, where)
  return Linearization(net, loss, params, targets, outputs, residuals, losses, kept, shares)


def without_remat(net: Layer) -> Layer:
  """Return a network that keeps its residuals, since many columns are pulled back through them."""
  options = dict(net.options)
  combinator = options.pop("combinator", None)
  if combinator is None:
    return net
  parts = [without_remat(part) for part in net.parts]
  if combinator is remat:
    return parts[0]
  made: Layer = combinator(*parts, **options)
  return made._replace(name=net.name)


def ready(net: Layer) -> Layer:
  """Return the network of which columns are pulled back, captured and without `remat`."""
  made: Layer = captured(without_remat(net))
  return made


# --- Columns --------------------------------------------------------------------------------------


def check_kind(where: str, kind: Any, samples: Any) -> None:
  """Raise unless there is such a kind of Fisher information, and that number of samples."""
  check_choice(where, "kind", kind, KINDS)
  check_range(where, "samples", samples, Range(int, 1))


def root_columns(where: str, at: Linearization) -> Array:
  """Compute √a_n s_rn for the GGN, `[R, N, C]`."""
  root = curvature_of(where, at.loss).root(at.outputs, at.targets)
  return root * jnp.sqrt(at.shares)[None, :, None]


def random_columns(where: str, at: Linearization, samples: int, key: Any) -> Array:
  """Compute columns of which the squares' mean is the GGN: random signs of the root's, summed."""
  root = root_columns(where, at)
  check_that(where, "sample_key", key, key is not None, "be given where samples are drawn")
  checks.check_key(where, key)
  signs = jax.random.rademacher(key, (samples, *root.shape[:2]), root.dtype)
  return jnp.einsum("mrn,rnc->mnc", signs, root) / jnp.sqrt(samples).astype(root.dtype)


def fisher_columns(where: str, at: Linearization, kind: Kind, samples: int, key: Any) -> Array:
  """Compute the columns of a Fisher information, `[R, N, C]`; see `kronecker_factors`."""
  if kind == "empirical":
    columns = at.loss.backward(at.loss_residuals, jnp.ones_like(at.losses))[None]
  elif kind == "exact":
    curvature = curvature_of(where, at.loss)
    columns = (curvature.fisher or curvature.root)(at.outputs, at.targets)
  else:
    sample = sampler_of(where, at.loss)
    check_that(where, "sample_key", key, key is not None, 'be given with kind="monte_carlo"')
    checks.check_key(where, key)
    draw = [sample(each, at.outputs, at.targets) for each in jax.random.split(key, samples)]
    columns = jnp.stack(draw) / jnp.sqrt(samples).astype(at.outputs.dtype)
  return columns * jnp.sqrt(at.shares)[None, :, None]


def pull_columns(where: str, at: Linearization, columns: Array) -> Any:
  """Pull columns `[R, N, C]` back to the factors of each layer.

  Returns:
    The tree of the network's factors. Those of a dense or a normalisation layer have R in front of
    ȳ, and x, which all columns share, as it is; a `ByParameter` has R in front of all its arrays.
  """

  def pull(outputs_bar: Array) -> Any:
    return at.net.backward(at.params, at.residuals, outputs_bar)[0]

  factors = jax.eval_shape(pull, columns[0])
  read(where, factors)

  def axes(node: Any) -> Any:
    return 0 if isinstance(node, ByParameter) else type(node)(None, 0)

  return jax.vmap(pull, out_axes=jax.tree.map(axes, factors, is_leaf=is_factors))(columns)


def sum_over_columns(
  where: str, at: Linearization, columns: Array, chunk: int | None, reduce: Callable[[Any], Any]
) -> Any:
  """Compute Σ over chunks of columns of `reduce(factors)`, whose value is a sum over the columns.

  Args:
    where: the prefix of error messages.
    at: the network at a point.
    columns: `[R, N, C]`.
    chunk: the most columns that are in memory at once; None for all.
    reduce: a function of what `pull_columns` returns.
  """
  r = columns.shape[0]
  if chunk is None or chunk >= r:
    return reduce(pull_columns(where, at, columns))
  # Columns of zeros add nothing.
  padded = jnp.pad(columns, ((0, -r % chunk), (0, 0), (0, 0)))
  parts = padded.reshape(-1, chunk, *columns.shape[1:])

  def add(total: Any, part: Array) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, reduce(pull_columns(where, at, part))), None

  first = reduce(pull_columns(where, at, parts[0]))
  return jax.lax.scan(add, first, parts[1:])[0]


def check_chunk(where: str, chunk: Any) -> None:
  """Raise unless a number of columns, or of examples, is None or at least 1."""
  if chunk is not None:
    check_range(where, "chunk", chunk, Range(int, 1))


def check_unshared(where: str, net: Layer, advice: str) -> None:
  """Raise for a graph with nodes that share parameters."""
  options = dict(net.options)
  for node in options.get("nodes", ()):
    if node.transposed or node.owner != node.name:
      raise StructureError(
        f"{where}: the node {node.name!r} shares the parameters of {node.owner!r}; {advice}"
      )
  for part in net.parts:
    check_unshared(where, part, advice)
