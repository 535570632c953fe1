"""Interpret traced programs in NumPy's float64, with the rounding error of the results."""
