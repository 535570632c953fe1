"""Scikit-learn's own tests on our estimators: two of them, by the script that runs all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_case_passes_and_one_that_cannot_apply_has_its_reason(tmp_path):
  """In a process of its own, as the classes of scikit-learn are swapped there."""
  command = [sys.executable, "scripts/sklearn_tests.py", "-k", "test_gradient or test_alpha"]
  command += ["--json", str(tmp_path / "t.json")]
  answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert answer.returncode == 0, answer.stdout + answer.stderr
  assert "1 of 2 cases pass, 50.0%" in answer.stdout
  found = json.loads((tmp_path / "t.json").read_text())
  assert (found["passed"], found["collected"]) == (["test_alpha"], 2)
  assert list(found["others"]) == ["test_gradient"]
  assert found["others"]["test_gradient"].startswith("calls `_loss_grad_lbfgs`")
