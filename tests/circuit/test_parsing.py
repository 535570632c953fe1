"""Texts as circuits: what each form means, and that anything else is an error with its place."""

import ast
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fbackprop as fb
from fbackprop.circuit import CircuitError, ParseError, parse
from fbackprop.circuit.source import MAX_LENGTH, MAX_NESTING, MAX_OPERATORS


def gates_of(text, **options):
  """The gates of a text: name, op, inputs; a constant stands there as its number."""
  c = parse(text, **options)
  numbers = {node.name: node.value for node in c.nodes if node.op == "constant"}
  return [
    (node.name, node.op, *(numbers.get(name, name) for name in node.inputs))
    for node in c.nodes
    if node.op not in ("input", "constant")
  ]


FORMS = [
  ("x", []),
  ("+x", []),
  ("-x", [("g1", "negate", "x")]),
  ("x - -3", [("g1", "subtract", "x", -3.0)]),
  ("a + b + c", [("g1", "add", "a", "b", "c")]),
  ("(a + b) + c", [("g1", "add", "a", "b"), ("g2", "add", "g1", "c")]),
  ("a + (b + c)", [("g1", "add", "b", "c"), ("g2", "add", "a", "g1")]),
  ("a * b * 2", [("g1", "multiply", "a", "b", 2.0)]),
  ("a - b + c", [("g1", "subtract", "a", "b"), ("g2", "add", "g1", "c")]),
  ("a / b / c", [("g1", "divide", "a", "b"), ("g2", "divide", "g1", "c")]),
  ("-x ** 2", [("g1", "power", "x", 2.0), ("g2", "negate", "g1")]),
  ("a ** b ** c", [("g1", "power", "b", "c"), ("g2", "power", "a", "g1")]),
  ("max(x, y, 0)", [("g1", "max", "x", "y", 0.0)]),
  ("mish(x)", [("g1", "mish", "x")]),
  ("q = x + y; f = q*z", [("q", "add", "x", "y"), ("f", "multiply", "q", "z")]),
  ("q = x\nq * q", [("g1", "multiply", "x", "x")]),
  ("x = 2*x; x = exp(x); x", [("x_2", "multiply", 2.0, "x"), ("x_3", "exp", "x_2")]),
  ("g1 = x*y; exp(g1)", [("g1", "multiply", "x", "y"), ("g2", "exp", "g1")]),
  ("x_2 = exp(x); x = sin(x); x_2*x",
   [("x_2", "exp", "x"), ("x_3", "sin", "x"), ("g1", "multiply", "x_2", "x_3")]),
  ("ｇ1 = exp(x); sin(ｇ1) * x",  # Python reads the wide letter as g.
   [("g1", "exp", "x"), ("g2", "sin", "g1"), ("g3", "multiply", "g2", "x")]),
  ("\n    q = (x +\n      y)  # a sum\n\n    q * z\n",
   [("q", "add", "x", "y"), ("g1", "multiply", "q", "z")]),
  ("θ * x", [("g1", "multiply", "θ", "x")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "gates"), FORMS)
def test_forms(text, gates):
  assert gates_of(text) == gates


HANDWRITTEN = [
  ("x^2", "x**2"),
  ("-x^2", "-x**2"),
  ("x^-y", "x**-y"),
  ("x^y^z", "x**y**z"),
  ("x² + y³·z¹⁰", "x**2 + y**3*z**10"),
  ("(x + y)²", "(x + y)**2"),
  ("x⁻¹", "x**(-1)"),
  ("xⁿ⁺¹", "x**(n+1)"),
  ("x − y – z", "x - y - z"),
  ("−x", "-x"),
  ("x·y × z ⋅ w", "x*y*z*w"),
  ("x ÷ y ∕ z", "x/y/z"),
  ("√x + √(y·z) + √4", "sqrt(x) + sqrt(y*z) + sqrt(4)"),
  ("ReLU(x) + Relu(y) + RELU(z)", "relu(x) + relu(y) + relu(z)"),
  ("LeakyReLU(x) + ReLU6(y)", "leaky_relu(x) + relu6(y)"),
  ("GELU(x) + SiLU(y) + Mish(z) + SELU(x) + ELU(y)", "gelu(x)+silu(y)+mish(z)+selu(x)+elu(y)"),
  ("Max(x, y) + MIN(x, z) + maximum(y, z)", "max(x, y) + min(x, z) + max(y, z)"),
  ("sum(x, y, z)", "x + y + z"),
  ("Σ(x, y) + ∑(y, z)", "(x + y) + (y + z)"),
  ("Π(x, y) + ∏(y, z) + prod(x, z)", "x*y + y*z + x*z"),
  ("σ(x) + logistic(y) + Tanh(z)", "sigmoid(x) + sigmoid(y) + tanh(z)"),
  ("ln(x) + Log(y) + pow(x, y)", "log(x) + log(y) + power(x, y)"),
  ("sum = x + y; f = sum * z; sum(sum, f)", "sum = x + y; f = sum * z; sum + f"),
  ("1/(1 + e^(-x))", "1/(1 + exp(-x))"),
  ("1/(1 + e**(−x))", "1/(1 + exp(-x))"),
  ("e^x", "exp(x)"),
  ("e^-x · e^(2·y)", "exp(-x) * exp(2*y)"),
  ("e^x^2", "exp(x**2)"),
  ("eˣ + e²", "exp(x) + exp(2)"),
  ("x₁·w₁ + x₂·w₂", "x1*w1 + x2*w2"),
  ("ｆ ＝ （x＋y）＊ｍａｘ（y，z）；ｆ", "f = (x+y)*max(y,z); f"),
  ("q = x²  # of √ and ^ and «\nq·q", "q = x**2\nq*q"),
]


@pytest.mark.parametrize(("typed", "plain"), HANDWRITTEN)
def test_handwriting_is_read(typed, plain):
  assert parse(typed) == parse(plain)


def test_e_is_a_variable_where_the_text_or_its_inputs_say_so():
  euler = [("g1", "exp", "x")]
  power = [("g1", "power", "e", "x")]
  assert gates_of("e**x") == gates_of("e**x", inputs=("x",)) == euler
  assert gates_of("e**x", inputs=("x", "e")) == gates_of("e**x", euler=False) == power
  assert parse("e**x", euler=False).trace(e=2.0, x=3.0).value == 8.0
  # Assigned before or behind, or used as anything but a base: one letter is one thing in one text.
  assert gates_of("e = y - t; J = 0.5*e^2")[1] == ("g1", "power", "e", 2.0)
  assert gates_of("a = e^x; e = a*y; e*e")[0] == ("a", "power", "e", "x")
  assert gates_of("e*x + e^x")[1] == ("g2", "power", "e", "x")
  assert gates_of("x^e")[0] == ("g1", "power", "x", "e")
  assert parse("e = 2*x; e^x").trace(x=3.0).value == 6.0**3
  with pytest.raises(
    CircuitError, match=r"no input 'e'; e\*\*x is exp\(x\), unless .* euler=False"
  ):
    parse("e**x").trace(e=2.0, x=3.0)


def test_own_gates_are_called_by_their_own_names_first():
  own = {"Sum": fb.gates.max, "ReLU": fb.gates.sin}
  assert gates_of("Sum(x, ReLU(y)) + sum(x, y)", gates=own) == [
    ("g1", "ReLU", "y"), ("g2", "Sum", "x", "g1"), ("g3", "add", "x", "y"),
    ("g4", "add", "g2", "g3"),
  ]  # fmt: skip


def test_the_caret_of_an_error_stands_under_what_was_typed():
  with pytest.raises(ParseError) as refused:
    parse("q = x²·y\nf = √q − foo(q)")
  assert str(refused.value).split("\n")[1:] == ["line 2:", "  f = √q − foo(q)", "           ^"]


def test_the_last_statement_is_the_output_or_those_that_are_named():
  assert parse("q = x*y; f = q + x").outputs == (("f", 1.0),)
  assert parse("f = x").outputs == (("x", 1.0),)
  text = "J = x*x; J = J + 1; K = exp(x)"
  assert parse(text, {"K": 0.5, "J": 2}).outputs == (("K", 0.5), ("J_2", 2.0))
  with pytest.raises(CircuitError, match="the output 'k' isn't in the text; there are: x, J, K"):
    parse(text, {"k": 1.0})
  with pytest.raises(CircuitError, match="the output 'b' is the node 'a', already an output"):
    parse("a = exp(x); b = a", {"a": 1.0, "b": 1.0})
  with pytest.raises(CircuitError, match="outputs is empty"):
    parse(text, {})


# The caret stands where the text has « before a character.
HOSTILE = [
  ("«", "there is nothing to read"),
  ("x +«", "this can't be read: invalid syntax"),
  ("x + «* y", "this can't be read: invalid syntax"),
  ("x «y", "this can't be read: invalid syntax"),
  ("«(x", "this can't be read: '(' was never closed"),
  ("x«)", "this can't be read: unmatched ')'"),
  ("«007", "this can't be read: leading zeros"),
  ("x + «…", "this can't be read: invalid character"),
  ("x + «sigmod(y)", "there is no gate 'sigmod'; did you mean 'sigmoid'?"),
  ("«__import__('os')", "there is no gate '__import__'"),
  ("«__import__('os').system('ls')", "only a gate can be called, by its name"),
  ("«(x)(y)", "there is no gate 'x'"),
  ("x * «y.real", "an attribute is not allowed here"),
  ("x * «y[0]", "an index is not allowed here"),
  ("«[x for x in y]", "a comprehension is not allowed here"),
  ("max«(x for x in y)", "a comprehension is not allowed here"),
  ("«lambda: x", "a function can't be made here"),
  ("«x if y else z", "if is not allowed here"),
  ("«x < y", "a comparison is not allowed here"),
  ("«x and y", "and, or are not allowed here"),
  ("«not x", "the operators are + - * / **"),
  ("(x) «% y", "the operators are + - * / **"),
  ("«x, y", "a tuple is not allowed here"),
  ("x² + «summ(y)", "there is no gate 'summ'; did you mean 'sum'?"),
  ("√(x) ⋅ √y + y₁ + «z[0]", "an index is not allowed here"),
  ("x⁻¹ + «√x²", "it isn't clear how far √ reaches; write √(...)"),
  ("«√x^2", "it isn't clear how far √ reaches"),
  ("«√sin(x)", "it isn't clear how far √ reaches"),
  ("x + «√√x", "it isn't clear how far √ reaches"),
  ("x · «√", "it isn't clear how far √ reaches"),
  ("x^«^2", "this can't be read: invalid syntax"),
  ("x + y²«z", "this can't be read: invalid syntax"),
  ("«2x", "a product is written with *"),
  ("«x(y)", "there is no gate 'x'; a product is written with *: x * (...)"),
  ("xy = 2*z; «xy(z)", "there is no gate 'xy'; a product is written with *: xy * (...)"),
  ("x + «|y|", "|x| is written abs(x)"),
  ("sin «x", "a product is written with *, and a gate's input in parentheses"),
  ("sin(x)«cos(x)", "a product is written with *, and a gate's input in parentheses"),
  ("«(x+1)(x-1)".replace("«(", "(«"), "by its name; a product is written with *"),
  ("h«'(x)", "this can't be read: unterminated string literal"),
  ("e^«{-x}", "this is not allowed here; use round parentheses"),
  ("x * «[y + z]", "this is not allowed here; use round parentheses"),
  ("\\«sigma(x)", "LaTeX isn't read"),
  ("«x²; y", "only the last statement may be without a name"),
  ("（x＋y）＊«foo（z）", "there is no gate 'foo'"),
  ("«f'{x}'", "this is not allowed here"),
  ("(«y := 3)", "a name is given by a statement of its own"),
  ("x + «'a'", "'a' is no real number"),
  ("x + «True", "True is no real number"),
  ("x + «1e999", "the number is too large for float64"),
  ("x + «-1e999", "the number is too large for float64"),
  ("x + «" + "9" * 400, "the number is too large for float64"),
  ("x + «" + "9" * 5000, "the number is too large for float64"),
  ("max(«*x)", "a star is not allowed here"),
  ("max(x, «key=y)", "gate max takes no keyword argument"),
  ("x + «max()", "gate max takes at least 1 input, got 0"),
  ("«sigmoid(x, y)", "gate sigmoid takes 1 input, got 2"),
  ("x + «max", "'max' is a gate; call it: max(...)"),
  ("«max = 3", "'max' is a gate; choose another name"),
  ("x = «y = z", "one name can be assigned at a time"),
  ("«x, y = 3", "a statement must be name = expression"),
  ("«x += 3", "a statement must be name = expression"),
  ("«import os", "a statement must be name = expression"),
  ("x + «9**9**9", "an exponent must be from -1024 to 1024, got 3.8742e+08"),
  ("«x ** -1e300", "an exponent must be from -1024 to 1024"),
  ("«10 ** 1000", "10 ** 1000 is no float64"),
  ("«0 ** -1", "0 ** -1 is no float64"),
  ("(«(-8) ** 0.5)".replace("(«(", "(«("), "-8 ** 0.5 is no float64"),
  ("x + «\0 y", "this is no character"),
  ("x + «\ud800 y", "this is no character"),
  ("ä * öü + «foo(x)", "there is no gate 'foo'"),
  ("q = x\nf = q * «foo(y)", "there is no gate 'foo'"),
  ("q = x\r\nf = q * «foo(y)", "there is no gate 'foo'"),
  ("  q = x\n  f = q * «foo(y)", "there is no gate 'foo'"),
  ("\tq =\tx + «y.z", "an attribute is not allowed here"),
  ("x" + " " * 200 + "+ «foo(y)" + " + x" * 50, "there is no gate 'foo'"),
  ("«x # no more\n+ y", "only the last statement may be without a name"),
  ("(" * MAX_NESTING + "«(" + "x" + ")" * (MAX_NESTING + 1), "nested 100 deep"),
  ("«".join(["-" * MAX_OPERATORS, "-x"]), "a statement may have 1,000 operators"),
  ("«".join(["x" + "+x" * MAX_OPERATORS, "+x"]), "a statement may have 1,000 operators"),
  ("«".join(["not " * MAX_OPERATORS, "not x"]), "a statement may have 1,000 operators"),
  ("«".join(["a" + ".a" * MAX_OPERATORS, ".a"]), "a statement may have 1,000 operators"),
  ("«".join(["a" + "[0]" * MAX_OPERATORS, "[0]"]), "a statement may have 1,000 operators"),
  ("«f" + "()" * 20_000, "this is nested too deep for Python's parser"),
  ("«" + "x" * (MAX_LENGTH + 1), "the text has 1,000,001 characters; there may be 1,000,000"),
  ("«" + "x" * 100_000 + "(y)", "there is no gate 'xxxxx"),
]


@pytest.mark.parametrize(("marked", "said"), HOSTILE, ids=[m[:20] for m, _ in HOSTILE])
def test_what_is_no_circuit_is_refused_with_its_place(marked, said):
  text = marked.replace("«", "")
  with pytest.raises(ParseError) as refused:
    parse(text)
  message, *_, line, caret = str(refused.value).split("\n")
  assert said in message
  assert len(message) < 400
  assert caret.strip() == "^"
  assert len(line) < 100
  # What stands over the caret, and to the right, is the text from the mark on.
  rest = marked.partition("«")[2].partition("\n")[0][:20]
  at_caret = line[len(caret) - 1 :]
  assert at_caret.startswith("".join(c if c.isprintable() else "?" for c in rest))


def test_what_python_could_not_take_never_reaches_it(monkeypatch):
  def never(*arguments):
    raise AssertionError("Python's parser was asked")

  monkeypatch.setattr(ast, "parse", never)
  for text in ("(" * 10**5, "-" * 10**5 + "x", "x" + "+x" * 10**5, "x" * 10**7):
    with pytest.raises(ParseError):
      parse(text)


def test_only_given_inputs_where_they_are_given():
  assert parse("q = x + y; q * x", inputs=("x", "y", "z")).inputs == ("x", "y")
  with pytest.raises(ParseError, match="the name 'alhpa' is unknown; did you mean 'alpha'"):
    parse("q = alpha; alhpa * q", inputs=("alpha",))
  with pytest.raises(ParseError, match="the name 'x' is unknown; no input has a value"):
    parse("x", inputs=())
  with pytest.raises(TypeError, match="text must be a str, got int"):
    parse(3)


# --- Random expressions ---------------------------------------------------------------------------

# Irrational, so that no two subexpressions tie but where they are the same.
POINT = {"x": 0.7310585786300049, "y": -1.2840254166877414, "z": 0.34657359027997264}
# Functions that are defined everywhere.
IN_PYTHON = {
  "exp": math.exp,
  "sin": math.sin,
  "cos": math.cos,
  "tanh": math.tanh,
  "abs": abs,
  "max": max,
  "min": min,
  "square": lambda v: v * v,
  "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
  "softplus": lambda v: max(v, 0) + math.log1p(math.exp(-abs(v))),
  "relu": lambda v: max(v, 0),
  "leaky_relu": lambda v: max(v, 0.01 * v),
  "gelu": lambda v: 0.5 * v * math.erfc(-v / math.sqrt(2)),
  "silu": lambda v: v / (1 + math.exp(-v)),
}


def larger(smaller):
  """Expressions of expressions; bounded ones are what an exponential is of."""
  one = st.sampled_from(sorted(set(IN_PYTHON) - {"max", "min", "exp", "square"}))
  return st.one_of(
    st.builds("({} {} {})".format, smaller, st.sampled_from("+-*"), smaller),
    st.builds("{} {} {}".format, smaller, st.sampled_from("+-"), smaller).map("({})".format),
    st.builds("({} / (2 + cos({})))".format, smaller, smaller),
    st.builds("(1.5 + sin({})) ** {}".format, smaller, st.sampled_from(["2", "-1", "0.5"])),
    st.builds("(-{})".format, smaller),
    st.builds("{}({})".format, one, smaller),
    st.builds("exp(tanh({}))".format, smaller),
    st.builds("square(sin({}))".format, smaller),
    st.builds("{}({}, {}, {})".format, st.sampled_from(["max", "min"]), smaller, smaller, smaller),
  )


expressions = st.recursive(
  st.one_of(st.sampled_from(sorted(POINT)), st.sampled_from(["2", "0.5", "3.25"])),
  larger,
  max_leaves=12,
)


@pytest.mark.slow
@given(expressions)
def test_random_expressions_against_python_and_jax_grad(text):
  c = parse(text, inputs=POINT)
  t = c.trace(**{name: POINT[name] for name in c.inputs})
  want = eval(text, {"__builtins__": {}}, {**IN_PYTHON, **POINT})  # noqa: S307
  assert math.isclose(
    t.value, want, rel_tol=1e-11, abs_tol=1e-11 * max(map(abs, t.values.values()))
  )
  assert fb.verify.check_circuit(t).ok


@given(
  st.text(st.sampled_from("xyz01.e+-*/()[]{},;=\n \t'\"#:@!<>~^%\\λ²⁻ⁿ√−·×Σσ₁（＊"), max_size=40)
)
def test_any_text_is_a_circuit_or_an_error_of_ours(text):
  try:
    c = parse(text)
  except ParseError as error:
    said = str(error)
  else:
    said = "^" * bool(c.nodes)
  assert said.endswith("^")


@given(st.text(max_size=30))
def test_any_characters_likewise(text):
  test_any_text_is_a_circuit_or_an_error_of_ours.hypothesis.inner_test(text)


def test_random_points_of_one_expression():
  rng = np.random.default_rng(0)
  c = parse("sigmoid(w*x + b) * max(w, x) - softplus(b)**2")
  for _ in range(5):
    w, x, b = rng.normal(size=3)
    assert fb.verify.check_circuit(c.trace(w=w, x=x, b=b)).agrees
