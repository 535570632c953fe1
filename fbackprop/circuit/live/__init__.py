"""Circuits on a page: a picture whose numbers move, in one file that loads nothing.

`figure` draws the picture, `page` writes the page around it. The page computes for itself, in
float64: `gates.js` has the gates' rules as `fbackprop.gates` has them, and compares its numbers
with those that JAX wrote into the page.
"""
