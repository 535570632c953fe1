"""Short runs."""

import json
import os
import signal

import jax

import fbackprop as fb
from fbackprop.train import run_folder
from scripts.campaigns.grouping import grouped


def descend(net, data, stop, rate=0.1, loss=fb.softmax_cross_entropy, **options):
  """Run `fit` by gradient descent, for a number of steps or by stop rules."""
  options = {"optimizer": fb.train.gradient_descent(rate), "key": jax.random.key(0), **options}
  stop = fb.train.StopRules(stop) if isinstance(stop, int) else stop
  return fb.train.fit(net, loss, data, stop=stop, **grouped(**options))


def interrupt_at(step, signum=signal.SIGINT):
  """Build a function that interrupts the run at a step: its last argument holds the step."""

  def interrupt(*told):
    reached = told[-1]["step"] if isinstance(told[-1], dict) else told[-1].step
    if reached == step:
      os.kill(os.getpid(), signum)

  return interrupt


def follow(monkeypatch, name, then):
  """Let `then(path, content)` follow each call of this function of `run_folder`."""
  real = getattr(run_folder, name)

  def both(path, content):
    real(path, content)
    then(path, content)

  monkeypatch.setattr(run_folder, name, both)


def metrics_of(folder):
  """Read the lines of a run, without the clock."""
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return [{**json.loads(line), "seconds": None} for line in lines]
