"""Derivatives that are mistaken for others, and formulas that are slips of the pen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import erf, expit


def named_slopes(s: np.ndarray) -> list[tuple[str, np.ndarray]]:
  """The derivatives of common functions at s."""
  one = np.ones_like(s)
  sigma = expit(s)
  tanh = np.tanh(s)
  c = np.sqrt(2 / np.pi)
  inner = np.tanh(c * (s + 0.044715 * s**3))
  normal = np.exp(-s * s / 2) / np.sqrt(2 * np.pi)
  quick = expit(1.702 * s)
  softplus = np.logaddexp(0, s)
  return [
    ("gelu's tanh form", 0.5 * (1 + inner)
      + 0.5 * s * (1 - inner**2) * c * (1 + 3 * 0.044715 * s * s)),
    ("gelu", 0.5 * (1 + erf(s / np.sqrt(2))) + s * normal),
    ("gelu without its second term", 0.5 * (1 + erf(s / np.sqrt(2)))),
    ("gelu's sigmoid form", quick + 1.702 * s * quick * (1 - quick)),
    ("silu", sigma + s * sigma * (1 - sigma)),
    ("sigmoid", sigma * (1 - sigma)),
    ("softplus", sigma),
    ("tanh", 1 - tanh**2),
    ("relu", np.where(s > 0, one, 0 * s)),
    ("elu", np.where(s > 0, one, np.exp(s))),
    ("mish", np.tanh(softplus) + s * sigma * (1 - np.tanh(softplus) ** 2)),
    ("relu6", np.where((s > 0) & (s < 6), one, 0 * s)),
    ("hard tanh", np.where(np.abs(s) < 1, one, 0 * s)),
    *((f"leaky relu of slope {a:g}", np.where(s > 0, one, a + 0 * s))
      for a in (0.01, 0.1, 0.2, 0.3)),
    ("exp", np.exp(s)), ("log", 1 / s), ("the square", 2 * s), ("the root", 0.5 / np.sqrt(s)),
    ("the absolute value", np.sign(s)),
  ]  # fmt: skip


def other_slopes(
  s: np.ndarray, y: np.ndarray, own: np.ndarray, name: str
) -> list[tuple[str, np.ndarray]]:
  """Derivatives that are mistaken for φ'(s), and formulas that are slips of the pen."""
  formulas = [
    ("1 - y^2", 1 - y * y), ("1 - y", 1 - y), ("y", y), ("y (1 - y)", y * (1 - y)),
    ("1 + y^2", 1 + y * y), ("y^2", y * y), ("sign(y)", np.sign(y)), ("y > 0", (y > 0) + 0 * y),
    ("-y", -y), ("1 / y", 1 / y), ("2 y", 2 * y), ("y / 2", y / 2), ("y^3", y**3),
    ("1 - y'", 1 - own), ("y' squared", own**2), ("-y'", -own), ("1 / y'", 1 / own),
    ("0", 0 * own),
  ]  # fmt: skip
  misplaced = [("1 - s^2", 1 - s * s), ("s (1 - s)", s * (1 - s)), ("s", s), ("s^2", s * s)]
  functions = [("the identity", np.ones_like(s)), *named_slopes(s)]
  return (
    [(f"wrong point: the derivative of {name}, written for its output, at its input: {text}", v)
     for text, v in misplaced]
    + [(f"other function: the derivative of {text} in place of that of {name}", v)
       for text, v in functions]
    + [(f"other function: {text} in place of the derivative of {name}", v) for text, v in formulas]
  )  # fmt: skip


def from_narrow_output(
  y: np.ndarray, own: np.ndarray, narrow: Sequence[tuple[str, Any]]
) -> list[tuple[str, np.ndarray]]:
  """Slopes written from the output, which was kept in a narrower dtype."""
  found = []
  for formula in (square_from_one, logistic_from_output, itself, softplus_from_output, root):
    if np.allclose(formula(y), own, rtol=1e-9, atol=1e-12):
      for name, dtype in narrow:
        rounded = y.astype(dtype).astype(np.float64)
        found.append((f"precision: its output is kept in {name}", formula(rounded)))
  return found


def square_from_one(y: np.ndarray) -> np.ndarray:
  return np.asarray(1 - y * y)


def logistic_from_output(y: np.ndarray) -> np.ndarray:
  return np.asarray(y * (1 - y))


def itself(y: np.ndarray) -> np.ndarray:
  return y


def softplus_from_output(y: np.ndarray) -> np.ndarray:
  return np.asarray(-np.expm1(-y))


def root(y: np.ndarray) -> np.ndarray:
  return np.asarray(0.5 / y)
