// Blanks in a circuit's picture, and what is right in them.

const ROUNDING = 1e-12; // What is left of a sum of small decimals that cancel, as 0.1 + 0.2 − 0.3.

function judge(text, right) {
  // "right", "rough" (right as far as it goes, but too few digits), "wrong", or "" for no answer.
  if (!text.trim()) return "";
  const answer = read(text);
  if (Number.isNaN(answer)) return "wrong";
  if (answer === 0 && right !== 0) return Math.abs(right) < ROUNDING ? "right" : "wrong";
  const error = Math.abs(answer - right);
  // Half a unit of the last digit that was typed, but at most one percent.
  const [, decimals = "", power = "0"] = /^[^.,e]*(?:[.,](\d*))?(?:e(.*))?$/i.exec(text.trim()) ?? [];
  const unit = text.includes("/") ? 0 : 10 ** (Number(read(power) || 0) - decimals.length);
  const rounding = 0.5 * unit + 1e-9 * Math.abs(right);
  if (error > rounding) return "wrong";
  return error <= 0.01 * Math.abs(right) || error === 0 ? "right" : "rough";
}

function startExercise(root, circuit, player) {
  // Check the blanks in place of the numbers that the reader is to compute.
  const { words } = circuit;
  const paper = root.querySelector(".paper");
  const blanks = [...paper.querySelectorAll("input.blank")];
  const status = make("p", { class: "status", role: "status" });
  const message = make("p", { class: "message", "aria-live": "polite" });
  const button = (text, onclick) => make("button", { type: "button", onclick }, text);
  let current = null;

  function rightOf({ kind, node, branch }) {
    const { values, bars, shares } = player.solved();
    return { value: values[node], gradient: bars[node], share: shares[node][branch] }[kind];
  }

  const hintOf = ({ kind, node, branch }) =>
    kind === "value" ? player.forwardFormula(node) : player.backwardFormula(node, branch);

  function check(blank) {
    const outcome = judge(blank.value, rightOf(blank.dataset));
    blank.dataset.outcome = outcome;
    blank.setAttribute("aria-invalid", String(outcome === "wrong"));
    return outcome;
  }

  function score() {
    const right = blanks.filter((blank) => check(blank) === "right").length;
    if (right === blanks.length) return finish("allRight");
    status.textContent = say(words, "score", { right, all: blanks.length });
  }

  function finish(key) {
    // From now on it is a page to play: the numbers are the circuit's own.
    const isInside = root.contains(document.activeElement);
    for (const blank of blanks) blank.remove();
    help.hidden = answers.hidden = true;
    status.textContent = say(words, key, { all: blanks.length });
    message.textContent = "";
    player.unlock(true);
    if (isInside) root.querySelector(".player .primary").focus();
  }

  function reset() {
    current = null;
    for (const blank of blanks) blank.value = "";
    paper.append(...blanks);
    help.hidden = answers.hidden = false;
    message.textContent = "";
    player.unlock(false);
    score();
  }

  for (const [i, blank] of blanks.entries()) {
    blank.addEventListener("focus", () => { current = blank; });
    blank.addEventListener("keydown", (event) => event.key === "Enter" && blanks[(i + 1) % blanks.length].focus());
    blank.addEventListener("change", () => {
      const outcome = check(blank);
      message.textContent = outcome ? `${blank.getAttribute("aria-label")}: ${words[outcome]}` : "";
      score();
    });
  }
  const help = button(words.hint, () => {
    message.textContent = current ? `${words.hint}: ${hintOf(current.dataset)}` : words.chooseBlank;
  });
  const answers = button(words.showAnswers, () => finish("shown"));
  const others = button(words.newNumbers, () => { player.randomise(); reset(); });
  root.querySelector(".controls").prepend(make("div", { class: "bar exercise" }, help, others, answers), status, message);
  reset();
}
