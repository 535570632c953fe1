"""The package as a whole: lazy, typed, built in floors, and without autodiff."""

import ast
import doctest
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

# A module imports from lower floors, or from one that stands earlier in its own row.
FLOORS = [
  ["lazy", "hints", "extras", "markup", "typefaces", "types", "checks", "jaxprs", "meshes"],
  ["gates.arithmetic", "gates.selection", "gates.piecewise", "gates.smooth", "gates.gated", "gates",
   "activations", "linear", "normalization", "noise", "factors",
   "losses.exact", "losses.rows", "losses.labels", "losses.regression", "losses.margin",
   "losses.cross_entropy", "losses.combination", "losses"],
  ["combinators", "repetition", "transforms", "inspection"],
  ["networks", "circuit.graph", "circuit.tracing", "circuit.spelling", "circuit.source",
   "circuit.grammar", "circuit.parsing",
   "circuit.neurons", "circuit.examples", "circuit.columns", "circuit.crossings",
   "circuit.settling", "circuit.alignment", "circuit.layout", "circuit.labels",
   "circuit.notation", "circuit.text", "circuit.steps", "circuit.shapes", "circuit.svg",
   "circuit.png", "circuit.drawing", "circuit",
   "quantities.capturing", "quantities.reading", "quantities.gradients", "quantities.norms",
   "quantities.clipping", "quantities.moments", "quantities.kernels", "quantities.order",
   "quantities.vitals", "quantities.passes", "quantities"],
  ["verify.bank.arguments", "verify.bank.specimen", "verify.circuits", "verify.clipping",
   "verify.comparison",
   "verify.explaining", "verify.explaining.patterns", "verify.explaining.slopes", "verify.findings",
   "verify.primitives", "verify.arguments", "verify.bank.activations", "verify.bank.arithmetic",
   "verify.bank.attention", "verify.bank.batches", "verify.bank.branches", "verify.bank.cotangents",
   "verify.bank.kinks", "verify.bank.loops", "verify.bank.losses", "verify.bank.modes",
   "verify.bank.networks", "verify.bank.normalization", "verify.bank.precision",
   "verify.bank.products", "verify.bank.right_activations", "verify.bank.right_calls",
   "verify.bank.right_layers", "verify.bank.right_loops", "verify.bank.right_losses",
   "verify.bank.right_normalization", "verify.bank.right_precision", "verify.bank.right_products",
   "verify.bank.right_structure", "verify.bank.state", "verify.bank.structure",
   "verify.bank.weighted_losses", "verify.samples", "verify.foreign",
   "verify.evaluation", "verify.explaining.rearrangement",
   "verify.rendering", "verify.html", "verify.bank", "verify.explaining.steps", "verify.rules",
   "verify.tracing", "verify.shared_outputs",
   "verify.explaining.tape", "verify.regimes", "verify.batches", "verify.witnesses",
   "verify.differences", "verify.branches",
   "verify.exact", "verify.explaining.matching", "verify.modes", "verify.numerics", "verify.ties",
   "verify.verification", "verify.explaining.kinks", "verify.explaining.paths",
   "verify.explaining.recomputation", "verify.explaining.regions", "verify.explaining.rounding",
   "verify.judging", "verify.explaining.cotangents", "verify.explaining.operands",
   "verify.explaining.points", "verify.explaining.subsets", "verify.live",
   "verify.explaining.scans", "verify.explaining.causes", "verify.pointwise", "verify.battery",
   "verify.running", "verify.transformed", "verify.checking", "verify.asserting", "verify.layers",
   "verify.selftest", "verify.library", "verify"],
  ["train.files", "train.stopping", "train.method_names", "train.shuffles",
   "train.optimizers", "train.methods",
   "train.gradients", "train.steps", "train.watching",
   "train.results", "train.result_html", "train.weights", "train.sources.names",
   "train.sources.examples",
   "train.sources.bundled", "train.sources.synthetic", "train.sources.targets",
   "train.sources.lines", "train.sources.tables",
   "train.sources.members", "train.sources.archives", "train.sources.idx", "train.sources",
   "train.fingerprints", "train.standardization",
   "train.averaging", "train.ensemble_results", "train.ensemble_arguments",
   "train.datasets", "train.emphasis", "train.models", "train.scoring", "train.examples",
   "train.divergence", "train.interruption", "train.validation", "train.judging", "train.loop",
   "train.history", "train.checkpoint_files", "train.checkpoints", "train.running",
   "train.gradient_checks", "train.fitting", "train.last_axis", "train.ensemble_scores",
   "train.ensemble_loop", "train.ensembles", "train.report.style",
   "train.report.layers", "train.report.curves", "train.report.classes", "train.report.values",
   "train.report.picture", "train.report.cells", "train.report.figures", "train.report.regions",
   "train.report.watched", "train.report.panels", "train.report.headline", "train.report.scores",
   "train.report.layer_table", "train.report.worst", "train.report.page",
   "train.report.members", "train.report.ensemble_page", "train.report",
   "train.runs", "train"],
  ["cli.usage", "cli.toml", "cli.runs", "cli.config", "cli.start", "cli.options", "cli.progress",
   "cli.output",
   "cli.folder", "cli.table", "cli.loading", "cli.told", "cli.preparation", "cli.ensemble",
   "cli.train", "cli.eval", "cli.predict", "cli.info", "cli.circuit", "cli.verify", "cli",
   "__main__"],
]  # fmt: skip


def run(code: str) -> str:
  return subprocess.run(
    [sys.executable, "-c", code], check=True, capture_output=True, text=True
  ).stdout


def imports_of(module: str) -> set[str]:
  """The modules of ours that a module imports, anywhere in its text."""
  path = ROOT.parent.joinpath(*module.split("."))
  path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      names = {f"{node.module}.{alias.name}" for alias in node.names}
      found |= {name if name in MODULES else node.module for name in names}
  return {name for name in found if name.startswith("fbackprop")}


def test_every_module_stands_on_a_floor():
  assert sorted(f"fbackprop.{m}" for row in FLOORS for m in row) == [m for m in MODULES if "." in m]


@pytest.mark.parametrize("module", [m for m in MODULES if "." in m])
def test_a_module_imports_downward_only(module):
  order = [f"fbackprop.{m}" for row in FLOORS for m in row]
  # The front door gives lazy names only: whoever imports it imports no module yet.
  for imported in imports_of(module) - {"fbackprop"}:
    assert order.index(imported) < order.index(module), f"{module} imports {imported}"


def test_the_front_door_is_used_by_the_highest_floor_alone():
  users = {m for m in MODULES if "." in m and "fbackprop" in imports_of(m)}
  assert users <= {
    "fbackprop.cli", "fbackprop.cli.ensemble", "fbackprop.cli.train", "fbackprop.train.runs"
  }  # fmt: skip


def test_import_is_lazy():
  assert run("import sys, fbackprop; print('jax' in sys.modules)") == "False\n"
  assert run("import sys, fbackprop; fbackprop.relu; print('jax' in sys.modules)") == "True\n"


def test_import_changes_no_configuration():
  code = "import jax; before = dict(jax.config.values); import fbackprop as fb; "
  touch = "[getattr(fb, n) for n in fb.__all__]; [getattr(fb.train, n) for n in fb.train.__all__]; "
  touch += "[getattr(fb.circuit, n) for n in fb.circuit.__all__]; "
  touch += "[getattr(fb.quantities, n) for n in fb.quantities.__all__]; "
  touch += "[getattr(fb.verify, n) for n in fb.verify.__all__]; "
  assert run(code + touch + "print(before == dict(jax.config.values))") == "True\n"


@pytest.mark.parametrize(
  "package",
  ["fbackprop", "fbackprop.circuit", "fbackprop.quantities", "fbackprop.train", "fbackprop.verify"],
)
def test_the_stub_names_what_the_package_names(package):
  module = importlib.import_module(package)
  stub = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text())
  homes = {}
  for node in stub.body:
    if isinstance(node, ast.ImportFrom):
      for alias in node.names:
        assert alias.asname == alias.name  # Without "as" a checker doesn't re-export it.
        homes[alias.name] = node.module or package
  assert sorted(homes) == module.__all__ == dir(module)
  for name, home in homes.items():
    value = getattr(module, name)
    assert value is (
      sys.modules[f"{home}.{name}"] if home == package else getattr(sys.modules[home], name)
    )


def test_an_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="module 'fbackprop' has no attribute 'dens'"):
    _ = fb.dens


def test_no_public_function_has_the_name_of_a_module():
  modules = {m.rpartition(".")[2] for m in MODULES}
  for package in (fb, fb.circuit, fb.quantities, fb.train, fb.verify):
    for name in package.__all__:
      value = getattr(package, name)
      assert name not in modules or type(value).__name__ == "module", name


@pytest.mark.slow
@pytest.mark.parametrize("module", [m for m in MODULES if not m.endswith("__main__")])
def test_docstring_examples(module):
  with jax.numpy_dtype_promotion("standard"):  # As a reader has it who types them in.
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
  assert result.failed == 0


@pytest.mark.parametrize(
  "code",
  [
    "import jax\n\nf = jax.grad(abs)\n",
    "from jax import vjp\n\nf = vjp\n",
    "import jax as j\n\nf = j.value_and_grad(abs)\n",
    "import jax\n\nf = jax.jvp\n",
  ],
)
@pytest.mark.parametrize(("folder", "refused"), [("", True), ("train", True), ("verify", False)])
def test_the_linter_keeps_autodiff_out(code, folder, refused):
  path = ROOT / folder / "planted.py"
  command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--no-cache"]
  result = subprocess.run(
    [*command, "--stdin-filename", str(path), "-"], input=code, capture_output=True, text=True
  )
  assert ("TID251" in result.stdout) == refused


def test_the_version_is_that_of_the_project():
  text = (ROOT.parent / "pyproject.toml").read_text()
  assert f'version = "{fb.__version__}"' in text
  assert jax.__version_info__ >= (0, 10, 2)
