// Blanks in a circuit's picture, and what is right in them.

function judge(text, right) {
  // "right", "rough" (right as far as it goes, but too few digits), "wrong", or "" for no answer.
  if (!text.trim()) return "";
  const answer = read(text);
  if (Number.isNaN(answer)) return "wrong";
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
  let current = null;
  let isShown = false;

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
    const outcome = isShown ? "right" : judge(input.value, rightOf(text));
    input.dataset.outcome = outcome;
    input.setAttribute("aria-invalid", String(outcome === "wrong"));
    return outcome;
  }

  function score() {
    const outcomes = [...blanks].map(([text, input]) => check(text, input));
    const right = outcomes.filter((outcome) => outcome === "right").length;
    root.dataset.right = String(right);
    status.textContent = say(words, right === blanks.size ? "allRight" : "score", { right, all: blanks.size });
    player.unlock(right === blanks.size);
  }

  function add(text, label) {
    const input = make("input", {
      class: "blank", type: "text", inputmode: "text", autocomplete: "off", "aria-label": label,
      onfocus: () => (current = text),
      onkeydown: (event) => event.key === "Enter" && next(text),
      onchange: () => {
        const outcome = check(text, input);
        message.textContent = outcome ? `${label}: ${words[outcome]}` : "";
        score();
      },
    });
    input.style.left = `${Number(text.getAttribute("x")) - 3}px`;
    input.style.top = `${Number(text.getAttribute("y")) - 12}px`;
    text.classList.add("blanked");
    blanks.set(text, input);
    picture.querySelector(".paper").append(input);
  }

  function next(text) {
    const inputs = [...blanks.values()];
    inputs[(inputs.indexOf(blanks.get(text)) + 1) % inputs.length].focus();
  }

  for (const text of picture.querySelectorAll("[data-value]")) {
    const isFork = text.nextElementSibling?.dataset.share;
    if (gates.includes(text.dataset.value) && !isFork) add(text, say(words, "valueOf", { name: player.label(text.dataset.value) }));
  }
  for (const text of [...picture.querySelectorAll("[data-gradient], [data-share]")].reverse()) {
    const name = text.dataset.gradient ?? text.dataset.share.replace(/:\d+$/, "");
    const key = text.dataset.gradient ? "gradientOf" : "shareOf";
    if (!constants.includes(name)) add(text, say(words, key, { name: player.label(name) }));
    else text.classList.add("blanked");
  }

  function reset() {
    isShown = false;
    for (const input of blanks.values()) {
      input.value = "";
      input.readOnly = false;
    }
    message.textContent = "";
    score();
  }

  root.querySelector(".controls").append(
    make("div", { class: "bar exercise" },
      make("button", { type: "button", onclick: () => {
        message.textContent = current ? `${words.hint}: ${hintOf(current)}` : words.chooseBlank;
      } }, words.hint),
      make("button", { type: "button", onclick: () => { player.randomise(); reset(); } }, words.newNumbers),
      make("button", { type: "button", onclick: () => {
        isShown = true;
        for (const [text, input] of blanks) {
          input.value = player.show(rightOf(text));
          input.readOnly = true;
        }
        score();
      } }, words.showAnswers),
    ),
    status,
    message,
  );
  score();
}
