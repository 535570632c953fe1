"""The three units of the library: `Gate`, `Layer`, `Loss`.

Each is a NamedTuple of pure functions: a forward rule and, beside it, its backward rule. A forward
rule returns its value and the `residuals`: the arrays that its backward rule needs, and no more. A
backward rule takes the residuals and the cotangent of the output (`y_bar`) and returns the
cotangents of the inputs, in the order in which the inputs came. There are no base classes and no
registries: a unit consists of its fields, and a composition of layers is again a `Layer`.

Shape letters, here and in every docstring:

  N      examples in a batch (0 is allowed)
  D_in   features that enter a layer
  D_out  features that leave it
  C      outputs of a network: classes, or regression targets
  L      layers

`v_bar` is the cotangent of `v`, `v_dot` its tangent: "VJP" is the operation, "cotangent" the value,
and "gradient" only the case of a scalar loss.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.export
import jax.numpy as jnp

Array = jax.Array
Params = Any
"""A pytree of arrays: nested tuples of NamedTuples such as `DenseParams(w, b)`."""
Residuals = Any
"""A pytree of arrays: the residuals that a forward rule keeps for its backward rule."""


WITHOUT_NAMES = ("d_in", "d_out", "width", "rate")
"""Options that a repr shows by their values alone."""
USUAL = (("bias", True), ("dtype", "float32"), ("eps", 1e-5))
"""Options that a repr omits."""
MOST_PARTS = 8
"""The most parts of a composition that a repr shows in full, and not by the first and the last."""


class Gate(NamedTuple):
  """An elementary function with its local derivative: a node of the lecture's graph.

  The inputs and the output are arrays of one shape and dtype; gates act elementwise and don't
  broadcast. The optional fields are facts about the function, kept beside its rule: the passes
  never read them.

  Attributes:
    name: the name of the function, such as "sigmoid".
    arity: the number of inputs; None for any number from one up.
    forward: `forward(*inputs) -> (output, residuals)`.
    backward: `backward(residuals, y_bar) -> (input_bar, ...)`: upstream times local for each input,
      in the order of the inputs.
    second: the second derivative, `second(residuals, y_bar) -> (input_bar, ...)`: as `backward`,
      with the second local derivatives in place of the first; None where it isn't written out. At a
      kink it is that of the piece that the first derivative there belongs to, and 0 where that is
      the middle of two: what a jump of the slope would add there is left out.
    kinks: the points where a gate of one input has no derivative.
    symbol: the symbol in its circle in a picture; None for its name.
    formula: the local derivative by every input, or a tuple with one for each; None if there is no
      short one. `{x}` denotes the input in question, `{y}` the output, `{others}` the
      product of all inputs but x; for a gate of two inputs `{a}` and `{b}` denote the inputs as
      factors, -3 as (-3), and `{0}` and `{1}` the inputs as they are.
    commutative: whether the order of the inputs makes no difference.
    cases: the cases of a piecewise derivative, such as "1 above 0, else 0".
    initializer: the name, in `jax.nn.initializers`, of the initialiser of the preceding dense
      layer's weights; None for `glorot_uniform`.
  """

  name: str
  arity: int | None
  forward: Callable[..., tuple[Array, Residuals]]
  backward: Callable[[Residuals, Array], tuple[Array, ...]]
  second: Callable[[Residuals, Array], tuple[Array, ...]] | None = None
  kinks: tuple[float, ...] = ()
  symbol: str | None = None
  formula: str | tuple[str, ...] | None = None
  commutative: bool = False
  cases: str | None = None
  initializer: str | None = None

  def __repr__(self) -> str:
    return f"Gate({self.name!r})"


class Second(NamedTuple):
  """The second-order rules of a layer, for `fbackprop.curvature`.

  They are of y as a function of x; y must be affine in the parameters.

  Attributes:
    bend: `bend(params, residuals, y_bar) -> Σ_k ȳ_k ∂²y_k/∂x²`, `[N, D_in, D_in]`, or its diagonal
      `[N, D_in]` for a layer that acts elementwise; None for a layer that is piecewise affine in x.
    squares: `squares(params, residuals, h) -> Σ_k h_k (∂y_k/∂x_i)²`, `[N, D_in]` for h
      `[N, D_out]`: the diagonal of Jᵀ diag(h) J. None where it isn't written out.
  """

  bend: Callable[[Params, Residuals, Any], Array] | None = None
  squares: Callable[[Params, Residuals, Any], Any] | None = None


class Layer(NamedTuple):
  """A differentiable map of a batch, with explicit parameters.

  Functions close over a Layer, which is never traced: build it once, outside the step.

  `backward` takes `params`, and uses them only where the mathematics does. The `params_bar` of a
  layer that is affine in its parameters doesn't depend on these parameters, and in a chain the
  `params_bar` of layer l doesn't depend on the parameters of layers ≤ l. So `backward` can be
  called with other parameters than the forward pass, which is feedback alignment (Lillicrap et al.,
  Nature Communications 7, 2016), without a new rule.

  Attributes:
    name: the layer's name in errors and reports.
    init: `init(key) -> params`.
    forward: `forward(params, x, key=None) -> (y, residuals)`; `x` is `[N, D_in]`. `key=None` means
      evaluation: a layer that draws random numbers is then deterministic. Residuals are arrays
      only, and never parameters.
    backward: `backward(params, residuals, y_bar) -> (params_bar, x_bar)`, with the structure,
      shapes and dtypes of `(params, x)`; `params_bar` is summed over N, not averaged.
    parts: the sublayers, for inspection; the passes never read them.
    options: the constructor's `(name, value)` pairs, likewise.
    draws: whether `forward` uses a key. A composition passes keys only to parts that draw, so that
      inserting a deterministic layer changes no random mask elsewhere.
    slope: `slope(params, x, key=None) -> y`: the function whose derivative `backward` is meant to
      be, where it isn't that of `forward`, as the identity for a straight-through rule; None if it
      is. Gradient checks differentiate it in place of `forward`; the passes never read it.
    linear: whether `backward` is meant to be linear in `y_bar`; a rule that clips it isn't, and is
      checked at tiny cotangents.
    factors: the backward rule of a captured layer (see `fbackprop.quantities.captured`):
      `factors(params, residuals, y_bar) -> (factors, x_bar)`, with the gradient before its sum over
      the examples, in the structure of the parameters, an `Outer` or an `Each` of
      `fbackprop.quantities` for each array. None if it isn't stated.
    second: the layer's second-order rules, a `Second`; None where they aren't written out.
  """

  name: str
  init: Callable[[Array], Params]
  forward: Callable[..., tuple[Any, Residuals]]
  backward: Callable[[Params, Residuals, Any], tuple[Params, Any]]
  parts: tuple["Layer", ...] = ()
  options: tuple[tuple[str, Any], ...] = ()
  draws: bool = False
  slope: Callable[..., Array] | None = None
  linear: bool = True
  factors: Callable[[Params, Residuals, Any], tuple[Any, Any]] | None = None
  second: Second | None = None

  def __repr__(self) -> str:
    """Return the constructor call: `serial(dense(2, 8), relu, dense(8, 1))`."""
    options = dict(self.options)
    made_by = options.pop("combinator", None)
    for name in ("gate", "weights"):  # The layer has the gate's name; a rule's own function.
      options.pop(name, None)
    parts = [repr(part) for part in self.parts]
    if len(parts) > MOST_PARTS:
      parts = [*parts[: MOST_PARTS - 2], "...", parts[-1]]
    words = [
      f"{value!r}" if name in WITHOUT_NAMES else f"{name}={getattr(value, '__name__', repr(value))}"
      for name, value in options.items()
      if (name, value) not in USUAL
    ]
    if "nodes" in options:  # Of a graph.
      nodes = zip(options["nodes"], self.parts, strict=True)
      shown = (f"{n.name!r}: ({n.describe(part)}, {', '.join(map(repr, n.inputs))})"
               for n, part in nodes)  # fmt: skip
      return f"graph({{{', '.join(shown)}}}, output={options['output']!r})"
    name = getattr(made_by, "__name__", self.name)
    inside = ", ".join([*parts, *words])
    return f"{name}({inside})" if inside else name


class LossCurvature(NamedTuple):
  """The second derivatives of an example's loss by its outputs, H_n `[C, C]`, without forming them.

  Roots have an axis of R columns in front, each a cotangent of the outputs: R backward passes pull
  back all of H_n.

  Attributes:
    root: `root(outputs, targets) -> [R, N, C]`, with H_n = Σ_r root_rn root_rnᵀ; R is at least 1.
    product: `product(outputs, targets, v) -> [N, C]`, H_n v_n.
    sample: `sample(key, outputs, targets) -> [N, C]`: the gradient by the outputs at targets drawn
      from the model, so that the mean of s_n s_nᵀ is the Fisher information of its outputs. None
      for a loss that is no −log of a probability.
    fisher: a root of that Fisher information, called as `root`; None where it is H_n.
  """

  root: Callable[[Array, Any], Array]
  product: Callable[[Array, Any, Array], Array]
  sample: Callable[[Array, Array, Any], Array] | None = None
  fisher: Callable[[Array, Any], Array] | None = None


class Loss(NamedTuple):
  """A loss of each example, unreduced; the mean over N is the seed cotangent `1/N`.

  Attributes:
    name: the loss's name in errors and reports.
    forward: `forward(outputs, targets) -> (losses, residuals)`; `outputs` is `[N, C]`, `losses`
      `[N]`; each loss states the shape and dtype of its targets, an array, or a tuple of them for
      several losses in one. Targets are constants.
    backward: `backward(residuals, losses_bar) -> outputs_bar`; `losses_bar` is `[N]`,
      `outputs_bar` `[N, C]`.
    curvature: the second derivatives by the outputs, a `LossCurvature`; None where they aren't
      written out.
  """

  name: str
  forward: Callable[[Array, Any], tuple[Array, Residuals]]
  backward: Callable[[Residuals, Array], Array]
  curvature: LossCurvature | None = None

  def __repr__(self) -> str:
    return f"Loss({self.name!r})"


def at_least_float32(dtype: Any) -> Any:
  """Return the dtype of sums: in bfloat16 a count stops at 256, in float16 256² is ∞."""
  return jnp.dtype(jnp.float32) if jnp.dtype(dtype).itemsize < 4 else jnp.dtype(dtype)


def widen(x: Array) -> Array:
  """Cast x to the dtype of sums."""
  return x.astype(at_least_float32(x.dtype))


Record = TypeVar("Record", bound=type)


def exportable(record: Record) -> Record:
  """Register a NamedTuple of arrays, so that `jax.export` can serialise a function that takes it.

  Its serialized name is "fbackprop." and the name of the class, in every version.
  """
  name = f"fbackprop.{record.__name__}"
  # A reloaded module, as in a notebook after an edit, registers its classes again.
  with contextlib.suppress(ValueError):
    jax.export.register_namedtuple_serialization(record, serialized_name=name)
  return record
