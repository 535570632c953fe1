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
  // Put a blank in place of each number that the reader is to compute, and check it there.
  const { words } = circuit;
  const picture = root.querySelector(".picture");
  const blanks = new Map();
  const status = make("p", { class: "status", role: "status" });
  const message = make("p", { class: "message", "aria-live": "polite" });
  const gates = circuit.nodes.filter((node) => node.inputs.length).map((node) => node.name);
  const constants = circuit.nodes.filter((node) => node.op === "constant").map((node) => node.name);
  const button = (text, onclick) => make("button", { type: "button", onclick }, text);
  let current = null;

  function rightOf(text) {
    const { value, gradient, share } = text.dataset;
    const solved = player.solved();
    if (value) return solved.values[value];
    if (gradient) return solved.bars[gradient];
    const [, name, branch] = /^(.*):(\d+)$/.exec(share);
    return solved.shares[name][branch];
  }

  function hintOf(text) {
    const { value, gradient, share } = text.dataset;
    if (value) return player.forwardFormula(value);
    return player.backwardFormula(gradient ?? share.replace(/:\d+$/, ""), share && Number(share.split(":").at(-1)));
  }

  function check(text, input) {
    const outcome = judge(input.value, rightOf(text));
    input.dataset.outcome = outcome;
    input.setAttribute("aria-invalid", String(outcome === "wrong"));
    return outcome;
  }

  function score() {
    const outcomes = [...blanks].map(([text, input]) => check(text, input));
    const right = outcomes.filter((outcome) => outcome === "right").length;
    if (right === blanks.size) return finish("allRight");
    status.textContent = say(words, "score", { right, all: blanks.size });
  }

  function finish(key) {
    // From now on it is a page to play: the numbers are the circuit's own.
    const isInside = root.contains(document.activeElement);
    for (const input of blanks.values()) input.remove();
    help.hidden = answers.hidden = true;
    status.textContent = say(words, key, { all: blanks.size });
    message.textContent = "";
    player.unlock(true);
    if (isInside) root.querySelector(".player .primary").focus();
  }

  function reset() {
    current = null;
    for (const input of blanks.values()) {
      input.value = "";
      picture.querySelector(".paper").append(input);
    }
    help.hidden = answers.hidden = false;
    message.textContent = "";
    player.unlock(false);
    score();
  }

  function add(text, label, placeholder) {
    const input = make("input", {
      class: `blank ${text.dataset.value ? "value" : "gradient"}`, type: "text", autocomplete: "off", "aria-label": label, placeholder,
      onfocus: () => (current = text),
      onkeydown: (event) => event.key === "Enter" && next(text),
      onchange: () => {
        const outcome = check(text, input);
        message.textContent = outcome ? `${label}: ${words[outcome]}` : "";
        score();
      },
    });
    input.style.left = `${Number(text.getAttribute("x")) - 3}px`;
    input.style.top = `${Number(text.getAttribute("y")) - (text.dataset.value ? 15 : 12)}px`; // The wire is between.
    blanks.set(text, input);
  }

  function next(text) {
    const inputs = [...blanks.values()];
    inputs[(inputs.indexOf(blanks.get(text)) + 1) % inputs.length].focus();
  }

  for (const text of picture.querySelectorAll("[data-value]")) {
    const isFork = text.nextElementSibling?.dataset.share;
    const name = player.label(text.dataset.value);
    if (gates.includes(text.dataset.value) && !isFork) add(text, say(words, "valueOf", { name }), name);
  }
  for (const text of [...picture.querySelectorAll("[data-gradient], [data-share]")].reverse()) {
    const { gradient, share } = text.dataset;
    const node = gradient ?? share.replace(/:\d+$/, "");
    const name = player.label(node);
    const placeholder = gradient ? `d${player.label(circuit.root)}/d${name}` : words.share;
    if (!constants.includes(node)) add(text, say(words, gradient ? "gradientOf" : "shareOf", { name }), placeholder);
  }
  const help = button(words.hint, () => {
    message.textContent = current ? `${words.hint}: ${hintOf(current)}` : words.chooseBlank;
  });
  const answers = button(words.showAnswers, () => finish("shown"));
  const others = button(words.newNumbers, () => { player.randomise(); reset(); });
  root.querySelector(".controls").prepend(make("div", { class: "bar exercise" }, help, others, answers), status, message);
  reset();
}
