"""Short runs."""

import jax

import fbackprop as fb
from scripts.campaigns.grouping import grouped


def descend(net, data, stop, rate=0.1, loss=fb.softmax_cross_entropy, **options):
  """Run `fit` by gradient descent, for a number of steps or by stop rules."""
  options = {"optimizer": fb.train.gradient_descent(rate), "key": jax.random.key(0), **options}
  stop = fb.train.StopRules(stop) if isinstance(stop, int) else stop
  return fb.train.fit(net, loss, data, stop=stop, **grouped(**options))
