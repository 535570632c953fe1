"""Data sets: a module for each kind of source. The command line's help imports only `names`."""
