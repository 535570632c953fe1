"""`scripts/train_accelerator.py` on one CPU device and on four: equal losses, a right gradient."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import fbackprop as fb
from scripts import train_accelerator
from tests.support.public import assert_short_and_public

SCRIPT = Path(train_accelerator.__file__)
WIDTHS, N = [64, 256, 16], 128
SMALL = ["--widths", *map(str, WIDTHS), "--batch-size", str(N), "--steps", "25"]
PRODUCTS = 64 * 256 + 256 * 16  # Of an example, in each direction.
OPERATIONS = 2 * N * (3 * PRODUCTS - 64 * 256)
PARAMETERS = PRODUCTS + 256 + 16
NUMBER = r"(\d\.\d+e[-+]\d+)"


def start(devices, *options):
  """The script in a process of its own that has so many CPU devices."""
  environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
  environment |= {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-W", "error", str(SCRIPT), *SMALL, *options]
  return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_one_device_and_four_train_alike(dtype, rounding):
  processes = [start(devices, "--dtype", dtype) for devices in (1, 4)]  # At the same time.
  printed = [process.communicate()[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0]
  losses = []
  for text, devices in zip(printed, (1, 4), strict=True):
    assert text.startswith(f"{devices} × cpu (cpu), {dtype}, ")
    assert re.search(r"^a product of 512³ on each of them: [\d,.]+ GFLOP/s together$", text, re.M)
    assert re.search(r"^[\d,]+ examples/s, \d+\.\d\d of the products' rate$", text, re.M)
    operations, donated = re.search(r"a step of 128: (\S+) GFLOP, (\S+) MB of", text).groups()
    assert float(operations) == pytest.approx(OPERATIONS / 1e9, abs=5e-4)
    assert float(donated) == pytest.approx(4 * PARAMETERS / 1e6, rel=0.01)
    rows = re.findall(r"^step +(\d+)   loss (\S+)   [\d,]+ examples/s$", text, re.M)
    assert [int(step) for step, _ in rows] == [10, 20, 25]
    losses.append([float(loss) for _, loss in rows])
    assert losses[-1][-1] < 0.8 * losses[-1][0]
    apart, ours, theirs = map(float, re.findall(NUMBER, text))
    if dtype == "float32":
      assert max(apart, ours, theirs) < 1e-5
    else:
      assert apart < 5e-2
      assert ours < 1.5 * theirs  # As far from float32 as autodiff is.
  assert losses[0] == pytest.approx(losses[1], rel=rounding)


def test_the_operations_are_those_of_the_compiled_step():
  """As XLA counts them; what isn't a product comes to less than another product would."""
  init, step = fb.train.make_step(
    fb.mlp(WIDTHS), fb.softmax_cross_entropy, fb.train.gradient_descent(0.1)
  )
  state = jax.eval_shape(init, jax.random.key(0))
  batch = (jax.ShapeDtypeStruct((N, 64), jnp.float32), jax.ShapeDtypeStruct((N,), jnp.int32))
  counted = step.lower(state, batch).compile().cost_analysis()["flops"]
  assert OPERATIONS <= counted < 1.05 * OPERATIONS < 2 * N * 3 * PRODUCTS


@pytest.mark.slow
def test_a_wrong_gradient_shows():
  net = train_accelerator.in_bfloat16(fb.mlp([4, 8, 3]))
  params = jax.jit(net.init)(jax.random.key(0))
  x, labels = train_accelerator.draw_batch([4, 8, 3], 16, jnp.bfloat16, jax.random.key(1))
  theirs = train_accelerator.jax_gradient(net, params, x, labels)

  def error_of(loss):
    ours = jax.jit(fb.value_and_grad(net, loss))(params, x, labels)[1]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(ours)} == {"float32"}
    return train_accelerator.worst_error(ours, theirs)

  def doubled(residuals, losses_bar):
    return 2 * fb.softmax_cross_entropy.backward(residuals, losses_bar)

  assert error_of(fb.softmax_cross_entropy) < 2e-2
  assert error_of(fb.softmax_cross_entropy._replace(backward=doubled)) > 0.9


REFUSED = [
  (["--devices", "3"], "--devices must be from 1 to 2, which JAX finds, got 3"),
  (["--devices", "0"], "--devices must be from 1 to 2, which JAX finds, got 0"),
  (["--batch-size", "513"], "--batch-size must be a multiple of the 2 devices, got 513"),
  (["--batch-size", "0"], "--batch-size must be a multiple of the 2 devices, got 0"),
  (["--steps", "0"], "must be above 0, got 0, [256, 1024, 1024, 16]"),
  (["--widths", "8"], "two or more --widths must be above 0, got 50, [8]"),
  (["--widths", "8", "0"], "got 50, [8, 0]"),
  (["--dtype", "float16"], "invalid choice: 'float16'"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_is_refused(options, message, capsys):
  with pytest.raises(SystemExit) as stop:
    train_accelerator.main(options)
  assert stop.value.code == 2
  assert message in capsys.readouterr().err


def test_it_is_short_and_uses_public_names_alone():
  assert_short_and_public(SCRIPT, lines=149)
