"""Verification within the context of a mesh: it runs on one device, without the mesh."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import jax
from jax.sharding import AxisType, Mesh

from fbackprop.meshes import is_explicit, mesh_of, off_mesh
from fbackprop.verify.report import Report, UnusableError

P = ParamSpec("P")


def on_one_device(function: Callable[P, Report]) -> Callable[P, Report]:
  """Run a verification as outside of `jax.set_mesh`, its Explicit arrays copied to one device.

  A rule must be right whatever devices its arrays live on, and types of Explicit axes would have to
  be propagated through each program. A function that needs the mesh, as a `shard_map` without one
  of its own, gets it with Auto axes.
  """

  @functools.wraps(function)
  def call(*args: P.args, **options: P.kwargs) -> Report:
    given: Any = (args, options)
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(given)):
      return function(*args, **options)  # Which refuses them by name.
    mesh = jax.sharding.get_mesh()
    if mesh.empty and not any(map(is_on_mesh, jax.tree.leaves(given))):
      return function(*args, **options)
    own: Any = jax.tree.map(lambda x: off_mesh(x) if is_on_mesh(x) else x, given)
    try:
      with jax.set_mesh(None):
        return function(*own[0], **own[1])
    except UnusableError:
      if mesh.empty:
        raise
    types = (AxisType.Auto,) * len(mesh.axis_names)
    with jax.set_mesh(Mesh(mesh.devices, mesh.axis_names, axis_types=types)):
      return function(*own[0], **own[1])

  return call


def is_on_mesh(x: Any) -> bool:
  """Return whether it is an array, with values, on a mesh of Explicit axes."""
  is_array = isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)
  return is_array and is_explicit(mesh_of(x))
