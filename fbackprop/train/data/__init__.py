"""Where examples come from: a module for each kind. `names` is all that the command line reads."""
