"""A report as a notebook shows it: the verdict, what is wrong and where, what was checked."""

from fbackprop.markup import BAD, GOOD, UNSURE, headline, paragraph, table_of
from fbackprop.verify.report.findings import Finding, Outcome
from fbackprop.verify.report.rendering import own_dtype, shape_of, two_numbers

MOST_FINDINGS = 30
HEADS = ("", "check", "leaf", "entries", "at", "got", "want", "bound", "why")


def to_html(report: Outcome) -> str:
  """A report as HTML, without a page around it; names and messages are escaped."""
  color = {"pass": GOOD, "fail": BAD}.get(report.verdict, UNSURE)
  asked = f"{report.name}: {report.level}, seed {report.seed}, {report.seconds:.1f} s"
  parts = [headline(report.verdict.upper(), color, asked)]
  parts.append(table_of(HEADS, map(row_of, report.findings[:MOST_FINDINGS])))
  if len(report.findings) > MOST_FINDINGS:
    parts.append(paragraph(f"and {len(report.findings) - MOST_FINDINGS} findings more"))
  if report.again and report.verdict != "pass":
    parts.append(paragraph(f"again: {report.again}"))
  told = [check for check in report.checks if check.detail or check.verdict != "pass"]
  quiet = [f"{check.check} ×{check.times}" for check in report.checks if check not in told]
  rows = ((check.check, str(check.times), check.verdict, check.detail) for check in told)
  parts.append(table_of(("check", "times", "outcome", "detail"), rows))
  if quiet:
    parts.append(paragraph(f"passed: {', '.join(quiet)}"))
  if any(check.check == "numerics" for check in report.checks):
    parts.append(paragraph(f"own dtype: {own_dtype(report)}"))
  if report.not_checked:
    parts.append(paragraph(f"not checked: {'; '.join(report.not_checked)}"))
  return "".join(parts)


def row_of(finding: Finding) -> tuple[str, ...]:
  """A finding as the cells of `HEADS`."""
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
