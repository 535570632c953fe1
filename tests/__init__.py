"""The tests, with what they share: `cases` (the table), `laws`, `witness` and `oracle`."""
