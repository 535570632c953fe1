"""The arguments of `fit` from single options, so that a caller can change any one of them."""

from dataclasses import fields, replace
from typing import Any

from fbackprop.train import Checkpoints, Monitor, StepRules


def grouped(**options: Any) -> dict[str, Any]:
  """Group the options that are attributes of `Monitor` or `StepRules`, and `resume`."""
  arguments = dict(options)
  kinds: dict[str, Any] = {"monitor": Monitor, "step": StepRules}
  for group, kind in kinds.items():
    names = {field.name for field in fields(kind)} & options.keys()
    if names:
      arguments[group] = kind(**{name: arguments.pop(name) for name in names})
  if (resume := arguments.pop("resume", None)) is not None:
    given = arguments.get("checkpoints") or Checkpoints(resume=resume)
    arguments["checkpoints"] = replace(given, resume=resume)
  return arguments
