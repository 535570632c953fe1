"""The right rules that mutants are made of, each beside the function that it differentiates.

They are those of the verifier's bank, of this library's gates and layers, and public ones:
JAX's own, and of packages that are found only where someone has put them on the path. A public rule
is read where it is installed and edited in memory. `Rule.build` takes an edited function in the
place of the original and returns what `fbackprop.verify` is called with.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.layers.dense import dense_backward, dense_forward
from fbackprop.layers.normalization import (
  layer_norm_backward,
  layer_norm_forward,
  rms_norm_backward,
  rms_norm_forward,
)
from fbackprop.verify.bank import RIGHT, Example
from fbackprop.verify.bank.specimen import example
from fbackprop.verify.cases import GATES, LAYERS, Case
from scripts.campaigns.mutants.own import OWN
from scripts.campaigns.mutants.sources import Function, NoSourceError, tree_of

# Rules of these subjects aren't derivatives to 1e-9: they round, or are meant to differ.
OTHER_SUBJECTS = ("precision", "surrogates", "modes", "host")
# What a rule is called with that changes its meaning.
OTHER_OPTIONS = {"state", "linear", "surrogate", "ties", "slope", "kwargs"}


class Rule(NamedTuple):
  """A right rule.

  Attributes:
    name: unique, "group/name".
    function: the Python function that is edited.
    build: `build(function) -> Example`, with the function or an edited one as the rule.
    reference: the function without a rule, for autodiff; None where autodiff can't.
    mode: "vjp" or "jvp".
  """

  name: str
  function: Function
  build: Callable[[Function], Example]
  reference: Function | None
  mode: str


@functools.cache
def all_rules() -> dict[str, Rule]:
  """Return the rules by name, those whose source can be read."""
  found = {}
  for rule in (*of_bank(), *of_gates(), *of_layers(), *of_models(), *of_public()):
    try:
      tree_of(rule.function)
    except NoSourceError:
      continue
    found[rule.name] = rule
  return found


# --- Ours -----------------------------------------------------------------------------------------


def of_bank() -> Iterator[Rule]:
  """Yield the bank's right rules that are one function each."""
  for specimen in RIGHT:
    own = inspect.getclosurevars(specimen.make).nonlocals
    subject = own["function"].__module__.rpartition(".")[2]
    options = own["options"]
    if subject in OTHER_SUBJECTS or not own["problem"] or OTHER_OPTIONS & options.keys():
      continue
    reference, *arguments = own["problem"]
    is_forward = any(options.get(name) for name in ("f_jvp", "custom_jvp"))
    yield Rule(
      f"bank/{specimen.name}", own["function"],
      functools.partial(rebuilt, reference, arguments, options), reference,
      "jvp" if is_forward else "vjp",
    )  # fmt: skip


def of_models() -> Iterator[Rule]:
  """Yield the rules of `own`."""
  for reference, (rule, *arguments) in OWN.items():
    build = functools.partial(rebuilt, reference, arguments, {"f_vjp": True})
    yield Rule(f"models/{reference.__name__}", rule, build, reference, "vjp")


def rebuilt(reference: Function, arguments: Any, options: Any, rule: Function) -> Example:
  """Return a specimen's example with another rule."""
  return example(reference, rule, *arguments, **options)


def beside(
  name: str, forward: Function, backward: Function, reference: Function, args: tuple[Any, ...],
) -> Rule:  # fmt: skip
  """Return the rule of a pair of ours, `forward(*args) -> (y, residuals)`, beside its function.

  Args:
    name: the rule's name.
    forward: the forward pass.
    backward: `backward(residuals, y_bar) -> bars`.
    reference: the function that autodiff differentiates.
    args: the arguments.
  """

  def build(rule: Function) -> Example:
    def f_vjp(*args: Any) -> Any:
      y, residuals = forward(*args)
      return y, lambda y_bar: rule(residuals, y_bar)

    return Example(reference, args, f_vjp)

  return Rule(name, backward, build, reference, "vjp")


def primals_of(case: Case) -> tuple[Any, ...]:
  """Return a row's arguments in float32."""
  return jax.tree.map(jnp.asarray, case.primals(np.random.default_rng(0), 5, jnp.dtype("float32")))


def of_gates() -> Iterator[Rule]:
  """Yield the gates; those with several arities once, with the largest."""
  rows = {case.make(jnp.float32).name: case for case in GATES}
  for name, case in rows.items():
    gate = case.make(jnp.float32)
    backward = inspect.unwrap(gate.backward)
    args = primals_of(case)

    def f(*xs: Any, reference: Function = case.reference) -> Any:
      return reference(*xs)

    names = [f"x{i}" for i in range(len(args))]
    f.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
      [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names]
    )
    yield beside(f"gates/{name}", gate.forward, backward, f, args)


def of_layers() -> Iterator[Rule]:
  """Yield dense and the normalisations."""
  pairs: dict[str, tuple[Function, Function]] = {
    "dense": (dense_forward, dense_backward),
    "layer_norm": (functools.partial(layer_norm_forward, eps=1e-5), layer_norm_backward),
    "rms_norm": (functools.partial(rms_norm_forward, eps=1e-5), rms_norm_backward),
  }
  for case in LAYERS:
    if case.title in pairs:
      forward, backward = pairs.pop(case.title)
      yield layer_rule(case, forward, backward)


def layer_rule(case: Case, forward: Function, backward: Function) -> Rule:
  """Return the rule of a layer, which reads its parameters in the backward pass."""
  args = primals_of(case)

  def f(params: Any, x: Any) -> Any:
    return case.reference(params, x)

  def build(rule: Function) -> Example:
    def f_vjp(params: Any, x: Any) -> Any:
      y, residuals = forward(params, x)
      return y, lambda y_bar: rule(params, residuals, y_bar)

    return Example(f, args, f_vjp)

  return Rule(f"layers/{case.title}", backward, build, f, "vjp")


# --- Public ---------------------------------------------------------------------------------------


def drawn(*shape: int, low: float = 0.0, high: float = 0.0, times: float = 1.0) -> Any:
  """Return a float32 array, normal or uniform between two numbers."""
  rng = np.random.default_rng(sum(shape))
  x = rng.uniform(low, high, shape) if low < high else times * rng.normal(size=shape)
  return jnp.asarray(x, jnp.float32)


def matrix(n: int) -> Any:
  """Return a matrix that can be inverted."""
  return drawn(n, n) + 2 * jnp.eye(n)


# Of a module: the names of its functions with a custom rule, and their arguments.
PUBLIC: dict[str, dict[str, Callable[[], tuple[Any, ...]]]] = {
  "jax._src.nn.functions": {
    "relu": lambda: (drawn(5, 3),),
    "relu6": lambda: (drawn(5, 3, times=4.0),),
    "log1mexp": lambda: (drawn(5, low=0.3, high=3.0),),
    "_softmax": lambda: (drawn(4, 5), -1, None, -np.inf),
  },
  "jax._src.numpy.lax_numpy": {"_i0": lambda: (drawn(5),)},
  "jax._src.numpy.linalg": {
    "_slogdet_lu": lambda: (matrix(3),),
    "_det": lambda: (matrix(4),),
    "_pinv": lambda: (drawn(4, 3), None, False),
  },
  "jax._src.scipy.special": {
    "_erfcx": lambda: (drawn(5),),
    "_dawsn": lambda: (drawn(5),),
    "logit": lambda: (drawn(6, low=0.1, high=0.9),),
    "xlogy": lambda: (drawn(5), drawn(5, low=0.5, high=2.0)),
    "xlog1py": lambda: (drawn(5), drawn(5, low=0.5, high=2.0)),
    "_xlogx": lambda: (drawn(5, low=0.5, high=2.0),),
    "log_ndtr": lambda: (drawn(6), 3),
    "expi": lambda: (drawn(5, low=0.5, high=2.0),),
    "sici": lambda: (drawn(5, low=0.5, high=2.0),),
    "poch": lambda: (drawn(4, low=0.5, high=3.0), drawn(4, low=0.5, high=3.0)),
    "_owens_t_impl": lambda: (drawn(5), drawn(5, low=0.1, high=0.9)),
  },
  "optax.projections._projections": {"_projection_unit_simplex": lambda: (drawn(6),)},
  "optax.losses._classification": {
    "weighted_logsoftmax": lambda: (drawn(4, 5), drawn(4, 5, low=0.1, high=1.0)),
  },
  "jaxopt._src.projection": {
    "_projection_unit_simplex": lambda: (drawn(6),),
    "_projection_unit_sparse_simplex": lambda: (drawn(6), 3, False),
  },
  "lineax._norm": {
    "_two_norm": lambda: (drawn(5),),
    "_zero_grad_at_zero": lambda: (drawn(5),),
  },
}  # fmt: skip


def of_public() -> Iterator[Rule]:
  """Yield the public rules of the modules that are there."""
  for module, functions in PUBLIC.items():
    try:
      own = import_module(module)
    except ImportError:
      continue
    for name, arguments in functions.items():
      if not hasattr(own, name):  # In another version of the package.
        continue
      yield from parts_of(f"{module.partition('.')[0]}/{name}", getattr(own, name), arguments)


def parts_of(name: str, public: Any, arguments: Callable[[], tuple[Any, ...]]) -> Iterator[Rule]:
  """Yield the rule of a `custom_jvp` function, or each of its rules by argument."""
  static = tuple(public.nondiff_argnums)
  options = {"static": static} if static else {}

  def carrying(define: Callable[[Any], Any]) -> Example:
    again = jax.custom_jvp(public.fun, nondiff_argnums=static)
    define(again)
    return Example(again, arguments(), None, options)

  whole = inspect.unwrap(public.jvp)
  parts = inspect.getclosurevars(whole).nonlocals.get("jvps")
  if parts is None:
    yield Rule(name, whole, lambda rule: carrying(lambda f: f.defjvp(rule)), public.fun, "jvp")
    return
  for i, part in enumerate(parts):
    if part is not None:

      def build(rule: Function, i: int = i) -> Example:
        return carrying(lambda f: f.defjvps(*parts[:i], rule, *parts[i + 1 :]))

      yield Rule(f"{name}.{i}", part, build, public.fun, "jvp")
