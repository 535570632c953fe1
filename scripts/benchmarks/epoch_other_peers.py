"""Epochs of torch, keras on JAX and scikit-learn, as in their own guides."""

import os
import warnings
from importlib import import_module
from typing import Any

from scripts.benchmarks import machine
from scripts.benchmarks.models import Epochs, draw_examples
from scripts.benchmarks.quantities_torch import made_of
from scripts.benchmarks.subjects import EXAMPLES, RATE, SIZES

EPOCHS = 5
"""The epochs of one call of `fit`, many enough to amortise its preparation."""


def make_torch(name: str) -> Epochs:
  """Build a loop over minibatches of tensors; a DataLoader would cost more than a step."""
  torch: Any = import_module("torch")
  torch.set_num_threads(machine.core_count())
  size = SIZES[name]
  x, targets = map(torch.from_numpy, draw_examples(name))
  targets = targets.long() if size.classification else targets
  model = made_of(torch, size)
  loss_of = torch.nn.CrossEntropyLoss() if size.classification else torch.nn.MSELoss()
  optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

  def run(number: int) -> None:
    for rows in torch.randperm(EXAMPLES[name]).split(size.batch):
      optimizer.zero_grad()
      loss = loss_of(model(x[rows]), targets[rows])
      loss.backward()
      optimizer.step()

  return Epochs(run, 1)


def make_keras(name: str) -> Epochs:
  """Build the run of `compile` and `fit`."""
  os.environ["KERAS_BACKEND"] = "jax"  # keras reads it at import.
  keras: Any = import_module("keras")
  size = SIZES[name]
  x, targets = draw_examples(name)
  *hidden, last = size.widths[1:]
  layers = [keras.layers.Dense(width, activation="relu") for width in hidden]
  model = keras.Sequential([keras.Input(size.widths[:1]), *layers, keras.layers.Dense(last)])
  entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  loss = entropy if size.classification else keras.losses.MeanSquaredError()
  model.compile(optimizer=keras.optimizers.SGD(RATE), loss=loss)

  def run(number: int) -> None:
    model.fit(x, targets, batch_size=size.batch, epochs=EPOCHS, shuffle=True, verbose=0)

  return Epochs(run, EPOCHS)


def make_sklearn(name: str) -> Epochs:
  """Build `fit` of an MLP, from new parameters each time, without a stopping rule."""
  network: Any = import_module("sklearn.neural_network")
  size = SIZES[name]
  x, targets = draw_examples(name)
  kind = network.MLPClassifier if size.classification else network.MLPRegressor
  model = kind(
    hidden_layer_sizes=size.widths[1:-1],
    solver="sgd",
    alpha=0.0,
    batch_size=size.batch,
    learning_rate_init=RATE,
    max_iter=EPOCHS,
    tol=0.0,
    n_iter_no_change=EPOCHS,
    momentum=0.0,
    nesterovs_momentum=False,
  )
  flat = targets if size.classification else targets[:, 0]

  def run(number: int) -> None:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # The convergence warning.
      model.fit(x, flat)

  return Epochs(run, EPOCHS)
