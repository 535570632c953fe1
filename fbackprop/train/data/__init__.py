"""Data sets, one module per kind of source. The command line's help imports only `names`."""
