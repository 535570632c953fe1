"""The report of a run: a picture of six panels, and a page with all panels and tables."""

from fbackprop.train.report.members import RateScores
from fbackprop.train.report.page import RunInfo, draw_ensemble_page, draw_page
from fbackprop.train.report.picture import draw_report

__all__ = ["RateScores", "RunInfo", "draw_ensemble_page", "draw_page", "draw_report"]
