"""The bench itself: its order, which rounds count, what it writes; the clocks are made up."""

import json
import signal
import sys
import types
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbackprop.verify.bank.specimen import Example, Specimen
from scripts import bench
from scripts.benchmarks import bridges, checkers, epoch, loop, machine, peak, rounds
from scripts.benchmarks.bridges import problem_of
from scripts.benchmarks.models import Epochs, draw_rows
from scripts.benchmarks.peers import PEERS, markdown_of
from scripts.benchmarks.subjects import CONTESTANTS, EXAMPLES, OURS, PROGRAM, SIZES
from scripts.docs_links import defined_names


class Machine:
  """A clock that moves when a candidate runs, and a core on which others run too."""

  def __init__(self, monkeypatch, others):
    self.clock, self.busy, self.calls = 0.0, 0.0, []
    self.others = others
    time = types.SimpleNamespace(perf_counter=lambda: self.clock, process_time=lambda: self.clock)
    monkeypatch.setattr(rounds, "time", time)
    monkeypatch.setattr(rounds, "busy_seconds", lambda: self.busy)
    monkeypatch.setattr(rounds.os, "sched_getaffinity", lambda _: {0}, raising=False)

  def candidate(self, name, seconds):
    def call(number):
      self.calls.append((name, number))
      self.clock += seconds
      self.busy += seconds * (1 + self.others(self.clock))

    return call


def test_candidates_take_turns_there_and_back(monkeypatch):
  fake = Machine(monkeypatch, others=lambda clock: 0)
  measured = rounds.measure([fake.candidate("a", 1.0), fake.candidate("b", 2.0)], 3)
  names = "".join(name for name, _ in fake.calls)
  assert names == "aaaa" + "bbbb" + "abba" * 3
  numbers = [number for _, number in fake.calls]
  assert numbers == list(range(len(numbers)))  # Fresh inputs for each call.
  assert (measured.seconds.tolist(), measured.tried, measured.disturbed) == ([[1.0, 2.0]] * 3, 3, 0)


def test_short_calls_are_repeated(monkeypatch):
  fake = Machine(monkeypatch, others=lambda clock: 0)
  measured = rounds.measure([fake.candidate("a", 0.001)], 1)
  assert (len(fake.calls), measured.seconds) == (4 + 2 * 60, pytest.approx(0.001))


def test_rounds_in_which_others_were_busy_do_not_count(monkeypatch):
  fake = Machine(monkeypatch, others=lambda clock: clock < 8)
  measured = rounds.measure([fake.candidate("a", 1.0)], 3)
  assert (len(measured.seconds), measured.tried, measured.disturbed) == (3, 5, 0)


def test_on_a_busy_machine_the_least_disturbed_count_and_it_is_said(monkeypatch):
  fake = Machine(monkeypatch, others=lambda clock: 0.1 if clock < 9 else 0.5)
  measured = rounds.measure([fake.candidate("a", 1.0)], 3)
  assert (len(measured.seconds), measured.tried, measured.disturbed) == (3, 12, pytest.approx(0.5))


def test_without_proc_stat_every_round_counts(monkeypatch):
  fake = Machine(monkeypatch, others=lambda clock: 1)
  monkeypatch.setattr(rounds, "busy_seconds", lambda: None)
  monkeypatch.delattr("os.sched_getaffinity")  # As on macOS.
  measured = rounds.measure([fake.candidate("a", 1.0)], 2)
  assert (measured.tried, measured.disturbed) == (2, None)


def test_busy_ticks_leave_out_idle_and_waiting():
  assert rounds.busy_ticks("cpu3 1 2 4 800 1600 8 16 32 0 0") == 1 + 2 + 4 + 8 + 16 + 32


def test_cores_are_limited_before_jax_starts(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--kept=1")
  monkeypatch.setenv("NPROC", "9")
  given = []
  monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {4, 6, 7}, raising=False)
  monkeypatch.setattr(machine.os, "sched_setaffinity", lambda _, cores: given.append(cores))
  machine.pin(None)
  assert not given
  assert machine.os.environ["NPROC"] == "9"
  machine.pin(1)
  assert (given, machine.os.environ["NPROC"]) == ([[4]], "1")
  assert machine.os.environ["XLA_FLAGS"].split()[0] == "--kept=1"


@pytest.mark.parametrize(
  "options", [["--cores", "0"], ["--cores", "1", "4096"], ["--rounds", "0"], ["--sizes", "huge"]]
)
def test_options_that_cannot_be_met_are_refused(options, capsys):
  with pytest.raises(SystemExit) as error:
    bench.main(["step", *options])
  assert error.value.code == 2
  assert options[0] in capsys.readouterr().err


@pytest.fixture
def made(tmp_path, capfd):
  """Runs a bench of two rounds, and gives what it printed and what it wrote."""

  def run(name, *options):
    file = tmp_path / f"{name}.json"
    assert bench.main([name, *options, "--json", str(file)]) == 0
    return capfd.readouterr().out, json.loads(file.read_text())

  return run


BRIEFLY = ("--cores", "1", "--rounds", "2")


@pytest.mark.slow
def test_step_prints_a_table_and_writes_json(made):
  printed, written = made("step", "--sizes", "tiny", *BRIEFLY)
  assert "step, 1 core\n" in printed
  assert "scan of 1000" in printed
  assert {"jax", "backend", "device", "cores_here"} <= set(written["machine"])
  (row,) = written["rows"]
  assert (row["cores"], row["size"], row["rounds"]) == (1, "tiny", 2)
  assert min(row["ours"], row["theirs"], row["forward"]) > 0


@pytest.mark.slow
def test_residuals_print_a_table_and_write_json(made):
  printed, written = made("residuals")
  assert "relu           1.00" in printed
  assert {"activation", "ours", "theirs"} < set(written["rows"][0])


@pytest.mark.slow
def test_guard_prints_a_row_for_each_optimizer(made):
  printed, written = made("guard", "--sizes", "tiny", *BRIEFLY)
  rows = written["rows"]
  assert [(row["size"], row["optimizer"]) for row in rows] == [
    ("tiny", "descent"),
    ("tiny", "adam"),
  ]
  assert all(0.1 < row["fit_ratio"] < 10 for row in rows)
  assert "fit's look" in printed


@pytest.mark.slow
def test_rules_print_a_row_for_each_rule(made):
  printed, written = made("rules", "--sizes", "tiny", *BRIEFLY)
  assert [row["rule"] for row in written["rows"]][:2] == [
    "feedback_alignment",
    "direct_feedback_alignment",
  ]
  assert all(0.1 < row["ratio"] < 10 for row in written["rows"])
  assert "over backprop's" in printed


@pytest.mark.slow
def test_depth_prints_a_table_and_writes_json(made):
  printed, written = made("depth", "--rounds", "2")
  assert "1025 layers, one loop" in printed
  rows = written["rows"]
  assert {row["layers"] for row in rows if row["repeat_hidden"]} == {5, 65, 257, 1025}
  assert all(min(row["seconds"]) > 0 for row in rows)


# --- Epochs ---------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
  """An epoch of two steps, and one epoch in a program."""
  monkeypatch.setitem(EXAMPLES, "tiny", 64)
  monkeypatch.setitem(PROGRAM, "tiny", 1)


def test_everybody_has_whole_batches_and_a_program_is_a_chunk_of_fit():
  for name, n in EXAMPLES.items():
    assert n % SIZES[name].batch == 0
    assert PROGRAM[name] * n // SIZES[name].batch <= 1000
  order = draw_rows("digits", np.random.default_rng(0))
  assert (order.shape, len(set(order.flat))) == ((21, 64), 1344)


@pytest.mark.slow
def test_an_epoch_is_measured_beside_others(few, tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(rounds, "SECONDS", 0)
  monkeypatch.setitem(sys.modules, "equinox", None)
  found = epoch.run(["tiny"], 2, ["bare", "grad", "equinox", "sklearn"])
  assert [row["contestant"] for row in found] == ["exact", "fast", "bare", "grad", "sklearn"]
  assert all(row["seconds"] > 0 and row["over_fast"] > 0 for row in found)
  printed = capsys.readouterr().out
  assert "equinox loop               not installed: pip install equinox" in printed
  assert "tiny: 2-16-16-1, 64 examples in batches of 32" in printed


def test_the_table_tells_ratios_and_the_break_even(monkeypatch, capsys):
  # Seconds of a call; a call of ours is two epochs, and its first one compiles for 8 seconds more.
  calls = {"exact": 4.0, "fast": 2.0, "torch": 5.0}
  first = {"exact": 12.0, "fast": 10.0, "torch": 6.0}

  def prepare(name, size):
    return Epochs(lambda number: None, 1 if name == "torch" else 2), first[name]

  def measured(candidates, count):
    return rounds.Rounds(np.tile(list(calls.values()), (count, 1)), count, 0.0)

  monkeypatch.setattr(epoch, "prepare", prepare)
  monkeypatch.setattr(epoch, "measure", measured)
  monkeypatch.setattr(epoch.metadata, "version", lambda package: "1.0")
  exact, fast, torch = epoch.run_size("tiny", 3, ["exact", "fast", "torch"])
  assert (exact["seconds"], fast["seconds"], torch["seconds"]) == (2.0, 1.0, 5.0)
  assert (torch["over_exact"], torch["over_fast"], fast["over_fast"]) == (2.5, 5.0, 1.0)
  # 8 seconds against 1 at first; 5 against 1 in each epoch.
  assert (torch["break_even_epochs"], fast["break_even_epochs"]) == (pytest.approx(7 / 4), None)
  assert "torch loop" in capsys.readouterr().out
  assert epoch.break_even(3.0, 0.0) is None
  assert epoch.break_even(-3.0, 1.0) == 0


def test_rows_of_other_sizes_and_cores_are_kept_in_the_file(tmp_path, monkeypatch):
  def make_row(cores, call):
    options = call.args[1] if isinstance(call, partial) else None
    return [{"size": s, "made": "now"} for s in options["sizes"]] if options else {"backend": "cpu"}

  monkeypatch.setattr(bench, "in_process", make_row)
  file = tmp_path / "epoch.json"
  old = [{"size": size, "cores": cores} for size in ("tiny", "digits") for cores in (1, 2)]
  file.write_text(json.dumps({"rows": old}))
  assert bench.main(["epoch", "--sizes", "tiny", "--cores", "1", "--json", str(file)]) == 0
  rows = json.loads(file.read_text())["rows"]
  assert [(row["size"], row["cores"], row.get("made")) for row in rows] == [
    ("tiny", 2, None), ("digits", 1, None), ("digits", 2, None), ("tiny", 1, "now")
  ]  # fmt: skip


def test_every_contestant_names_what_builds_it():
  folder = Path(bench.__file__).parent / "benchmarks"
  for name, contestant in CONTESTANTS.items():
    assert f"make_{name}" in defined_names((folder / f"{contestant.module}.py").read_text())
  assert set(OURS) < set(CONTESTANTS)


def test_the_operations_of_a_step_are_those_of_its_products():
  size = SIZES["digits"]
  assert peak.step_flops(size) == 2 * 64 * (2 * 64 * 128 + 3 * (128 * 64 + 64 * 10))


@pytest.mark.slow
def test_ensemble_prints_a_table_and_writes_json(made):
  printed, written = made("ensemble", "--sizes", "2", *BRIEFLY)
  assert "nets a second" in printed
  rows = [row for row in written["rows"] if row["members"] == 2]
  assert [row["who"] for row in rows] == ["ours", "vmap of jax.grad"]
  assert min(row["nets_per_second"] for row in rows) > 0


# --- Other checkers on the planted bugs -----------------------------------------------------------


def cube(x):
  return {"y": x**3, "count": jnp.int32(3)}


def cube_rule(factor, x):
  def backward(y_bar):
    return (factor * 3 * x**2 * y_bar["y"],)

  return cube(x), backward


def broken_rule(x):
  raise KeyError("planted")


def specimen_of(name, f_vjp):
  x = np.array([-1.5, 0.5, 2.0], np.float32)
  return Specimen(name, lambda: Example(cube, (x,), f_vjp))


@jax.custom_vjp
def scaled(x, w, label):
  return x * w[label]


def scaled_forward(x, w, label):
  return scaled(x, w, label), (x, w, label)


def scaled_backward(kept, y_bar):
  _, w, label = kept
  return (y_bar * w[label]).sum()[None], jnp.zeros_like(w), None


scaled.defvjp(scaled_forward, scaled_backward)
NEGLECTED = Specimen("neglected", lambda: Example(scaled, (np.ones(1), np.ones(3), np.int32(1))))


@pytest.fixture
def bank(monkeypatch):
  bugs = [
    specimen_of("doubled", partial(cube_rule, 2.0)),
    specimen_of("raises", broken_rule),
    NEGLECTED,
  ]
  right = [specimen_of("right", partial(cube_rule, 1.0))]
  for where in ("scripts.benchmarks.checkers", "fbackprop.verify.self_test"):
    monkeypatch.setattr(f"{where}.BUGS", bugs)
    monkeypatch.setattr(f"{where}.RIGHT", right)


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["jax-float32", "jax-float64", "direct"])
def test_the_peers_meet_the_same_bank(bank, capsys, peer):
  (row,) = checkers.run(peer)
  assert (row["bugs"], row["right"], row["caught"], row["passed"]) == (3, 1, 3, 1)
  assert not any(row["names"].values())
  assert PEERS[peer] in capsys.readouterr().out
  assert row["seconds"] >= 0  # Rounded.


def test_ours_is_counted_likewise(bank):
  (row,) = checkers.run("ours-quick")
  assert (row["caught"], row["passed"], row["not_taken"]) == (3, 1, 0)
  assert row["checker"] == "fbackprop verify, quick"


def test_some_specimens_can_be_chosen(bank):
  (row,) = checkers.run("jax-float32", only=["right", "rais"])
  assert (row["bugs"], row["right"], row["caught"], row["passed"]) == (1, 1, 1, 1)


def test_a_checker_that_takes_too_long_is_stopped(bank, monkeypatch):
  def never_ends(problem):
    while True:
      pass

  before = signal.getsignal(signal.SIGALRM)
  monkeypatch.setitem(checkers.CHECKERS, "direct", never_ends)
  (row,) = checkers.run("direct", limit=0.01)
  assert (row["caught"], row["passed"], row["not_taken"], row["too_slow"]) == (0, 0, 0, 4)
  assert row["names"]["too slow"] == ["doubled", "raises", "neglected", "right"]
  assert signal.getsignal(signal.SIGALRM) == before


def test_a_checker_that_breaks_without_the_rule_too_has_not_caught_the_bug():
  def breaks(problem):
    raise TypeError("no such dtype")

  def complains(problem):
    raise AssertionError

  def calls(problem):
    jax.vjp(problem.f, *problem.leaves)

  raising = problem_of(specimen_of("raises", broken_rule).make())
  right = problem_of(specimen_of("right", partial(cube_rule, 1.0)).make())
  assert checkers.outcome_of(breaks, raising, True) == "not taken"
  assert checkers.outcome_of(breaks, right, False) == "not taken"
  assert checkers.outcome_of(complains, right, False) == "false alarm"
  assert checkers.outcome_of(complains, right, True) == "caught"
  assert checkers.outcome_of(calls, raising, True) == "caught"
  assert checkers.outcome_of(calls, right, False) == "passed"


def test_a_peer_that_is_not_installed_is_named(bank, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  assert checkers.run("torch-slow") == []
  assert "torch gradcheck" in (said := capsys.readouterr().out)
  assert "not installed: pip install torch" in said


def test_the_cotangent_of_the_direct_comparison_is_not_the_banks_data():
  (row,) = checkers.run("direct", only=["weights-transposed"])  # Symmetric if y_bar is x.
  assert (row["bugs"], row["caught"]) == (1, 1)


def test_rows_of_other_peers_are_kept_in_the_file(tmp_path, monkeypatch):
  def make_row(cores, call):
    peer = call.args[1].get("peer") if isinstance(call, partial) else None
    return [{"peer": peer, "made": "now"}] if peer else {"backend": "cpu"}

  monkeypatch.setattr(bench, "in_process", make_row)
  file = tmp_path / "checkers.json"
  file.write_text(json.dumps({"rows": [{"peer": "direct"}, {"peer": "chex"}]}))
  assert bench.main(["checkers", "--peers", "chex", "autograd", "--json", str(file)]) == 0
  rows = json.loads(file.read_text())["rows"]
  assert [(row["peer"], row.get("made")) for row in rows] == [
    ("direct", None), ("chex", "now"), ("autograd", "now")
  ]  # fmt: skip


def test_the_page_has_the_table_of_the_committed_results():
  root = Path(__file__).parents[2]
  made = json.loads((root / "experiments" / "results" / "checkers.json").read_text())
  page = (root / "docs" / "verify.md").read_text(encoding="utf-8")
  rows = [markdown_of(row) for row in sorted(made["rows"], key=place_of)]
  assert "\n".join(rows) in page
  assert all(row["date"] in page for row in made["rows"])


def place_of(row):
  return list(PEERS).index(row["peer"])


def test_numpy_checkers_get_the_function_and_its_rule_in_float64():
  problem = problem_of(specimen_of("doubled", partial(cube_rule, 2.0)).make())
  (x,) = xs = bridges.inputs(problem)
  assert x.dtype == np.float64
  np.testing.assert_array_equal(bridges.values(problem, xs), x**3)
  (bar,) = bridges.cotangents(problem, xs, np.array([1.0, 2.0, 3.0]))
  np.testing.assert_array_equal(bar, 2 * 3 * x**2 * [1, 2, 3])


def test_the_page_has_the_tables_of_the_committed_epochs():
  root = Path(__file__).parents[2]
  made = json.loads((root / "experiments" / "results" / "epoch.json").read_text())
  page = (root / "docs" / "performance.md").read_text(encoding="utf-8")
  assert {(row["size"], row["cores"]) for row in made["rows"]} >= {("tiny", 1), ("digits", 2)}
  for row in made["rows"]:
    assert epoch.markdown_of(row) in page
    assert row["date"] in page
    assert f"{row['package']} {row['version']}" in page
  for row in json.loads((root / "experiments" / "results" / "peak.json").read_text())["rows"]:
    assert f"{row['gflops']:.0f} | {row['share']:.2f} |" in page


@pytest.mark.slow
def test_the_loop_is_timed_beside_that_of_another_checkout(made):
  here = str(Path(__file__).parents[2])
  printed, written = made("loop", "--beside", here, "--sizes", "tiny", *BRIEFLY)
  assert [row["shuffle"] for row in written["rows"]] == ["exact", "fast"]
  assert all(0.2 < row["ratio"] < 5 for row in written["rows"]), printed
  with pytest.raises(SystemExit, match="the process of"), loop.worker(Path(here), "none", "tiny"):
    pass


@pytest.mark.slow
def test_verify_is_timed_beside_another_checkout(made):
  here = str(Path(__file__).parents[2])
  printed, written = made("verify", "--beside", here, "--sizes", "small", *BRIEFLY)
  assert [row["cache"] for row in written["rows"]] == ["empty", "filled"]
  assert all(0.2 < row["ratio"] < 5 for row in written["rows"]), printed
