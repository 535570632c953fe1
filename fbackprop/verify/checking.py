"""`vjp`: all checks of one rule, in the order in which they rule each other out."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbackprop.checks import check_callable, check_number, is_integer
from fbackprop.verify import exact, modes, numerics
from fbackprop.verify.arguments import Leaves, cotangent_like, signature_of
from fbackprop.verify.branches import MOST_SITES, Coverage, search
from fbackprop.verify.causes import find_cause
from fbackprop.verify.comparison import Difference, compare
from fbackprop.verify.evaluation import Noise
from fbackprop.verify.findings import Checked, Finding, Report, RuleError, first_verdict
from fbackprop.verify.judging import confirm, judge
from fbackprop.verify.primitives import is_float, rounded
from fbackprop.verify.regimes import (
  Regime,
  as_numpy,
  batch_regimes,
  find_batch,
  value_regimes,
)
from fbackprop.verify.rules import Rule, first_line, rule_of
from fbackprop.verify.ties import find_ties
from fbackprop.verify.tracing import without_rules
from fbackprop.verify.witnesses import (
  Values,
  Witnesses,
  evaluate,
  gather_witnesses,
  with_float0,
)

LEVELS = ("quick", "standard", "deep")
SAMPLES = {"quick": 3, "standard": 5, "deep": 9}
# From so many numbers on, "standard" keeps to its ten seconds with these regimes.
LARGE = 200_000
ESSENTIAL = (
  "redrawn", "some entries zero", "ties", "1e4 times larger", "loss times 2^40", "other labels",
  "smallest label everywhere", "columns of scale 1e-4 to 1e4",
)  # fmt: skip
# What isn't looked at any more once something is wrong.
AFTERWARDS = ("numerics", "differences", "branches", "vmap", "scan", "second order")
# The order in which failures are told: what explains the others comes first.
RANKS = (
  "raises", "structure", "no gradient", "dtype", "repeated call", "pullback after another call",
  "pullback called twice", "forward", "maths",
)  # fmt: skip


def vjp(
  f: Callable[..., Any],
  *args: Any,
  f_vjp: Callable[..., Any] | None = None,
  level: str = "standard",
  seed: int = 0,
  allowance: float = 1.0,
  ties: str = "any",
  surrogate: bool = False,
) -> Report:
  """Verifies a hand-written VJP: is the mathematics right, and does it round as it must?

  Two verdicts. *Maths*: the rule is traced again in float64 and compared, entry by entry, with
  autodiff of the function without its rule, within the rounding error of both, measured by
  stochastic arithmetic. *Numerics*: the rule in its own dtype against that truth, in units in the
  last place and in standard deviations of the propagated rounding error. Where the two differ,
  one-sided differences of the function decide who is right. This is done in a battery of regimes,
  on both sides of every comparison in the program, under jit, vmap, scan and remat, in second
  order; and what must hold to the last bit is checked so.

  Args:
    f: the function. It carries a `jax.custom_vjp` somewhere, whose primal is the reference; or it
      is the reference of `f_vjp`.
    *args: where it is called: pytrees of arrays. Floats are differentiated by.
    f_vjp: the rule, `f_vjp(*args) -> (y, pullback)`, `pullback(y_bar) -> (arg_bar, ...)`, as
      `jax.vjp(f, *args)` is; None if f carries it.
    level: "quick" (a second), "standard" (ten seconds), "deep" (minutes).
    seed: of all that is drawn.
    allowance: multiplies every bound.
    ties: "any": at a kink each slope between the left and the right one is right; "reference": it
      must be the one that autodiff of f takes, as `jax.nn.relu` declares 0 at 0.
    surrogate: whether f's autodiff is meant to differ from its slope: a straight-through rule, a
      `stop_gradient` that changes values.

  Returns:
    The `Report`; `report.ok` is true for a pass only.

  Raises:
    UnusableError: f can't be called with `args`, or no floats go in or come out.
    TypeError, ValueError: another argument is wrong.

  Example:
    >>> @jax.custom_vjp
    ... def square(x):
    ...   return x**2
    >>> square.defvjp(lambda x: (x**2, x), lambda x, y_bar: (x * y_bar,))
    >>> report = vjp(square, jnp.arange(3.0), level="quick")
    >>> report.verdict, report.findings[0].leaf, report.findings[0].cause
    ('fail', 'x', 'constant factor: 1/2 (match 0e+00)')

  References:
    Higham, "Accuracy and Stability of Numerical Algorithms", SIAM, 2002, chapter 3; Parker, "Monte
    Carlo arithmetic", UCLA CSD-970002 (1997).
  """
  check_callable("vjp", "f", f)
  if f_vjp is not None:
    check_callable("vjp", "f_vjp", f_vjp)
  check_choice("level", level, LEVELS)
  check_choice("ties", ties, ("any", "reference"))
  if not is_integer(seed) or seed < 0:
    raise ValueError(f"vjp: seed must be an integer of at least 0, got {seed!r}")
  check_number("vjp", "allowance", allowance, least=0.0)
  return verify_call(
    getattr(f, "__name__", type(f).__name__),
    f,
    args,
    f_vjp,
    level,
    seed,
    allowance,
    ties,
    surrogate,
  )


def verify_call(
  name: str,
  f: Callable[..., Any],
  args: tuple[Any, ...],
  f_vjp: Callable[..., Any] | None,
  level: str,
  seed: int,
  allowance: float,
  ties: str,
  surrogate: bool = False,
  y_bar: list[np.ndarray] | None = None,
) -> Report:
  """The same with a name, and at a cotangent that isn't drawn but given."""
  start = time.monotonic()
  signature, leaves = signature_of(f, args)
  rule, outputs = rule_of(f, f_vjp, signature, leaves)
  verification = Verification(
    name, rule, leaves, outputs, level, seed, allowance, ties == "reference", surrogate
  )
  if y_bar is not None:
    verification.y_bar = y_bar
  try:
    with jax.default_matmul_precision("highest"):
      verification.run()
  except Exception as error:  # Of ours: what couldn't be looked at is no pass, and no traceback.
    message = f"the verifier broke: {type(error).__name__}: {first_line(error)}"
    verification.add(Finding("no verdict", "verification", message=message))
  return verification.report(time.monotonic() - start)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
  """Refuses what isn't one of some words."""
  if value not in choices:
    raise ValueError(f"vjp: {name} must be one of {', '.join(choices)}, got {value!r}")


class Verification:
  """One verification while it runs: the rule, where it is called, what was found so far."""

  def __init__(
    self,
    name: str,
    rule: Rule,
    leaves: Leaves,
    outputs: list[Any],
    level: str,
    seed: int,
    allowance: float,
    reference_at_ties: bool,
    surrogate: bool,
  ) -> None:
    self.name = name
    self.rule = rule
    self.outputs = outputs
    self.level, self.seed, self.allowance = level, seed, allowance
    self.reference_at_ties, self.surrogate = reference_at_ties, surrogate
    self.own_leaves = leaves
    self.leaves = as_numpy(leaves)
    self.y_bar = self.draw(outputs, 0)
    self.findings: list[Finding] = []
    self.counts: dict[str, int] = {}
    self.details: dict[str, str] = {}
    self.not_checked: list[str] = []
    self.worst_share = 0.0
    self.worst_ulp = 0.0
    self.max_sigma = 0.0
    self.order: list[int] = list(range(len(rule.signature.floats)))
    self.failed: set[str] = set()

  def draw(self, outputs: Sequence[Any], stream: int) -> list[np.ndarray]:
    """Cotangents of the float outputs, which their own dtypes can hold."""
    rng = np.random.default_rng([self.seed, 10, stream])
    drawn = cotangent_like(rng, outputs)
    return [rounded(b, o.dtype) for b, o in zip(drawn, outputs, strict=True) if is_float(o.dtype)]

  @property
  def is_large(self) -> bool:
    """Whether each point takes a while: then the standard battery is a part of itself."""
    return self.level == "standard" and sum(np.size(x) for x in self.leaves) > LARGE

  def regimes(self) -> list[Regime]:
    """The battery at these shapes."""
    found = value_regimes(self.rule.signature, self.leaves, self.level, self.seed)
    if self.is_large:
      found = [r for r in found if r.name in ESSENTIAL]
    return found

  @property
  def own_float_dtypes(self) -> list[Any]:
    """The dtypes of the leaves that have a cotangent."""
    return [self.rule.signature.dtypes[i] for i in self.rule.signature.floats]

  def noise(self, stream: int = 0) -> Noise:
    """The noise of the maths verdict."""
    return Noise(3 if self.is_large else SAMPLES[self.level], seed=self.seed + stream)

  # --- The order of things ------------------------------------------------------------------------

  def run(self) -> None:
    """All checks; those that need a working rule are left out where it doesn't work."""
    try:
      bars = self.check_call()
      witnesses = gather_witnesses(self.rule, self.own_leaves, self.outputs)
    except RuleError as error:
      self.add(exact.of_error(error, "as given"))
      return
    self.order = witnesses.first_to_last
    self.note_limits(witnesses)
    values = self.check_maths(witnesses, Regime("as given", self.leaves), self.y_bar)
    self.check_exact(witnesses, bars)
    if values is not None:
      self.check_numerics(witnesses, values, bars)
      if self.level == "deep":
        self.check_eager_in_float64(witnesses, values)
      self.check_slope(witnesses, values)
    self.check_regimes(witnesses)
    if self.level != "quick":
      self.check_branches(witnesses)
      self.check_modes(witnesses)
      self.check_second_order(witnesses)

  def check_call(self) -> Leaves:
    """The rule as it is, at the arguments as they were given: structure, dtypes."""
    y_bar = exact.own_cotangents(self.outputs, self.y_bar)
    self.count("structure")
    y, bars = exact.call(self.rule, self.own_leaves, y_bar)
    for i, (got, want) in enumerate(zip(y, self.outputs, strict=True)):
      if got.shape != want.shape or jnp.dtype(got.dtype) != want.dtype:
        message = (
          f"the rule's output {i} is {got.dtype}{list(got.shape)}, f's is "
          f"{want.dtype}{list(want.shape)}"
        )
        self.add(Finding("fail", "structure", message=message, cause="forward: another output"))
    self.count("dtype")
    for finding in exact.check_types(self.rule, self.own_leaves, bars):
      self.add(finding)
    return bars

  def note_limits(self, witnesses: Witnesses) -> None:
    """What the programs say that limits the verdict."""
    if not witnesses.is_wide:
      self.not_checked.append(
        "maths in float64: the rule can't be traced with float64 arguments, so its constants "
        f"count as rounded to {np.dtype(self.rule.signature.working)}"
      )
    if witnesses.truth is None:
      self.not_checked.append(witnesses.truth_missing)
    if self.rule.f_vjp is None and not witnesses.has_rule:
      self.add(
        Finding(
          "note", "rule", message="f carries no jax.custom_vjp, and no f_vjp is given: autodiff is "
          "compared with itself, and with differences",
        )
      )  # fmt: skip

  # --- Maths --------------------------------------------------------------------------------------

  def check_maths(
    self, witnesses: Witnesses, regime: Regime, y_bar: list[np.ndarray], check: str = "maths"
  ) -> Values | None:
    """U against A at one point; D where they differ. None where the function isn't finite."""
    bars = [b * regime.loss_scale for b in y_bar]
    values = evaluate(witnesses, regime.leaves, bars, self.noise())
    if not all(np.isfinite(y[0]).all() for y in values.y_want):
      return None
    self.count(check)
    may_be_vacuous = bool(values.fragile or values.foreign)
    if not regime.only_finite:
      self.compare_outputs(values, regime, may_be_vacuous)
    if values.bars_want is None:
      return values
    differences = compare(values.bars, values.bars_want, self.allowance, may_be_vacuous)
    if regime.only_finite:
      differences = [
        d._replace(is_wrong=d.is_wrong & ~np.isfinite(d.got) & np.isfinite(d.want))
        for d in differences
      ]
    self.worst_share = max(
      [self.worst_share, *(d.share for d in differences if not d.is_wrong.any())]
    )
    self.report_vacuous(differences, values, regime)
    args = (self.rule, witnesses, regime.leaves, bars, differences, self.seed)
    for judgement in judge(*args):
      self.report_difference(judgement, differences, witnesses, regime, bars, check)
    return values

  def compare_outputs(self, values: Values, regime: Regime, may_be_vacuous: bool) -> None:
    """The rule's forward pass gives the function's value."""
    self.count("forward")
    for d in compare(values.y, values.y_want, self.allowance, may_be_vacuous):
      if d.is_wrong.any() and "forward" not in self.failed:
        self.failed.add("forward")
        self.add(
          self.finding_of("fail", "forward", regime.name, f"output {d.leaf}", d)._replace(
            cause="forward: the rule's output isn't the function's"
          )
        )

  def report_vacuous(
    self, differences: Sequence[Difference], values: Values, regime: Regime
  ) -> None:
    """A bound that says nothing is no verdict, at the arguments that were given."""
    for d in differences:
      if d.is_vacuous.any() and regime.name == "as given":
        why = (
          f"an operation isn't evaluated in float64: {', '.join(sorted(set(values.foreign)))}"
          if values.foreign
          else "rounding decides a comparison here"
        )
        name = self.rule.signature.float_names[d.leaf]
        index = tuple(int(i) for i in np.argwhere(d.is_vacuous)[0])
        self.add(
          Finding(
            "no verdict", "maths", regime.name, name, index, float(d.got[index]),
            float(d.want[index]), float(d.bound[index]), int(d.is_vacuous.sum()), d.got.size,
            d.got.shape, "", f"the bound is vacuous: {why}",
          )
        )  # fmt: skip

  def report_difference(
    self,
    judgement: Any,
    differences: Sequence[Difference],
    witnesses: Witnesses,
    regime: Regime,
    y_bar: list[np.ndarray],
    check: str,
  ) -> None:
    """One leaf that differs, with what it means and why."""
    d = judgement.difference
    name = self.rule.signature.float_names[d.leaf]
    kind = {"oracle fault": "oracle fault", "fail": "fail"}.get(judgement.ruling, "note")
    cause, message = "", ""
    if judgement.why:
      cause, message = "kink: not a slope between those of its sides", judgement.why
    elif judgement.ruling == "kink":
      cause = "kink: another slope than autodiff's at a tie"
      message = "the function has a kink here"
      if self.reference_at_ties:
        kind = "fail"
    elif judgement.ruling == "oracle fault":
      message = "autodiff of the reference is wrong here: the differences agree with the rule"
      if regime.name != "as given":
        kind = "note"  # Nobody called it there.
    elif judgement.ruling == "undefined":
      message = "neither autodiff nor the differences are finite here"
    key = f"{kind} {name}" if kind == "fail" else f"{kind} {check} {name} {judgement.ruling}"
    if key in self.failed:
      return
    self.failed.add(key)
    if kind == "fail" and not np.isfinite(d.got[d.worst]):
      cause = "not finite: the truth is"
    elif kind == "fail" and not cause:
      cause = self.cause_of(d, differences, witnesses, regime, y_bar)
    self.add(
      self.finding_of(kind, check, regime.name, name, d)._replace(cause=cause, message=message)
    )

  def cause_of(
    self,
    d: Difference,
    differences: Sequence[Difference],
    witnesses: Witnesses,
    regime: Regime,
    y_bar: list[np.ndarray],
  ) -> str:
    """The known pattern that reproduces the rule's numbers; looked for once, for the first leaf."""
    if any(f.kind == "fail" and f.check == "maths" for f in self.findings):
      return ""
    sizes = sum(np.size(x) for x in regime.leaves)
    if sizes > 2_000_000:
      return ""
    rule, leaves = self.rule, regime.leaves
    try:
      with jax.enable_x64(True):
        own = [jnp.asarray(x) if is_float(x.dtype) else x for x in leaves]
        stripped = without_rules(rule.forward, *own)

        def reference(*args: Any) -> Any:
          return jax.tree.unflatten(rule.out_structure, stripped(*jax.tree.leaves(args)))

        tree = jax.tree.unflatten(rule.out_structure, with_float0(witnesses.outputs, y_bar))
        return find_cause(
          reference,
          rule.signature.arguments(own),
          tree,
          [x.got for x in differences],
          [x.want for x in differences],
          [x.bound for x in differences],
          d.leaf,
        )
    except Exception as error:  # The search for an explanation must not hide what it explains.
      self.not_checked.append(f"the cause: {type(error).__name__}: {error}")
      return ""

  def finding_of(self, kind: Any, check: str, regime: str, name: str, d: Difference) -> Finding:
    """The finding of a leaf that differs."""
    index = d.worst
    return Finding(
      kind, check, regime, name, index, float(d.got[index]), float(d.want[index]),
      float(d.bound[index]), int(d.is_wrong.sum()), d.got.size, d.got.shape,
    )  # fmt: skip

  def check_slope(self, witnesses: Witnesses, values: Values) -> None:
    """D against U and A in random directions, where these agree."""
    if self.has_failed:
      return
    bars = [b[0] for b in values.bars]
    agrees, own, slope = confirm(witnesses, self.leaves, self.y_bar, bars, self.seed)
    self.count("differences")
    if agrees is None:
      self.not_checked.append("differences at the arguments as given: they cross kinks there")
      if values.bars_want is None:
        self.add(Finding("no verdict", "differences", message="there is no other witness"))
    elif not agrees and not self.surrogate:
      self.add(
        Finding(
          "fail", "differences", got=own, want=slope, cause="semantic: not the function's slope",
          message="the rule and autodiff agree with each other, and not with the function: a "
          "stop_gradient or a straight-through rule? If it is meant, say surrogate=True",
        )
      )  # fmt: skip

  # --- Other points -------------------------------------------------------------------------------

  def check_regimes(self, witnesses: Witnesses) -> None:
    """The battery, at these shapes and at other sizes of the batch."""
    signature = self.rule.signature
    batch = find_batch(self.rule, self.leaves, self.outputs)
    for regime in self.regimes():
      if self.has_failed:
        return
      self.check_point(witnesses, regime, self.y_bar)
    if batch is None:
      self.not_checked.append("other sizes of a batch: no axis of examples was found")
      return
    sizes = batch_regimes(signature, self.leaves, batch, self.level, self.seed)
    for regime in sizes[::2] if self.is_large else sizes:
      if self.has_failed:
        return
      self.check_batch(regime)

  def check_point(self, witnesses: Witnesses, regime: Regime, y_bar: list[np.ndarray]) -> None:
    """A regime; moved a little, and tried again, where rounding decides a comparison."""
    values = self.check_maths(witnesses, regime, y_bar)
    if values is None:
      self.counts["outside the domain"] = self.counts.get("outside the domain", 0) + 1

  def check_batch(self, regime: Regime) -> None:
    """A batch of another size: traced anew, and run."""
    own = self.rule.signature.in_own_dtypes(regime.leaves)
    try:
      outputs = jax.tree.leaves(jax.eval_shape(self.rule.forward, *own))
    except Exception:
      return
    y_bar = self.draw(outputs, 1)
    try:
      rule = self.rule._replace(
        out_structure=jax.tree.structure(
          jax.eval_shape(lambda *x: self.rule.f(*self.rule.signature.arguments(x)), *own)
        )
      )
      exact.shapes_of_call(rule, own, exact.own_cotangents(outputs, y_bar))
      witnesses = gather_witnesses(rule, own, outputs)
    except RuleError as error:
      finding = exact.of_error(error, regime.name)
      if regime.name == "N = 0" and error.check == "raises":
        finding = finding._replace(kind="note", cause="")  # Few rules are meant for nothing at all.
      self.add(finding)
      return
    self.check_maths(witnesses, regime, y_bar)

  def check_branches(self, witnesses: Witnesses) -> None:
    """The other side of every comparison."""
    if self.has_failed:
      return
    coverage = Coverage(witnesses)
    coverage.look([*self.leaves, *self.y_bar])
    for regime in (r for r in self.regimes() if not r.only_finite):
      coverage.look([*regime.leaves, *(b * regime.loss_scale for b in self.y_bar)])
    most = MOST_SITES["large" if self.is_large else self.level]
    points, left = search(coverage, self.leaves, self.y_bar, most)
    for name, leaves, y_bar in points:
      if self.has_failed:
        return
      self.check_point(witnesses, Regime(name, leaves), y_bar)
    if coverage.seen:
      self.counts["branches"] = 2 * len(coverage.seen) - left
      self.details["branches"] = f"of {2 * len(coverage.seen)} sides of comparisons"

  # --- To the last bit ----------------------------------------------------------------------------

  def check_exact(self, witnesses: Witnesses, bars: Leaves) -> None:
    """What holds without a tolerance, in the rule's own dtype."""
    rule, leaves = self.rule, self.own_leaves
    y_bar = exact.own_cotangents(self.outputs, self.y_bar)
    other_bar = exact.own_cotangents(self.outputs, self.draw(self.outputs, 2))
    other = value_regimes(rule.signature, self.leaves, "quick", self.seed)[0].leaves
    own_other = rule.signature.in_own_dtypes(other)
    checks: list[tuple[str, Callable[[], list[Finding]]]] = [
      ("zero cotangent", lambda: exact.check_zero(rule, leaves, y_bar, "as given")),
      ("scaled cotangent", lambda: self.check_scaling(witnesses, y_bar, bars)),
      (
        "repeated call",
        lambda: exact.check_repeats(rule, (leaves, y_bar), (own_other, other_bar), bars),
      ),
    ]
    if self.level != "quick":
      checks += [
        ("donated arguments", lambda: exact.check_donation(rule, leaves, y_bar)),
        ("arguments unchanged", lambda: exact.check_unchanged(rule, leaves, y_bar)),
      ]
    for name, check in checks:
      self.count(name)
      try:
        found = check()
      except RuleError as error:
        found = [exact.of_error(error, name)]
      for finding in found:
        self.add(finding)

  def check_scaling(self, witnesses: Witnesses, y_bar: Leaves, bars: Leaves) -> list[Finding]:
    """Bits that differ count if float64 differs too: else something left the normal range."""
    confirmed = []
    for finding, power in exact.check_scaling(self.rule, self.own_leaves, y_bar, bars):
      scaled = [b * 2.0**power for b in self.y_bar]
      plain = evaluate(witnesses, self.leaves, self.y_bar, self.noise())
      moved = evaluate(witnesses, self.leaves, scaled, self.noise())
      found = compare(moved.bars, [b * 2.0**power for b in plain.bars], self.allowance, True)
      if any(d.is_wrong.any() for d in found):
        confirmed.append(finding)
      else:
        self.add(finding._replace(kind="note", cause="", message="bits differ, float64 agrees"))
    return confirmed[:1]

  # --- Numerics -----------------------------------------------------------------------------------

  def check_numerics(self, witnesses: Witnesses, values: Values, bars: Leaves) -> None:
    """The rule as it is, and compiled, in its own dtype against the truth."""
    if self.has_failed:
      return
    if witnesses.is_wide and any(d != np.float64 for d in self.own_float_dtypes):
      # Traced in its own dtype a rule may take other ways, and draws other random numbers.
      try:
        witnesses = gather_witnesses(self.rule, self.own_leaves, self.outputs, widen=False)
      except RuleError as error:
        self.add(exact.of_error(error, "in its own dtype"))
        return
      regime = Regime("in its own dtype", self.leaves)
      own = self.check_maths(witnesses, regime, self.y_bar)
      if own is None or self.has_failed:
        return
      values = own
    # Its own numbers in float64, which the maths verdict has found to be right.
    want = [b[0] for b in values.bars]
    samples = 3 if self.is_large else max(5, SAMPLES[self.level])
    sigmas = numerics.deviations(witnesses, self.leaves, self.y_bar, samples, self.seed)
    y_bar = exact.own_cotangents(self.outputs, self.y_bar)
    runs: list[tuple[str, Callable[[], Leaves]]] = [("as it is", lambda: bars)]
    if self.level != "quick":
      runs.append(("compiled", lambda: self.compiled(self.own_leaves, y_bar)))
    for name, call in runs:
      self.count("numerics")
      try:
        got = [np.asarray(b, np.float64) for b in call()]
      except RuleError as error:
        self.add(exact.of_error(error, name))
        continue
      self.judge_rounding(witnesses, got, want, sigmas, name)

  def judge_rounding(
    self,
    witnesses: Witnesses,
    got: list[np.ndarray],
    want: list[np.ndarray],
    sigmas: list[np.ndarray],
    regime: str,
  ) -> None:
    """The numerics verdict of one run."""
    for found in numerics.measure(witnesses, got, want, sigmas, self.allowance):
      self.worst_ulp = max(self.worst_ulp, found.ulp)
      self.max_sigma = max(self.max_sigma, found.sigma)
      if found.sigma > numerics.MOST_SIGMAS * self.allowance:
        name = self.rule.signature.float_names[found.leaf]
        bound = numerics.MOST_SIGMAS * self.allowance * found.deviation
        is_mode = regime == "compiled" and not any(f.check == "numerics" for f in self.findings)
        finite = math.isfinite(found.got)
        cause = (
          "not finite: the truth is" if not finite else
          "mode: wrong only where it is compiled" if is_mode else
          f"precision: an error of {found.sigma:.0f} standard deviations"
        )  # fmt: skip
        self.add(
          Finding(
            "fail", "numerics", regime, name, found.index, found.got, found.want, bound,
            found.wrong, found.size, want[found.leaf].shape, cause,
          )
        )  # fmt: skip
        return

  def compiled(self, leaves: Leaves, y_bar: Leaves) -> Leaves:
    """The rule under jit, in its own dtype."""
    moving = [b for b in y_bar if b.dtype != jax.dtypes.float0]

    def backward(leaves: Leaves, moving: Leaves) -> Leaves:
      own = iter(moving)
      full = [b if b.dtype == jax.dtypes.float0 else next(own) for b in y_bar]
      return self.rule.backward(leaves, full)

    try:
      return jax.jit(backward)(leaves, moving)
    except Exception as error:
      raise exact.as_rule_error(error) from error

  def check_eager_in_float64(self, witnesses: Witnesses, values: Values) -> None:
    """The rule in float64 without being traced: what it does for concrete values only."""
    if not witnesses.is_wide:
      return
    self.count("without jit")
    try:
      with jax.enable_x64(True):
        leaves = [jnp.asarray(x) if is_float(x.dtype) else x for x in self.leaves]
        bars_in = [
          jnp.asarray(b, a.dtype)
          for b, a in zip(self.y_bar, witnesses.forward.out_avals, strict=True)
        ]
        got = self.rule.backward(leaves, with_float0(self.outputs, bars_in))
        numbers = [np.asarray(b, np.float64)[None] for b in got]
    except Exception as error:
      self.add(exact.of_error(exact.as_rule_error(error), "in float64, without jit"))
      return
    self.compare_mode(
      "without jit", "wrong only where it isn't compiled", numbers, values.bars, values
    )

  # --- Transformations ----------------------------------------------------------------------------

  def compare_mode(
    self,
    check: str,
    what: str,
    got: Sequence[np.ndarray],
    want: Sequence[np.ndarray],
    values: Values,
    regime: str = "as given",
  ) -> None:
    """The rule in another mode against its own numbers, which are verified."""
    for d in compare(got, want, 2 * self.allowance, bool(values.fragile)):
      if d.is_wrong.any():
        name = self.rule.signature.float_names[d.leaf]
        self.add(self.finding_of("fail", check, regime, name, d)._replace(cause=f"mode: {what}"))
        return

  def check_modes(self, witnesses: Witnesses) -> None:
    """vmap of everything, of the cotangent, of each argument; scan; remat; two devices."""
    if self.has_failed:
      return
    signature = self.rule.signature
    other = value_regimes(signature, self.leaves, "quick", self.seed)[0].leaves
    lanes = [
      [*self.leaves, *self.y_bar],
      [*other, *self.draw(self.outputs, 3)],
      [*self.leaves, *self.draw(self.outputs, 4)],
    ]
    count = len(signature.names)
    is_key = [jnp.issubdtype(a.dtype, jax.dtypes.prng_key) for a in witnesses.rule.in_avals]
    everything = [not key for key in is_key]
    variants = [("vmap", everything), ("scan", everything)]
    if self.y_bar:
      variants.append(("vmap of the cotangent", [i >= count for i in range(len(everything))]))
    by_argument: dict[str, list[int]] = {}
    for i, name in enumerate(signature.names):
      by_argument.setdefault(name.partition("/")[0], []).append(i)
    if len(by_argument) > 1 and not self.is_large:
      for name, places in by_argument.items():
        mapped = [i in places and not is_key[i] for i in range(len(everything))]
        if any(mapped):
          variants.append((f"vmap of {name}", mapped))
    alone: dict[tuple[int, ...], Values] = {}
    for check, mapped in variants:
      self.check_lanes(witnesses, check, mapped, lanes[: 2 if self.is_large else 3], alone)
    if self.rule.f_vjp is None:
      self.check_remat(witnesses)
    self.check_devices()

  def check_lanes(
    self,
    witnesses: Witnesses,
    check: str,
    mapped: list[bool],
    lanes: list[list[Any]],
    alone: dict[tuple[int, ...], Values],
  ) -> None:
    """Some inputs stacked: each lane must be what the rule gives alone, kept in `alone`."""
    try:
      program = modes.mapped_program(self.rule, witnesses, mapped, len(lanes), check == "scan")
    except Exception as error:
      found = exact.as_rule_error(error)
      self.add(
        Finding(
          "fail", check, message=f"under {check} the rule raises {found}", cause="mode: raises"
        )
      )
      return
    self.count(check)
    inputs = [
      np.stack([np.asarray(lane[i]) for lane in lanes]) if m else lanes[0][i]
      for i, m in enumerate(mapped)
    ]
    stacks = witnesses.evaluator(None).run(program, inputs)
    count = len(self.rule.signature.names)
    for k in range(len(lanes)):
      which = tuple(k if m else 0 for m in mapped)
      if which not in alone:
        own = [lanes[lane][i] for i, lane in enumerate(which)]
        alone[which] = evaluate(witnesses, own[:count], own[count:], self.noise(k))
      values = alone[which]
      if not all(np.isfinite(y[0]).all() for y in values.y_want):
        continue
      got = [s[:, k] for s in stacks]
      self.compare_mode(check, f"wrong under {check}", got, values.bars, values, f"lane {k}")
      if self.has_failed:
        return

  def check_remat(self, witnesses: Witnesses) -> None:
    """The function under `jax.checkpoint`."""
    try:
      program = modes.remat_program(self.rule, witnesses)
    except Exception as error:
      self.not_checked.append(f"remat: {type(error).__name__}")
      return
    self.count("remat")
    values = evaluate(witnesses, self.leaves, self.y_bar, self.noise())
    got = witnesses.evaluator(None).run(program, [*self.leaves, *self.y_bar])
    self.compare_mode("remat", "wrong under remat", got, values.bars, values)

  def check_devices(self) -> None:
    """Compiled for two devices, if there are two."""
    if len(jax.devices()) < 2:
      self.not_checked.append("two devices: there is one")
      return
    batch = find_batch(self.rule, self.leaves, self.outputs)
    if batch is None or self.leaves[next(iter(batch))].shape[0] % 2:
      self.not_checked.append("two devices: no axis of an even number of examples")
      return
    y_bar = exact.own_cotangents(self.outputs, self.y_bar)
    try:
      got = modes.sharded_backward(self.rule, self.own_leaves, y_bar, batch, self.outputs)
    except Exception as error:
      self.not_checked.append(f"two devices: {type(error).__name__}")
      return
    self.count("two devices")
    want = self.compiled(self.own_leaves, y_bar)
    for name, g, w in zip(self.rule.signature.float_names, got, want, strict=True):
      a, b = np.asarray(g, np.float64), np.asarray(w, np.float64)
      limit = 1e3 * float(jnp.finfo(g.dtype).eps) * float(np.max(np.abs(b), initial=0.0))
      if (np.abs(a - b) > limit).any():
        self.add(Finding("fail", "two devices", leaf=name, cause="mode: wrong on two devices"))
        return

  def check_second_order(self, witnesses: Witnesses) -> None:
    """The rule's own derivative, where it has one."""
    if self.has_failed or witnesses.truth is None:
      return
    try:
      rule, truth = modes.second_order_programs(self.rule, witnesses)
    except Exception as error:
      self.not_checked.append(
        f"second order: the rule can't be differentiated ({type(error).__name__})"
      )
      return
    rng = np.random.default_rng([self.seed, 6])
    floats = self.rule.signature.floats
    other = value_regimes(self.rule.signature, self.leaves, "quick", self.seed)[0].leaves
    names = [*self.rule.signature.float_names, *(f"cotangent {i}" for i in range(len(self.y_bar)))]
    # What the function holds constant, as a loss its targets, its rule may hold constant too: that
    # the other cotangents depend on it is then no matter of the rule's.
    values = evaluate(witnesses, other, self.y_bar, self.noise())
    constants = {i for i, bar in enumerate(values.bars_want or ()) if bar.size and not np.any(bar)}
    for regime, leaves in (("as given", self.leaves), ("redrawn", other)):
      weights = [rng.normal(size=np.shape(leaves[i])) for i in floats]
      inputs = [*leaves, *self.y_bar, *weights]
      evaluator = witnesses.evaluator(self.noise())
      got, want = evaluator.run(rule, inputs), evaluator.run(truth, inputs)
      if not all(np.isfinite(w[0]).all() for w in want):
        continue
      self.count("second order")
      found = compare(got, want, 2 * self.allowance, True)
      wrong = [d for d in found if d.is_wrong.any() and d.leaf not in constants]
      if wrong and find_ties(witnesses, leaves):
        continue  # At a kink there is no second derivative.
      if wrong:
        self.add(
          self.finding_of("fail", "second order", regime, names[wrong[0].leaf], wrong[0])._replace(
            cause="mode: wrong only in second order"
          )
        )
        return

  # --- The report ---------------------------------------------------------------------------------

  @property
  def has_failed(self) -> bool:
    """Whether anything is known to be wrong: what comes after would only repeat it."""
    return any(f.kind == "fail" for f in self.findings)

  def add(self, finding: Finding) -> None:
    """Notes a finding."""
    self.findings.append(finding)

  def count(self, check: str) -> None:
    """Notes that a check was made."""
    self.counts[check] = self.counts.get(check, 0) + 1

  def report(self, seconds: float) -> Report:
    """All of it, in order."""
    names = [self.rule.signature.float_names[i] for i in self.order]

    def rank(finding: Finding) -> tuple[int, int, int]:
      kinds = ("fail", "oracle fault", "no verdict", "note")
      check = RANKS.index(finding.check) if finding.check in RANKS else len(RANKS)
      leaf = names.index(finding.leaf) if finding.leaf in names else -1
      return kinds.index(finding.kind), check, leaf

    findings = sorted(self.findings, key=rank)
    findings = explained(findings)
    wrong = {f.leaf for f in findings if f.kind == "fail"}
    if self.counts:
      self.details["maths"] = f"largest error {self.worst_share:.2g} of its bound"
    if wrong and self.level != "quick":
      left = [check for check in AFTERWARDS if check not in self.counts]
      if left:
        self.not_checked.append(f"after a failure: {', '.join(left)}")
    checks = []
    for check, times in self.counts.items():
      kinds = [f.kind for f in findings if f.check == check]
      checks.append(Checked(check, times, first_verdict(kinds), self.details.get(check, "")))
    return Report(
      self.name,
      tuple(findings),
      tuple(checks),
      tuple(dict.fromkeys(self.not_checked)),
      tuple(name for name in names if name not in wrong),
      self.worst_ulp,
      self.max_sigma,
      self.level,
      self.seed,
      self.allowance,
      seconds,
    )


def explained(findings: list[Finding]) -> list[Finding]:
  """What the checks say together: a rule that isn't linear in y_bar has no constant factor."""
  failed = {f.check: f for f in findings if f.kind == "fail"}
  if not findings or findings[0].check != "maths" or findings[0].kind != "fail":
    return findings
  kind = findings[0].cause.partition(":")[0]
  is_unknown = kind in ("", "no known pattern")
  is_nonlinear = "scaled cotangent" in failed and "zero cotangent" not in failed
  if "scaled cotangent" in failed and (is_unknown or (is_nonlinear and kind == "constant factor")):
    cause = failed["scaled cotangent"].cause
    return [findings[0]._replace(cause=cause), *findings[1:]]
  return findings
