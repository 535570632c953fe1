"""Rules of public packages, as data; see `scripts/verify_world.py`."""
