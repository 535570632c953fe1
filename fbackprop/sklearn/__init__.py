"""Estimators of scikit-learn with our backward pass: `MLPClassifier` and `MLPRegressor`.

They take scikit-learn's arguments with its defaults, draw its random numbers in its order, and so
make the same run, up to rounding, as compiled programs. Names are imported on first access; without
scikit-learn that raises an error which says how to install it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
