"""The pytest plugin: fixtures that verify a rule, and fail their test unless its report passes.

pytest loads it wherever fbackprop is installed, so nothing is imported before a fixture is called:
neither jax nor the verifier. pytest is no dependency of fbackprop; without it nobody loads this.

A failure is one line at the test's own, and the report a section below it: of the failure itself,
since that goes wherever the failure goes, into JUnit XML and out of xdist's workers, and doesn't
depend on what is captured. The verdict of each call is also a property of its test.
"""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
  from fbackprop.verify.report import Report

LEVELS = ("quick", "standard", "deep")
USUAL = "standard"
FAILED = pytest.StashKey[tuple[AssertionError, "Report"]]()
"""The latest failure of a test, and the report that is its section."""


class Verify(Protocol):
  """Verify a rule, and fail the test unless the report passes.

  The arguments are those of `fbackprop.verify.vjp` or `jvp`; `level` is that of
  `--fbackprop-level` unless it is given.
  """

  def __call__(self, f: Callable[..., Any], /, *args: Any, **options: Any) -> "Report": ...


def headline_of(report: "Report") -> str:
  """Return the verdict, the function's name and the options."""
  return report.table().partition("\n")[0]


def pytest_addoption(parser: pytest.Parser) -> None:
  """Add the level, as a flag and for the configuration file."""
  group = parser.getgroup("fbackprop", "verification of hand-written gradients (fbackprop)")
  text = "Thoroughness of verify_vjp and verify_jvp: about a second, ten seconds, minutes."
  group.addoption("--fbackprop-level", choices=LEVELS, help=f"{text} Default: {USUAL}.")
  parser.addini("fbackprop_level", f"{text} The flag goes first.", default=USUAL)
  text = "Keep compiled programs between runs, in ~/.cache/fbackprop, as the command line does."
  group.addoption("--fbackprop-cache", action="store_true", default=None, help=text)
  parser.addini("fbackprop_cache", text, type="bool", default=False)


def level_of(config: pytest.Config) -> str:
  """Return the level of the flag, or else of the configuration file.

  Raises:
    pytest.UsageError: there is no such level.
  """
  level: str = config.getoption("--fbackprop-level") or config.getini("fbackprop_level")
  if level not in LEVELS:
    raise pytest.UsageError(f"fbackprop_level must be one of {', '.join(LEVELS)}, got {level!r}")
  return level


def pytest_configure(config: pytest.Config) -> None:
  """Refuse a level that doesn't exist before any test runs; switch on the cache if asked to."""
  level_of(config)
  if config.getoption("--fbackprop-cache") or config.getini("fbackprop_cache"):
    from fbackprop import compilation_cache

    compilation_cache.switch_on()


@pytest.fixture
def verify_vjp(request: pytest.FixtureRequest) -> Verify:
  """Verify a hand-written VJP; takes what `fbackprop.verify.vjp` takes."""
  return verifier("vjp", request)


@pytest.fixture
def verify_jvp(request: pytest.FixtureRequest) -> Verify:
  """Verify a hand-written JVP; takes what `fbackprop.verify.jvp` takes."""
  return verifier("jvp", request)


def verifier(mode: str, request: pytest.FixtureRequest) -> Verify:
  """Return the value of a fixture."""
  level, item = level_of(request.config), request.node

  def verify(f: Callable[..., Any], /, *args: Any, **options: Any) -> "Report":
    __tracebackhide__ = True
    import fbackprop.verify

    error = None
    try:
      report: Report = getattr(fbackprop.verify, mode)(f, *args, **{"level": level, **options})
    except fbackprop.verify.UnusableError as unusable:
      # Its cause has the traceback of the user's function; the verifier's own says nothing.
      error = unusable.with_traceback(None)
    if error is not None:
      raise error
    item.user_properties.append((f"fbackprop {mode}", headline_of(report)))
    if not report.ok:
      failure = AssertionError(f"{headline_of(report)}: {report.reason}")
      item.stash[FAILED] = failure, report
      raise failure
    return report

  verify.__qualname__ = f"verify_{mode}"  # A traceback shows it.
  return verify


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
  item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
  """Add the report of a verification to the failure that it made."""
  outcome = yield
  failure, report = item.stash.get(FAILED, (None, None))
  if report is not None and call.excinfo is not None and call.excinfo.value is failure:
    title, text = f"fbackprop: {report.name}", report.table()
    shown: Any = outcome.longrepr
    if hasattr(shown, "addsection"):
      shown.addsection(title, text)
    else:  # An item that shows its failures in its own way.
      outcome.sections.append((title, text))
  return outcome
