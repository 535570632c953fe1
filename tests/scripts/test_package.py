"""The package as a whole: lazy, typed, built in floors, and without autodiff."""

import ast
import doctest
import functools
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import fbackprop as fb

ROOT = Path(fb.__file__).parent
MODULES = sorted(
  ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
  for path in ROOT.rglob("*.py")
)

# A folder, or a module of the top, imports from lower ranks and, without a circle, from its own.
RANKS = [
  ["types", "errors", "ranges", "checks", "extras", "files", "markup", "fonts", "jaxprs",
   "meshes", "rounding", "compilation_cache"],
  ["gates"],
  ["layers", "losses"],
  ["combinators", "graphs", "transforms", "inspection", "networks"],
  ["circuit.layout", "circuit.live", "circuit", "quantities", "live_check", "rules"],
  ["curvature"],
  ["verify.report", "verify.page", "verify.heat_maps", "verify.deadline"],
  ["verify.cases", "verify.interpret"],
  ["verify.witnesses"],
  ["verify.explain"],
  ["verify.checks", "verify.bank"],
  ["verify"],
  ["train.data", "lecture"],
  ["train"],
  ["train.report", "export", "sklearn"],
  ["cli", "__main__", "pytest_plugin"],
]  # fmt: skip
RANK_OF = {f"fbackprop.{room}": rank for rank, row in enumerate(RANKS) for room in row}


def run(code: str) -> str:
  return subprocess.run(
    [sys.executable, "-c", code], check=True, capture_output=True, text=True
  ).stdout


def file_of(module: str) -> Path:
  path = ROOT.parent.joinpath(*module.split("."))
  return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imported_names(call: ast.Call) -> set[str]:
  """The modules that `import_module(...)` may import: one, or all that an f-string may name."""
  argument = call.args[0]
  if isinstance(argument, ast.Constant):
    return {argument.value}
  if isinstance(argument, ast.JoinedStr) and isinstance(argument.values[0], ast.Constant):
    return {m for m in MODULES if m.startswith(argument.values[0].value)}
  return set()  # A name: of another package, or a user's.


@functools.cache
def imports_of(module: str) -> set[str]:
  """The modules of ours that a module imports, anywhere in its text, also by `import_module`."""
  found = set()
  for node in ast.walk(ast.parse(file_of(module).read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      names = {f"{node.module}.{alias.name}" for alias in node.names}
      found |= {name if name in MODULES else node.module for name in names}
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
      found |= imported_names(node)
  return {name for name in found if name.startswith("fbackprop")} - {module}


def room_of(module: str) -> str:
  """The longest entry of `RANKS` that a module belongs to: its folder, or itself."""
  while module not in RANK_OF:
    module = module.rpartition(".")[0]
  return module


@pytest.mark.parametrize("module", [m for m in MODULES if "." in m])
def test_a_module_imports_from_lower_ranks_only(module):
  rank = RANK_OF[room_of(module)]
  # The front door gives lazy names only: whoever imports it imports no module yet.
  for imported in imports_of(module) - {"fbackprop"}:
    assert RANK_OF[room_of(imported)] <= rank, f"{module} imports {imported}"


def test_no_imports_go_in_circles():
  graph = {m: imports_of(m) - {"fbackprop"} for m in MODULES if "." in m}
  assert list(graphlib.TopologicalSorter(graph).static_order())


def test_every_room_is_on_the_map():
  page = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
  folders = {file_of(room).parent for room in RANK_OF if file_of(room).name == "__init__.py"}
  missing = [folder for folder in folders if f"]({folder.relative_to(ROOT.parent)})" not in page]
  assert not missing


def test_no_rank_stands_for_nothing():
  rooms = {room_of(m) for m in MODULES if "." in m}
  assert rooms == set(RANK_OF)


def test_the_front_door_is_used_by_the_highest_floor_alone():
  users = {m for m in MODULES if "." in m and "fbackprop" in imports_of(m)}
  assert users <= {"fbackprop.cli", "fbackprop.train.run_folder"}


@pytest.mark.slow
def test_import_is_lazy():
  assert run("import sys, fbackprop; print('jax' in sys.modules)") == "False\n"
  assert run("import sys, fbackprop; fbackprop.relu; print('jax' in sys.modules)") == "True\n"


@pytest.mark.slow
def test_a_run_imports_nothing_of_the_verifier():
  code = "import sys, fbackprop.train._fit; "
  code += "print([m for m in sys.modules if m.startswith('fbackprop.verify')])"
  assert run(code) == "[]\n"


def test_training_needs_only_the_live_check_of_the_verifier():
  imported = {name for m in MODULES if m.startswith("fbackprop.train") for name in imports_of(m)}
  assert {n for n in imported if n.startswith("fbackprop.verify")} == {"fbackprop.verify.live"}


@pytest.mark.slow
def test_import_changes_no_configuration():
  code = "import jax; before = dict(jax.config.values); import fbackprop as fb; "
  touch = "[getattr(fb, n) for n in fb.__all__]; [getattr(fb.train, n) for n in fb.train.__all__]; "
  touch += "[getattr(fb.circuit, n) for n in fb.circuit.__all__]; "
  touch += "[getattr(fb.quantities, n) for n in fb.quantities.__all__]; "
  touch += "[getattr(fb.verify, n) for n in fb.verify.__all__]; "
  assert run(code + touch + "print(before == dict(jax.config.values))") == "True\n"


@pytest.mark.parametrize(
  "package",
  [
    "fbackprop",
    "fbackprop.circuit",
    "fbackprop.export",
    "fbackprop.quantities",
    "fbackprop.sklearn",
    "fbackprop.train",
    "fbackprop.verify",
  ],
)
def test_the_stub_names_what_the_package_names(package):
  module = importlib.import_module(package)
  stub = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text())
  homes = {}
  for node in stub.body:
    if isinstance(node, ast.ImportFrom):
      for alias in node.names:
        assert alias.asname == alias.name  # Without "as" a checker doesn't re-export it.
        homes[alias.name] = f"{package}.{node.module or alias.name}"
  assert sorted(homes) == module.__all__ == dir(module)
  for name, home in homes.items():
    value = getattr(module, name)
    assert value is sys.modules[home] or value is getattr(sys.modules[home], name)


def test_an_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="No fbackprop attribute dens"):
    _ = fb.dens


def test_no_public_name_of_a_package_is_one_of_its_modules():
  for package in (
    fb, fb.circuit, fb.export, fb.quantities, fb.sklearn, fb.train, fb.verify
  ):  # fmt: skip
    modules = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
    assert not modules & set(package.__all__)


@pytest.mark.slow
@pytest.mark.parametrize("module", [m for m in MODULES if not m.endswith("__main__")])
def test_docstring_examples(module):
  with jax.numpy_dtype_promotion("standard"):  # As a reader has it who types them in.
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
  assert result.failed == 0


@pytest.mark.parametrize(("folder", "refused"), [("", 4), ("train", 4), ("verify", 0)])
def test_the_linter_keeps_autodiff_out(folder, refused):
  code = """
import jax
import jax as j
from jax import vjp

a, b, c = jax.grad(abs), j.value_and_grad(abs), jax.jvp
"""
  path = ROOT / folder / "planted.py"
  command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--no-cache"]
  result = subprocess.run(
    [*command, "--output-format", "concise", "--stdin-filename", str(path), "-"],
    input=code, capture_output=True, text=True,
  )  # fmt: skip
  assert result.stdout.count("TID251") == refused


def test_the_version_is_that_of_the_project():
  text = (ROOT.parent / "pyproject.toml").read_text()
  assert f'version = "{fb.__version__}"' in text
  assert jax.__version_info__ >= (0, 10, 2)


POSIX_ONLY = ("fcntl", "grp", "posix_ipc", "pty", "pwd", "resource", "syslog", "termios", "tty")


@pytest.mark.slow
@pytest.mark.parametrize("package", ["fbackprop", "fbackprop.train", "fbackprop.cli"])
def test_import_needs_no_module_that_only_posix_has(package):
  code = f"""
import sys
sys.modules.update(dict.fromkeys({POSIX_ONLY}))
import {package} as package
[getattr(package, name) for name in getattr(package, "__all__", ())]
print("fine")
"""
  assert run(code) == "fine\n"


def test_losses_are_names_of_their_folder_too():
  assert {name: getattr(fb.losses, name) for name in fb.losses.__all__} == {
    name: getattr(fb, name) for name in fb.losses.__all__
  }
