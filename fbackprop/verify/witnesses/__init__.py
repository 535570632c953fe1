"""The three witnesses: the rule, autodiff of the reference, and its differences."""
