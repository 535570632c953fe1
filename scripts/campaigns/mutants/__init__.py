"""Rules that are wrong by one mechanical edit of a right rule's source, and what is said of them.

`sources` reads a function's source and compiles an edited one, `syntax` says what can be edited,
`operators` makes it wrong and `spellings` says the same in other words, `rules` lists the right
rules, `fairness` says which edits are wrong, `selection` which of them count, `scoring` what a
report is worth, `records` keeps it, `page` writes docs/mutants.md. scripts/mutants.py runs them.
"""
