"""`fbackprop verify`: verify a user's VJP, the library's own rules, or the verifier itself."""

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from fbackprop.cli.console import (
  Progress,
  UsageError,
  check_writable,
  is_special,
  note,
  show,
  show_progress,
  usage_errors,
  write,
)
from fbackprop.cli.loading import described, load
from fbackprop.hints import hint
from fbackprop.ranges import POSITIVE, RANGES, check_range

if TYPE_CHECKING:
  from fbackprop.verify.report.report import Report

CODES = {"pass": 0, "fail": 1, "oracle fault": 1, "no verdict": 4}


@dataclass(frozen=True)
class VerifyConfig:
  """Verify a hand-written VJP, or without a function those of this library.

  fbackprop verify pkg.module:f --args pkg.module:make_args

  Exit code: 0 pass, 1 fail or oracle fault, 2 usage, 4 no verdict.

  Attributes:
    target: Function with a jax.custom_vjp, function to which --vjp belongs, or Layer.
    args: Tuple of its arguments, or a function that returns one; of a Layer: (params, x).
    vjp: VJP of a function without a custom one: f_vjp(*args) -> (y, pullback).
    level: Thoroughness: about a second, ten seconds, minutes.
    seed: Random seed of the cotangents, directions and test points.
    allowance: Factor on every error bound, printed in the report.
    ties: Derivatives accepted at a kink: any between the one-sided ones, or the reference's only.
    surrogate: Rule that is meant to differ from the derivative: straight-through estimator,
      stop_gradient.
    leaf: Leaf to report on, as params/1/w; by default all.
    self_test: Self-test of the verifier: detection rate of planted bugs, and false positives.
    only: Specimens of --self-test; by default all.
    json: Output file of the report as JSON.
  """

  target: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODULE:F")] = None
  args: Annotated[str | None, tyro.conf.arg(metavar="MODULE:NAME")] = None
  vjp: Annotated[str | None, tyro.conf.arg(metavar="MODULE:NAME")] = None
  level: Literal["quick", "standard", "deep"] = "standard"
  seed: int = 0
  allowance: float = 1.0
  ties: Annotated[
    Literal["any", "reference"] | None,
    tyro.conf.arg(help_behavior_hint="(default: reference for a Layer, else any)"),
  ] = None
  surrogate: bool = False
  leaf: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
  self_test: bool = False
  only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
  json: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None


def check_together(config: VerifyConfig) -> None:
  """Raise for numbers out of range, and for flags that exclude or need one another.

  Raises:
    UsageError: the message names the flag.
  """
  with usage_errors():
    check_range("", "--seed", config.seed, RANGES["seed"])
    check_range("", "--allowance", config.allowance, POSITIVE)
  if config.target is not None and config.self_test:
    raise UsageError("--self-test verifies the verifier, and takes no function")
  if config.target is not None and config.args is None:
    raise UsageError("give the function's arguments: --args MODULE:NAME")
  for flag, is_given in (
    ("--args ...", config.args), ("--vjp ...", config.vjp), ("--leaf ...", config.leaf),
    ("--surrogate ...", config.surrogate),
  ):  # fmt: skip
    if config.target is None and is_given:
      raise UsageError(f"{flag[:-4]} needs a function: fbackprop verify MODULE:F {flag}")
  if config.only and not config.self_test:
    raise UsageError("--only needs --self-test")


class Outcome(NamedTuple):
  """The outcome of a command: its exit code, its last lines, its JSON."""

  code: int
  text: str
  json: str


def main(arguments: Sequence[str]) -> int:
  """Verify a function, the library, or the verifier.

  Args:
    arguments: the arguments after `fbackprop verify`.

  Returns:
    0 pass, 1 fail, oracle fault, or failed write, 4 no verdict, 130 interrupted.

  Raises:
    UsageError: the function, its arguments or a flag is invalid.
  """
  config = tyro.cli(
    VerifyConfig,
    prog="fbackprop verify",
    args=arguments,
    config=(tyro.conf.FlagCreatePairsOff,),
  )
  check_together(config)
  try:
    if config.json is not None:
      check_writable("--json", config.json)
    outcome = run(config)
  except KeyboardInterrupt:
    note("interrupted; nothing was decided")
    return 130
  # JSON written to a pipe must be the only output there.
  show(f"{outcome.text}\n", to_stderr=is_alone(config))
  if config.json is not None:
    try:
      write("--json", config.json, f"{outcome.json}\n".encode())
    except UsageError as error:  # A full disk, say: the path was valid, so this is no usage error.
      note(str(error))
      return 1
  return outcome.code


def run(config: VerifyConfig) -> Outcome:
  """Run the command. jax is imported here."""
  if config.self_test:
    return run_self_test(config)
  if config.target is None:
    return run_library(config)
  report = report_of(config)
  return Outcome(CODES[report.verdict], report.table(), report.to_json())


def report_of(config: VerifyConfig) -> "Report":
  """Verify the named function."""
  from fbackprop.types import Layer
  from fbackprop.verify._vjp import vjp
  from fbackprop.verify.network import layer
  from fbackprop.verify.report.findings import UnusableError

  f = load("the function", str(config.target))
  is_layer = isinstance(f, Layer)
  if not (is_layer or callable(f)):
    raise UsageError(f"{config.target} must be a function or a Layer, got {type(f).__name__}")
  args = arguments_of(str(config.args))
  options = options_of(config)
  if config.surrogate:
    options["surrogate"] = True
  if config.vjp is not None:
    options["f_vjp"] = load("--vjp", config.vjp)
    if not callable(options["f_vjp"]):
      kind = type(options["f_vjp"]).__name__
      raise UsageError(f"--vjp {config.vjp} must be a function, got {kind}")
  if is_layer and config.vjp is not None:
    raise UsageError(f"--vjp: {config.target} is a Layer, which has its own rule")
  if is_layer and config.surrogate:
    raise UsageError(f"--surrogate: {config.target} is a Layer, whose parts are known")
  if is_layer and len(args) not in (2, 3):
    got = f"{len(args)} argument{'s' * (len(args) != 1)}"
    said = "must give (params, x) for a Layer, or (params, x, key)"
    raise UsageError(f"--args {config.args} {said}, got {got}")
  if is_layer and len(args) == 3:
    options["key"], args = args[2], args[:2]
  try:
    verify = layer if is_layer else vjp
    report = whatever_happens(str(config.target), lambda: verify(f, *args, **options))
  except UnusableError as error:
    raise UsageError(f"{config.target}: {error}") from error
  report = report._replace(name=str(config.target), again=again(config, report))
  return report if config.leaf is None else of_leaf(report, config.leaf)


def options_of(config: VerifyConfig) -> dict[str, Any]:
  """Return the options shared by `vjp` and `layer`."""
  options = {"level": config.level, "seed": config.seed, "allowance": config.allowance}
  return options if config.ties is None else {**options, "ties": config.ties}


def arguments_of(target: str) -> tuple[Any, ...]:
  """Return the tuple named by `--args`, or returned by the function of that name."""
  found = load("--args", target)
  made = ""
  if callable(found):
    made = "()"
    try:
      found = found()
    except (Exception, SystemExit) as error:
      raise UsageError(f"--args: {target}() raised {described(error)}") from error
  if not isinstance(found, tuple):
    raise UsageError(f"--args: {target}{made} must be the tuple of the function's arguments, got "
                     f"{type(found).__name__}; of a single argument: (x,)")  # fmt: skip
  return found


def whatever_happens(name: str, verify: "Callable[[], Report]") -> "Report":
  """Run the verifier; an unexpected error of its own is no verdict, and never a pass."""
  from fbackprop.verify.report.findings import Finding, UnusableError
  from fbackprop.verify.report.report import Report

  try:
    return verify()
  except UnusableError:
    raise
  except Exception as error:
    message = f"the verifier itself failed, please report it: {described(error)}"
    return Report(name, (Finding("no verdict", "verifier", message=message),))


def again(config: VerifyConfig, report: "Report") -> str:
  """Return the command that reproduces the first finding."""
  leaf = config.leaf or (report.findings[0].leaf if report.findings else "")
  words = ["fbackprop", "verify", str(config.target), "--args", str(config.args)]
  words += ["--vjp", config.vjp] if config.vjp else []
  words += ["--level", config.level] if config.level != "standard" else []
  words += ["--allowance", f"{config.allowance:g}"] if config.allowance != 1 else []
  words += ["--ties", config.ties] if config.ties else []
  words += ["--surrogate"] if config.surrogate else []
  words += ["--seed", str(config.seed)]
  words += ["--leaf", leaf] if leaf else []
  return shlex.join(words)


def of_leaf(report: "Report", leaf: str) -> "Report":
  """Return the report restricted to the findings of one leaf."""
  others = [finding for finding in report.findings if finding.leaf not in (leaf, "")]
  known = list(dict.fromkeys([*report.verified, *(f.leaf for f in report.findings if f.leaf)]))
  if leaf not in known and known:
    raise UsageError(f"unknown leaf {leaf!r} for --leaf; {hint(leaf, known)}")
  omitted = f"--leaf leaves out {len(others)} finding{'s' * (len(others) != 1)} of other leaves"
  return report._replace(
    findings=tuple(finding for finding in report.findings if finding not in others),
    not_checked=(*report.not_checked, *([omitted] if others else [])),
  )


def run_library(config: VerifyConfig) -> Outcome:
  """Verify every rule of this library."""
  from fbackprop.verify.library import LIBRARY
  from fbackprop.verify.report.findings import first_verdict
  from fbackprop.verify.report.report import FORMAT, to_plain

  options = options_of(config)
  reports = []
  with progress(config, len(LIBRARY), "verifying") as tell:
    for i, entry in enumerate(LIBRARY):
      report = whatever_happens(entry.name, lambda entry=entry: entry.verify(**options))  # type: ignore[misc]
      reports.append(report._replace(name=entry.name))
      tell(f"{entry.name:<36}{report.verdict:<14}{report.seconds:6.1f} s", i + 1)
  verdict = first_verdict([report.verdict for report in reports])
  passed = sum(report.ok for report in reports)
  tables = [f"{report.table()}\n\n" for report in reports if not report.ok]
  seconds = sum(report.seconds for report in reports)
  text = f"{verdict.upper()}: {passed} of {len(reports)} pass   "
  text += f"{config.level}, seed {config.seed}, {seconds:.1f} s"
  table = {"format": FORMAT, "verdict": verdict, "reports": [to_plain(r) for r in reports]}
  return Outcome(CODES[verdict], "".join(tables) + text, json.dumps(table, allow_nan=False))


def run_self_test(config: VerifyConfig) -> Outcome:
  """Run the bank of planted bugs."""
  from fbackprop.verify.bank import BUGS, RIGHT
  from fbackprop.verify.self_test import run_self_test

  names = [specimen.name for specimen in (*BUGS, *RIGHT)]
  for name in config.only:
    if name not in names:
      raise UsageError(f"unknown specimen {name!r} for --only; {hint(name, names)}")
  with progress(config, len(config.only or names), "self-test") as tell:
    done = run_self_test(config.level, config.seed, tell, only=config.only)
  return Outcome(done.code, done.table(), done.to_json())


@contextmanager
def progress(config: VerifyConfig, total: int, what: str) -> Iterator[Progress]:
  """Show lines and a progress bar, or nothing if JSON is written to a pipe."""
  if is_alone(config):

    def tell_nobody(line: str, step: int) -> None:
      pass

    yield tell_nobody
    return
  with show_progress(total, what) as tell:
    yield tell


def is_alone(config: VerifyConfig) -> bool:
  """Return whether JSON goes to a terminal or a pipe, where nothing else may be printed."""
  return config.json is not None and is_special(config.json)
