"""`fbackprop circuit`: solve an expression by backpropagation, as a table, in steps, or drawn."""

import math
import os
import sys
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from fbackprop.cli import console
from fbackprop.cli.console import UsageError, refuse, usually
from fbackprop.errors import hint
from fbackprop.extras import need

if TYPE_CHECKING:
  from fbackprop.circuit._circuit import Circuit, Trace
  from fbackprop.verify.circuits import CircuitCheck

ExampleName = Literal[
  "single-gate", "add", "multiply", "max", "sigmoid", "neuron", "two-layer", "mazur", "cs231n",
  "cs224n",
]  # fmt: skip

LONGEST_TITLE = 60
"""The most characters of an expression that is the heading of its page."""


@dataclass(frozen=True)
class CircuitConfig:
  """Solve a circuit of gates: each value, local, upstream and downstream gradient.

  fbackprop circuit "(x+y)*max(y,z)" --at x=1 y=2 z=0

  Attributes:
    expression: Expression such as "(x+y)*max(y,z)", or statements: "q = x+y; f = q*z". ^ is power,
      as **.
    at: Values of the inputs, as x=1 y=2.
    outputs: Weights of the outputs, whose weighted sum is differentiated, as J1=1 J2=0.5.
    example: Example of the lecture or the literature, instead of an expression; --at changes its
      values.
    steps: Worked solution line by line, instead of the table.
    format: Output format; svg and png draw the circuit, values above the wires and gradients below;
      html is a page on which it is played, changed and trained; animation is an SVG that plays by
      itself.
    exercise: Blanks in place of the numbers on the page, which checks the answers.
    language: Language of the page or the animation.
    out: Output file.
    digits: Number of significant digits, or a format such as .2f.
  """

  expression: Annotated[str | None, Positional, arg(metavar="EXPR")] = None
  at: Annotated[tuple[str, ...], arg(metavar="NAME=NUMBER ...")] = ()
  outputs: Annotated[tuple[str, ...], usually("the last statement", metavar="NAME=WEIGHT ...")] = ()
  example: ExampleName | None = None
  steps: bool = False
  format: Literal["text", "svg", "png", "html", "animation"] = "text"
  exercise: bool = False
  language: Literal["en", "ko"] = "en"
  out: Annotated[str | None, usually("the terminal, but for png and html", metavar="FILE")] = None
  digits: Annotated[str, arg(metavar="N|FORMAT")] = "4"


def main(arguments: Sequence[str]) -> int:
  """Solve a circuit, and compare its gradients with jax.grad.

  Args:
    arguments: the arguments after `fbackprop circuit`.

  Returns:
    0; 1 if a gradient differs from that of jax.grad, other than by the slope chosen at a kink.

  Raises:
    UsageError: the expression is invalid, a value is missing, or the file can't be written.
  """
  # An expression or a value that begins with a minus isn't a flag; a leading space tells tyro so.
  arguments = [f" {a}" if a[:1] == "-" and a[1:2] != "-" and a != "-h" else a for a in arguments]
  config = console.parsed(CircuitConfig, "circuit", arguments)
  config = replace(config, **{key: unspaced(value) for key, value in asdict(config).items()})
  flags = [argument.partition("=")[0] for argument in arguments]
  is_drawn = config.format != "text"
  refuse(
    *((flags.count(flag) > 1,
       f"{flag} was given twice; give all values at once: {flag} x=1 y=2")
      for flag in ("--at", "--outputs")),
    ((config.expression is None) == (config.example is None),
     "give an expression, as 'x*y' --at x=2 y=3, or --example NAME"),
    (is_drawn and config.steps, f"--steps cannot be combined with --format {config.format}"),
    (config.format in ("png", "html") and config.out is None,
     f"--format {config.format} needs a file: --out FILE"),
    (config.exercise and config.format != "html", "--exercise needs a page: --format html"),
    (config.language != "en" and config.format not in ("html", "animation"),
     "--language is that of --format html and animation"),
    (config.format in ("html", "animation") and not config.digits.isdecimal(),
     f"--digits of --format {config.format} must be an integer from 1 to 17, "
     f"got {config.digits!r}"),
  )  # fmt: skip
  if config.format == "png":
    need("matplotlib", extra="plot")  # Checked first, so that the circuit isn't solved in vain.

  from fbackprop.verify.circuits import check_circuit

  at = named_numbers("--at", config.at)
  with console.usage_errors(names={"digits": "--digits"}):
    trace = circuit_of(config, at).trace(**at)
    content = draw(config, trace)
  if config.out is None:
    console.show(content.decode(), "xmlcharrefreplace" if is_drawn else "replace")
  else:
    console.write("--out", config.out, content)
  check = check_circuit(trace)
  verdict = verdict_of(check, trace)
  if not check.ok:
    console.note(verdict)
    return 1
  # A picture written to a pipe must be the only output there.
  if config.out is None and not is_drawn:
    console.show(f"\n{verdict}\n")
  else:
    is_alone = config.out is None or console.is_special(config.out)
    print(verdict, file=sys.stderr if is_alone else sys.stdout)
  return 0


def unspaced(value: Any) -> Any:
  """Return a word, or each of several, without the space inserted before its minus."""
  if isinstance(value, tuple):
    return tuple(map(unspaced, value))
  return value[1:] if isinstance(value, str) and value.startswith(" -") else value


def circuit_of(config: CircuitConfig, at: dict[str, float]) -> "Circuit":
  """Build the circuit; raise for an input without a value, with its place in the text."""
  from fbackprop.circuit.examples import example
  from fbackprop.circuit.parser import parse
  from fbackprop.circuit.source import ParseError

  if config.example is not None:
    refuse((config.outputs, "--outputs cannot be combined with --example"))
    return example(config.example)
  text = str(config.expression)
  circuit = parse(text, named_numbers("--outputs", config.outputs) or None, euler="e" not in at)
  for name in at:
    if name not in circuit.inputs:
      there = hint(name, circuit.inputs) if circuit.inputs else "it has none"
      raise UsageError(f"--at {name}: the expression has no input {name!r}; {there}")
  missing = next((name for name in circuit.inputs if name not in at), None)
  if missing is not None:
    try:
      parse(text, inputs=tuple(at), euler="e" not in at)
    except ParseError as error:
      place = str(error).partition("\n")[2]
      value = math.e if missing == "e" else 1
      message = f"{missing!r} has no value; give it one: --at {missing}={value}"
      raise UsageError(f"{message}\n{place}") from error
  return circuit


def named_numbers(flag: str, words: Sequence[str]) -> dict[str, float]:
  """Parse NAME=NUMBER pairs."""
  found: dict[str, float] = {}
  for word in words:
    # The name as Python normalises it in the expression, and the number with a typographic minus.
    name, _, text = word.partition("=")
    name = unicodedata.normalize("NFKC", name.strip())
    value = None
    with suppress(ValueError):
      value = float(text.replace("\N{MINUS SIGN}", "-"))
    if value is None or not name:
      raise UsageError(f"{flag} must be NAME=NUMBER pairs, as x=1 y=2, got {word!r}")
    refuse((name in found, f"{flag} has two values for {name}"))
    found[name] = value
  return found


def draw(config: CircuitConfig, trace: "Trace") -> bytes:
  """Render the trace in the format of the configuration."""
  digits: int | str = int(config.digits) if config.digits.isdecimal() else config.digits
  if config.format == "html":
    text = config.expression
    page = trace.to_html(
      digits=int(digits), title=text if text and len(text) <= LONGEST_TITLE else None,
      exercise=config.exercise, language=config.language,
    )  # fmt: skip
    return page.encode()
  if config.format == "animation":
    return trace.to_animation(digits=int(digits), language=config.language).encode()
  if config.format != "text":
    content: str | bytes = getattr(trace, f"to_{config.format}")(digits=digits)
    return content.encode() if isinstance(content, str) else content
  color = config.out is None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
  write_text = trace.to_steps if config.steps else trace.to_text
  return f"{write_text(digits=digits, color=color)}\n".encode()


def verdict_of(check: "CircuitCheck", trace: "Trace") -> str:
  """Describe the comparison of our gradients with those of jax.grad."""
  numbers = [*(gate.value for gate in trace.gates), *trace.gradients.values()]
  if check.agrees and not all(map(math.isfinite, numbers)):
    return "not compared with jax.grad: a value or a gradient is not finite"
  if check.agrees:
    return f"jax.grad agrees, in float64: largest error {check.error:.1g} of the summed terms"
  ours, theirs = (f"{gradient + 0.0:.12g}" for gradient in (check.ours, check.theirs))  # No -0.
  differs = f"by {check.name} ours is {ours}, that of jax.grad {theirs}"
  if not check.ok:
    return f"the gradients differ: {differs}"
  ops = {gate.name: gate.op for gate in trace.gates}
  where = ", ".join(f"{name} ({ops[name]})" for name in check.kinks)
  return (
    f"jax.grad agrees but for a choice: {where} is at a kink or a tie, where there is no "
    f"derivative; {differs}. Our choices: abs'(0) = 0, k tied inputs get 1/k each, and no gradient "
    "to the exponent of a base that isn't above 0."
  )
