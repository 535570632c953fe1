"""What is left of a run to look at: a picture of its panels, and a page with its numbers."""

from fbackprop.train.report.ensemble_page import RateScores, draw_ensemble_page
from fbackprop.train.report.page import Told, draw_page
from fbackprop.train.report.picture import draw_report

__all__ = ["RateScores", "Told", "draw_ensemble_page", "draw_page", "draw_report"]
