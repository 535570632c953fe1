// A network that is built, trained and looked into: one neuron, one connection, one point at a time.

const MOST_LAYERS = 3;
const MOST_UNITS = 8;
const MOST_POINTS = 200;
const SATURATED = 0.05; // Of the largest slope of the activation.
const STEPS_A_FRAME = 4; // While it trains.

function startNetwork(root) {
  const given = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const { words } = given;
  const settings = { digits: 4, width: 8 };
  const show = (value) => format(value, settings);
  const tested = testNetworks(given.cases);
  const state = {
    data: given.start.data, hidden: [...given.start.hidden], activation: given.start.activation,
    rate: given.start.rate, seed: given.start.seed, steps: 0, point: 0, neuron: [0, 0], weight: null, adding: null,
  };
  let problem;
  let solved;
  let before = null; // The parameters before the last step.
  let losses = [];
  const past = [];
  let running = null;
  let drawn = 0; // The width of the picture.
  let isHeld = false; // While a pointer is down nothing is drawn anew: a click needs its element to stay.

  // --- The network --------------------------------------------------------------------------------

  const sizes = () => [given.data[state.data].x[0].length, ...state.hidden, 1];
  const isCurve = () => problem.loss === "squared_error"; // Else there are two classes.

  function choose(name) {
    const { x, targets, loss } = given.data[name];
    state.data = name;
    problem = { loss, x: x.map((row) => [...row]), targets: [...targets], activation: state.activation };
    Object.assign(state, { point: 0, adding: null });
    describe();
    begin();
  }

  function begin() {
    stop();
    problem.activation = state.activation;
    problem.params = initialise(sizes(), state.activation, generator(state.seed));
    Object.assign(state, { steps: 0, weight: null });
    past.length = 0;
    before = null;
    if (!isUnit(state.neuron)) state.neuron = [0, 0];
    drawWidths();
    measure();
    render();
  }

  const isUnit = ([l, j]) => l < problem.params.length && j < problem.params[l].b.length;

  function measure() {
    // The loss and its gradients, from which the curve of losses begins; null without points.
    solved = problem.x.length ? valueAndGrad(problem) : null;
    losses = solved ? [solved.value] : [];
  }

  function remember() {
    past.push({ params: problem.params, before, losses, count: losses.length, steps: state.steps });
    if (past.length > 500) past.shift();
  }

  function walk(times) {
    // So many steps, as long as all numbers are finite.
    let isFinite = true;
    for (let i = 0; i < times && isFinite; i++) {
      const params = descend(problem.params, solved.grads, state.rate);
      const next = valueAndGrad({ ...problem, params });
      isFinite = [next.value, ...params.flatMap(({ w, b }) => [...w.flat(), ...b])].every(Number.isFinite);
      if (!isFinite) break;
      before = problem.params;
      problem.params = params;
      solved = next;
      state.steps += 1;
      losses.push(next.value);
    }
    if (!isFinite) stop();
    if (past.at(-1)?.steps === state.steps) past.pop(); // Nothing was done that could be undone.
    render(isFinite ? "" : `. ${words.notFinite}`);
  }

  function step(times = 1) {
    remember();
    walk(times);
  }

  function undo() {
    stop();
    const last = past.pop();
    if (!last) return;
    problem.params = last.params;
    ({ before, losses } = last);
    losses.length = last.count;
    state.steps = last.steps;
    solved = valueAndGrad(problem);
    render();
  }

  function run() {
    if (running) return stop();
    remember();
    const frame = () => {
      running = requestAnimationFrame(frame);
      if (!isHeld) walk(STEPS_A_FRAME);
    };
    running = requestAnimationFrame(frame);
    render();
  }

  function stop() {
    cancelAnimationFrame(running);
    running = null;
    runButton.textContent = words.train;
  }

  function slopes(l, j, { layers } = solved) {
    // The activation's derivative at a hidden unit, for every point.
    const { z, h } = layers[l];
    return z.map((row, n) => GATES[state.activation][1](1, h[n][j], row[j])[0]);
  }

  function healthOf(l, j) {
    // "dead" if the derivative is 0 at every point, "saturated" if it is small at every point.
    if (l === problem.params.length - 1) return "";
    const most = Math.max(...slopes(l, j).map(Math.abs));
    const largest = state.activation === "sigmoid" ? 0.25 : 1;
    return most === 0 ? "dead" : most < SATURATED * largest ? "saturated" : "";
  }

  // --- Names and formulas -------------------------------------------------------------------------

  const depth = () => problem.params.length;
  const unitName = (l, j) => (l < 0 ? `x${j + 1}` : l === depth() - 1 ? "y" : `h${l + 1}${sub(j)}`);
  const preName = (l, j) => (l === depth() - 1 ? "y" : `z${l + 1}${sub(j)}`);
  const sub = (j) => String.fromCharCode(0x2081 + j);
  const weightName = (l, i, j) => `w${sub(i)}(${unitName(l - 1, i)}\u2192${unitName(l, j)})`;
  const inputOf = (l, i) => solved.layers[l].x[state.point][i];
  const barOf = (name) => `dL/d${name}`;

  function linesOfUnit([l, j], params, { layers, grads }) {
    const { w, b } = params[l];
    const n = state.point;
    const { x, z, h } = layers[l];
    const { zBar, hBar } = grads[l];
    const terms = w.map((row, i) => `${factor(show(row[j]))}\u00b7${factor(show(x[n][i]))}`);
    const names = w.map((_, i) => `w${sub(i)}\u00b7${unitName(l - 1, i)}`);
    const isLast = l === depth() - 1;
    const lines = [
      `${preName(l, j)} = ${names.join(" + ")} + b`,
      `   = ${terms.join(" + ")} + ${factor(show(b[j]))} = ${show(z[n][j])}`,
    ];
    if (!isLast) lines.push(`${unitName(l, j)} = ${state.activation}(${preName(l, j)}) = ${show(h[n][j])}`);
    if (isLast) {
      const target = problem.targets[n];
      const formula = isCurve() ? `(y ${MINUS} t) / N` : `(\u03c3(y) ${MINUS} t) / N`;
      lines.push(`${barOf("y")} = ${formula} = ${show(zBar[n][0])}   t = ${show(target)}, N = ${problem.x.length}`);
      return lines;
    }
    const sent = params[l + 1].w[j].map((value, k) => `${factor(show(value))}\u00b7${factor(show(grads[l + 1].zBar[n][k]))}`);
    const slope = slopes(l, j, { layers })[n];
    lines.push(
      `${barOf(unitName(l, j))} = \u03a3 w\u00b7${barOf(depth() - 2 === l ? "y" : `z${l + 2}`)} = ${sent.join(" + ")} = ${show(hBar[n][j])}`,
      `${barOf(preName(l, j))} = ${barOf(unitName(l, j))} \u00b7 ${state.activation}\u2032(${preName(l, j)}) = ${show(hBar[n][j])} \u00b7 ${factor(show(slope))} = ${show(zBar[n][j])}`,
    );
    return lines;
  }

  function linesOfWeight([l, i, j]) {
    const x = inputOf(l, i);
    const bar = solved.grads[l].zBar[state.point][j];
    const w = problem.params[l].w[i][j];
    const g = solved.grads[l].w[i][j];
    const name = weightName(l, i, j);
    return [
      `${name} = ${show(w)}`,
      say(words, "atPoint", { n: state.point + 1 }),
      `   ${unitName(l - 1, i)} \u00b7 ${barOf(preName(l, j))} = ${show(x)} \u00b7 ${factor(show(bar))} = ${show(x * bar)}`,
      say(words, "overPoints", { n: problem.x.length }),
      `   \u2202L/\u2202w = ${show(g)}`,
      words.nextStep,
      `   w \u2190 w ${MINUS} \u03b7\u00b7\u2202L/\u2202w = ${show(w)} ${MINUS} ${show(state.rate)}\u00b7${factor(show(g))} = ${show(w - state.rate * g)}`,
    ];
  }

  // --- The page -----------------------------------------------------------------------------------

  const option = (value, text, chosen) => make("option", { value, selected: value === chosen }, text);
  const select = (label, options, chosen, onchange) =>
    make("label", { class: "choice" }, `${label} `,
      make("select", { onchange: (event) => onchange(event.target.value) }, ...options.map(([v, t]) => option(v, t, chosen))));
  const button = (key, onclick, more = {}) => make("button", { type: "button", onclick, ...more }, words[key]);
  const runButton = button("train", run, { class: "primary" });
  const undoButton = button("undo", undo);
  const said = make("p", { class: "said", role: "status" });
  const widths = make("span", { class: "widths", role: "group", "aria-label": words.hidden });
  const chart = make("div", { class: "chart" });
  const paper = make("div", { class: "paper" });
  const picture = make("div", { class: "picture", tabindex: 0, role: "region", "aria-label": words.network }, paper);
  const help = make("p", { class: "quiet", id: newId("help") }, words.pictureHelp);
  const placed = make("p", { class: "quiet placed", role: "status" });
  const tell = (key, values) => { placed.textContent = say(words, key, values); };
  const written = (place) => `(${place.map((value) => general(value, 3)).join(", ")})`;
  const decision = dataPicture({ help, act, removeLast, redraw: () => drawDecision(),
    moved: (place) => tell("cursor", { place: written(place) }) });
  const pointField = numberField(words, { whole: true, min: () => 1, max: () => problem?.x.length, "aria-label": words.point },
    () => (problem?.x.length ? state.point + 1 : ""), (value) => selectPoint(value - 1));
  const rateField = numberField(words, { min: () => 0, "aria-label": words.rate }, () => state.rate, (value) => { state.rate = value; render(); });
  const unitPanel = make("div", { class: "unit" });
  const legend = make("p", { class: "legend" });
  const adding = make("select", { onchange: () => { state.adding = adding.value === "" ? null : Number(adding.value); } });
  const stepButton = button("step", () => { stop(); step(); });

  root.append(
    make("div", { class: "bar" },
      select(words.data, Object.keys(given.data).map((name) => [name, words[name]]), state.data, choose),
      select(words.activation, given.activations.map((name) => [name, name]), state.activation,
        (name) => { state.activation = name; begin(); }),
      make("label", { class: "choice" }, `${words.rate} `, rateField.box),
      widths),
    make("div", { class: "bar" }, stepButton, runButton, undoButton,
      button("restart", () => { state.seed += 1; begin(); })),
    said,
    make("div", { class: "halves three" }, make("div", {}, picture, legend),
      make("div", { class: "decision" }, decision.canvas, placed,
        make("p", { class: "field" },
          make("label", { class: "choice" }, `${words.click} `, adding),
          button("clear", clear)),
        help,
        make("p", { class: "field" }, make("label", {}, `${words.point} `, pointField.box)), chart),
      unitPanel),
    noticeOf(tested, words),
  );

  const fit = fitPicture(picture, words); // Which puts a note behind it.

  function describe() {
    // What the numbers are, and what a click does: of a curve or of two classes.
    placed.textContent = "";
    const span = (kind, key) => make("span", { class: kind }, words[key]);
    legend.replaceChildren(span("value", "legendUnit"), span("", isCurve() ? "legendOutput" : "legendLogit"),
      span("gradient", "legendBar"), span("", "legendLink"));
    const ways = isCurve() ? [["1", words.adds]] : [["1", words.adds1], ["0", words.adds0]];
    adding.replaceChildren(...[["", words.selects], ...ways].map(([value, text]) => option(value, text, String(state.adding ?? ""))));
  }

  function resize(layers) {
    state.hidden = layers;
    begin();
  }

  function drawWidths() {
    const change = (l, by) => resize(state.hidden.map((wide, k) => (k === l ? Math.min(Math.max(wide + by, 1), MOST_UNITS) : wide)));
    const small = (text, label, onclick, disabled) =>
      make("button", { type: "button", "aria-label": label, "data-key": label, onclick, disabled }, text);
    const groups = state.hidden.map((wide, l) =>
      make("span", { class: "layer" },
        small(MINUS, say(words, "narrower", { l: l + 1 }), () => change(l, -1), wide === 1),
        make("span", { class: "wide" }, String(wide)),
        small("+", say(words, "wider", { l: l + 1 }), () => change(l, 1), wide === MOST_UNITS)));
    replaceInside(widths, `${words.hidden} `, ...groups,
      small(words.fewerLayers, words.fewerLayers, () => resize(state.hidden.slice(0, -1)), state.hidden.length === 1),
      small(words.moreLayers, words.moreLayers, () => resize([...state.hidden, 3]), state.hidden.length === MOST_LAYERS));
  }

  function clear() {
    stop();
    Object.assign(problem, { x: [], targets: [] });
    Object.assign(state, { point: 0, adding: 1 });
    describe();
    changed();
  }

  function changed() {
    if (!problem.x.length) stop();
    before = null;
    past.length = 0;
    measure();
    state.steps = 0;
    render();
  }

  function selectPoint(n) {
    if (!(n >= 0 && n < problem.x.length)) return;
    state.point = Math.floor(n);
    render();
  }

  function act(place) {
    // What a click in the picture of the data does.
    const [a, b] = place;
    if (state.adding === null) {
      const n = decision.nearest(problem, place);
      selectPoint(n);
      if (solved) tell("chosen", { n: n + 1, place: written(decision.placeOf(problem, n)) });
      return;
    }
    if (problem.x.length >= MOST_POINTS) return tell("full", { n: MOST_POINTS });
    problem.x.push(isCurve() ? [a] : place);
    problem.targets.push(isCurve() ? b : state.adding);
    state.point = problem.x.length - 1;
    tell(isCurve() ? "added" : "addedClass", { n: problem.x.length, c: state.adding, place: written(place) });
    changed();
  }

  function removeLast() {
    const n = problem.x.length;
    if (!n) return;
    problem.x.pop();
    problem.targets.pop();
    state.point = Math.min(state.point, Math.max(n - 2, 0));
    tell("removed", { n, left: n - 1 });
    changed();
  }

  function drawDecision() {
    const outputs = (x) => networkForward(problem.params, state.activation, x).at(-1).h.map(([z]) => z);
    decision.draw({ problem, isCurve: isCurve(), chosen: state.point, outputs });
  }

  function rightOnes() {
    // How many points are answered rightly, in words; "" of a curve, or without points.
    if (isCurve() || !solved) return "";
    const outputs = solved.layers.at(-1).h;
    const right = outputs.filter(([z], n) => z > 0 === problem.targets[n] > 0.5).length;
    return say(words, "right", { right: `${right}/${outputs.length}` });
  }

  function drawNetwork() {
    const all = sizes();
    const [gap, high, r] = [132, 84, 19];
    const width = 70 + gap * (all.length - 1) + 76;
    const height = Math.max(...all) * high + 30;
    const at = (l, j) => [52 + gap * (l + 1), height / 2 + (j - (all[l + 1] - 1) / 2) * high];
    const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": words.network });
    problem.params.forEach(({ w }, l) => w.forEach((row, i) => row.forEach((value, j) => {
      const [[x1, y1], [x2, y2]] = [at(l - 1, i), at(l, j)];
      const isChosen = state.weight && state.weight.join() === [l, i, j].join();
      const line = { x1: x1 + r, y1, x2: x2 - r, y2 };
      const kind = `${value < 0 ? "negative" : "positive"}${isChosen ? " chosen" : ""}`;
      svg.append(draw("g", { class: "link", onclick: () => { state.weight = [l, i, j]; state.neuron = [l, j]; render(); } },
        draw("line", { ...line, class: kind, "stroke-width": Math.min(0.6 + 1.6 * Math.abs(value), 6) }),
        draw("line", { ...line, class: "target" }),
        draw("title", {}, `${weightName(l, i, j)} = ${show(value)}`)));
    })));
    all.forEach((wide, k) => {
      for (let j = 0; j < wide; j++) svg.append(drawUnit(k - 1, j, at(k - 1, j), r));
    });
    replaceInside(paper, svg);
    if (width !== drawn) fit(); // Not in every frame: it asks for the layout.
    drawn = width;
  }

  function drawUnit(l, j, [x, y], r) {
    const n = state.point;
    const isInput = l < 0;
    const value = isInput ? problem.x[n][j] : solved.layers[l].h[n][j];
    const health = isInput ? "" : healthOf(l, j);
    const isChosen = !isInput && state.neuron.join() === [l, j].join();
    const label = `${unitName(l, j)} = ${show(value)}${health && `, ${words[health]}`}`;
    const choose_ = () => { state.neuron = [l, j]; state.weight = null; render(); };
    const reached = isInput ? {} : { tabindex: 0, role: "button", "aria-pressed": String(isChosen), onclick: choose_,
      onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose_(); } } };
    const group = draw("g", { class: `neuron ${health} ${isChosen ? "chosen" : ""}`, "data-key": `${l},${j}`, "aria-label": label, ...reached,
      ...(isInput ? { role: "img" } : {}) },
      draw("circle", { cx: x, cy: y, r }), draw("text", { class: "name", x, y: y + 5, "text-anchor": "middle" }, unitName(l, j)),
      draw("text", { class: "value", x, y: y - r - 5, "text-anchor": "middle" }, show(value)));
    if (!isInput) group.append(draw("text", { class: "gradient", x, y: y + r + 14, "text-anchor": "middle" }, show(solved.grads[l].zBar[n][j])));
    if (health) group.append(draw("text", { class: "mark", x: x + r + 3, y: y - 10 }, words[`${health}Mark`]));
    return group;
  }

  function drawPanel() {
    const [l, j] = state.neuron;
    const { w } = problem.params[l];
    const then = before && valueAndGrad({ ...problem, params: before });
    const choose = (i, name) => make("button", { type: "button", class: "link-button", "data-key": name,
      onclick: () => { state.weight = [l, i, j]; render(); } }, ...name.split(/(?=\()/).flatMap((part) => [make("wbr"), part]));
    const row = (name, pick) => {
      // The layers of parameters and of gradients, before the last step if there was one, and now.
      const layers = [...(then ? [before[l], then.grads[l]] : []), problem.params[l], solved.grads[l]];
      return make("tr", {}, make("td", {}, name), ...layers.map((layer, k) =>
        make("td", { class: k % 2 ? "gradient" : "value" }, show(pick(layer)))));
    };
    const rows = [...w.map((_, i) => row(choose(i, weightName(l, i, j)), (layer) => layer.w[i][j])),
      row(`b(${unitName(l, j)})`, (layer) => layer.b[j])];
    const equations = (kind, ...from) => make("pre", { class: `lines ${kind}` }, linesOfUnit([l, j], ...from).join("\n"));
    const heads = ["weight", ...(then ? ["before", "gradientBefore"] : []), "now", "gradient"];
    const n = problem.x.length;
    const health = healthOf(l, j);
    replaceInside(unitPanel,
      make("h2", {}, say(words, "neuron", { name: unitName(l, j) })),
      ...(health ? [make("p", { class: "ending bad" }, words[`${health}Why`])] : []),
      make("p", { class: "quiet" }, say(words, "atPointAlone", { point: state.point + 1, n })),
      ...(then ? [make("h3", {}, words.beforeStep), equations("before", before, then), make("h3", {}, words.afterStep)] : []),
      equations("now", problem.params, solved),
      make("p", { class: "quiet" }, say(words, "summed", { n })),
      make("div", { class: "scroll", "data-key": "weights", tabindex: 0, role: "region", "aria-label": words.weights }, make("table", {},
        make("thead", {}, make("tr", {}, ...heads.map((key) => make("th", { scope: "col" }, say(words, key, { n }))))),
        make("tbody", {}, ...rows))),
      ...(state.weight ? [make("h2", {}, words.connection), make("pre", { class: "lines connection" }, linesOfWeight(state.weight).join("\n"))]
        : [make("p", { class: "quiet" }, words.clickConnection)]),
    );
  }

  function render(note = "") {
    drawDecision(); // First: it asks for colors, which would wait for the style of what changed.
    const right = rightOnes();
    const told = { n: problem.x.length, right: right && `${right}. `, loss: solved ? show(solved.value) : "\u2013" };
    decision.canvas.setAttribute("aria-label", say(words, "decision", told));
    runButton.textContent = running ? words.pause : words.train;
    undoButton.disabled = !past.length;
    stepButton.disabled = runButton.disabled = !solved;
    pointField.input.value = solved ? state.point + 1 : "";
    if (!solved) {
      said.textContent = words.noPoints;
      for (const part of [paper, unitPanel, chart]) part.replaceChildren();
      return;
    }
    said.textContent = say(words, "status", { steps: state.steps, loss: show(solved.value) }) + (right && `, ${right}`) + note;
    drawNetwork();
    drawPanel();
    chart.replaceChildren(drawCurve(thinned(losses),
      { label: say(words, "curve", { loss: show(solved.value) }), show, name: "L", steps: words.steps, count: losses.length - 1 }));
  }

  root.addEventListener("pointerdown", () => { isHeld = true; });
  for (const end of ["pointerup", "pointercancel"]) window.addEventListener(end, () => { isHeld = false; });
  choose(state.data);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => render());
  const network = { state, step, undo, begin, choose, resize, tested, solved: () => solved, losses: () => losses, problem: () => problem, render, act, removeLast };
  root.network = network;
  return network;
}

startAll("section.network", startNetwork);
