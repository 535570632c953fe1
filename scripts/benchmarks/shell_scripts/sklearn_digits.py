"""The digits by scikit-learn, as its user guide has it: split, fit, score, and a picture."""

import argparse
import warnings

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--rate", type=float, default=0.5)
options = parser.parse_args()

x, labels = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(
  x / 16, labels, stratify=labels, random_state=options.seed
)
# The same network and number of epochs as `fbackprop train`, by plain gradient descent.
model = MLPClassifier(
  (512,), solver="sgd", alpha=0.0, batch_size=32, learning_rate_init=options.rate, max_iter=48,
  momentum=0.0, nesterovs_momentum=False, tol=0.0, n_iter_no_change=48, random_state=options.seed,
)  # fmt: skip
with warnings.catch_warnings():
  warnings.simplefilter("ignore")  # The convergence warning.
  model.fit(x_train, y_train)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5))
left.semilogy(model.loss_curve_)
left.set(title="Loss", xlabel="epoch")
ConfusionMatrixDisplay.from_predictions(y_test, model.predict(x_test), ax=right, colorbar=False)
figure.savefig("report.png", dpi=110)
print(f"test accuracy {model.score(x_test, y_test):.4f}")
