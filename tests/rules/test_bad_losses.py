"""Bad input to the losses: a typed error that names the argument, what was expected and what came.

(What a loss refuses of its outputs and targets is, for the first three of them, in
`test_bad_input.py`.)
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbackprop as fb
from fbackprop.verify.cases.losses import LOSSES, TWO_COSTS
from tests.support.refusals import refusals

with_ = fb.softmax_cross_entropy_with
LABELS = jnp.zeros(6, jnp.int32)
LOGITS = jnp.ones((6, 4))
IGNORING, THREE = with_(ignore_label=-1), with_(class_weights=[1, 2, 3])
COSTS = (LABELS, LOGITS[:, :2])


def part(weight=1.0, loss=fb.huber, output_slice=0):
  return lambda: fb.combine((weight, loss, output_slice))


REFUSED = [
  (lambda: with_(label_smoothing=1.5), ValueError, "label_smoothing .*got 1.5"),
  (lambda: with_(label_smoothing=-1), ValueError, "label_smoothing .* got -1"),
  (lambda: with_(label_smoothing=np.nan), ValueError, "number .* got nan"),
  (lambda: with_(label_smoothing=True), TypeError, "must be a number, got bool"),
  (lambda: with_(class_weights="balanced"), TypeError, "must be numbers .* got str"),
  (lambda: with_(class_weights=2.0), ValueError, r"class_weights .* shape \[C\]"),
  (lambda: with_(class_weights=[1, -1]), ValueError, r"negative, got -1.0 at \[1\]"),
  (lambda: with_(class_weights=[np.nan]), ValueError, r"finite .* nan at \[0\]"),
  (lambda: with_(ignore_label=1.0), TypeError, "must be an integer, got float 1.0"),
  (lambda: with_(ignore_label=True), TypeError, "an integer, got bool True"),
  (lambda: fb.huber_with(0), ValueError, "delta must be a finite number above 0, got 0"),
  (lambda: fb.huber_with(np.inf), ValueError, "delta must be .* got inf"),
  (lambda: fb.huber_with("1"), TypeError, "delta must be a number, got str '1'"),
  (fb.combine, TypeError, "at least one .*, got none"),
  (lambda: fb.combine(fb.huber), TypeError, "part 0 must be .weight, loss, output_slice"),
  (lambda: fb.combine((1.0, fb.huber)), TypeError, "part 0 must be .weight, loss"),
  (part(weight="1"), TypeError, "weight of part 0 must be a number, got str"),
  (part(weight=np.inf), ValueError, "weight of part 0 .* got inf"),
  (part(loss=fb.relu), TypeError, "loss of part 0 must be a Loss, got"),
  (part(output_slice=slice(0, 4, 2)), TypeError, "output_slice of part 0 .* without a"),
  (part(output_slice=[0, 1]), TypeError, "output_slice of part 0 .* got list"),
  (part(output_slice=slice(0.0, 1.0)), TypeError, "part 0 .* got slice"),
  (lambda: fb.hinge.forward(LOGITS, LOGITS), ValueError, r"targets .* shape \[6\], got float32"),
  (lambda: fb.hinge.forward(LOGITS, LOGITS[:, 0]), TypeError, r"integer labels \[N\], got float32"),
  (lambda: fb.hinge.forward(LOGITS, LABELS + 4), ValueError, "from 0 to 3, got 4 in row 0"),
  (lambda: fb.huber.forward(LOGITS, LOGITS[:, 0]), ValueError, r"huber: targets .* \[6, 4\]"),
  (lambda: fb.log_cosh.forward(LOGITS, LOGITS.astype("float16")), TypeError, "dtype float32"),
  (lambda: fb.poisson_nll.forward(LOGITS, LOGITS.astype(int)), TypeError, "dtype float32"),
  (
    lambda: fb.softmax_cross_entropy.forward(LOGITS[:, :0], LABELS),
    ValueError,
    r"outputs must have at least one class, got float32\[6, 0\]",
  ),
  (lambda: fb.hinge.forward(LOGITS[:, :0], LABELS), ValueError, "at least one class"),
  (lambda: IGNORING.forward(LOGITS, LOGITS), ValueError, r"ignore_label needs labels \[N\], got"),
  (lambda: IGNORING.forward(LOGITS, LABELS - 2), ValueError, "from 0 to 3, got -2 in row 0"),
  (lambda: THREE.forward(LOGITS, LABELS), ValueError, r"class_weights .* shape \[4\]"),
  (lambda: TWO_COSTS.forward(LOGITS, LABELS), ValueError, r"tuple of 2, got int32\[6\]"),
  (lambda: TWO_COSTS.forward(LOGITS, (LABELS,)), ValueError, "tuple of 2, got a tuple of 1"),
  (lambda: TWO_COSTS.forward(LOGITS[:, :2], COSTS), ValueError, r"slice\(0, 3.* some of 2 out"),
  (lambda: TWO_COSTS.forward(LOGITS[:, 0], COSTS), ValueError, r"combine: outputs .*\[N, C\]"),
]


test_bad_input_is_refused = refusals(lambda call: call(), REFUSED)


@pytest.mark.parametrize("case", LOSSES, ids=[case.id for case in LOSSES])
def test_losses_bar_of_another_dtype_or_shape_is_refused(case):
  """It would have been widened silently."""
  outputs, targets = case.primals(np.random.default_rng(0), 3, jnp.dtype("float16"))
  loss = case.make("float16")
  _, residuals = jax.eval_shape(loss.forward, outputs, targets)
  with pytest.raises(TypeError, match="losses_bar must have dtype float16, got float32"):
    jax.eval_shape(loss.backward, residuals, jnp.ones(3))
  with pytest.raises(ValueError, match=r"losses_bar must have shape \[3\], got float16\[2\]"):
    jax.eval_shape(loss.backward, residuals, jnp.ones(2, "float16"))


@pytest.mark.parametrize(
  "loss", [fb.softmax_cross_entropy, fb.hinge, IGNORING, with_(label_smoothing=0.1)]
)
def test_labels_out_of_range_are_nan_where_they_cannot_be_looked_at(loss):
  labels = jnp.array([0, 4, -2, 2, 1, 0])
  losses, rows = jax.jit(loss.forward)(LOGITS, labels)
  bad = np.array([False, True, True, False, False, False])
  np.testing.assert_array_equal(np.isnan(losses), bad)
  np.testing.assert_array_equal(np.isnan(rows), np.repeat(bad[:, None], 4, axis=1))


def test_an_error_says_in_which_part_it_arose():
  with pytest.raises(ValueError, match="labels from 0 to 2") as raised:
    TWO_COSTS.forward(LOGITS, (LABELS + 3, COSTS[1]))
  assert raised.value.__notes__ == ["in part 0 (softmax_cross_entropy) of 2, outputs 0 to 2"]


def test_the_number_of_examples_is_checked_in_each_of_the_targets():
  net = fb.mlp([3, 4])
  step = fb.value_and_grad(net, TWO_COSTS)
  with pytest.raises(ValueError, match=r"same number N .* targets\[1\] float32\[5, 2\]"):
    step(net.init(jax.random.key(0)), LOGITS[:, :3], (LABELS, LOGITS[:5, :2]))
