"""The bank: planted bugs, and correct but unusual implementations, a file for each subject.

The code is in the style of users' rules, without types. Importing it computes nothing: each
specimen builds its function and its arguments on demand.
"""

from importlib import import_module

from fbackprop.verify.bank.specimen import Example, Specimen

__all__ = ["BUGS", "RIGHT", "Example", "Specimen"]

SUBJECTS = (
  "products", "arithmetic", "activations", "losses", "normalization", "attention", "loops",
  "networks", "batches", "branches", "precision", "structure", "modes", "tangents", "solvers",
  "static_arguments", "indices", "masks", "surrogates", "host", "lengths", "spectra",
)  # fmt: skip
SPECIMENS = tuple(
  value
  for subject in SUBJECTS
  for value in vars(import_module(f"fbackprop.verify.bank.{subject}")).values()
  if isinstance(value, Specimen)
)
BUGS = tuple(specimen for specimen in SPECIMENS if specimen.causes)
RIGHT = tuple(specimen for specimen in SPECIMENS if not specimen.causes)
