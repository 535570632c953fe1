"""The report of a run: a picture of six panels, and a page with all panels and tables."""

from fbackprop.train.report.documents import (
  RunInfo,
  draw_ensemble_page,
  draw_page,
  draw_report,
  load_packages,
  look_at,
  make_look,
  summary_of_test,
)
from fbackprop.train.report.tables import RateScores

__all__ = [
  "RateScores",
  "RunInfo",
  "draw_ensemble_page",
  "draw_page",
  "draw_report",
  "load_packages",
  "look_at",
  "make_look",
  "summary_of_test",
]
