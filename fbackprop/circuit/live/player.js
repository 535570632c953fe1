// A circuit that is played: forward gate by gate, backward gate by gate, then a step of descent.
//
// What is shown is a function of the state alone: the values of the inputs, and how many steps are
// done. `draw` brings the page up to date after any change.

const SPEEDS = [0.5, 1, 2, 4];
const SECONDS = 1.2; // Between two steps at speed 1.
const MOST_TOLD = 40; // Of the longest texts, for which there is room.
const MOST_LINES = 12; // Of a step's formulas; the panels below have all numbers.
const JAMO = { "\u3155": "u", "\u314b": "z" }; // What the keys U and Z of a Korean keyboard type.

function stepsOf(circuit, solved) {
  // The start, every gate forward, the seed, every gate with a gradient backward, all, the update.
  const gates = circuit.nodes.filter((node) => node.inputs.length);
  const reached = new Set(circuit.outputs.map(([name]) => name));
  for (const { name, inputs } of [...circuit.nodes].reverse())
    if (reached.has(name)) inputs.forEach((each) => reached.add(each));
  const back = gates.filter((node) => reached.has(node.name)).reverse();
  return [
    { kind: "start" },
    ...gates.map((node, i) => ({ kind: "forward", node, i: i + 1, n: gates.length })),
    { kind: "seed" },
    ...back.map((node, i) => ({ kind: "backward", node, i: i + 1, n: back.length })),
    { kind: "solved" },
    { kind: "update" },
  ];
}

function startCircuit(root) {
  const circuit = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const { words } = circuit;
  const nodes = Object.fromEntries(circuit.nodes.map((node) => [node.name, node]));
  const inputs = circuit.nodes.filter((node) => node.op === "input").map((node) => node.name);
  const wires = fanOut(circuit);
  const picture = root.querySelector(".picture");
  const show = (value) => format(value, circuit);
  const formulas = formulasOf(circuit, { nodes, wires, show, solved: () => solved });
  const { label, rootName, valueText, barName } = formulas;
  const tested = selfTest(circuit);

  const given = { ...circuit.checks[0].inputs };
  const steps = stepsOf(circuit);
  const end = steps.length - 2; // All is solved; one step more is the update.
  const stepOf = (kind, name) =>
    steps.findIndex((step) => step.kind === kind && (name === undefined || step.node?.name === name));
  const state = {
    inputs: { ...given }, done: end, losses: [], said: "", selected: null, isUpdated: false,
    rate: circuit.rate, amount: 0.01, speed: 1, learned: new Set(circuit.learned),
  };
  let solved = solve(circuit, state.inputs);
  state.losses = [solved.value];
  const past = [];
  let timer = null;

  // --- What is known after so many steps -----------------------------------------------------------

  const isLocked = () => root.dataset.locked === "true"; // An exercise that isn't done: nothing is told.
  const isPast = (step) => !isLocked() && step <= state.done;
  const isValueKnown = (name) => !nodes[name].inputs.length || isPast(stepOf("forward", name));
  function isSent(name) {
    const step = stepOf("backward", name);
    return isPast(step < 0 ? stepOf("seed") : step); // No gradient comes from a dead end.
  }
  const isShareKnown = ({ target }) => (target === null ? isPast(stepOf("seed")) : isSent(target));
  const isBarKnown = (name) =>
    wires[name].length ? wires[name].every(isShareKnown) : isPast(stepOf("seed"));
  const shown = (value, isKnown) => (isKnown ? show(value) : "?");

  // --- What is told -------------------------------------------------------------------------------

  const arrow = (name, [w, rate, g, next]) => `${label(name)} \u2190 ${w} ${MINUS} ${rate} \u00b7 ${factor(g)} = ${next}`;
  const nudgeLines = (name, { h, gradient, moved, product }) =>
    [say(words, "nudged", { name: label(name), h, f: rootName, moved, product }),
      `${h} \u00b7 ${barName(name)} = ${h} \u00b7 ${factor(gradient)} = ${product}`];
  const cut = (lines) => [...lines.slice(0, MOST_LINES), ...(lines.length > MOST_LINES ? ["\u2026"] : [])];

  function toldOf(step) {
    // What is said of a step: a sentence, and the step in formulas.
    const solution = { f: rootName, value: show(solved.value), i: step.i, n: step.n, gate: step.node && label(step.node.name) };
    return [say(words, step.kind, solution), ...cut(linesOf(step))];
  }

  function longestTold() {
    // All that may be told, with numbers as long as they may be: for the longest of them there is room.
    const wide = `${MINUS}${"8".repeat(circuit.width - 1)}`;
    const sample = { h: show(state.amount), gradient: wide, moved: `${MINUS}${"8".repeat(10)}`, product: `${MINUS}${"8".repeat(10)}` };
    const learned = inputs.filter((name) => state.learned.has(name));
    return [...steps.map(toldOf), ...inputs.map((name) => nudgeLines(name, sample)),
      [say(words, "updatedOften", { n: 10, f: rootName, before: wide, after: wide }), ...cut(learned.map((name) => arrow(name, Array(4).fill(wide))))]]
      .sort((a, b) => b.join().length - a.join().length).slice(0, MOST_TOLD);
  }

  function linesOf(step) {
    // A step in formulas with their numbers.
    if (step.kind === "forward") return [formulas.forwardLine(step.node.name)];
    if (step.kind === "solved") return inputs.map((name) => `${barName(name)} = ${show(solved.bars[name])}`);
    if (step.kind === "seed") return circuit.outputs.map(([name, weight]) => `${barName(name)} = ${show(weight)}`);
    if (step.kind !== "backward") return [];
    const { name, inputs: from } = step.node;
    const isVariable = (source) => nodes[source].op !== "constant";
    const products = from.flatMap((source, slot) => (isVariable(source) ? [formulas.backwardLine(name, slot)] : []));
    const summed = [...new Set(from.filter(isVariable))].filter((source) => wires[source].length > 1 && isBarKnown(source));
    return [...products, ...summed.map(formulas.sumLine)];
  }

  // --- Changes of the state -----------------------------------------------------------------------

  function remember() {
    const { inputs: at, done, losses, said, isUpdated } = state;
    past.push({ inputs: { ...at }, done, losses, count: losses.length, said, isUpdated });
    if (past.length > 1000) past.shift();
  }

  const fingerprint = ({ inputs: at, done, isUpdated }) => JSON.stringify([at, done, isUpdated]);

  function undo() {
    stop();
    const now = fingerprint(state);
    let before = past.pop();
    while (before && fingerprint(before) === now) before = past.pop(); // A slider that wasn't moved.
    if (before) {
      const { count, ...rest } = before;
      Object.assign(state, rest);
      state.losses.length = count;
    }
    render();
  }

  function setInputs(values) {
    Object.assign(state.inputs, values);
    solved = solve(circuit, state.inputs);
  }

  function change(name, value) {
    if (!Number.isFinite(value)) return render(); // Which writes the old value into its field.
    setInputs({ [name]: value });
    Object.assign(state, { said: "", isUpdated: false, losses: [solved.value] });
    render();
  }

  function go(done) {
    state.done = Math.min(Math.max(done, 0), end);
    state.selected = null;
    Object.assign(state, { said: "", isUpdated: false });
    render();
  }

  function update(times = 1) {
    // w ← w − η dL/dw for every learned input; it stops where a number is no longer finite.
    stop();
    remember();
    const from = solved.value;
    let [taken, done] = [[], 0]; // The last step, in formulas.
    for (; done < times; done++) {
      const [next, arrows] = [{}, []];
      for (const name of state.learned) {
        next[name] = state.inputs[name] - state.rate * solved.bars[name];
        arrows.push(arrow(name, [state.inputs[name], state.rate, solved.bars[name], next[name]].map(show)));
      }
      const { value } = solve(circuit, { ...state.inputs, ...next });
      if (![...Object.values(next), value].every(Number.isFinite)) break;
      taken = arrows;
      setInputs(next);
      state.losses.push(solved.value);
    }
    const told = { f: rootName, n: done, before: show(from), after: show(solved.value) };
    Object.assign(state, { done: end, isUpdated: done > 0, selected: null });
    const heads = done ? [say(words, done === 1 ? "updated" : "updatedOften", told)] : [];
    state.said = [...heads, ...taken, ...(done < times ? [words.notFinite] : [])].join("\n");
    render();
  }

  function nudge(name) {
    stop();
    remember();
    const [before, gradient, h] = [solved.value, solved.bars[name], state.amount];
    setInputs({ [name]: state.inputs[name] + h });
    const moved = solved.value - before;
    state.done = end;
    state.losses = [solved.value];
    state.said = nudgeLines(name, { h: show(h), gradient: show(gradient), moved: general(moved, 6), product: general(h * gradient, 6) }).join("\n");
    state.isUpdated = false;
    render();
  }

  function next() {
    if (state.done < end) go(state.done + 1);
    else update();
  }

  function back() {
    if (state.isUpdated) undo();
    else go(state.done - 1);
  }

  function play() {
    if (timer) return pause();
    if (state.done >= end) go(0);
    const beat = () => {
      const isLast = state.done >= end; // The update ends it, also one that isn't possible.
      timer = isLast ? null : setTimeout(beat, (1000 * SECONDS) / state.speed);
      next();
    };
    timer = setTimeout(beat, 300 / state.speed);
    render();
  }

  function stop() {
    clearTimeout(timer);
    timer = null;
  }

  function pause() {
    stop();
    render();
  }

  // --- Controls -----------------------------------------------------------------------------------

  const button = (key, onclick, sign, more = {}) =>
    make("button", { type: "button", onclick, title: words[key], "aria-label": words[key], ...more }, sign ?? words[key]);
  const playButton = button("play", play, drawSign("play"), { class: "primary" });
  const progress = make("input", { type: "range", min: 0, max: end, "aria-label": words.progress,
    oninput: () => { stop(); go(Number(progress.value)); } });
  const speed = make("select", { "aria-label": words.speed, onchange: () => (state.speed = Number(speed.value)) },
    ...SPEEDS.map((each) => make("option", { value: each, selected: each === 1 }, `${each}\u00d7`)));
  const undoButton = button("undo", undo);
  const phase = make("p", { class: "phase" });
  const lines = make("pre", { class: "lines" });
  const explained = make("div", { class: "explained", "aria-live": "polite" }, phase, lines);
  const room = make("div", { class: "room", "aria-hidden": "true" }); // So that nothing below moves.
  const taken = make("pre", { class: "lines taken" }); // The last step of descent, beside its button.
  const closeUp = make("div", { class: "gate-view" });
  const chart = make("div", { class: "chart" });
  const rate = numberField(words, { min: () => 0, "aria-label": words.rate }, () => state.rate, (value) => { state.rate = value; });
  const amount = numberField(words, { "aria-label": words.amount }, () => state.amount, (value) => { state.amount = value; render(); });
  const sizes = circuit.nodes.flatMap(({ name, op, value }) => (op === "input" ? [given[name]] : op === "constant" ? [value] : []));
  const scaleOf = (values) => Math.max(2, ...values.filter(Number.isFinite).map((value) => 2 * Math.abs(value)));
  const rows = inputs.map(addRow);

  function addRow(name) {
    // One scale for all sliders, so that they can be compared; but not for what is far smaller.
    const half = scaleOf(scaleOf([given[name]]) < scaleOf(sizes) / 20 ? [given[name]] : sizes);
    const step = 10 ** Math.floor(Math.log10(half / 50));
    const id = newId("input");
    const number = numberField(words, { id }, () => Number(state.inputs[name].toPrecision(6)), (value) => { remember(); change(name, value); });
    const slider = make("input", { type: "range", step, min: -half, max: half, "aria-label": say(words, "drag", { name: label(name) }),
      onpointerdown: remember, onkeydown: (event) => /^(Arrow|Page|Home|End)/.test(event.key) && remember(),
      oninput: () => change(name, Number(Number(slider.value).toPrecision(12))) });
    const scale = make("span", { class: "scale", "aria-hidden": "true" });
    const gradient = make("output", { class: "gradient", for: id, "data-head": words.gradientHead });
    const learn = make("input", { type: "checkbox", checked: state.learned.has(name), "aria-label": say(words, "learn", { name: label(name) }),
      onchange: () => state.learned[learn.checked ? "add" : "delete"](name) });
    const nudgeButton = make("button", { type: "button", "data-head": words.nudgeHead, onclick: () => nudge(name) });
    const row = make("div", { class: "row" }, make("label", { for: id, class: "name" }, label(name)), number.box,
      make("span", { class: "slider" }, slider, scale), gradient, nudgeButton, make("span", { class: "learn", "data-head": words.learns }, learn));
    return { name, step, half, number: number.input, slider, scale, gradient, nudgeButton, row };
  }

  const bar = make("div", { class: "bar player", role: "group", "aria-label": words.player },
    button("first", () => { stop(); go(0); }, drawSign("first")), button("back", () => { stop(); back(); }, drawSign("back")),
    playButton, button("next", () => { stop(); next(); }, drawSign("next")), button("last", () => { stop(); go(end); }, drawSign("last")),
    progress, speed, undoButton);
  const keys = make("details", { class: "keys" }, make("summary", {}, words.keys), make("p", {}, words.keyList));
  const heading = (key) => make("h2", {}, words[key]);
  const panels = make(circuit.folded ? "details" : "div", { class: "more" },
    ...(circuit.folded ? [make("summary", {}, words.more)] : []), make("div", { class: "panels" },
    make("section", { class: "panel inputs" }, heading("inputs"), make("p", { class: "quiet" }, words.inputsHelp),
      make("div", { class: "rows" },
        make("div", { class: "row heads", "aria-hidden": "true" }, make("span"), make("span", {}, words.value), make("span"),
          make("span", {}, words.gradientHead), make("span", {}, words.nudgeHead), make("span", {}, words.learns)),
        ...rows.map(({ row }) => row)),
      make("p", { class: "field" }, make("label", {}, `${words.amount} `, amount.box))),
    make("section", { class: "panel updating" }, heading("descent"),
      make("p", { class: "quiet" }, say(words, "descentHelp", { f: rootName, w: label(circuit.learned[0] ?? inputs[0] ?? "w") })),
      make("p", { class: "field" }, make("label", {}, `${words.rate} `, rate.box), button("updateOnce", () => update()),
        button("updates", () => update(10)), button("restart", () => { stop(); remember(); setInputs(given); state.losses = [solved.value]; go(end); })),
      taken, chart),
    make("section", { class: "panel" }, heading("gate"), make("p", { class: "quiet" }, words.gateHelp), closeUp)));
  root.append(make("div", { class: "controls" }, bar, make("div", { class: "telling" }, explained, room), panels, keys, noticeOf(tested, words)));

  function makeRoom() {
    room.replaceChildren(...(isLocked() ? [] : longestTold()).map(([sentence, ...formulas]) =>
      make("div", {}, make("p", { class: "phase" }, sentence), make("pre", { class: "lines" }, formulas.join("\n")))));
    taken.style.minHeight = `${1.55 * Math.max(1, Math.min(state.learned.size, MOST_LINES))}em`;
  }

  // --- The picture --------------------------------------------------------------------------------

  const paths = [...picture.querySelectorAll("[data-wires]")].map((path) => [path, path.dataset.wires.split(" ")]);
  const texts = (kind) => [...picture.querySelectorAll(`[data-${kind}]`)];
  const [valueTexts, gradientTexts, shareTexts, localTexts, gates] =
    ["value", "gradient", "share", "local", "gate"].map(texts);
  const branchOf = (key) => /^(.*):(\d+)$/.exec(key).slice(1);

  for (const gate of gates) {
    const select = () => { if (!isLocked()) { state.selected = gate.dataset.gate; render(); } };
    gate.addEventListener("click", select);
    gate.addEventListener("focus", select);
    gate.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation(); // So that Space doesn't play.
      select();
    });
  }
  for (const text of valueTexts)
    if (inputs.includes(text.dataset.value)) makeDraggable(text, rows.find(({ name }) => name === text.dataset.value));

  function makeDraggable(text, { name, step }) {
    text.classList.add("draggable");
    text.addEventListener("pointerdown", (event) => {
      if (isLocked()) return;
      event.preventDefault();
      remember();
      text.setPointerCapture(event.pointerId);
      const [from, x] = [state.inputs[name], event.clientX];
      const move = (moved) => change(name, Number((from + step * Math.round((moved.clientX - x) / 2)).toPrecision(12)));
      text.addEventListener("pointermove", move);
      text.addEventListener("lostpointercapture", () => text.removeEventListener("pointermove", move), { once: true });
    });
  }

  function drawPicture(step) {
    const targetOf = (key) => {
      const [name, branch] = branchOf(key);
      return wires[name][branch]?.target; // None of a dead end.
    };
    // The wires of the gate at work; of the outputs where backward begins.
    const target = step.kind === "seed" ? null : step.node?.name;
    const isActive = (served) => target !== undefined && served.some((key) => targetOf(key) === target);
    for (const [path, served] of paths) {
      path.classList.toggle("now", isActive(served));
      path.classList.toggle("backward", step.kind === "backward" || step.kind === "seed");
    }
    for (const text of valueTexts) {
      setLines(text, [valueText(text.dataset.value)]);
      text.classList.toggle("unknown", !isValueKnown(text.dataset.value));
      text.classList.toggle("now", step.kind === "forward" && step.node.name === text.dataset.value);
    }
    for (const text of gradientTexts) {
      const name = text.dataset.gradient;
      setLines(text, sumLines(show(solved.bars[name]), solved.shares[name].map(show), circuit.widestSum));
      text.classList.toggle("unknown", !isBarKnown(name));
      text.classList.toggle("now", step.kind === "backward" && step.node.inputs.includes(name));
    }
    for (const text of shareTexts) {
      const [name, branch] = branchOf(text.dataset.share);
      setLines(text, [show(solved.shares[name][branch])]);
      text.classList.toggle("unknown", !isShareKnown(wires[name][branch]));
      text.classList.toggle("now", step.kind === "backward" && wires[name][branch].target === step.node.name);
    }
    for (const text of localTexts) {
      const [name, slot] = branchOf(text.dataset.local);
      setLines(text, [show(solved.local[name][slot])]);
      text.classList.toggle("unknown", !isValueKnown(name) || (name !== focused(step) && !isSent(name)));
    }
    for (const gate of gates) {
      const { gate: name } = gate.dataset;
      gate.classList.toggle("now", step.node?.name === name);
      gate.classList.toggle("selected", state.selected === name);
      gate.setAttribute("role", isLocked() ? "img" : "button");
      gate.setAttribute("tabindex", isLocked() ? -1 : 0);
      const gradient = shown(solved.bars[name], isBarKnown(name));
      gate.setAttribute("aria-label",
        `${formulas.forwardFormula(name)}, ${words.value} ${shown(solved.values[name], isValueKnown(name))}, ${barName(name)} ${gradient}`);
    }
    if (step.node && !state.selected) follow(gates.find((gate) => gate.dataset.gate === step.node.name));
  }

  const focused = (step) => state.selected ?? step.node?.name;

  function follow(gate) {
    // Keep the current gate in view where the picture is wider than the window.
    const box = gate.getBoundingClientRect();
    const room = picture.getBoundingClientRect();
    const isSeen = box.left - 90 >= room.left && box.right + 90 <= room.right;
    if (!isSeen) picture.scrollBy({ left: (box.left + box.right - room.left - room.right) / 2 });
  }

  function drawGate(step) {
    const name = focused(step) ?? circuit.nodes.filter((node) => node.inputs.length).at(-1)?.name;
    if (!name) return;
    const node = nodes[name];
    const hasValue = isValueKnown(name);
    const constant = node.inputs.map((source) => nodes[source].op === "constant");
    const known = { value: hasValue, local: hasValue, upstream: isBarKnown(name), downstream: isSent(name),
      inputs: node.inputs.map(isValueKnown), constant };
    const { forwardLine, forwardFormula, localLine, backwardLine } = formulas;
    const lines = hasValue ? [forwardLine(name)] : [forwardFormula(name)];
    const slots = constant.flatMap((is, slot) => (is ? [] : [slot]));
    if (hasValue) lines.push(...slots.map((slot) => localLine(name, slot)));
    if (node.cases) lines.push(`(${words[node.cases] ?? node.cases})`);
    if (isSent(name)) lines.push(...slots.map((slot) => backwardLine(name, slot)));
    replaceInside(closeUp, drawCloseUp(node, solved, known, shown, formulas),
      make("pre", { class: "lines", "data-key": "lines", tabindex: 0 }, lines.join("\n")));
  }

  function render() {
    solved = solve(circuit, state.inputs);
    const step = state.isUpdated ? steps.at(-1) : steps[state.done];
    drawPicture(step);
    drawGate(step);
    const [sentence, ...told] = state.said ? state.said.split("\n") : toldOf(step);
    phase.textContent = sentence;
    lines.textContent = cut(told).join("\n");
    taken.textContent = state.isUpdated ? lines.textContent : "";
    for (const row of rows) {
      const { name, number, slider, scale, gradient, nudgeButton } = row;
      const value = state.inputs[name];
      number.value = Number(value.toPrecision(6));
      while (Math.abs(value) > row.half) row.half *= 2; // As far as descent led.
      [slider.min, slider.max] = [-row.half, row.half];
      slider.value = value;
      const ends = [-row.half, 0, row.half].map((end) => make("span", {}, general(end, 4)));
      if (scale.textContent !== ends.map((end) => end.textContent).join("")) scale.replaceChildren(...ends);
      gradient.textContent = shown(solved.bars[name], isBarKnown(name));
      nudgeButton.textContent = `+${show(state.amount)}`;
      nudgeButton.setAttribute("aria-label", say(words, "nudge", { name: label(name), h: show(state.amount) }));
    }
    progress.value = state.done;
    progress.setAttribute("aria-valuetext", phase.textContent);
    playButton.replaceChildren(drawSign(timer ? "pause" : "play"));
    playButton.setAttribute("aria-label", timer ? words.pause : words.play);
    playButton.title = playButton.getAttribute("aria-label");
    undoButton.disabled = !past.length;
    const curve = say(words, "curve", { f: rootName, value: show(solved.value) });
    chart.replaceChildren(isLocked() ? "" : drawCurve(state.losses, { label: curve, show, name: rootName, steps: words.updatesAxis }));
    root.dataset.updates = String(state.losses.length - 1);
    root.dataset.step = String(state.done);
    root.dataset.phase = step.kind;
  }

  const pressed = { " ": play, ArrowRight: () => { stop(); next(); }, ArrowLeft: () => { stop(); back(); },
    Home: () => { stop(); go(0); }, End: () => { stop(); go(end); }, u: () => update(), z: undo };
  // Keys act where the focus is in the circuit alone: WCAG 2.1.4 of keys that are letters.
  root.addEventListener("keydown", (event) => {
    const { tagName } = event.target;
    const isTyping = tagName === "INPUT" || tagName === "SELECT";
    const isPressing = event.key === " " && (tagName === "BUTTON" || tagName === "SUMMARY");
    const isScrolling = event.key.length > 1 && picture.contains(event.target);
    if (isTyping || isPressing || isScrolling || event.ctrlKey || event.metaKey || event.altKey) return;
    const action = pressed[JAMO[event.key] ?? (event.key.length === 1 ? event.key.toLowerCase() : event.key)];
    if (!action || isLocked()) return;
    event.preventDefault();
    action();
  });

  function randomise() {
    // New inputs, small whole numbers, at which every number of the circuit is finite.
    for (let tries = 0; tries < 200; tries++) {
      const whole = () => (Math.floor(Math.random() * 5) + 1) * (Math.random() < 0.5 ? -1 : 1);
      const drawn = Object.fromEntries(inputs.map((name) => [name, whole()]));
      const { values, bars } = solve(circuit, drawn);
      if (![...Object.values(values), ...Object.values(bars)].every(Number.isFinite)) continue;
      setInputs(drawn);
      break;
    }
    stop();
    past.length = 0; // Another task: the last one's numbers don't come back.
    state.losses = [solved.value];
    go(end);
  }

  function unlock(isOpen) {
    root.dataset.locked = String(!isOpen);
    render();
    makeRoom();
  }

  const player = { state, solved: () => solved, show, forwardFormula: formulas.forwardFormula, backwardFormula: formulas.backwardFormula, randomise, unlock,
    go, next, back, play, pause, update, nudge, undo, change, tested };
  root.player = player;
  go(end);
  makeRoom();
  fitPicture(picture, words);
  lightPaths(picture, wires, label);
  if (circuit.exercise) startExercise(root, circuit, player);
  return player;
}

startAll("section.circuit", startCircuit);

function fitFrame() {
  // In a notebook the page is in a frame, which grows with it.
  const frame = window.frameElement;
  if (frame) frame.style.height = `${document.body.scrollHeight + 8}px`;
}

if (window.frameElement) new ResizeObserver(fitFrame).observe(document.body);
