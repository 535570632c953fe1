"""`python -m fbackprop` is the command `fbackprop`."""

import sys

from fbackprop.cli import main

sys.exit(main())
