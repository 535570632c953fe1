#!/usr/bin/env bash
# torch 2.14.1, onnx 1.23.2, CPU.
#
# torch.onnx.export(dynamo=False) writes two parameters with equal values as one array, and the second one's
# name becomes the output of an Identity node. So it is for every pair of biases that are still 0, or of
# LayerNorm scales that are still 1. Code that looks a parameter up by its name among the initializers fails
# for a fresh network, and works for a trained one; and a tool that changes the one array, as to prune or
# to fine-tune, changes both parameters.
#
# Seen:
#   initializers 0.weight 0.bias 2.weight
#   Identity 0.bias -> 2.bias
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf -- "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install torch==2.14.1 onnx==1.23.2 numpy==2.4.6
CUDA_VISIBLE_DEVICES= "$folder/venv/bin/python" - "$folder/net.onnx" <<'PYTHON'
import sys
import warnings

import onnx
import torch

net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4))
for layer in (net[0], net[2]):
  torch.nn.init.zeros_(layer.bias)
with warnings.catch_warnings():
  warnings.simplefilter("ignore")  # It is the older of two exporters.
  torch.onnx.export(net, (torch.ones(2, 3),), sys.argv[1], dynamo=False, opset_version=17)
graph = onnx.load(sys.argv[1]).graph
names = [tensor.name for tensor in graph.initializer]
copies = [(node.input[0], node.output[0]) for node in graph.node if node.op_type == "Identity"]
print("initializers", *sorted(names, key=lambda name: (name[0], name[2:] != "weight")))
for of, to in copies:
  print("Identity", of, "->", to)
assert set(dict(net.named_parameters())) - set(names) == {"2.bias"}, names
assert ("0.bias", "2.bias") in copies or ("2.bias", "0.bias") in copies, copies
PYTHON
