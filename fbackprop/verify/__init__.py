"""The witnesses: autodiff is called here, and nowhere else in the package.

`vjp` verifies any hand-written rule, `layer` one of our networks layer by layer, `assert_vjp`
is the line for a test; `fbackprop verify` is the command. Names are imported on first access.

Its parts, from the lowest: `report` (findings, and how they are rendered), `interpret` (programs
in float64, with their rounding error), `witnesses` (rule, autodiff, differences, and the verdict on
them), `explain` (the cause of a wrong gradient), `checks` (the checks of a rule, and its test
points), `bank` (planted bugs and right rules). A new test point is a line in `checks.test_points`,
a new check one in `CHECKS` of `_vjp`, a new cause one in `ORDER` of `explain.causes`, a new
primitive one in the tables of `interpret.primitives`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
