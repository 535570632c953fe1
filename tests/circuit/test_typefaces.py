"""Names in any script: drawn where a font has the letters, else refused or romanised; no boxes."""

import io
import logging
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.image import imread

from fbackprop.circuit import CircuitError, Node, build, parse
from fbackprop.cli import main
from fbackprop.fonts import choose_fonts, spelled
from fbackprop.train import report
from fbackprop.train.data.datasets import load_dataset
from fbackprop.train.report import figures, predictions
from fbackprop.train.report.figures import svg_of
from tests.train.test_report import evaluation, one_layer, result_of

OURS = mpl.get_data_path()
HANGUL = "한글고양이개값"


def make_font(path, family, characters):
  """A font whose glyphs are all the same square, of three quarters of an em."""
  names = [".notdef", *(f"u{ord(c):04X}" for c in characters)]
  pen = TTGlyphPen(None)
  for point in ((100, 0), (100, 750), (850, 750), (850, 0)):
    (pen.moveTo if point == (100, 0) else pen.lineTo)(point)
  pen.closePath()
  square = pen.glyph()
  font = FontBuilder(1000, isTTF=True)
  font.setupGlyphOrder(names)
  font.setupCharacterMap({ord(c): f"u{ord(c):04X}" for c in characters})
  font.setupGlyf(dict.fromkeys(names, square))
  font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
  font.setupHorizontalHeader(ascent=800, descent=-200)
  font.setupNameTable({"familyName": family, "styleName": "Regular"})
  font.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
  font.setupPost()
  font.save(path)
  return str(path)


@pytest.fixture
def only_dejavu(monkeypatch):
  """A machine on which nobody has installed a font."""
  fonts = [font for font in font_manager.fontManager.ttflist if font.fname.startswith(OURS)]
  monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts)
  monkeypatch.setattr(font_manager, "findSystemFonts", list)


@pytest.fixture
def with_hangul(only_dejavu, tmp_path):
  """A machine on which somebody has, in one weight, as most such fonts are."""
  path = make_font(tmp_path / "tiny.ttf", "Tiny Hangul", HANGUL)
  font_manager.fontManager.addfont(path)


@pytest.fixture(autouse=True)
def silence(caplog):
  """Nothing is logged: a terminal would show it. Warnings are errors already."""
  yield
  assert [r.getMessage() for r in caplog.records if r.name.startswith("matplotlib")] == []


def traced(name):
  return build([Node(name, "input"), Node("f", "tanh", (name,))]).trace(**{name: 0.5})


def dark(png):
  """How many pixels of a picture are nearly black."""
  return int((imread(io.BytesIO(png))[..., :3].max(-1) < 0.2).sum())


# --- The choice -----------------------------------------------------------------------------------


def test_what_dejavu_has_needs_no_other_font(only_dejavu):
  assert choose_fonts(["x₁ σ −é Жя ᾱ"], ["DejaVu Sans Mono"]) == (("DejaVu Sans Mono",), ())
  assert choose_fonts([], ["DejaVu Sans"]).missing == ()


def test_a_font_that_has_the_letters_is_found(with_hangul):
  assert choose_fonts(["x 한글"], ["DejaVu Sans"]) == (("DejaVu Sans", "Tiny Hangul"), ())
  bold = choose_fonts(["한글"], ["DejaVu Sans Mono"], weight="bold", style="oblique")
  assert bold.families == ("DejaVu Sans Mono", "Tiny Hangul")


def test_several_fonts_where_no_one_has_all(with_hangul, tmp_path):
  font_manager.fontManager.addfont(make_font(tmp_path / "h.ttf", "Tiny Han", "中文한"))
  choice = choose_fonts(["한글中文ก"], ["DejaVu Sans"])
  assert choice == (("DejaVu Sans", "Tiny Han", "Tiny Hangul"), ("ก",))


def test_one_of_fixed_width_is_preferred(with_hangul, tmp_path):
  font_manager.fontManager.addfont(make_font(tmp_path / "m.ttf", "Tiny Mono", HANGUL))
  assert choose_fonts(["한"], ["DejaVu Sans"]).families[1] == "Tiny Mono"


def test_a_font_installed_since_matplotlib_made_its_list_is_found(
  only_dejavu, monkeypatch, tmp_path
):
  broken = tmp_path / "broken.ttf"
  broken.write_bytes(b"no font")
  new = make_font(tmp_path / "new.ttf", "Tiny New", "한")
  assert choose_fonts(["한"], ["DejaVu Sans"]).missing == ("한",)
  monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(broken), new])
  assert choose_fonts(["한"], ["DejaVu Sans"]).families == ("DejaVu Sans", "Tiny New")


def test_a_font_that_is_gone_is_passed_over(with_hangul, tmp_path):
  path = Path(make_font(tmp_path / "gone.ttf", "A Gone Mono", HANGUL))
  font_manager.fontManager.addfont(str(path))
  path.unlink()
  assert choose_fonts(["한"], ["DejaVu Sans"]).families[1] == "Tiny Hangul"


@pytest.mark.parametrize(
  ("character", "text"),
  [("한", "han"), ("양", "yang"), ("か", "ka"), ("ッ", "tu"), ("ก", "U+0E01"), ("中", "U+4E2D"),
   ("अ", "a"), ("𒀀", "U+12000"), ("😀", "U+1F600")],
)  # fmt: skip
def test_a_letter_without_a_font_is_spelled(character, text):
  assert spelled(character) == text


# --- Circuits -------------------------------------------------------------------------------------


def test_a_png_is_drawn_in_the_font_that_has_the_name(with_hangul):
  """A letter more is a square more, of three quarters of 14 pixels, at twice the dots."""
  more = dark(traced("한글값").to_png()) - dark(traced("한글").to_png())
  assert more == pytest.approx(21 * 21, rel=0.1)


@pytest.mark.parametrize("text", ["한글 = x*2", "값 = 한*2; 값^2 + tanh(개)", "σ1 = 한 + é"])
def test_no_glyph_is_missing(with_hangul, text):
  circuit = parse(text)
  assert circuit.trace(**dict.fromkeys(circuit.inputs, 1.0)).to_png().startswith(b"\x89PNG")


WITHOUT_A_FONT = [
  (
    "손실",
    "no installed font has 손 (U+C190), 실 (U+C2E4); install one that has, or draw it as SVG",
  ),
  ("誤差", "誤 (U+8AA4), 差 (U+5DEE)"),
  ("ผิด", "ผ (U+0E1C)"),
  ("한ก", "no installed font has ก (U+0E01);"),
]


@pytest.mark.parametrize(("name", "said"), WITHOUT_A_FONT)
def test_a_name_that_no_font_has_is_refused_and_nothing_is_written(
  with_hangul, tmp_path, capsys, name, said
):
  out = tmp_path / "f.png"
  arguments = ["circuit", f"f = {name}*2", "--at", f"{name}=1", "--format"]
  assert main([*arguments, "png", "--out", str(out)]) == 2
  assert said in (error := capsys.readouterr().err)
  assert error.count("\n") == 1
  assert not out.exists()
  assert main([*arguments, "svg", "--out", str(tmp_path / "f.svg")]) == 0
  assert f">{name}<" in (tmp_path / "f.svg").read_text(encoding="utf-8")
  with pytest.raises(CircuitError, match="to_png: no installed font has"):
    traced(name).to_png()
  with pytest.raises(CircuitError, match="to_png: no installed font has"):
    parse("x*2").trace(x=1.0).to_png(title=name)


def test_of_many_missing_letters_some_are_named(only_dejavu):
  with pytest.raises(CircuitError, match=r"자 \(U\+C790\) and 2 more; install"):
    traced("가나다라마바사자차카").to_png()


# --- The report of a run --------------------------------------------------------------------------


def a_run(**names):
  """A run on three classes with names, the result made up."""
  dataset = replace(load_dataset("iris", 0), **names)
  result = result_of([0.6, 0.4], [[1.0], [2.0]], ("[0]",), (evaluation(2, 0.5, 0.7, 0.5),))
  outputs = np.eye(3, dtype=np.float32)[dataset.targets_test]
  return "A title", result, dataset, one_layer(outputs)


def drawn_words(monkeypatch):
  """What the panels are given as names."""
  words = []
  shortened = figures.shortened

  def noted(name):
    words.append(name)
    return shortened(name)

  monkeypatch.setattr(predictions, "shortened", noted)
  return words


def test_class_names_are_drawn_in_a_font_that_has_them(with_hangul, monkeypatch):
  told, words = [], drawn_words(monkeypatch)
  run = a_run(output_names=("고양이", "개", "값"))
  assert report.draw_report(*run, tell=told.append).startswith(b"\x89PNG")
  assert (told, words) == ([], ["고양이", "개", "값"])


@pytest.mark.slow
def test_names_that_no_font_has_are_romanised_and_said_once(only_dejavu, monkeypatch):
  told, words = [], drawn_words(monkeypatch)
  run = a_run(output_names=("고양이", "개", "中"), features=("ก", "b", "c", "d"))
  assert report.draw_report(*run, tell=told.append).startswith(b"\x89PNG")
  assert words == ["goyangi", "gae", "U+4E2D"]
  (said,) = told
  assert said.startswith("report.png: no installed font has 고 (U+ACE0), 양 (U+C591), 이 (U+C774),")
  assert "romanised there, and report.html has them as they are" in said


def test_names_that_sound_alike_stay_apart(only_dejavu, monkeypatch):
  words = drawn_words(monkeypatch)
  report.draw_report(*a_run(output_names=("あ", "ア", "b")), tell=str)
  assert words == ["0: a", "1: a", "2: b"]


@pytest.mark.slow
def test_a_caller_who_takes_no_sentences_is_warned_once(only_dejavu):
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    report.draw_report(*a_run(output_names=("고양이", "개", "값")))
  said = [str(warning.message) for warning in caught if warning.category is UserWarning]
  assert len(said) == 1
  assert said[0].startswith("report.png: no installed font has")


def test_the_page_has_the_names_whatever_fonts_there_are(only_dejavu):
  _, _, dataset, signals = a_run(output_names=("고양이", "개", "中"))
  (signal,) = signals.values()
  svg = svg_of(predictions.draw_confusion.of(dataset=dataset, outputs=np.asarray(signal.y)))
  assert "고양이" in svg
  assert "中" in svg


@pytest.mark.slow
def test_a_run_with_such_names_is_not_lost(only_dejavu, tmp_path, monkeypatch, capsys):
  rng = np.random.default_rng(0)
  rows = [f"{rng.normal(i % 2):.3f},{rng.normal():.3f},{'개토'[i % 2]}" for i in range(40)]
  (tmp_path / "t.csv").write_text("\n".join(["꽃잎,길이,종", *rows]) + "\n", encoding="utf-8")
  monkeypatch.chdir(tmp_path)
  flags = ["--target", "종", "--hidden", "4", "--stop.max-steps", "4", "--check-every", "0"]
  assert main(["train", "--data", "csv:t.csv", *flags]) == 0
  assert capsys.readouterr().err.count("no installed font has") == 1
  assert (tmp_path / "runs/t-1/report.png").read_bytes().startswith(b"\x89PNG")
  assert "꽃잎" in (tmp_path / "runs/t-1/report.html").read_text(encoding="utf-8")


def test_matplotlibs_log_is_as_loud_as_before(with_hangul):
  logger = logging.getLogger("matplotlib.font_manager")
  level = logger.level
  choose_fonts(["한글"], ["DejaVu Sans"], weight="bold")
  assert logger.level == level
