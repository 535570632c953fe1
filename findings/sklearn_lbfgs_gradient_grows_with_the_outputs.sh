#!/usr/bin/env bash
# scikit-learn 1.9.1, SciPy 1.17.1, CPU.
#
# MLPRegressor(solver="lbfgs") hands SciPy a loss that is the mean over the outputs and a gradient that is the
# sum: with K outputs the gradient is K times that of the loss. L-BFGS compares both in its line search, and
# `tol` bounds the gradient, so that the same problem written with more outputs takes other steps and stops at another place.
#
# Seen:
#   1 output:  the gradient is 1.000 times the slope of the loss
#   2 outputs: the gradient is 2.000 times the slope of the loss
#   4 outputs: the gradient is 4.000 times the slope of the loss
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install \
  scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import numpy as np
import scipy.optimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

warnings.simplefilter("ignore", ConvergenceWarning)
ratios = []
minimize = scipy.optimize.minimize


def compared(fun, x0, args=(), **options):
  gradient = np.array(fun(x0, *args)[1])
  slope = scipy.optimize.approx_fprime(x0, lambda p: fun(p, *args)[0], 1e-6)
  ratios.append(float(gradient @ slope / (slope @ slope)))
  return minimize(fun, x0, args=args, **options)


scipy.optimize.minimize = compared
rng = np.random.default_rng(0)
x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 4))
for outputs in (1, 2, 4):
  net = MLPRegressor(hidden_layer_sizes=(5,), solver="lbfgs", alpha=0, max_iter=3, random_state=0)
  net.fit(x, y[:, 0] if outputs == 1 else y[:, :outputs])
  noun = "output: " if outputs == 1 else "outputs:"
  print(f"{outputs} {noun} the gradient is {ratios[-1]:.3f} times the slope of the loss")
assert np.allclose(ratios, [1, 2, 4], rtol=1e-3), ratios
PYTHON
