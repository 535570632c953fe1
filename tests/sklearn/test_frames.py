"""The estimators on DataFrames of pandas, in a pipeline."""

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fbackprop.sklearn import MLPClassifier

RNG = np.random.default_rng(0)
pytestmark = [
  pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
  pytest.mark.usefixtures("as_a_user_has_it"),
]


def test_the_names_of_a_frame_reach_the_estimator_behind_a_scaler():
  frame = pd.DataFrame(RNG.normal(size=(40, 3)), columns=["a", "b", "c"], index=range(100, 140))
  labels = pd.Series(np.where(frame["a"] > 0, "u", "v"), index=frame.index)
  model = make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=3, random_state=0))
  model.set_output(transform="pandas").fit(frame, labels)
  own = model[-1]
  assert list(own.feature_names_in_) == ["a", "b", "c"]
  plain = MLPClassifier((4,), max_iter=3, random_state=0)
  plain.fit(StandardScaler().fit_transform(frame.to_numpy()), labels.to_numpy())
  np.testing.assert_array_equal(own.coefs_[0], plain.coefs_[0])
  with pytest.raises(ValueError, match="feature names should match"):
    own.predict(frame[["c", "b", "a"]])
