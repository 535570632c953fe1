"""A report as a table for a terminal, as HTML for a notebook, and as JSON for programs."""

import json
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fbackprop.markup import BAD, GOOD, UNSURE, headline, paragraph, table_of
from fbackprop.verify.report.findings import Checked, Finding, Outcome

WIDTH = 100
FORMAT = 1
"""Of the JSON: goes up when a field goes away or changes its meaning."""
MOST_FINDINGS = 8
"""So many are written out; the JSON has them all."""
INDENT = " " * 6


def table(report: Outcome) -> str:
  """Render a report for a terminal: verdict, findings, checks, and what wasn't checked.

  Args:
    report: of a verification.

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
    # A command is there to be copied, so it isn't broken where it would fit on a line of its own.
    lines += ["", *wrapped("again: ", report.again)]
  shown, passed = by_detail(report.checks)
  lines += ["", *lines_of_checks(shown)]
  for head, text in remarks(report, passed):
    lines += wrapped(f"{head}: ", text)
  return "\n".join(line.rstrip() for line in lines)


def by_detail(checks: Iterable[Checked]) -> tuple[list[Checked], list[Checked]]:
  """Divide checks into those that have something to say, and those that just passed."""
  shown = [c for c in checks if c.detail or c.verdict != "pass"]
  return shown, [c for c in checks if c not in shown]


def remarks(report: Outcome, passed: Sequence[Checked]) -> Iterator[tuple[str, str]]:
  """Yield what stands below the table of checks: (head, text)."""
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
  """Say what is wrong, where, by how much, and why."""
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
  """Return a row for each check that has something to say."""
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
  """Format two numbers with as many digits as distinguish them, and two more; 5 to 17 in all."""
  digits = 5
  if math.isfinite(got) and math.isfinite(want) and got != want:
    largest = max(abs(got), abs(want))
    apart = abs(got / largest - want / largest)  # The difference itself may overflow.
    digits = min(17, max(5, math.ceil(-math.log10(apart or 1e-17)) + 2))
  return f"{got:.{digits - 1}e}", f"{want:.{digits - 1}e}"


def shape_of(shape: tuple[int, ...]) -> str:
  """Format a shape as (128,128): without the spaces, and () for a number."""
  return f"({','.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def shortened(text: str, room: int) -> str:
  """Return the end of a text that is too long: the name is there."""
  return text if len(text) <= room else f"…{text[len(text) - max(room, 2) + 1 :]}"


def joined(parts: Iterable[str], gap: str) -> list[str]:
  """Join parts in one line, or in more where they don't fit; empty ones are left out."""
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
  """Wrap a text behind a prefix; further lines are indented as far, if that leaves room."""
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
  """Render a report as HTML, without a page around it; names and messages are escaped."""
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
  """Return a finding as the cells of `HEADS`."""
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
  """Write a report as JSON; a number that isn't finite is "NaN", "Infinity", "-Infinity"."""
  return json.dumps(to_plain(report), indent=2, allow_nan=False, ensure_ascii=False)


def to_plain(report: Outcome) -> dict[str, Any]:
  """Return a report as what JSON can hold; `format`, `verdict` and `ok` come first."""
  head = {"format": FORMAT, "verdict": report.verdict, "ok": report.ok}
  table = {name: plain(value) for name, value in report._asdict().items()}
  for name in ("findings", "checks"):
    table[name] = [
      {key: plain(value) for key, value in row._asdict().items()} for row in getattr(report, name)
    ]
  return head | table


def from_json(text: str) -> Outcome:
  """Read the report that `to_json` wrote.

  Args:
    text: JSON.

  Returns:
    The `Outcome`, equal to the one that was written.

  Raises:
    ValueError: it is no JSON, or not that of a report, or of another format.
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
  """Return a field as JSON has it; numbers of NumPy become Python's."""
  value = value.item() if hasattr(value, "item") else value
  if isinstance(value, tuple | list):
    return [plain(entry) for entry in value]
  if isinstance(value, float) and not math.isfinite(value):
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
  return value


def restored(kind: Any, table: Mapping[str, Any]) -> Any:
  """Build a NamedTuple; the annotation says whether a text is a number that isn't finite."""
  fields = {}
  for name in kind._fields:
    value = table[name]
    if isinstance(value, str) and "float" in str(kind.__annotations__[name]):
      value = float(value)
    fields[name] = tuple(value) if isinstance(value, list) else value
  return kind(**fields)
