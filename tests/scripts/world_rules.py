"""Small rules for the tests of scripts/verify_world.py: right, wrong, slow, raising."""

import time

import jax

from scripts.campaigns.world.rule import Rule, between, normal


@jax.custom_vjp
def cube(x):
  return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, y_bar: (3 * x**2 * y_bar,))


@jax.custom_vjp
def doubled(x):
  return x**3


doubled.defvjp(lambda x: (x**3, x), lambda x, y_bar: (6 * x**2 * y_bar,))


@jax.custom_jvp
def square(x):
  return x**2


square.defjvp(lambda primals, tangents: (primals[0] ** 2, 2 * primals[0] * tangents[0]))


def asleep(function):
  time.sleep(600)
  return function


def refused(function):
  raise ValueError("needs a licence")


HERE = "tests.scripts.world_rules"
CUBE = Rule("here==1.0", f"{HERE}:cube", (normal(4),), note="The cube.")
DOUBLED = Rule("here==1.0", f"{HERE}:doubled", (normal(4),), note="Twice the slope.")
SQUARE = Rule("there==2.0", f"{HERE}:square", (between(1, 2, 3),), x64=True)
ASLEEP = Rule("there==2.0", f"{HERE}:cube", (normal(4),), make=asleep, name="a|sleep")
REFUSED = Rule("there==2.0", f"{HERE}:cube", (normal(4),), make=refused, name="refused")
RULES = (CUBE, DOUBLED, SQUARE, ASLEEP, REFUSED)
