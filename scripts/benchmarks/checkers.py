"""Our verifier beside other gradient checkers, at their defaults, on the same planted bugs.

A checker that raises on a planted bug has caught it, whatever it says. One that can't take the
function (of bfloat16, say) is told from that by trying it on the same function without the rule.
Only reverse mode is asked for: a `jax.custom_vjp` has no other. Torch and autograd are heavy, and
installed by hand: pip install torch autograd.
"""

import time
import warnings
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any, Literal

import jax
import numpy as np

from fbackprop.verify import run_self_test
from fbackprop.verify.bank import BUGS, RIGHT
from scripts.benchmarks import bridges
from scripts.benchmarks.bridges import Problem, problem_of
from scripts.benchmarks.peers import PEERS

Outcome = Literal["passed", "alarmed", "not taken"]
Checker = Callable[[Problem], None]


def run(peers: list[str]) -> list[dict[str, Any]]:
  """Prints the table; returns its rows for the file."""
  print(f"{len(BUGS)} planted bugs, {len(RIGHT)} right rules")
  print(f"{'checker':<38}{'caught':>14}{'false alarms':>14}{'not taken':>11}{'seconds':>9}")
  rows = []
  for peer in peers:
    family, _, rest = peer.partition("-")
    package = {"ours": "fbackprop", "direct": "jax"}.get(family, family)
    try:
      import_module(package)
    except ModuleNotFoundError:
      print(f"{PEERS[peer]:<38}  not installed: pip install {package}", flush=True)
      continue
    row: dict[str, Any] = {
      "peer": peer,
      "checker": PEERS[peer],
      "version": metadata.version(package),
    }
    row |= run_ours(rest) if family == "ours" else run_peer(peer)
    rows.append(row)
    caught = f"{row['caught']} ({row['caught'] / max(row['bugs'], 1):.1%})"
    print(f"{row['checker']:<38}{caught:>14}{row['false_alarms']:>14}{row['not_taken']:>11}"
          f"{row['seconds']:>9.1f}", flush=True)  # fmt: skip
  return rows


def run_ours(level: str) -> dict[str, Any]:
  """The counts of the self-test; what has no verdict is counted as not taken."""
  done = run_self_test(level)
  names: dict[str, list[str]] = {}
  for score in done.scores:
    names.setdefault(score.outcome, []).append(score.name)
  return {
    **counts(names.get("missed", []), names.get("false alarm", []), names.get("no verdict", [])),
    "caught": done.how_many("caught"),
    "seconds": done.seconds,
  }


def run_peer(peer: str) -> dict[str, Any]:
  """The counts of one checker."""
  check = checker_of(peer)
  missed, alarmed, not_taken = [], [], []
  caught, seconds = 0, 0.0
  for specimen, is_bug in [*((s, True) for s in BUGS), *((s, False) for s in RIGHT)]:
    problem = problem_of(specimen.make())
    start = time.perf_counter()
    outcome = outcome_of(check, problem, is_bug)
    seconds += time.perf_counter() - start
    caught += is_bug and outcome == "alarmed"
    if outcome == "not taken":
      not_taken.append(specimen.name)
    elif outcome == "passed" and is_bug:
      missed.append(specimen.name)
    elif outcome == "alarmed" and not is_bug:
      alarmed.append(specimen.name)
  return {**counts(missed, alarmed, not_taken), "caught": caught, "seconds": seconds}


def counts(missed: list[str], alarmed: list[str], not_taken: list[str]) -> dict[str, Any]:
  """The fields that are alike for all."""
  return {
    "bugs": len(BUGS),
    "right": len(RIGHT),
    "false_alarms": len(alarmed),
    "not_taken": len(not_taken),
    "names": {"missed": missed, "false alarms": alarmed, "not taken": not_taken},
  }


def outcome_of(check: Checker, problem: Problem, is_bug: bool) -> Outcome:
  """What a checker says of a rule."""
  error = error_of(check, problem)
  if error is None:
    return "passed"
  if is_complaint(error):
    return "alarmed"
  # It broke: by the bug, unless it breaks without the rule as well.
  without_rule = error_of(check, problem._replace(f=problem.reference))
  is_by_rule = without_rule is None or is_complaint(without_rule)
  return "alarmed" if is_bug and is_by_rule else "not taken"


def error_of(check: Checker, problem: Problem) -> Exception | None:
  """What a checker raises."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      check(problem)
  except Exception as error:
    return error
  return None


def is_complaint(error: Exception) -> bool:
  """Whether that is how a checker says that a gradient is wrong."""
  return isinstance(error, AssertionError) or type(error).__name__ == "GradcheckError"


# --- The checkers ---------------------------------------------------------------------------------


def checker_of(peer: str) -> Checker:
  """The checker of a name: it raises if it finds anything."""
  return {
    "jax-float32": lambda problem: check_with_jax(problem, problem.leaves, 1),
    "jax-float32-2": lambda problem: check_with_jax(problem, problem.leaves, 2),
    "jax-float64": lambda problem: check_with_jax_in_float64(problem, 1),
    "jax-float64-2": lambda problem: check_with_jax_in_float64(problem, 2),
    "chex": check_with_chex,
    "direct": lambda problem: check_directly(problem, 0.0),
    "direct-atol": lambda problem: check_directly(problem, 1e-8),
    "torch-slow": lambda problem: check_with_torch(problem, False),
    "torch-fast": lambda problem: check_with_torch(problem, True),
    "autograd": lambda problem: check_with_autograd(problem, False),
    "autograd-all": lambda problem: check_with_autograd(problem, True),
  }[peer]


def check_with_jax(problem: Problem, leaves: list[Any], order: int) -> None:
  """`jax.test_util.check_grads`."""
  import_module("jax.test_util").check_grads(problem.f, tuple(leaves), order=order, modes=("rev",))


def check_with_jax_in_float64(problem: Problem, order: int) -> None:
  """The same with x64 on."""
  with jax.enable_x64(True):
    check_with_jax(problem, bridges.in_float64(problem), order)


def check_with_chex(problem: Problem) -> None:
  """`chex.assert_numerical_grads`."""
  check = import_module("chex").assert_numerical_grads
  check(problem.f, tuple(problem.leaves), order=1, modes=("rev",))


def check_directly(problem: Problem, atol: float) -> None:
  """Entry by entry against autodiff of the function without its rule, a random cotangent each."""
  rng = np.random.default_rng(0)
  ys, pull = jax.vjp(problem.f, *problem.leaves)
  y_bar = [jax.numpy.asarray(rng.normal(size=y.shape), y.dtype) for y in ys]
  theirs = jax.vjp(problem.reference, *problem.leaves)[1](y_bar)
  for got, want in zip(pull(y_bar), theirs, strict=True):
    np.testing.assert_allclose(
      np.asarray(got, np.float64), np.asarray(want, np.float64), rtol=1e-5, atol=atol
    )


def check_with_torch(problem: Problem, fast: bool) -> None:
  """`torch.autograd.gradcheck`."""
  torch = import_module("torch")
  xs = [torch.from_numpy(x).requires_grad_() for x in bridges.inputs(problem)]
  torch.autograd.gradcheck(bridges.to_torch(problem, torch), xs, fast_mode=fast)


def check_with_autograd(problem: Problem, by_all: bool) -> None:
  """`autograd.test_util.check_grads`; by the first argument, as it does by itself, or by all."""
  np.random.seed(0)  # It draws its directions from the global generator.
  check = import_module("autograd.test_util").check_grads
  f = bridges.to_autograd(problem, import_module("autograd.extend"))
  xs = bridges.inputs(problem)
  if by_all:

    def of_tuple(xs: Any) -> Any:
      return f(*xs)

    check(of_tuple, modes=["rev"], order=1)(tuple(xs))
  else:
    check(f, modes=["rev"], order=1)(*xs)
