"""The digits by torch, as in its tutorials: a loop over minibatches, a score, and a picture."""

import argparse

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--rate", type=float, default=0.5)
options = parser.parse_args()

torch.manual_seed(options.seed)
x, labels = load_digits(return_X_y=True)
x_train, x_test, y_train, y_test = map(
  torch.from_numpy,
  train_test_split((x / 16).astype(np.float32), labels, stratify=labels, random_state=options.seed),
)
model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=options.rate)
loss_of = torch.nn.CrossEntropyLoss()
losses: list[float] = []
while len(losses) < 2000:
  for rows in torch.randperm(len(x_train)).split(32)[: len(x_train) // 32]:
    optimizer.zero_grad()
    loss = loss_of(model(x_train[rows]), y_train[rows])
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
with torch.no_grad():
  found = model(x_test).argmax(1)
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5))
left.semilogy(losses)
left.set(title="Loss", xlabel="step")
ConfusionMatrixDisplay.from_predictions(y_test.numpy(), found.numpy(), ax=right, colorbar=False)
figure.savefig("report.png", dpi=110)
print(f"test accuracy {(found == y_test).float().mean():.4f}")
