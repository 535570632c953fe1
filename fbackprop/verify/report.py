"""Findings, and the report of a verification: a table for a terminal, an HTML page, JSON."""

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from fbackprop.verify.heat_maps import LeafMap
from fbackprop.verify.page import Content, draw_fragment, draw_page

WIDTH = 100
FORMAT = 1
"""The version of the JSON format, incremented when a field is removed or changes its meaning."""
MOST_FINDINGS = 8
"""The most findings that the table shows; the JSON has all of them."""
MOST_ROWS = 30
"""The most findings that the HTML shows."""
INDENT = " " * 6
UNBROKEN = "\N{NO-BREAK SPACE}"

Verdict = Literal["fail", "oracle fault", "no verdict", "pass"]
VERDICTS: tuple[Verdict, ...] = ("fail", "oracle fault", "no verdict", "pass")
Kind = Literal["fail", "oracle fault", "no verdict", "note"]


class Finding(NamedTuple):
  """A fault, a missing verdict, or a note.

  Attributes:
    kind: "fail", "oracle fault" (the rule is right and autodiff of the reference is wrong), "no
      verdict", or "note" (information that doesn't prevent a pass).
    check: the check that found it: "maths", "numerics", "zero cotangent", "structure", ...
    regime: the test point: "as given", "N = 1", "some entries zero", ...
    leaf: the path of the cotangent's leaf, such as "params/1/w"; "" if it doesn't concern a single
      leaf.
    index: the entry with the largest error over its bound; None where there is none.
    got, want, bound: that entry's values and bound, float64; None where there is none.
    wrong, size: the number of entries of the leaf beyond their bound, and of all its entries.
    shape: the leaf's shape.
    cause: the fault that reproduces the numbers, such as "constant factor: 1/N, N = 32"; the text
      before the colon is one of `KINDS`. "" if it wasn't searched for.
    message: a sentence that describes the finding where numbers don't.
    leaf_map: the leaf's numbers, those of a large one thinned out, for the page; the JSON doesn't
      have them. None where there are none.
  """

  kind: Kind
  check: str
  regime: str = "as given"
  leaf: str = ""
  index: tuple[int, ...] | None = None  # type: ignore[assignment]  # Shadows tuple.index.
  got: float | None = None
  want: float | None = None
  bound: float | None = None
  wrong: int = 0
  size: int = 0
  shape: tuple[int, ...] = ()
  cause: str = ""
  message: str = ""
  leaf_map: LeafMap | None = None


class Checked(NamedTuple):
  """A check that was run, the number of its test points, and its outcome.

  Attributes:
    check: its name.
    times: the number of runs, over test points and leaves.
    verdict: its verdict, as for a report.
    detail: its figure, such as "largest error 0.3 of its bound".
  """

  check: str
  times: int
  verdict: Verdict
  detail: str = ""


def first_verdict(kinds: Sequence[str]) -> Verdict:
  """Return the gravest of some kinds, ignoring notes."""
  return next((verdict for verdict in VERDICTS if verdict in kinds), "pass")


class UnusableError(ValueError):
  """The function or its arguments can't be used: it has no float input or no float output."""


class RuleError(Exception):
  """The rule violates its contract: it raises, or returns another tree.

  Attributes:
    check: "structure", "dtype", "no gradient" or "raises".
    leaf: the path of the leaf, or "".
  """

  def __init__(self, check: str, message: str, leaf: str = "") -> None:
    super().__init__(message)
    self.check, self.leaf = check, leaf


class Report(NamedTuple):
  """The result of a verification.

  Attributes:
    name: the function's name.
    findings: the most important first: failures before oracle faults before the rest, and
      among the failures the first along the backward pass.
    checks: the checks that were run.
    not_checked: the omitted checks, each with its reason.
    verified: the correct leaves, in the order of the backward pass.
    worst_ulp: the largest error of the rule in its own dtype, in units in the last place of the
      leaf's largest entry.
    max_sigma: the same error in standard deviations of the propagated rounding error, the largest
      over all entries.
    level, seed, allowance: the options.
    seconds: the duration.
    again: the command or the call that repeats it; "" if there is none.
    regimes: the test points at which the mathematics was checked; without those where the function
      isn't finite.
    leaves: all leaves, in the order of the backward pass; () if the rule couldn't be traced.
  """

  name: str
  findings: tuple[Finding, ...]
  checks: tuple[Checked, ...] = ()
  not_checked: tuple[str, ...] = ()
  verified: tuple[str, ...] = ()
  worst_ulp: float = 0.0
  max_sigma: float = 0.0
  level: str = "standard"
  seed: int = 0
  allowance: float = 1.0
  seconds: float = 0.0
  again: str = ""
  regimes: tuple[str, ...] = ()
  leaves: tuple[str, ...] = ()

  @property
  def verdict(self) -> Verdict:
    """The first of "fail", "oracle fault", "no verdict", "pass" that applies."""
    return first_verdict([finding.kind for finding in self.findings])

  @property
  def ok(self) -> bool:
    """Whether the verdict is "pass"."""
    return self.verdict == "pass"

  @property
  def reason(self) -> str:
    """The reason of the verdict in a sentence: what passed, or the first finding."""
    first = first_of(self)
    if first is None:
      leaves, points = len(self.verified), len(self.regimes)
      what = f"{leaves} {'leaf' if leaves == 1 else 'leaves'}"
      return f"{what} verified at {points} test point{'s' * (points != 1)}"
    place = f"first wrong leaf {first.leaf}" if first.kind == "fail" and first.leaf else first.leaf
    # The cause of a broken contract is its name alone, and the message says the rest.
    why = first.message if first.cause.endswith(":") else first.cause or first.message
    return ": ".join(filter(None, (place or first.check, why)))

  def table(self) -> str:
    """Render the report for a terminal, in lines of at most 100 columns.

    They are the verdict, the findings, the checks, and what wasn't checked.
    """
    asked, verdict = asked_of(self), self.verdict.upper()
    lines = [f"{verdict}: {shortened(self.name, WIDTH - len(f'{verdict}:    {asked}'))}   {asked}"]
    is_failure = [finding.kind == "fail" and finding.leaf != "" for finding in self.findings]
    for i, finding in enumerate(self.findings[:MOST_FINDINGS]):
      lines += ["", *lines_of_finding(finding, self, is_failure[i] and not any(is_failure[:i]))]
    if len(self.findings) > MOST_FINDINGS:
      lines += ["", f"and {len(self.findings) - MOST_FINDINGS} findings more, all in the JSON"]
    if self.again and self.verdict != "pass":
      # The command is meant to be copied, so it isn't broken if it fits on a line of its own.
      lines += ["", *wrapped("again: ", self.again)]
    shown, remarks = summary(self)
    names = [shortened(check.check, 40) for check in shown]
    room = max(map(len, ["check", *names]))
    lines += ["", *[f"{'check':<{room}}  {'times':>6}  {'outcome':<12}"][: len(shown)]]
    for name, check in zip(names, shown, strict=True):
      row = f"{name:<{room}}  {check.times:>6}  {check.verdict:<12}  "
      lines += wrapped(row, check.detail)
    for head, text in remarks:
      lines += wrapped(f"{head}: ", text)
    return "\n".join(line.rstrip() for line in lines)

  def to_json(self) -> str:
    """Convert the report to JSON; nonfinite numbers become "NaN", "Infinity", "-Infinity"."""
    return json.dumps(to_plain(self), indent=2, allow_nan=False, ensure_ascii=False)

  @staticmethod
  def from_json(text: str) -> "Report":
    """Read a report written by `to_json`, equal to the one written but for each `leaf_map`.

    Raises:
      ValueError: the text isn't JSON, isn't a report, or has another format version.
    """
    table = json.loads(text)
    found = table.get("format") if isinstance(table, dict) else None
    if found != FORMAT:
      raise ValueError(f"a report has the format {FORMAT}, got {found!r}")
    try:
      kinds = (("findings", Finding), ("checks", Checked))
      table |= {key: [restored(kind, row) for row in table[key]] for key, kind in kinds}
      return Report(*restored(Report, table))
    except (KeyError, TypeError) as error:
      raise ValueError(f"this is not the JSON of a report: {error!r}") from error

  def __repr__(self) -> str:
    """Return the verdict in one line; `print` shows the table."""
    findings = f", {len(self.findings)} findings" if self.findings else ""
    return f"Report({self.verdict.upper()}: {self.name}{findings}, {len(self.checks)} checks)"

  def to_html(self) -> str:
    """Render the report as a page: an HTML file that loads nothing, with names escaped.

    It shows the leaves in the order of the backward pass, the first finding with heat maps of its
    leaf, all other findings, the checks, what wasn't checked, and what repeats it.
    """
    return draw_page(content_of(self))

  def _repr_html_(self) -> str:
    """Render the report for a notebook, with names and messages escaped."""
    return draw_fragment(content_of(self))

  def __str__(self) -> str:
    return self.table()


# --- Text -----------------------------------------------------------------------------------------


def asked_of(report: Report) -> str:
  """Return the options and the duration."""
  return f"{report.level}, seed {report.seed}, {report.seconds:.1f} s"


def summary(report: Report) -> tuple[list[Checked], list[tuple[str, str]]]:
  """Return the checks that have a detail or didn't pass, and remarks as (head, text)."""
  shown = [c for c in report.checks if c.detail or c.verdict != "pass"]
  passed = ", ".join(f"{c.check} ×{c.times}" for c in report.checks if c not in shown)
  remarks = [("passed", passed), ("not checked", "; ".join(report.not_checked))]
  if report.allowance != 1:
    remarks.insert(1, ("allowance", f"every bound was multiplied by {report.allowance:g}"))
  if any(check.check == "numerics" for check in report.checks):
    error = f"largest error {report.worst_ulp:.2g} ULP of the leaf's largest entry"
    remarks.insert(1, ("own dtype", f"{error}, {report.max_sigma:.2g} σ of its rounding"))
  return shown, [(head, text) for head, text in remarks if text]


def lines_of_finding(finding: Finding, report: Report, is_first: bool) -> list[str]:
  """Describe a finding: the fault, its place, its size, and its cause."""
  place, got, want, bound = figures(finding)
  parts = [
    finding.kind if finding.kind == "note" else finding.kind.upper(),
    finding.check,
    f"{finding.leaf}  {shape_of(finding.shape)}" if finding.leaf else "",
    f"{finding.wrong} of {finding.size} entries" if finding.wrong else "",
    f"regime: {finding.regime}" if finding.regime != "as given" else "",
    "first in backward order" if is_first else "",
  ]
  lines = joined(parts, "   ")
  if got:
    bound = bound and f"bound {bound}"
    lines += joined([place, f"got {got}", f"want {want}", bound], "  ", INDENT)
  if finding.message:
    lines += wrapped(INDENT, finding.message)
  if is_first and report.verified:
    wrong = f"        first wrong: {finding.leaf}"
    lines += wrapped(f"{INDENT}verified: ", ", ".join(report.verified) + wrong)
  if finding.cause:
    lines += wrapped(f"{INDENT}cause: ", finding.cause.rstrip(": "))
  return lines


def figures(finding: Finding) -> tuple[str, str, str, str]:
  """Format the worst entry: its index, got, want and the bound; "" where there is none.

  The numbers have two more digits than distinguish them, 5 to 17 in all.
  """
  got, want = finding.got, finding.want
  place = "" if finding.index is None else f"[{','.join(map(str, finding.index))}]"
  bound = "" if finding.bound is None else f"{finding.bound:.1g}"
  if got is None or want is None:
    return place, "", "", bound
  digits = 5
  if math.isfinite(got) and math.isfinite(want) and got != want:
    largest = max(abs(got), abs(want))
    apart = abs(got / largest - want / largest)  # The difference itself may overflow.
    digits = min(17, max(5, math.ceil(-math.log10(apart or 1e-17)) + 2))
  return place, f"{got:.{digits - 1}e}", f"{want:.{digits - 1}e}", bound


def shape_of(shape: tuple[int, ...]) -> str:
  """Format a shape as (128,128), without spaces, or as () for a scalar."""
  return f"({','.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def shortened(text: str, room: int) -> str:
  """Return the end of a text that is too long, since the name is there."""
  return text if len(text) <= room else f"…{text[len(text) - max(room, 2) + 1 :]}"


def joined(parts: Iterable[str], gap: str, indent: str = "") -> list[str]:
  """Join nonempty parts in one line, or in several where they don't fit."""
  room = WIDTH - len(INDENT)
  kept = [part.replace(" ", UNBROKEN) if len(part) <= room else part for part in parts if part]
  wrap = partial(textwrap.wrap, width=WIDTH, subsequent_indent=INDENT, break_on_hyphens=False)
  lines = wrap(gap.join(kept), initial_indent=indent)
  return [line.replace(UNBROKEN, " ") for line in lines]


def wrapped(prefix: str, text: str) -> list[str]:
  """Wrap a text behind a prefix, indenting further lines to match if that leaves room."""
  indent = " " * (len(prefix) if len(prefix) <= WIDTH // 2 else len(INDENT))
  wrap = partial(textwrap.wrap, width=WIDTH, subsequent_indent=indent, break_on_hyphens=False)
  first, *rest = text.splitlines() or [""]
  lines = wrap(first, initial_indent=prefix) or [prefix]
  return lines + [part for line in rest for part in wrap(line, initial_indent=indent) or [""]]


# --- HTML -----------------------------------------------------------------------------------------

HEADS = ("", "check", "leaf", "entries", "at", "got", "want", "bound", "why")


def content_of(report: Report) -> Content:
  """Return what the page of a report says."""
  first = first_of(report)
  # A table that repeats the only finding is left out.
  rows = [] if report.findings == (first,) else report.findings[:MOST_ROWS]
  remarks = [(head, [text]) for head, text in summary(report)[1] if head in ON_PAGE]
  options = f'level="{report.level}", seed={report.seed}, allowance={report.allowance:g}'
  return Content(
    name=report.name,
    verdict=report.verdict.upper(),
    asked=asked_of(report),
    summary=report.reason,
    leaves=states_of(report),
    about_leaves=BY_LAYER if any(leaf.startswith("input of ") for leaf in report.leaves) else "",
    first=[] if first is None else details_of(first),
    leaf_map=None if first is None else first.leaf_map,
    heads=HEADS,
    findings=list(map(row_of, rows)),
    more=max(0, len(report.findings) - MOST_ROWS),
    checks=[(c.check, str(c.times), c.verdict, c.detail) for c in report.checks],
    remarks=[
      *([("Test points", [", ".join(report.regimes)])] if report.regimes else []),
      *((ON_PAGE[head], texts) for head, texts in remarks),
      *([("Not checked", report.not_checked)] if report.not_checked else []),
    ],
    again=report.again,
    options=f"The same call with {options} makes the same report.",
  )


BY_LAYER = (
  "Each layer is verified by itself, at the cotangent that it receives in the network, and the "
  "network as a whole: there a wrong layer spoils the leaves that follow it."
)
ON_PAGE = {"own dtype": "In its own dtype", "allowance": "Allowance"}
"""The remarks of `summary` that have a heading of their own, and it."""


def first_of(report: Report) -> Finding | None:
  """Return the first finding that prevents a pass; None without one."""
  return next((f for f in report.findings if f.kind != "note"), None)


def states_of(report: Report) -> list[tuple[str, str]]:
  """Return each leaf with its state."""
  failed = [f.leaf for f in report.findings if f.kind == "fail" and f.leaf]
  kinds = {leaf: first_verdict([f.kind for f in report.findings if f.leaf == leaf])
           for leaf in report.leaves}  # fmt: skip

  def state(leaf: str) -> str:
    if kinds[leaf] == "fail":
      return "first wrong" if leaf == failed[0] else "wrong"
    if kinds[leaf] != "pass":
      return kinds[leaf]
    return "verified" if leaf in report.verified else "not verified"

  return [(leaf, state(leaf)) for leaf in report.leaves]


def details_of(finding: Finding) -> list[tuple[str, str]]:
  """Return a finding as (head, text)."""
  place, got, want, bound = figures(finding)
  numbers = [f"got {got}", f"want {want}", bound and f"bound {bound}"] if got else []
  rows = (
    ("kind", finding.kind),
    ("check", finding.check),
    ("leaf", f"{finding.leaf} {shape_of(finding.shape)}" if finding.size else finding.leaf),
    ("test point", finding.regime),
    ("entries", f"{finding.wrong} of {finding.size}" if finding.wrong else ""),
    ("worst entry", "  ".join(filter(None, [place, *numbers]))),
    ("cause", finding.cause.rstrip(": ")),
    ("message", finding.message),
  )
  return [(head, text) for head, text in rows if text]


def row_of(finding: Finding) -> tuple[str, ...]:
  """Return a finding as the cells of the columns `HEADS`."""
  leaf = f"{finding.leaf} {shape_of(finding.shape)}" if finding.leaf else ""
  regime = "" if finding.regime == "as given" else f"regime: {finding.regime}"
  entries = f"{finding.wrong} of {finding.size}" if finding.wrong else ""
  why = "; ".join(filter(None, (finding.cause, finding.message, regime)))
  return (finding.kind.upper(), finding.check, leaf, entries, *figures(finding), why)


# --- JSON -----------------------------------------------------------------------------------------


def to_plain(report: Report) -> dict[str, Any]:
  """Convert a report to values that JSON can represent; `format`, `verdict` and `ok` come first."""
  head = {"format": FORMAT, "verdict": report.verdict, "ok": report.ok}
  return head | plain(report)


def plain(value: Any) -> Any:
  """Convert a field to its JSON representation, NumPy scalars to Python's."""
  value = value.item() if hasattr(value, "item") else value
  if hasattr(value, "_asdict"):
    fields = value._asdict().items()
    return {name: plain(entry) for name, entry in fields if name != "leaf_map"}
  if isinstance(value, tuple | list):
    return [plain(entry) for entry in value]
  if isinstance(value, float) and not math.isfinite(value):
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
  return value


def restored(kind: Any, table: Mapping[str, Any]) -> Any:
  """Build a NamedTuple; its annotations distinguish texts from nonfinite numbers."""
  fields = {}
  # A field with a default may be missing: it isn't saved, or a later version added it.
  for name in (n for n in kind._fields if n in table or n not in kind._field_defaults):
    value = table[name]
    if isinstance(value, str) and "float" in str(kind.__annotations__[name]):
      value = float(value)
    fields[name] = tuple(value) if isinstance(value, list) else value
  return kind(**fields)
