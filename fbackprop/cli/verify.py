"""`fbackprop verify`: verify a user's VJP, the library's own rules, or the verifier itself."""

import json
import os
import pkgutil
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from tyro.conf import Positional, arg

from fbackprop.cli import console
from fbackprop.cli.console import UsageError, note, refuse, usually
from fbackprop.errors import hint
from fbackprop.ranges import POSITIVE, RANGES, check_range

if TYPE_CHECKING:
  from fbackprop.verify.report import Report

CODES = {"pass": 0, "fail": 1, "oracle fault": 1, "no verdict": 4}
OURS = str(Path(__file__).parents[1])


class Outcome(NamedTuple):
  """The outcome of a command: its exit code, its last lines, its JSON, and a page or ""."""

  code: int
  text: str
  json: str
  html: str = ""


# The options of a function that don't apply to a Layer, whose parts are known.
OF_FUNCTION = (
  "kwargs", "static", "vjp", "jvp", "forward_mode", "slope", "nonlinear", "surrogate",
)  # fmt: skip


@dataclass(frozen=True)
class VerifyConfig:
  """Verify a hand-written VJP, or without a function those of this library.

  fbackprop verify pkg.module:f --args pkg.module:make_args

  Exit code: 0 pass, 1 fail or oracle fault, 2 usage, 4 no verdict.

  Attributes:
    target: Function with a jax.custom_vjp or custom_jvp, function to which --vjp or --jvp belongs,
      or Layer.
    args: Tuple of its arguments, or a function that returns one; of a Layer: (params, x).
    kwargs: Dict of its arguments by keyword, or a function that returns one.
    static: Positions or names of arguments that are held.
    vjp: VJP of a function without a custom one: f_vjp(*args) -> (y, pullback).
    jvp: JVP likewise: f_jvp(primals, tangents) -> (y, y_dot).
    forward_mode: Test the function's custom_jvp in forward mode, too.
    level: Thoroughness: about a second, ten seconds, minutes.
    seed: Random seed of the cotangents, directions and test points.
    allowance: Factor on every error bound, printed in the report.
    ties: Derivatives accepted at a kink: any between the one-sided ones, or the reference's only.
    slope: Function whose derivative is meant, for a straight-through rule the identity.
    nonlinear: Rule that isn't meant to be linear in the cotangent, as it clips it.
    surrogate: Function whose own stop_gradient changes its derivative, as is meant.
    seconds: Time limit; what is known by then is reported.
    leaf: Leaf to report on, as params/1/w; by default all.
    module: Package whose rules are all verified, at arguments that are drawn.
    self_test: Self-test of the verifier: detection rate of planted bugs, and false positives.
    only: Specimens of --self-test; by default all.
    json: Output file of the report as JSON.
    html: Output file of the report as a page, with heat maps of the first wrong leaf.
  """

  target: Annotated[str | None, Positional, arg(metavar="MODULE:F")] = None
  args: Annotated[str | None, arg(metavar="MODULE:NAME")] = None
  kwargs: Annotated[str | None, arg(metavar="MODULE:NAME")] = None
  static: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
  vjp: Annotated[str | None, arg(metavar="MODULE:NAME")] = None
  jvp: Annotated[str | None, arg(metavar="MODULE:NAME")] = None
  forward_mode: bool = False
  level: Literal["quick", "standard", "deep"] = "standard"
  seed: int = 0
  allowance: float = 1.0
  ties: Annotated[
    Literal["any", "reference"] | None, usually("reference for a Layer, else any")
  ] = None
  slope: Annotated[str | None, arg(metavar="MODULE:NAME")] = None
  nonlinear: bool = False
  surrogate: bool = False
  seconds: Annotated[float | None, arg(metavar="S")] = None
  leaf: Annotated[str | None, arg(metavar="PATH")] = None
  module: Annotated[str | None, arg(metavar="PKG")] = None
  self_test: bool = False
  only: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
  json: Annotated[str | None, arg(metavar="FILE")] = None
  html: Annotated[str | None, arg(metavar="FILE")] = None

  @property
  def outputs(self) -> dict[str, str]:
    """The files to write, by their kind."""
    paths = {"json": self.json, "html": self.html}
    return {kind: path for kind, path in paths.items() if path is not None}


def check_together(config: VerifyConfig) -> None:
  """Raise for numbers out of range, and for flags that exclude or need one another.

  Raises:
    UsageError: the message names the flag.
  """
  with console.usage_errors():
    check_range("", "--seed", config.seed, RANGES["seed"])
    check_range("", "--allowance", config.allowance, POSITIVE)
    if config.seconds is not None:
      check_range("", "--seconds", config.seconds, POSITIVE)
  is_own = config.target is None
  refuse(
    (not is_own and config.self_test, "--self-test verifies the verifier, and takes no function"),
    (not is_own and config.args is None, "give the function's arguments: --args MODULE:NAME"),
    *((is_own and getattr(config, name) not in (None, False, ()),
       f"--{dashed(name)} needs a function: fbackprop verify MODULE:F --{dashed(name)} ...")
      for name in ("args", "leaf", "html", *OF_FUNCTION)),
    (is_own and config.module is None and config.seconds is not None,
     "--seconds needs a function: fbackprop verify MODULE:F --seconds ..."),
    (config.module is not None and (not is_own or config.self_test),
     "--module verifies the rules of a package: give no function beside it, and no --self-test"),
    (config.vjp is not None and config.jvp is not None, "--vjp and --jvp exclude one another"),
    (config.only and not config.self_test, "--only needs --self-test"),
    (config.html is not None and config.html == config.json,
     "--html and --json must be different files"),
  )  # fmt: skip


def main(arguments: Sequence[str]) -> int:
  """Verify a function, the library, or the verifier.

  Args:
    arguments: the arguments after `fbackprop verify`.

  Returns:
    0 pass, 1 fail, oracle fault, or failed write, 4 no verdict, 130 interrupted.

  Raises:
    UsageError: the function, its arguments or a flag is invalid.
  """
  config = console.parsed(VerifyConfig, "verify", arguments)
  check_together(config)
  for kind, path in config.outputs.items():
    console.check_writable(f"--{kind}", path)
  run = (
    run_self_test if config.self_test else
    run_package if config.module is not None else
    run_library if config.target is None else
    run_function
  )  # fmt: skip
  try:
    outcome = run(config)
  except KeyboardInterrupt:
    note("interrupted; nothing was decided")
    return 130
  console.show(f"{outcome.text}\n", to_stderr=is_alone(config))
  for kind, path in config.outputs.items():
    try:
      content = f"{getattr(outcome, kind)}\n".encode()
      console.write(f"--{kind}", path, content, to_stderr=is_alone(config))
    except UsageError as error:  # A full disk, say: the path was valid, so this is no usage error.
      note(str(error))
      return 1
  return outcome.code


def run_function(config: VerifyConfig) -> Outcome:
  """Verify the named function. jax is imported here."""
  from fbackprop.types import Layer
  from fbackprop.verify._vjp import jvp, vjp
  from fbackprop.verify.network import layer

  target = str(config.target)
  f = load("the function", target)
  is_layer = isinstance(f, Layer)
  kind = type(f).__name__
  refuse((not (is_layer or callable(f)), f"{target} must be a function or a Layer, got {kind}"))
  args = arguments_of("--args", str(config.args), tuple)
  options = options_of(config)
  verify: Callable[..., Report] = layer
  if is_layer:
    got = f"{len(args)} argument{'s' * (len(args) != 1)}"
    said = "must give (params, x) for a Layer, or (params, x, key)"
    refuse(
      *((getattr(config, name) not in (None, False, ()),
         f"--{dashed(name)}: {target} is a Layer, which has its own rule")
        for name in OF_FUNCTION),
      (len(args) not in (2, 3), f"--args {config.args} {said}, got {got}"),
    )  # fmt: skip
    if len(args) > 2:
      options["key"] = args[-1]
    args = args[:2]
  else:
    verify = jvp if config.forward_mode or config.jvp is not None else vjp
    options |= options_of_function(config)
  with console.show_status(f"verifying {target}", silent=is_alone(config)) as tell:
    options |= {} if tell is None else {"progress": tell}
    report = whatever_happens(target, lambda: verify(f, *args, **options))
  report = report._replace(name=target, again=again(config, report))
  if config.leaf is not None:
    report = of_leaf(report, config.leaf)
  html = report.to_html() if config.html is not None else ""
  return Outcome(CODES[report.verdict], report.table(), report.to_json(), html)


def options_of_function(config: VerifyConfig) -> dict[str, Any]:
  """Return the options given of `vjp` and `jvp` alone, with the named functions loaded."""
  static = tuple(int(s) if s.lstrip("-").isdigit() else s for s in config.static)
  options: dict[str, Any] = {"surrogate": True} if config.surrogate else {}
  options |= ({"linear": False} if config.nonlinear else {}) | (
    {"static": static} if static else {}
  )
  for flag, name, option in (
    ("--vjp", config.vjp, "f_vjp"), ("--jvp", config.jvp, "f_jvp"),
    ("--slope", config.slope, "slope"),
  ):  # fmt: skip
    if name is not None:
      options[option] = rule = load(flag, name)
      kind = type(rule).__name__
      refuse((not callable(rule), f"{flag} {name} must be a function, got {kind}"))
  if config.kwargs is not None:
    options["kwargs"] = arguments_of("--kwargs", config.kwargs, dict)
  return options


def options_of(config: VerifyConfig) -> dict[str, Any]:
  """Return the options shared by `vjp` and `layer`."""
  options = {"level": config.level, "seed": config.seed, "allowance": config.allowance}
  given = {"ties": config.ties, "seconds": config.seconds}
  return options | {name: value for name, value in given.items() if value is not None}


def arguments_of(flag: str, target: str, kind: type) -> Any:
  """Return the tuple or the dict named by a flag, or returned by the function of that name."""
  found, made = load(flag, target), ""
  if callable(found):
    made = "()"
    try:
      found = found()
    except (Exception, SystemExit) as error:
      raise UsageError(f"{flag}: {target}() raised {described(error)}") from error
  if not isinstance(found, kind):
    single = "; of a single argument: (x,)" if kind is tuple else ""
    raise UsageError(f"{flag}: {target}{made} must be the {kind.__name__} of the function's "
                     f"arguments, got {type(found).__name__}{single}")  # fmt: skip
  return found


def dashed(name: str) -> str:
  """Return an attribute's name as it is in a flag."""
  return name.replace("_", "-")


def whatever_happens(name: str, verify: "Callable[[], Report]") -> "Report":
  """Run the verifier; an unexpected error of its own is no verdict, and never a pass.

  Raises:
    UsageError: the function can't be verified.
  """
  from fbackprop.verify.report import Finding, Report, UnusableError

  try:
    return verify()
  except UnusableError as error:
    raise UsageError(f"{name}: {error}") from error
  except Exception as error:
    message = f"the verifier itself failed, please report it: {described(error)}"
    return Report(name, (Finding("no verdict", "verifier", message=message),))


def again(config: VerifyConfig, report: "Report") -> str:
  """Return the command that reproduces the first finding."""
  leaf = config.leaf or (report.findings[0].leaf if report.findings else "")
  words = ["fbackprop", "verify", str(config.target), "--args", str(config.args)]
  for flag, value, usual in (
    ("--kwargs", config.kwargs, None), ("--static", config.static, ()), ("--vjp", config.vjp, None),
    ("--jvp", config.jvp, None), ("--forward-mode", config.forward_mode, False),
    ("--level", config.level, "standard"), ("--allowance", f"{config.allowance:g}", "1"),
    ("--ties", config.ties, None), ("--slope", config.slope, None),
    ("--nonlinear", config.nonlinear, False), ("--surrogate", config.surrogate, False),
    ("--seconds", config.seconds, None), ("--seed", config.seed, None), ("--leaf", leaf, ""),
  ):  # fmt: skip
    if value != usual:
      given = value if isinstance(value, tuple) else () if value is True else (value,)
      words += [flag, *map(str, given)]
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
  from fbackprop.verify.report import FORMAT, first_verdict, to_plain

  options = options_of(config)
  reports = []
  with console.show_progress(len(LIBRARY), "verifying", silent=is_alone(config)) as tell:
    for i, entry in enumerate(LIBRARY):
      report = whatever_happens(entry.name, lambda entry=entry: entry.verify(**options))  # type: ignore[misc]
      reports.append(report._replace(name=entry.name))
      tell(f"{entry.name:<36}{report.verdict:<14}{report.seconds:6.1f} s", i + 1)
  verdict = first_verdict([report.verdict for report in reports])
  tables = [f"{report.table()}\n\n" for report in reports if not report.ok]
  text = f"{verdict.upper()}: {sum(report.ok for report in reports)} of {len(reports)} pass   "
  text += f"{config.level}, seed {config.seed}, {sum(r.seconds for r in reports):.1f} s"
  table = {"format": FORMAT, "verdict": verdict, "reports": [to_plain(r) for r in reports]}
  return Outcome(CODES[verdict], "".join(tables) + text, json.dumps(table, allow_nan=False))


def run_package(config: VerifyConfig) -> Outcome:
  """Verify the rules of an installed package. jax is imported here."""
  from fbackprop.verify.package_rules import rules_of, verify_rule
  from fbackprop.verify.report import FORMAT, first_verdict, to_plain

  package = str(config.module)
  load_module("--module", package)
  rules, not_imported = rules_of(package)
  refuse((not rules, f"--module {package}: no jax.custom_vjp or custom_jvp in its "
          f"{'modules' if not not_imported else 'modules that can be imported'}"))  # fmt: skip
  options, reports, left_out = options_of(config), [], {}
  with console.show_progress(len(rules), "verifying", silent=is_alone(config)) as tell:
    for i, rule in enumerate(rules):
      found = verify_rule(rule, **options)
      said = found.report.verdict if found.report else "not verified"
      tell(f"{rule.name:<60}{said:<14}{found.arguments}", i + 1)
      if found.report is None:
        left_out[rule.name] = found.arguments
      else:
        reports.append(found.report)
  verdict = first_verdict([report.verdict for report in reports]) if reports else "no verdict"
  tables = [f"{report.table()}\n\n" for report in reports if not report.ok]
  lines = [f"not verified: {name}: {why}\n" for name, why in left_out.items()]
  lines += [f"not imported: {name}: {why}\n" for name, why in not_imported.items()]
  text = f"{verdict.upper()}: {sum(report.ok for report in reports)} of {len(reports)} pass, "
  text += f"{len(left_out)} not verified   {config.level}, seed {config.seed}"
  table: dict[str, Any] = {"format": FORMAT, "verdict": verdict}
  table |= {"reports": [to_plain(r) for r in reports]}
  table |= {"not_verified": left_out, "not_imported": not_imported}
  text = "".join(tables) + "".join(lines) + text
  return Outcome(CODES[verdict], text, json.dumps(table, allow_nan=False))


def run_self_test(config: VerifyConfig) -> Outcome:
  """Run the bank of planted bugs."""
  from fbackprop.verify.bank import BUGS, RIGHT
  from fbackprop.verify.self_test import run_self_test

  names = [specimen.name for specimen in (*BUGS, *RIGHT)]
  for name in config.only:
    if name not in names:
      raise UsageError(f"unknown specimen {name!r} for --only; {hint(name, names)}")
  total = len(config.only or names)
  with console.show_progress(total, "self-test", silent=is_alone(config)) as tell:
    done = run_self_test(config.level, config.seed, tell, only=config.only)
  return Outcome(done.code, done.table(), done.to_json())


def is_alone(config: VerifyConfig) -> bool:
  """Return whether a file is a terminal or a pipe, where nothing else may be printed."""
  return any(map(console.is_special, config.outputs.values()))


# --- The loading of a user's function by its name -------------------------------------------------


def load(what: str, target: str) -> Any:
  """Load an attribute of a module; the current folder is importable, as for `python -m`.

  Args:
    what: prefix of an error, such as "--args".
    target: such as "pkg.module:name", or with dots in the name.

  Returns:
    The value.

  Raises:
    UsageError: the module or attribute doesn't exist, or importing the module raises.
  """
  module, _, path = target.partition(":")
  if not all(part.isidentifier() for part in [*module.split("."), *path.split(".")]):
    raise UsageError(f"{what} must have the form pkg.module:name, got {target!r}")
  load_module(what, module)
  try:
    return pkgutil.resolve_name(target)
  except AttributeError as error:
    owner, name = error.obj, str(error.name)
    names = [n for n in dir(owner) if not n.startswith("_")] or dir(owner)
    where = f"the module {module}" if isinstance(owner, ModuleType) else type(owner).__name__
    raise UsageError(f"{what} {target}: {where} has no {name!r}; {hint(name, names)}") from None


def load_module(what: str, module: str) -> None:
  """Import a module, for an error's prefix as `load` takes it.

  Raises:
    UsageError: there is no such module, or importing it raises.
  """
  folder = os.getcwd()
  if folder not in sys.path and "" not in sys.path:
    sys.path.insert(0, folder)
  try:
    import_module(module)
  except (Exception, SystemExit) as error:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is None or not f"{module}.".startswith(f"{missing}."):
      raise UsageError(f"{what}: importing {module} raised {described(error)}") from error
    parent, _, last = missing.rpartition(".")
    message = f"there is no module {missing!r}; {hint(last, modules_in(parent))}"
    raise UsageError(f"{what}: {message}") from error


def modules_in(package: str) -> list[str]:
  """Return the modules of a package, or those of the current folder."""
  paths = getattr(sys.modules.get(package), "__path__", []) if package else [os.getcwd()]
  return [module.name for module in pkgutil.iter_modules(list(paths))] or ["none"]


def described(error: BaseException) -> str:
  """Describe an exception in a line: its type, message, and the user's line that raised it."""
  said = " ".join(str(error).split())
  text = f"{type(error).__name__}: {said}" if said else type(error).__name__
  for frame in reversed(traceback.extract_tb(error.__traceback__)):
    is_users = not frame.filename.startswith((OURS, "<")) and "site-packages" not in frame.filename
    if is_users and not frame.filename.startswith(sys.base_prefix):
      return f"{text} ({os.path.relpath(frame.filename)}, line {frame.lineno})"
  return text
