"""The witnesses: autodiff is called here, and nowhere else in the package.

`vjp` verifies anybody's hand-written rule, `layer` a network of ours layer by layer, `assert_vjp`
is the line for a test; `fbackprop verify` is the command. Names are imported when they are touched.
"""

from fbackprop.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
  "fbackprop.verify",
  {
    "asserting": ("assert_vjp",),
    "checking": ("vjp",),
    "circuits": ("CIRCUIT_TOLERANCE", "CircuitCheck", "check_circuit"),
    "findings": ("Checked", "Finding", "Report", "UnusableError"),
    "layers": ("layer",),
    "live": ("GRADIENT_TOLERANCE", "LiveCheck", "make_live_check"),
    "selftest": ("SelfTest", "run_self_test"),
  },
)
