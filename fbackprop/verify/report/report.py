"""The result of a verification, with its renderings: a table, JSON, HTML."""

from fbackprop.verify.report.findings import Outcome
from fbackprop.verify.report.rendering import from_json, table, to_html, to_json


class Report(Outcome):
  """The result of a verification, with the fields of `Outcome`."""

  __slots__ = ()

  def table(self) -> str:
    """Render the report for a terminal, in lines of at most 100 columns: see `rendering.table`."""
    return table(self)

  def to_json(self) -> str:
    """Convert the report to JSON that `from_json` reads: see `rendering.to_json`."""
    return to_json(self)

  @staticmethod
  def from_json(text: str) -> "Report":
    """Read a report written by `to_json`; raise ValueError for any other text."""
    return Report(*from_json(text))

  def __repr__(self) -> str:
    """Return the verdict in one line; `print` shows the table."""
    findings = f", {len(self.findings)} findings" if self.findings else ""
    return f"Report({self.verdict.upper()}: {self.name}{findings}, {len(self.checks)} checks)"

  def _repr_html_(self) -> str:
    """Render the report for a notebook: see `rendering.to_html`."""
    return to_html(self)

  def __str__(self) -> str:
    return self.table()
