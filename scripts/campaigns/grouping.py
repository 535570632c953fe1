"""The arguments of `fit` from single options, so that a caller can change any one of them."""

from dataclasses import fields, replace
from typing import Any

from fbackprop.train import Checkpoints, Monitor, StepRules


def grouped(**options: Any) -> dict[str, Any]:
  """Group the options that are attributes of `Monitor` or `StepRules`, and `resume`."""
  kinds: dict[str, Any] = {"monitor": Monitor, "step": StepRules}
  for group, kind in kinds.items():
    own = {field.name: options.pop(field.name) for field in fields(kind) if field.name in options}
    if own:
      options[group] = kind(**own)
  if (resume := options.pop("resume", None)) is not None:
    given = options.get("checkpoints") or Checkpoints(resume=resume)
    options["checkpoints"] = replace(given, resume=resume)
  return options
