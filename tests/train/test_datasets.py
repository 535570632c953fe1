"""The data sets are what they say they are, and a package that isn't there is asked for by name."""

import sys

import numpy as np
import pytest
import sklearn.datasets

from fbackprop.extras import need
from fbackprop.train.data.datasets import load_dataset

DIGITS, SINE = load_dataset("digits", 0), load_dataset("sine", 0)


def arrays(dataset):
  return dataset.x, dataset.targets, dataset.x_test, dataset.targets_test


def test_digits_are_split_three_to_one():
  assert [a.shape for a in arrays(DIGITS)] == [(1347, 64), (1347,), (450, 64), (450,)]
  assert [a.dtype for a in arrays(DIGITS)] == [np.float32, np.int32] * 2
  assert (DIGITS.name, DIGITS.outputs, DIGITS.image_shape) == ("digits", 10, (8, 8))
  assert DIGITS.is_classification


def test_digits_are_all_there_once_with_pixels_from_0_to_1():
  pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
  ours = np.column_stack(
    [np.r_[DIGITS.x, DIGITS.x_test], np.r_[DIGITS.targets, DIGITS.targets_test]]
  )
  theirs = np.column_stack([pixels / 16, labels])
  np.testing.assert_array_equal(sorted(map(tuple, ours)), sorted(map(tuple, theirs)))
  assert (DIGITS.x.min(), DIGITS.x.max()) == (0, 1)


def test_each_digit_is_in_both_parts():
  in_training, in_test = np.bincount(DIGITS.targets), np.bincount(DIGITS.targets_test)
  # A quarter of each class, up to the rounding that makes the sum 450.
  assert np.abs(in_test - 0.25 * (in_training + in_test)).max() <= 1


def test_a_seed_is_a_split_of_digits():
  for a, b in zip(arrays(DIGITS), arrays(load_dataset("digits", 0)), strict=True):
    np.testing.assert_array_equal(a, b)
  assert (load_dataset("digits", 1).targets != DIGITS.targets).any()


def test_sine_is_the_sine_on_a_period():
  assert [a.shape for a in arrays(SINE)] == [(256, 1)] * 4
  assert [a.dtype for a in arrays(SINE)] == [np.float32] * 4
  assert (SINE.name, SINE.outputs, SINE.image_shape) == ("sine", 1, None)
  assert not SINE.is_classification
  for x, y in ((SINE.x, SINE.targets), (SINE.x_test, SINE.targets_test)):
    # float32's sine, at most a few units in the last place of 1 from the float64 one.
    np.testing.assert_allclose(y, np.sin(x.astype(np.float64)), rtol=0, atol=3e-7)
    assert np.abs(x).max() <= np.float32(np.pi)


def test_sine_is_learned_at_random_and_tested_at_even_points():
  other = load_dataset("sine", 1)
  np.testing.assert_array_equal(load_dataset("sine", 1).x, other.x)
  assert (other.x != SINE.x).all()
  np.testing.assert_array_equal(other.x_test, SINE.x_test)
  # Ends are the period's; the steps differ by the rounding of numbers up to π in float32.
  np.testing.assert_allclose(np.diff(SINE.x_test[:, 0]), 2 * np.pi / 255, rtol=0, atol=5e-7)


def test_an_unknown_name_is_refused():
  with pytest.raises(ValueError, match=r"data must be one of digits, .*, idx:DIR, got 'mnist'"):
    load_dataset("mnist", 0)


def test_digits_without_scikit_learn_name_the_extra(monkeypatch):
  class NotInstalled:
    """A finder that is asked first, and ends the search."""

    @staticmethod
    def find_spec(name, path, target=None):
      raise ModuleNotFoundError(f"No module named {name!r}", name=name)

  monkeypatch.delitem(sys.modules, "sklearn.datasets")
  monkeypatch.delitem(sys.modules, "sklearn")
  monkeypatch.setattr(sys, "meta_path", [NotInstalled, *sys.meta_path])
  with pytest.raises(ModuleNotFoundError, match=r"pip install 'fbackprop\[data\]'") as caught:
    load_dataset("digits", 0)
  assert caught.value.name == "sklearn"


def test_need_gives_the_module():
  assert need("sklearn.datasets", extra="data") is sklearn.datasets


def test_an_installed_package_that_lacks_a_module_is_not_asked_for_again():
  with pytest.raises(ModuleNotFoundError, match=r"sklearn\.no_such_part") as caught:
    need("sklearn.no_such_part", extra="data")
  assert "pip install" not in str(caught.value)
