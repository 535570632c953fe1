"""scripts/mutants.py: each operator's edits, what counts as a mutant, what a report is worth."""

import ast

import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify.bank import Example
from fbackprop.verify.explain.one_step import ONE_EDIT
from fbackprop.verify.report import Finding, Report
from scripts import mutants
from scripts.campaigns.mutants import page, records, scoring, selection, variants
from scripts.campaigns.mutants.fairness import differing, yardstick
from scripts.campaigns.mutants.operators import EDITS
from scripts.campaigns.mutants.rules import Rule, all_rules
from scripts.campaigns.mutants.sources import compiled, difference, signature, tree_of
from scripts.campaigns.mutants.spellings import SPELLINGS
from scripts.campaigns.mutants.syntax import edits

# Of each operator: a rule's result, and an edit of it that the operator makes.
WRONG = {
  "add -> set": ("x.at[i].add(y)", "x.at[i].set(y)"),
  "comparison": ("y * (x > 0)", "y * (x >= 0)"),
  "missing mask": ("jnp.where(x > 0, y, 0)", "y"),
  "other branch": ("jnp.where(x > 0, y, 0)", "jnp.where(x > 0, 0, y)"),
  "axis": ("jnp.sum(y, axis=0)", "jnp.sum(y, axis=1)"),
  "transposition": ("y @ x.T", "y @ x"),
  "reduction": ("y.sum(0)", "y.mean(0)"),
  "off by one": ("y[1:]", "y[2:]"),
  "index": ("y[0]", "y[1]"),
  "stale input": ("y * jnp.tanh(x)", "y * x"),
  "neighbour": ("y * x", "y * i"),
  "constant": ("2 * y", "3 * y"),
  "dropped term": ("y * x + x", "y * x"),
  "doubled term": ("y + x", "y + x + x"),
  "sign": ("y * x", "-(y * x)"),
  "arithmetic": ("y / x", "y * x"),
}
SAME = {
  "power": ("x**2", "x * x"),
  "commuted": ("y * x", "x * y"),
  "reassociated": ("y * x * i", "y * (x * i)"),
  "product": ("y @ x", "jnp.matmul(y, x)"),
  "transpose": ("y.T", "y.transpose()"),
  "negation": ("y - x", "y + -x"),
  "function": ("y.sum(0)", "jnp.sum(y, 0)"),
}


def tree(result):
  return ast.parse(f"def rule(x, i, y):\n  return {result}").body[0]


def texts(result, table, name):
  """The results of all edits by one operator."""
  found = edits(tree(result), {name: table[name]})
  return [ast.unparse(edit.tree.body[0].value) for edit in found]


@pytest.mark.parametrize("name", EDITS)
def test_each_operator_makes_its_edit(name):
  before, after = WRONG[name]
  assert ast.unparse(ast.parse(after).body[0]) in texts(before, EDITS, name)


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_spelling_says_the_same(name):
  before, after = SAME[name]
  assert ast.unparse(ast.parse(after).body[0]) in texts(before, SPELLINGS, name)


def test_an_edit_leaves_the_definition_alone():
  own = tree("y * x + 1")
  before = ast.dump(own)
  assert len(list(edits(own, EDITS))) > 10
  assert ast.dump(own) == before


def slope(x, y_bar):
  """Pull a cotangent back through x³."""
  return (3 * x**2 * y_bar,)


def cube(x):
  return x**3


def rule_of(function, reference=cube, args=None):
  args = args or (jnp.array([0.5, -1.0, 2.0]),)

  def build(rule):
    return Example(reference, args, lambda *own: (reference(*own), lambda bar: rule(*own, bar)))

  return Rule("tests/slope", function, build, reference, "vjp")


def test_a_function_of_its_own_tree_is_the_same_program():
  again = compiled(slope, tree_of(slope))
  assert signature(again) == signature(compiled(slope, tree_of(slope)))
  np.testing.assert_array_equal(again(jnp.array(2.0), jnp.array(1.0))[0], 12.0)


def test_a_closure_and_a_lambda_keep_their_variables():
  factor = 5.0
  scaled = lambda x, y_bar: (factor * x * y_bar,)  # noqa: E731
  (edit, *_) = edits(tree_of(scaled), {"sign": EDITS["sign"]})
  assert float(compiled(scaled, edit.tree)(2.0, 1.0)[0]) == -10.0


def test_the_difference_is_the_changed_line():
  (edit, *_) = edits(tree_of(slope), {"constant": EDITS["constant"]})
  was, now = difference(tree_of(slope), edit.tree)
  assert (was, now) == ("return (3 * x ** 2 * y_bar,)", "return (4 * x ** 2 * y_bar,)")


@pytest.mark.slow
def test_mutants_are_wrong_and_each_counts_once():
  rule = rule_of(slope)
  by = yardstick(rule)
  assert len(by.points) >= 6
  assert by.leaves == ("x",)
  found, others = selection.mutants_of(rule, by)
  assert len({one.hash for one in found}) == len(found) > 15
  assert all(one.leaves == ("x",) for one in found)
  assert others["equivalent"] == 1  # (-x)².
  assert {one.hash for one in found} < {one.hash for one in selection.candidates(rule)}


def lines_of(rule, mutants):
  """The edited lines of some mutants."""
  made = {c.hash: c.tree for c in selection.candidates(rule)}
  return [difference(tree_of(rule.function), made[one.hash])[1] for one in mutants]


@pytest.mark.slow
def test_an_equivalent_edit_and_one_of_another_shape_do_not_count():
  def doubly(x, y_bar):
    zero = x - x
    return (3 * x * x * y_bar + zero,)

  rule = rule_of(doubly)
  found, others = selection.mutants_of(rule, yardstick(rule))
  assert others["equivalent"] > 0
  assert not any(now.endswith("- zero,)") for now in lines_of(rule, found))

  def summed(x, y_bar):
    return (jnp.broadcast_to(y_bar.sum(0), x.shape),)

  rule = rule_of(summed, lambda x: x.sum(0), (jnp.ones((3, 2)),))
  found, others = selection.mutants_of(rule, yardstick(rule))
  assert "unfair" in others or found


@pytest.mark.slow
def test_a_kink_is_no_difference():
  def positive(x, y_bar):
    return (jnp.where(x > 0, y_bar, 0),)

  rule = rule_of(positive, lambda x: jnp.maximum(x, 0), (jnp.array([0.0, -1.0, 2.0]),))
  found, _ = selection.mutants_of(rule, yardstick(rule))
  lines = lines_of(rule, found)
  assert not [now for now in lines if ">=" in now]
  assert [now for now in lines if "<=" in now]


def test_a_point_where_the_rule_is_no_derivative_does_not_count():
  def only_positive(x, y_bar):
    return (jnp.where(x > 0, 3 * x**2, 0) * y_bar,)

  rule = rule_of(only_positive, args=(jnp.array([0.5, 1.0, 2.0]),))
  assert yardstick(rule).points
  rule = rule_of(only_positive)
  assert all((np.asarray(point.args[0]) > 0).all() for point in yardstick(rule).points)


def test_leaves_differ_by_their_own_scale():
  want = [np.array([1.0, 1e-3]), np.array([1e-7])]
  assert differing([want[0] + 1e-10, want[1]], want, 1e-9) == set()
  assert differing([want[0] + 1e-8, want[1]], want, 1e-9) == {0}
  assert differing([want[0], want[1] * (1 + 1e-2)], want, 1e-9) == {1}
  assert differing([None, want[1]], want, 1e-9) == {0}
  assert differing([want[0], np.array([np.nan])], want, 1e-9) == {1}


def mutant(number, operator="sign"):
  return selection.Mutant("tests/slope", operator, f"{number:012x}", ("x",))


def test_halves_are_those_of_the_hash():
  assert [selection.half_of(f"{n:012x}") for n in range(4)] == ["open", "held", "open", "held"]
  assert mutant(3).half == "held"


def test_no_operator_makes_more_than_its_share():
  many = [mutant(n) for n in range(100)]
  few = [mutant(1000 + n, operator) for operator in "abcdefghij" for n in range(10)]
  few = [one._replace(hash=f"{i + 1000:012x}") for i, one in enumerate(few)]
  chosen = selection.counted([*many, *few])
  signs = [one for one in chosen if one.operator == "sign"]
  assert 0 < len(signs) <= 0.15 * len(chosen)
  assert len(signs) + 1 > 0.15 * (len(chosen) + 1)
  assert [one.hash for one in signs] == [one.hash for one in many[: len(signs)]]


def test_a_report_is_worth_its_leaf_and_cause():
  def report(leaf, cause, check="maths"):
    finding = Finding("fail", check, "as given", leaf, cause=cause)
    return Report("f", (finding,), leaves=("x", "w"))

  def worth(cause, check="maths"):
    own = scoring.score(mutant(0), report("x", cause, check))
    return scoring.worth(mutant(0), own)

  one = mutant(0)
  assert scoring.score(one, report("x", "")).is_leaf_right
  assert not scoring.score(one, report("w", "")).is_leaf_right
  assert scoring.score(one, report("output 0", "", "forward")).is_leaf_right is None
  assert worth("constant factor: -1") == "useful"
  assert worth("precision: rounded") == "misleading"
  assert worth("no known pattern") == worth("", "raises") == worth("not finite: so") == "neither"
  assert worth("", "scaled cotangent") == "useful"  # That it isn't linear.
  assert scoring.score(one, Report("f", ())).verdict == "pass"
  assert set(scoring.KINDS) == set(EDITS)


@pytest.mark.parametrize(
  ("cause", "is_one_edit"),
  [
    ("path: `mul` [3] has the wrong sign" + ONE_EDIT, True),
    ("cotangent: `div` [3] is one step too many" + ONE_EDIT, False),  # That isn't linear is known.
    ("constant factor: -1", False),
  ],
)
def test_a_cause_that_needs_an_edit_of_the_rule(cause, is_one_edit):
  report = Report("f", (Finding("fail", "maths", leaf="x", cause=cause),), leaves=("x",))
  assert scoring.score(mutant(0), report).is_one_edit == is_one_edit


@pytest.mark.slow
def test_there_are_rules_enough_in_both_modes():
  rules = all_rules()
  ours = [name for name in rules if not page.is_public(name)]
  public = [name for name in rules if page.is_public(name)]
  assert len(ours) >= 45
  assert len(public) >= 15
  assert {rule.mode for rule in rules.values()} == {"vjp", "jvp"}


@pytest.mark.slow
def test_a_public_rule_is_edited_where_it_is_installed():
  rule = all_rules()["jax/logit.0"]
  by = yardstick(rule)
  assert by.points
  found, _ = selection.mutants_of(rule, by)
  assert found
  assert all(one.leaves == by.leaves for one in found)


def test_a_variant_has_the_arguments_of_its_number():
  rule = rule_of(slope)
  example, by = rule.build(slope), yardstick(rule)
  kinds = [variants.with_arguments(example, by, n) for n in range(3)]
  assert [kind for kind, _ in kinds] == list(variants.ARGUMENTS)
  assert kinds[1][1].args[0].shape == (5,)
  assert kinds[2][1].args[0].dtype == jnp.dtype("float64")


def some_records():
  return records.Records(
    {"tests/slope": {"mode": "vjp", "others": {"unfair": 2}}},
    [mutant(0), mutant(2), mutant(4, "index")._replace(leaves=("x", "w"))],
    {
      mutant(0).hash: scoring.Score("fail", True, "constant factor"),
      mutant(2).hash: scoring.Score("pass"),
    },
    {mutant(4).hash: scoring.Score("fail", None, "path", True)},
    {mutant(2).hash: ("x | y", "y")},
    {"tests/slope": [["as it is", "given", "0", "pass", "", 0.1]]},
  )


def test_the_page_counts_what_there_is():
  found = some_records()
  totals = page.totals(found)
  assert totals["mutants"] == 3
  assert totals["quick, open: caught"] == "1 of 2 (50.0 %)"
  assert totals["standard, open: useful cause"] == "1 of 1 (100.0 %)"
  assert totals["standard, open: useful without edits of the rule"] == "0 of 1 (0.0 %)"
  text = page.page(found)
  assert "| sign | 2 |" in text
  assert "`x \\| y`" in text


def test_records_are_read_as_they_were_written(tmp_path):
  found, file = some_records(), tmp_path / "mutants.json"
  records.write(file, found)
  again = records.read(file)
  assert sorted(again.mutants) == sorted(found.mutants)
  assert again._replace(mutants=[]) == found._replace(mutants=[])
  assert records.read(tmp_path / "none.json") == records.empty()


@pytest.mark.slow
def test_an_edited_rule_of_jax_is_a_user_s():
  # The verifier trusts rules of JAX's own modules.
  rule = all_rules()["jax/relu6.0"]
  wrong = next(c for c in selection.candidates(rule) if "x > 1)" in ast.unparse(c.tree))
  example = rule.build(wrong.function)
  example = example._replace(args=(jnp.array([-1.0, 0.5, 2.0]),))
  assert variants.report_on(rule, example, "quick").verdict == "fail"
  example = rule.build(compiled(rule.function, tree_of(rule.function)))
  assert variants.report_on(rule, example, "quick").verdict == "pass"


def test_a_rule_that_rounds_is_no_rule_for_float64():
  def rounded(x, y_bar):
    return ((3 * x * x).astype(jnp.float32).astype(x.dtype) * y_bar,)

  rule = rule_of(rounded)
  by = yardstick(rule)
  assert by.points
  assert not by.is_double
  assert yardstick(rule_of(slope)).is_double
  assert variants.with_arguments(rule.build(rounded), by, 2)[0] == "given"


def test_a_condition_is_the_cause_of_what_changes_a_condition():
  def worth(operator):
    cause = "subset of examples: the condition of select_n [4] is inverted"
    report = Report("f", (Finding("fail", "maths", leaf="x", cause=cause),), leaves=("x",))
    one = mutant(0, operator)
    return scoring.worth(one, scoring.score(one, report))

  assert worth("other branch") == "useful"
  assert worth("dropped term") == "misleading"


def test_the_page_is_what_the_results_give():
  found = records.read(mutants.RESULTS)
  assert mutants.PAGE.read_text(encoding="utf-8") == page.page(found), (
    "run scripts/mutants.py --page"
  )
  assert mutants.RESULTS.stat().st_size < 250_000
  totals = page.totals(found)
  assert totals["mutants"] >= 3000
  assert totals["of them public"] >= 15
  assert len(found.variants) >= 60
  assert {row[3] for rows in found.variants.values() for row in rows} == {"pass"}


@pytest.mark.parametrize(("level", "least"), [("quick", 0.93), ("standard", 0.99)])
def test_the_held_half_is_caught_and_explained(level, least):
  found = records.read(mutants.RESULTS)
  held = page.scored_in(found, level, "held")
  caught = [(one, own) for one, own in held if own.verdict == "fail"]
  worths = [scoring.worth(one, own) for one, own in caught]
  leaves = [own.is_leaf_right for _, own in caught if own.is_leaf_right is not None]
  assert len(held) >= 400
  assert len(caught) >= least * len(held)
  assert sum(leaves) >= 0.97 * len(leaves)
  assert worths.count("useful") >= 0.7 * len(caught)
  assert worths.count("misleading") <= 0.01 * len(caught)
