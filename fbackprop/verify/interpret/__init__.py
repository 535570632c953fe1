"""Traced programs evaluated in float64, with an estimate of their rounding error."""
