"""Run the command line: `python -m fbackprop` is `fbackprop`."""

import sys

from fbackprop.cli import main

sys.exit(main())
