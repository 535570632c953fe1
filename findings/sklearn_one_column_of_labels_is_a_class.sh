#!/usr/bin/env bash
# scikit-learn 1.9.1, numpy 2.4.6.
#
# precision_recall_fscore_support of several yes-or-no labels takes indicators [N, L], and labels=[0] is the
# first label. With one label, L = 1, the same arrays are read as two classes 0 and 1, and labels=[0] is the
# absence of the label: precision, recall and support are those of "no". A second column, even a copy, makes
# it the label again. Code that works for any L >= 2 is silently wrong for L = 1.
#
# Seen (precision, recall, F1, support):
#   one column   1.000 0.667 0.800 3
#   two columns  0.500 1.000 0.667 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from sklearn.metrics import precision_recall_fscore_support

true = np.array([[1], [0], [0], [0]])
found = np.array([[1], [1], [0], [0]])
scores = {}
for name, columns in (("one column", 1), ("two columns", 2)):
  arrays = (np.repeat(a, columns, axis=1) for a in (true, found))
  scores[name] = [float(s[0]) for s in precision_recall_fscore_support(*arrays, labels=[0])]
  print(f"{name:<12} {scores[name][0]:.3f} {scores[name][1]:.3f} {scores[name][2]:.3f} {scores[name][3]:.0f}")
assert scores["one column"][3] == 3, "the support of one column is that of the label now"
assert scores["two columns"][3] == 1, "the support of the first of two labels has changed"
PYTHON
