"""Rendering of a report: a table for a terminal, HTML for a notebook, JSON for programs."""

import json
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fbackprop.markup import BAD, GOOD, UNSURE, headline, paragraph, table_of
from fbackprop.verify.report.findings import Checked, Finding, Outcome

WIDTH = 100
FORMAT = 1
"""The version of the JSON format, incremented when a field is removed or changes its meaning."""
MOST_FINDINGS = 8
"""The most findings that the table and the HTML show; the JSON has all of them."""
INDENT = " " * 6


def table(report: Outcome) -> str:
  """Render a report for a terminal: verdict, findings, checks, and what wasn't checked.

  Args:
    report: the report of a verification.

  Returns:
    Lines of at most 100 columns.
  """
  lines = [heading(report)]
  is_failure = [finding.kind == "fail" and finding.leaf != "" for finding in report.findings]
  for i, finding in enumerate(report.findings[:MOST_FINDINGS]):
    lines += ["", *lines_of(finding, report, is_failure[i] and not any(is_failure[:i]))]
  if len(report.findings) > MOST_FINDINGS:
    lines += ["", f"and {len(report.findings) - MOST_FINDINGS} findings more, all in the JSON"]
  if report.again and report.verdict != "pass":
    # The command is meant to be copied, so it isn't broken if it fits on a line of its own.
    lines += ["", *wrapped("again: ", report.again)]
  shown, passed = by_detail(report.checks)
  lines += ["", *lines_of_checks(shown)]
  for head, text in remarks(report, passed):
    lines += wrapped(f"{head}: ", text)
  return "\n".join(line.rstrip() for line in lines)


def by_detail(checks: Iterable[Checked]) -> tuple[list[Checked], list[Checked]]:
  """Separate the checks with a detail from those that just passed."""
  shown = [c for c in checks if c.detail or c.verdict != "pass"]
  return shown, [c for c in checks if c not in shown]


def remarks(report: Outcome, passed: Sequence[Checked]) -> Iterator[tuple[str, str]]:
  """Yield the remarks below the table of checks as (head, text)."""
  if passed:
    yield "passed", ", ".join(f"{c.check} ×{c.times}" for c in passed)
  if any(check.check == "numerics" for check in report.checks):
    yield (
      "own dtype",
      f"largest error {report.worst_ulp:.2g} ULP of the leaf's largest entry, "
      f"{report.max_sigma:.2g} σ of its rounding",
    )
  if report.allowance != 1:
    yield "allowance", f"every bound was multiplied by {report.allowance:g}"
  if report.not_checked:
    yield "not checked", "; ".join(report.not_checked)


def heading(report: Outcome) -> str:
  """Return the verdict, the name, and the options, on one line."""
  asked = f"{report.level}, seed {report.seed}, {report.seconds:.1f} s"
  verdict = report.verdict.upper()
  room = WIDTH - len(f"{verdict}:    {asked}")
  return f"{verdict}: {shortened(report.name, room)}   {asked}"


def lines_of(finding: Finding, report: Outcome, is_first: bool) -> list[str]:
  """Describe a finding: the fault, its place, its size, and its cause."""
  parts = [finding.kind if finding.kind == "note" else finding.kind.upper(), finding.check]
  if finding.leaf:
    parts.append(f"{finding.leaf}  {shape_of(finding.shape)}")
  if finding.wrong:
    parts.append(f"{finding.wrong} of {finding.size} entries")
  if finding.regime != "as given":
    parts.append(f"regime: {finding.regime}")
  if is_first:
    parts.append("first in backward order")
  lines = joined(parts, "   ")
  if finding.got is not None and finding.want is not None:
    place = "" if finding.index is None else f"[{','.join(map(str, finding.index))}]"
    got, want = two_numbers(finding.got, finding.want)
    bound = "" if finding.bound is None else f"bound {finding.bound:.1g}"
    lines += joined([INDENT + place, f"got {got}", f"want {want}", bound], "  ")
  if finding.message:
    lines += wrapped(INDENT, finding.message)
  if is_first and report.verified:
    wrong = f"        first wrong: {finding.leaf}"
    lines += wrapped(f"{INDENT}verified: ", ", ".join(report.verified) + wrong)
  if finding.cause:
    lines += wrapped(f"{INDENT}cause: ", finding.cause.rstrip(": "))
  return lines


def lines_of_checks(checks: Sequence[Checked]) -> list[str]:
  """Return a row for each check with a detail."""
  if not checks:
    return []
  names = [shortened(check.check, 40) for check in checks]
  room = max(map(len, ["check", *names]))
  lines = [f"{'check':<{room}}  {'times':>6}  {'outcome':<12}"]
  for name, check in zip(names, checks, strict=True):
    row = f"{name:<{room}}  {check.times:>6}  {check.verdict:<12}  "
    lines += wrapped(row, check.detail)
  return lines


def two_numbers(got: float, want: float) -> tuple[str, str]:
  """Format two numbers with two more digits than distinguish them, 5 to 17 in all."""
  digits = 5
  if math.isfinite(got) and math.isfinite(want) and got != want:
    largest = max(abs(got), abs(want))
    apart = abs(got / largest - want / largest)  # The difference itself may overflow.
    digits = min(17, max(5, math.ceil(-math.log10(apart or 1e-17)) + 2))
  return f"{got:.{digits - 1}e}", f"{want:.{digits - 1}e}"


def shape_of(shape: tuple[int, ...]) -> str:
  """Format a shape as (128,128), without spaces, or as () for a scalar."""
  return f"({','.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def shortened(text: str, room: int) -> str:
  """Return the end of a text that is too long, since the name is there."""
  return text if len(text) <= room else f"…{text[len(text) - max(room, 2) + 1 :]}"


def joined(parts: Iterable[str], gap: str) -> list[str]:
  """Join nonempty parts in one line, or in several where they don't fit."""
  lines = [""]
  for part in filter(None, parts):
    pieces = [part] if len(part) <= WIDTH else textwrap.wrap(part, WIDTH - len(INDENT))
    for piece in pieces:
      line = f"{lines[-1]}{gap}{piece}" if lines[-1].strip() else lines[-1] + piece
      if len(line) <= WIDTH:
        lines[-1] = line
      else:
        lines.append(INDENT + piece)
  return lines


def wrapped(prefix: str, text: str) -> list[str]:
  """Wrap a text behind a prefix, indenting further lines to match if that leaves room."""
  indent = " " * (len(prefix) if len(prefix) <= WIDTH // 2 else len(INDENT))
  lines = []
  for i, line in enumerate(text.splitlines() or [""]):
    lines += textwrap.wrap(
      line,
      WIDTH,
      initial_indent=indent if i else prefix,
      subsequent_indent=indent,
      break_on_hyphens=False,
    ) or [prefix if i == 0 else ""]
  return lines


# --- HTML -----------------------------------------------------------------------------------------

MOST_ROWS = 30
HEADS = ("", "check", "leaf", "entries", "at", "got", "want", "bound", "why")


def to_html(report: Outcome) -> str:
  """Render a report as an HTML fragment, with names and messages escaped."""
  color = {"pass": GOOD, "fail": BAD}.get(report.verdict, UNSURE)
  asked = f"{report.name}: {report.level}, seed {report.seed}, {report.seconds:.1f} s"
  parts = [headline(report.verdict.upper(), color, asked)]
  parts.append(table_of(HEADS, map(row_of, report.findings[:MOST_ROWS])))
  if len(report.findings) > MOST_ROWS:
    parts.append(paragraph(f"and {len(report.findings) - MOST_ROWS} findings more"))
  if report.again and report.verdict != "pass":
    parts.append(paragraph(f"again: {report.again}"))
  shown, passed = by_detail(report.checks)
  rows = ((check.check, str(check.times), check.verdict, check.detail) for check in shown)
  parts.append(table_of(("check", "times", "outcome", "detail"), rows))
  parts += [paragraph(f"{head}: {text}") for head, text in remarks(report, passed)]
  return "".join(parts)


def row_of(finding: Finding) -> tuple[str, ...]:
  """Return a finding as the cells of the columns `HEADS`."""
  got, want = "", ""
  if finding.got is not None and finding.want is not None:
    got, want = two_numbers(finding.got, finding.want)
  leaf = f"{finding.leaf} {shape_of(finding.shape)}" if finding.leaf else ""
  regime = "" if finding.regime == "as given" else f"regime: {finding.regime}"
  return (
    finding.kind.upper(),
    finding.check,
    leaf,
    f"{finding.wrong} of {finding.size}" if finding.wrong else "",
    "" if finding.index is None else f"[{','.join(map(str, finding.index))}]",
    got,
    want,
    "" if finding.bound is None else f"{finding.bound:.1g}",
    "; ".join(filter(None, (finding.cause, finding.message, regime))),
  )


# --- JSON -----------------------------------------------------------------------------------------


def to_json(report: Outcome) -> str:
  """Convert a report to JSON; nonfinite numbers become "NaN", "Infinity", "-Infinity"."""
  return json.dumps(to_plain(report), indent=2, allow_nan=False, ensure_ascii=False)


def to_plain(report: Outcome) -> dict[str, Any]:
  """Convert a report to values that JSON can represent; `format`, `verdict` and `ok` come first."""
  head = {"format": FORMAT, "verdict": report.verdict, "ok": report.ok}
  table = {name: plain(value) for name, value in report._asdict().items()}
  for name in ("findings", "checks"):
    table[name] = [
      {key: plain(value) for key, value in row._asdict().items()} for row in getattr(report, name)
    ]
  return head | table


def from_json(text: str) -> Outcome:
  """Read a report written by `to_json`.

  Args:
    text: JSON.

  Returns:
    The `Outcome`, equal to the one written.

  Raises:
    ValueError: the text isn't JSON, isn't a report, or has another format version.
  """
  table = json.loads(text)
  if not isinstance(table, dict) or table.get("format") != FORMAT:
    found = table.get("format") if isinstance(table, dict) else None
    raise ValueError(f"a report has the format {FORMAT}, got {found!r}")
  try:
    report: Outcome = restored(Outcome, table)
    return report._replace(
      findings=tuple(restored(Finding, row) for row in table["findings"]),
      checks=tuple(restored(Checked, row) for row in table["checks"]),
    )
  except (KeyError, TypeError) as error:
    raise ValueError(f"this is not the JSON of a report: {error!r}") from error


def plain(value: Any) -> Any:
  """Convert a field to its JSON representation, NumPy scalars to Python's."""
  value = value.item() if hasattr(value, "item") else value
  if isinstance(value, tuple | list):
    return [plain(entry) for entry in value]
  if isinstance(value, float) and not math.isfinite(value):
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
  return value


def restored(kind: Any, table: Mapping[str, Any]) -> Any:
  """Build a NamedTuple; its annotations distinguish texts from nonfinite numbers."""
  fields = {}
  for name in kind._fields:
    value = table[name]
    if isinstance(value, str) and "float" in str(kind.__annotations__[name]):
      value = float(value)
    fields[name] = tuple(value) if isinstance(value, list) else value
  return kind(**fields)
