"""The checks of a rule, and the test points at which they are run."""
