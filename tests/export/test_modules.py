"""Parameters of flax, equinox and scikit-learn, in and out, compared in the partner's own model."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sklearn.neural_network import MLPClassifier, MLPRegressor

import fbackprop as fb
from tests.support.exchanged import assert_near

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (9, 4)) * jnp.array([[1.0, 10.0, 1e2, 1e4]])


def changed(params):
  return jax.tree.map(lambda leaf: 2 * leaf + 0.5, params)


def mlp_of_equinox():
  exact = functools.partial(jax.nn.gelu, approximate=False)
  return eqx.nn.MLP(4, 3, 5, 2, activation=exact, key=KEY)


def sequential_of_equinox():
  layers = [
    eqx.nn.Linear(4, 5, key=KEY), eqx.nn.LayerNorm(5), eqx.nn.Lambda(jax.nn.gelu),
    eqx.nn.Dropout(0.1, inference=True), eqx.nn.Linear(5, 3, use_bias=False, key=KEY),
    eqx.nn.RMSNorm(3, use_bias=False), eqx.nn.Lambda(jax.nn.softmax),
  ]  # fmt: skip
  return eqx.nn.Sequential(layers)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("make", "shown"),
  [
    (mlp_of_equinox, "serial(dense(4, 5), gelu, dense(5, 5), gelu, dense(5, 3))"),
    (sequential_of_equinox,
     "serial(dense(4, 5), layer_norm(5), gelu_tanh, dropout(0.1), dense(5, 3, bias=False), "
     "rms_norm(3), softmax)"),
  ],
)  # fmt: skip
def test_equinox(make, shown, as_a_user_has_it):
  theirs = make()
  net, params = fb.export.from_equinox(theirs)
  assert repr(net) == shown
  assert_near(net.forward(params, X)[0], jax.vmap(theirs)(X))
  new = changed(params)
  made = fb.export.to_equinox(net, new, theirs)
  assert jax.tree.structure(made) == jax.tree.structure(theirs)
  assert_near(net.forward(new, X)[0], jax.vmap(made)(X))
  assert_near(net.forward(params, X)[0], jax.vmap(theirs)(X))  # Unchanged.


def test_flax(as_a_user_has_it):
  rngs = nnx.Rngs(0)
  theirs = nnx.Sequential(
    nnx.Linear(4, 5, rngs=rngs), nnx.LayerNorm(5, rngs=rngs), nnx.silu, nnx.Dropout(0.1, rngs=rngs),
    nnx.Linear(5, 3, use_bias=False, rngs=rngs), nnx.RMSNorm(3, rngs=rngs),
  )  # fmt: skip
  theirs.eval()
  net, params = fb.export.from_flax(theirs)
  assert_near(net.forward(params, X)[0], theirs(X))
  new = changed(params)
  made = fb.export.to_flax(net, new, theirs)
  assert_near(net.forward(new, X)[0], made(X))
  assert_near(net.forward(params, X)[0], theirs(X))  # Unchanged.
  # Of a model with layers as attributes, its layers in their order.
  net, params = fb.export.from_flax([theirs.layers[0], jnp.tanh, theirs.layers[4]])
  assert_near(net.forward(params, X)[0], theirs.layers[4](jnp.tanh(theirs.layers[0](X))))
  assert type(fb.export.to_flax(net, params, [theirs.layers[0], theirs.layers[4]])) is list


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_scikit_learn(classes):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(30, 4)).astype(np.float32)
  options = {"hidden_layer_sizes": (5, 4), "max_iter": 3, "random_state": 0}
  if classes:
    theirs = MLPClassifier(activation="logistic", **options).fit(x, np.arange(30) % classes)
  else:
    theirs = MLPRegressor(activation="tanh", **options).fit(x, x[:, :2])
  net, params = fb.export.from_sklearn(theirs)

  def agree(params, estimator):
    outputs = net.forward(params, x)[0]
    if classes == 0:
      assert_near(outputs, estimator.predict(x))
    elif classes == 2:
      assert_near(jax.nn.sigmoid(outputs)[:, 0], estimator.predict_proba(x)[:, 1])
    else:
      assert_near(jax.nn.softmax(outputs), estimator.predict_proba(x))

  agree(params, theirs)
  agree(changed(params), fb.export.to_sklearn(net, changed(params), theirs))


def test_what_is_no_chain_of_known_layers_is_refused():
  rngs = nnx.Rngs(0)
  linear = nnx.Linear(4, 5, rngs=rngs)
  with pytest.raises(TypeError, match="from_flax: layer 1 must be Linear, LayerNorm"):
    fb.export.from_flax([linear, jnp.sin])
  with pytest.raises(TypeError, match="layer 0 must be Linear"):
    fb.export.from_flax([nnx.Conv(1, 1, (1,), rngs=rngs)])
  with pytest.raises(TypeError, match="must be a fitted MLPClassifier"):
    fb.export.from_sklearn(MLPClassifier())
  net, params = fb.export.from_flax([linear])
  with pytest.raises(ValueError, match=r"kernel of layer 0 must be \(5, 4\), got \(4, 5\)"):
    fb.export.to_flax(net, params, [nnx.Linear(5, 4, rngs=rngs)])
  with pytest.raises(ValueError, match="the network has 1 layers with parameters, and the model 2"):
    fb.export.to_flax(net, params, [linear, linear])
