"""The lecture as pages: a network to train, and the chapters with their circuits and questions.

`network` writes the page of the network, `chapters` the lecture. Both compute in the page, with the
rules of `circuit/live/gates.js` and `layers.js`, and compare their numbers with those of JAX.
"""
