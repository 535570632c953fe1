"""What a run was asked to watch, over its steps: noise scale, clipped examples, layers' health."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fbackprop.train.report.curves import mark_divergence
from fbackprop.train.report.figures import Panel
from fbackprop.train.report.style import (
  COLORS,
  MOST_NAMES,
  along_steps,
  colors_of,
  legend_in_title_line,
)
from fbackprop.train.results import Result


def watched_of(result: Result) -> list[Panel]:
  """A panel for each thing that was watched."""
  panels = []
  if any(e.noise_scale is not None for e in result.evaluations):
    panels.append(Panel(
      "Noise scale over the steps",
      "tr Σ over ‖G‖² of the steps since the evaluation before: a batch of so many examples is as "
      "much noise as gradient, and a larger one mostly averages what is known. There is no dot "
      "where the steps were too few to tell.",
      partial(draw_noise_scale, result=result),
    ))  # fmt: skip
  if any(e.clipped is not None for e in result.evaluations):
    panels.append(Panel(
      "Clipped examples over the steps",
      "The share of the examples whose gradients were shortened to the largest length.",
      partial(draw_clipped, result=result),
    ))  # fmt: skip
  if any(e.health for e in result.evaluations):
    panels += [
      Panel(name, caption, partial(draw_health, result=result, field=field, title=title))
      for field, title, name, caption in (
        ("x_rms", "RMS of x", "Inputs of each layer over the steps",
         "Root mean square of what enters each layer, for a batch of training examples."),
        ("y_bar_rms", "RMS of ȳ", "Cotangents of each layer over the steps",
         "Root mean square of the cotangent of what leaves it, of each example's own loss."),
        ("dead", "Dead units", "Dead units of each layer over the steps",
         "The share of each layer's outputs whose cotangent is 0 for every example of the batch: "
         "their weights don't learn from it."),
      )
    ]  # fmt: skip
  return panels


def draw_noise_scale(axes: Any, result: Result) -> None:
  """In examples, at each evaluation where it is known."""
  axes.set(title="Noise scale", yscale="log", ylabel="examples")
  draw_evaluations(axes, result, lambda e: e.noise_scale)


def draw_clipped(axes: Any, result: Result) -> None:
  """A share, at each evaluation."""
  axes.set(title="Clipped examples", ylabel="share", ylim=(-0.03, 1.03))
  draw_evaluations(axes, result, lambda e: e.clipped)


def draw_evaluations(axes: Any, result: Result, value_of: Callable[[Any], float | None]) -> None:
  """One curve over the evaluations, with dots and no line over what isn't known."""
  along_steps(axes)
  steps = [e.step for e in result.evaluations]
  values = [np.nan if (value := value_of(e)) is None else value for e in result.evaluations]
  axes.plot(steps, values, ".-", color=COLORS[0])
  mark_divergence(axes, result)


def draw_health(axes: Any, result: Result, field: str, title: str) -> None:
  """A field of `LayerHealth` of each layer; of the copies of a `repeat` their mean."""
  watched = [(e.step, e.health) for e in result.evaluations if e.health]
  layers = list(watched[0][1])
  axes.set(title=title)
  along_steps(axes)
  if field == "dead":
    axes.set(ylabel="share", ylim=(-0.03, 1.03))
  else:
    axes.set_yscale("log")
  colors = colors_of(len(layers))
  named = np.linspace(0, len(layers) - 1, min(len(layers), MOST_NAMES)).astype(int)
  for i, layer in enumerate(layers):
    values = np.array([np.mean(health[layer][field]) for _, health in watched])
    if field != "dead":
      values = np.where(values > 0, values, np.nan)
    label = f"layer {layer.rpartition('.')[0] or layer}" if i in named else None
    axes.plot([step for step, _ in watched], values, ".-", color=colors[i], label=label)
  mark_divergence(axes, result)
  if layers:
    legend_in_title_line(axes)
