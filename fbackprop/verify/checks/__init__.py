"""The checks of a rule: what has to hold, and at which points."""
