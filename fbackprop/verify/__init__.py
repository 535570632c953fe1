"""The witnesses: autodiff is called here, and nowhere else in the package."""

from fbackprop.verify.live import GRADIENT_TOLERANCE, LiveCheck, make_live_check

__all__ = ["GRADIENT_TOLERANCE", "LiveCheck", "make_live_check"]
