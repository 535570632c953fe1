"""What is left of a run to look at: a picture of its panels, and a page with its numbers."""

from fbackprop.train.report.page import Told, draw_page
from fbackprop.train.report.picture import draw_report

__all__ = ["Told", "draw_page", "draw_report"]
