"""The checks of a rule, each in the order in which they rule each other out."""
