"""Layers: the rules of a network's parts, each forward rule above its backward rule.

The constructors and the activation layers are names of `fbackprop` itself: `fb.dense`, `fb.relu`.
"""
