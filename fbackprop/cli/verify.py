"""`fbackprop verify`: a user's VJP, the library's own rules, or the verifier itself."""

import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from fbackprop.cli.loading import described, load
from fbackprop.cli.output import check_writable, is_special, show, write
from fbackprop.cli.progress import Progress, show_progress
from fbackprop.cli.usage import UsageError, hint

if TYPE_CHECKING:
  from fbackprop.verify.report.report import Report

CODES = {"pass": 0, "fail": 1, "oracle fault": 1, "no verdict": 4}


@dataclass(frozen=True)
class VerifyConfig:
  """Verify a hand-written VJP; without a function, those of this library.

  fbackprop verify pkg.module:f --args pkg.module:make_args

  Exit code: 0 pass, 1 fail or oracle fault, 2 usage, 4 no verdict.
  """

  target: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="MODULE:F")] = None
  """The function: one with a jax.custom_vjp, or the reference of --vjp, or a Layer."""

  args: Annotated[str | None, tyro.conf.arg(metavar="MODULE:NAME")] = None
  """A tuple of its arguments, or a function that makes one; of a Layer: (params, x)."""

  vjp: Annotated[str | None, tyro.conf.arg(metavar="MODULE:NAME")] = None
  """The rule, where the function carries none: f_vjp(*args) -> (y, pullback)."""

  level: Literal["quick", "standard", "deep"] = "standard"
  """How much is checked: about a second, ten seconds, minutes."""

  seed: int = 0
  """Of the cotangents, directions and regimes."""

  allowance: float = 1.0
  """Multiplies every bound, and is printed."""

  ties: Annotated[
    Literal["any", "reference"] | None,
    tyro.conf.arg(help_behavior_hint="(default: reference for a Layer, else any)"),
  ] = None
  """At a kink any slope between its sides is right, or only the reference's."""

  surrogate: bool = False
  """The rule is meant to differ from the function's slope: straight-through, stop_gradient."""

  leaf: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
  """Report on one leaf only, as params/1/w."""

  self_test: bool = False
  """Verify the verifier: plant known bugs, and count what it finds."""

  only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
  """With --self-test: some specimens."""

  json: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
  """Write the report to a file as well."""

  def __post_init__(self) -> None:
    if not 0 <= self.seed < 2**32:
      raise UsageError(f"--seed must be from 0 to {2**32 - 1}, got {self.seed}")
    if not (math.isfinite(self.allowance) and self.allowance > 0):
      raise UsageError(f"--allowance must be finite and above 0, got {self.allowance}")
    if self.target is not None and self.self_test:
      raise UsageError("--self-test verifies the verifier, and takes no function")
    if self.target is not None and self.args is None:
      raise UsageError("give the function's arguments: --args MODULE:NAME")
    for flag in ("args", "vjp", "leaf"):
      if self.target is None and getattr(self, flag) is not None:
        raise UsageError(f"--{flag} needs a function: fbackprop verify MODULE:F --{flag} ...")
    if self.target is None and self.surrogate:
      raise UsageError("--surrogate needs a function: fbackprop verify MODULE:F --surrogate ...")
    if self.only and not self.self_test:
      raise UsageError("--only names specimens of --self-test")


class Outcome(NamedTuple):
  """What a command ends with: its exit code, its last lines, its JSON."""

  code: int
  text: str
  json: str


def main(arguments: Sequence[str]) -> int:
  """Verifies.

  Args:
    arguments: what stands behind `fbackprop verify`.

  Returns:
    0 pass, 1 fail, oracle fault, or a file that couldn't be written, 4 no verdict, 130 interrupted.

  Raises:
    UsageError: the function, its arguments or a flag can't be used.
  """
  config = tyro.cli(
    VerifyConfig,
    prog="fbackprop verify",
    args=arguments,
    config=(tyro.conf.FlagCreatePairsOff,),
  )
  try:
    if config.json is not None:
      check_writable("--json", config.json)
    outcome = run(config)
  except ModuleNotFoundError as error:
    raise UsageError(str(error)) from error
  except KeyboardInterrupt:
    print("fbackprop: interrupted; nothing was decided", file=sys.stderr)
    return 130
  # JSON that goes down a pipe must stay alone there.
  show(f"{outcome.text}\n", to_stderr=is_alone(config))
  if config.json is not None:
    try:
      write("--json", config.json, f"{outcome.json}\n".encode())
    except UsageError as error:  # The disk is full since; the verdict is printed, so it's no usage.
      print(f"fbackprop: {error}", file=sys.stderr)
      return 1
  return outcome.code


def run(config: VerifyConfig) -> Outcome:
  """The command itself. jax is imported here."""
  if config.self_test:
    return run_self_test(config)
  if config.target is None:
    return run_library(config)
  report = report_of(config)
  return Outcome(CODES[report.verdict], report.table(), report.to_json())


def report_of(config: VerifyConfig) -> "Report":
  """Verifies the function that is named."""
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
  """What `vjp` and `layer` both take."""
  options = {"level": config.level, "seed": config.seed, "allowance": config.allowance}
  return options if config.ties is None else {**options, "ties": config.ties}


def arguments_of(target: str) -> tuple[Any, ...]:
  """The tuple that `--args` names, or that the function that it names makes."""
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
  """The report of a call; if the verifier itself breaks, that is no verdict, and never a pass."""
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
  """The command that shows the first finding again."""
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
  """The report without the findings of other leaves."""
  others = [finding for finding in report.findings if finding.leaf not in (leaf, "")]
  known = list(dict.fromkeys([*report.verified, *(f.leaf for f in report.findings if f.leaf)]))
  if leaf not in known and known:
    raise UsageError(f"--leaf: there is no leaf {leaf!r}; {hint(leaf, known)}")
  told = f"--leaf leaves out {len(others)} finding{'s' * (len(others) != 1)} of other leaves"
  return report._replace(
    findings=tuple(finding for finding in report.findings if finding not in others),
    not_checked=(*report.not_checked, *([told] if others else [])),
  )


def run_library(config: VerifyConfig) -> Outcome:
  """Verifies every rule of this library."""
  from fbackprop.verify.library import LIBRARY
  from fbackprop.verify.report.findings import first_verdict
  from fbackprop.verify.report.rendering import FORMAT, to_plain

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
  """Runs the bank of planted bugs."""
  from fbackprop.verify.bank import BUGS, RIGHT
  from fbackprop.verify.self_test import run_self_test

  names = [specimen.name for specimen in (*BUGS, *RIGHT)]
  for name in config.only:
    if name not in names:
      raise UsageError(f"--only: there is no specimen {name!r}; {hint(name, names)}")
  with progress(config, len(config.only or names), "self-test") as tell:
    done = run_self_test(config.level, config.seed, tell, only=config.only)
  return Outcome(done.code, done.table(), done.to_json())


@contextmanager
def progress(config: VerifyConfig, total: int, what: str) -> Iterator[Progress]:
  """Lines and a bar; nothing where JSON goes down a pipe."""
  if is_alone(config):

    def tell_nobody(line: str, step: int) -> None:
      pass

    yield tell_nobody
    return
  with show_progress(total, what) as tell:
    yield tell


def is_alone(config: VerifyConfig) -> bool:
  """Whether the JSON goes to a terminal or a pipe, where nothing else may stand."""
  return config.json is not None and is_special(config.json)
