"""Our verifier beside other gradient checkers, at their defaults, on the same planted bugs.

A checker that raises on a planted bug has caught it, whatever its message. A checker that can't
take the function (of bfloat16, say) is identified by a run on the same function without the rule.
Only reverse mode is checked: a `jax.custom_vjp` has no other. Torch and autograd are heavy, and
installed manually: pip install torch autograd.
"""

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from importlib import import_module, metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.verify import run_self_test
from fbackprop.verify.bank import BUGS, RIGHT
from fbackprop.verify.bank.specimen import Specimen
from scripts.benchmarks import bridges
from scripts.benchmarks.bridges import Problem, problem_of
from scripts.benchmarks.peers import PEERS, line_of

# Subjects that no other checker takes: forward mode, static arguments, declared slopes, NumPy.
OURS_ALONE = ("tangents", "static_arguments", "surrogates", "host")
OUTCOMES = ("caught", "missed", "passed", "false alarm", "not taken", "too slow")
COUNTS = ("caught", "missed", "passed", "false_alarms", "not_taken", "too_slow")
Checker = Callable[[Problem], None]


def run(peer: str, only: Sequence[str] = (), limit: float = 60.0) -> list[dict[str, Any]]:
  """Print a line of the table; return its row for the file, or none if the peer isn't installed."""
  family, _, rest = peer.partition("-")
  package = {"ours": "fbackprop", "direct": "jax"}.get(family, family)
  try:
    import_module(package)
  except ModuleNotFoundError:
    print(f"{PEERS[peer]:<38}not installed: pip install {package}", flush=True)
    return []
  words = only or ("",)
  bugs, right = (
    [s for s in bank if is_common(s) and any(word in s.name for word in words)]
    for bank in (BUGS, RIGHT)
  )
  if family == "ours":
    outcomes, seconds = run_ours(rest, [s.name for s in (*bugs, *right)], limit)
  else:
    outcomes, seconds = run_peer(peer, bugs, right, limit)
  row = {
    "peer": peer,
    "checker": PEERS[peer],
    "package": package,
    "version": metadata.version(package),
    "date": date.today().isoformat(),
    "bugs": len(bugs),
    "right": len(right),
    "limit": limit,
    **counts(outcomes),
    "seconds": round(seconds, 1),
    # Above the number of cores, times are too long.
    "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    "compilation_cache": "JAX_COMPILATION_CACHE_DIR" in os.environ,
  }
  print(line_of(row), flush=True)
  return [row]


def is_common(specimen: Specimen) -> bool:
  """Return whether other checkers take specimens of this subject."""
  return specimen.make.__module__.rpartition(".")[2] not in OURS_ALONE


def run_ours(level: str, names: list[str], limit: float) -> tuple[dict[str, str], float]:
  """Return the outcomes of the self-test; a bug beyond the level counts as missed."""
  named = {"no verdict": "not taken", "beyond": "missed"}
  done = run_self_test(level, only=names)
  outcomes = {
    score.name: "too slow" if score.seconds > limit else named.get(score.outcome, score.outcome)
    for score in done.scores
  }
  return outcomes, done.seconds


def run_peer(
  peer: str, bugs: list[Specimen], right: list[Specimen], limit: float
) -> tuple[dict[str, str], float]:
  """Return the outcomes of one checker, and its seconds."""
  outcomes: dict[str, str] = {}
  seconds = 0.0
  for specimen, is_bug in (*((s, True) for s in bugs), *((s, False) for s in right)):
    problem = problem_of(specimen.make())
    start = time.perf_counter()
    try:
      with limited(limit):
        outcomes[specimen.name] = outcome_of(CHECKERS[peer], problem, is_bug)
    except TooSlow:
      outcomes[specimen.name] = "too slow"
    seconds += time.perf_counter() - start
  return outcomes, seconds


def counts(outcomes: dict[str, str]) -> dict[str, Any]:
  """Return the count of each outcome, and the names of the specimens with a wrong outcome."""
  names = {told: [name for name in outcomes if outcomes[name] == told] for told in OUTCOMES}
  return {
    **{key: len(own) for key, own in zip(COUNTS, names.values(), strict=True)},
    "names": {key: names[key] for key in ("missed", "false alarm", "not taken", "too slow")},
  }


class TooSlow(BaseException):
  """Raised at a checker's time limit; not an `Exception`, lest a checker ascribe it to the rule."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
  """Raise `TooSlow` after a time limit, where the system has alarms; never inside a kernel."""
  if not hasattr(signal, "setitimer"):
    yield
    return

  def stop(*_: Any) -> None:
    raise TooSlow

  before = signal.signal(signal.SIGALRM, stop)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def outcome_of(check: Checker, problem: Problem, is_bug: bool) -> str:
  """Return a checker's outcome on a rule."""
  error = error_of(check, problem)
  if error is None:
    return "missed" if is_bug else "passed"
  if is_complaint(error):
    return "caught" if is_bug else "false alarm"
  # It failed: because of the bug, unless it fails without the rule as well.
  without_rule = error_of(check, problem._replace(f=problem.reference))
  is_by_rule = without_rule is None or is_complaint(without_rule)
  return "caught" if is_bug and is_by_rule else "not taken"


def error_of(check: Checker, problem: Problem) -> Exception | None:
  """Return the exception of a checker."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      check(problem)
  except Exception as error:
    return error
  return None


def is_complaint(error: Exception) -> bool:
  """Return whether an exception reports a wrong gradient."""
  return isinstance(error, AssertionError) or type(error).__name__ == "GradcheckError"


# --- The checkers ---------------------------------------------------------------------------------


def check_with_jax(problem: Problem, order: int, x64: bool = False) -> None:
  """Check with `jax.test_util.check_grads`."""
  check = import_module("jax.test_util").check_grads
  with jax.enable_x64(x64):
    leaves = [jnp.asarray(leaf, jnp.float64) for leaf in problem.leaves] if x64 else problem.leaves
    check(problem.f, tuple(leaves), order=order, modes=("rev",))


def check_with_chex(problem: Problem) -> None:
  """Check with `chex.assert_numerical_grads`."""
  check = import_module("chex").assert_numerical_grads
  check(problem.f, tuple(problem.leaves), order=1, modes=("rev",))


def check_directly(problem: Problem, atol: float) -> None:
  """Compare with autodiff of the function without its rule, each at a random cotangent."""
  rng = np.random.default_rng(1234)  # Not the bank's seed: a cotangent equal to x hides bugs.
  ys, pull = jax.vjp(problem.f, *problem.leaves)
  y_bar = [jnp.asarray(rng.normal(size=y.shape), y.dtype) for y in ys]
  theirs = jax.vjp(problem.reference, *problem.leaves)[1](y_bar)
  for pair in zip(pull(y_bar), theirs, strict=True):
    got, want = (np.asarray(bar, np.float64) for bar in pair)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=atol)


def check_with_torch(problem: Problem, fast: bool) -> None:
  """Check with `torch.autograd.gradcheck`."""
  torch = import_module("torch")
  xs = [torch.from_numpy(x).requires_grad_() for x in bridges.inputs(problem)]
  torch.autograd.gradcheck(bridges.to_torch(problem, torch), xs, fast_mode=fast)


def check_with_autograd(problem: Problem, by_all: bool) -> None:
  """Check with `autograd.test_util.check_grads`, by the first argument, its default, or by all."""
  np.random.seed(0)  # Its directions come from the global generator.
  check = import_module("autograd.test_util").check_grads
  f = bridges.to_autograd(problem, import_module("autograd.extend"))
  xs = bridges.inputs(problem)
  if by_all:
    check(lambda xs: f(*xs), modes=["rev"], order=1)(tuple(xs))
  else:
    check(f, modes=["rev"], order=1)(*xs)


CHECKERS: dict[str, Checker] = {
  "jax-float32": partial(check_with_jax, order=1),
  "jax-float32-2": partial(check_with_jax, order=2),
  "jax-float64": partial(check_with_jax, order=1, x64=True),
  "jax-float64-2": partial(check_with_jax, order=2, x64=True),
  "chex": check_with_chex,
  "direct": partial(check_directly, atol=0.0),
  "direct-atol": partial(check_directly, atol=1e-8),
  "torch-slow": partial(check_with_torch, fast=False),
  "torch-fast": partial(check_with_torch, fast=True),
  "autograd": partial(check_with_autograd, by_all=False),
  "autograd-all": partial(check_with_autograd, by_all=True),
}
"""Each of them raises on any finding."""
