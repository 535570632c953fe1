"""The names of tasks and of built-in data sets, imported fast, for the command line."""

from typing import Literal, get_args

Task = Literal["classification", "regression", "multilabel"]
TASKS = get_args(Task)
# Treatments of missing targets; see `load_dataset`.
MissingTargets = Literal["refuse", "drop", "class"]
# What separates the cells of a text file, and how its numbers are written; see `csv_tables`.
Separator = Literal["auto", "comma", "semicolon", "tab", "bar"]
Decimal = Literal["auto", "point", "comma"]

BUNDLED = ("digits", "iris", "wine", "breast_cancer", "diabetes")
SYNTHETIC = ("moons", "circles", "blobs", "spiral", "xor", "sine", "mnist1d")
NAMES = BUNDLED + SYNTHETIC
