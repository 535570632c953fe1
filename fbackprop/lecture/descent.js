// Gradient descent on a curve or a surface: the cost is drawn, and every step is a point on it.

const CELLS = 60; // Of the grid on which a surface is evaluated, along each side.
const BANDS = 14; // Shades of a surface, between two of which there is a contour.
const MOST_STEPS = 10000;

function startDescent(root) {
  const { costs, words } = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const show = (value) => format(value, { digits: 4, width: 8 });
  const tests = costs.map(selfTest);
  const tested = { count: tests.reduce((sum, each) => sum + each.count, 0),
    error: Math.max(...tests.map((each) => each.error)), ok: tests.every((each) => each.ok) };
  const state = { cost: costs[0], rate: 0.1, maxSteps: 100, below: 0.001, way: [], values: [], ending: "" };
  const names = () => Object.keys(state.cost.ranges);
  const outputName = () => state.cost.outputs[0][0];
  const at = (point) => solve(state.cost, point);
  let grid = null;
  let running = null;

  // --- The descent --------------------------------------------------------------------------------

  function begin(point = state.cost.start) {
    stop();
    Object.assign(state, { way: [{ ...point }], values: [at(point).value], ending: "" });
    drawStarts();
    render();
  }

  function choose(name) {
    state.cost = costs.find((cost) => cost.name === name);
    Object.assign(state, { rate: state.cost.rate, below: state.cost.below });
    grid = null;
    begin();
  }

  const here = () => state.way.at(-1);

  function stepFrom(point) {
    // w ← w − η dJ/dw, for every weight at once.
    const { bars } = at(point);
    return Object.fromEntries(names().map((name) => [name, point[name] - state.rate * bars[name]]));
  }

  function endingOf() {
    // The rule that ends the descent here: "" as long as none does.
    if (state.values.at(-1) <= state.below) return "loss_below";
    return state.way.length > state.maxSteps ? "max_steps" : "";
  }

  function step() {
    const next = stepFrom(here());
    const { value } = at(next);
    if (![...Object.values(next), value].every(Number.isFinite)) {
      state.ending = "diverged";
      return;
    }
    state.way.push(next);
    state.values.push(value);
  }

  function one() {
    stop();
    state.ending = "";
    step();
    render();
  }

  function run() {
    if (running) {
      stop();
      return render();
    }
    state.ending = endingOf();
    const frame = () => {
      for (let i = 0; i < Math.ceil(state.way.length / 40) && !state.ending; i++) {
        step();
        state.ending ||= endingOf();
      }
      running = state.ending ? null : requestAnimationFrame(frame);
      render();
    };
    if (!state.ending) running = requestAnimationFrame(frame);
    render();
  }

  function stop() {
    cancelAnimationFrame(running);
    running = null;
  }

  // --- The page -----------------------------------------------------------------------------------

  const canvas = make("canvas", { width: 352, height: 352, role: "img", onclick: clicked });
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  const said = make("p", { class: "said", role: "status" });
  const formula = make("p", { class: "formula" });
  const lines = make("pre", { class: "lines", tabindex: 0 });
  const chart = make("div", { class: "chart" });
  const starts = make("div", { class: "fields" });
  const button = (key, onclick, more = {}) => make("button", { type: "button", onclick, ...more }, words[key]);
  const runButton = button("run", run, { class: "primary" });
  const fieldId = newId("descent");
  function field(key, text, get, onchange, more = {}) {
    const { box, input } = numberField(words, { id: `${fieldId}-${key}`, "data-key": key, ...more }, get, (value) => { onchange(value); render(); });
    return [make("label", { for: input.id }, text), box, input];
  }
  const fields = {
    rate: field("rate", words.rate, () => state.rate, (value) => { state.rate = value; }, { min: () => 0 }),
    maxSteps: field("maxSteps", words.maxSteps, () => state.maxSteps, (value) => { state.maxSteps = value; },
      { whole: true, min: () => 0, max: () => MOST_STEPS }),
    below: field("below", words.below, () => state.below, (value) => { state.below = value; }),
  };
  const select = make("select", { onchange: () => choose(select.value) },
    ...costs.map(({ name }) => make("option", { value: name }, words[name])));

  root.append(make("div", { class: "network" },
    make("div", { class: "bar" }, make("label", { class: "choice" }, `${words.cost} `, select),
      button("step", one), runButton, button("again", () => begin())),
    make("div", { class: "halves" },
      make("div", {}, canvas, make("p", { class: "quiet" }, words.click), starts),
      make("div", {}, formula, said, lines, make("div", { class: "fields" }, ...Object.values(fields).flatMap(([text, box]) => [text, box])), chart)),
    noticeOf(tested, words)));

  // --- The picture --------------------------------------------------------------------------------

  const color = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const between = ([low, high], share) => low + (high - low) * share;

  function evaluate() {
    // The cost on a grid: along a curve finer than over a surface.
    const [first, second] = names();
    const { ranges } = state.cost;
    const many = second ? CELLS : 4 * CELLS;
    const along = Array.from({ length: many + 1 }, (_, i) => i / many);
    const rows = (second ? along : [0]).map((v) => along.map((u) =>
      at({ [first]: between(ranges[first], u), ...(second ? { [second]: between(ranges[second], v) } : {}) }).value));
    const all = rows.flat();
    return { rows, low: Math.min(...all), high: Math.max(...all) };
  }

  function toPixel(point, value) {
    const [first, second] = names();
    const { ranges } = state.cost;
    const share = (name) => (point[name] - ranges[name][0]) / (ranges[name][1] - ranges[name][0]);
    const room = 14; // Above the highest and below the lowest value of a curve.
    const up = second ? share(second) * canvas.height
      : room + ((canvas.height - 2 * room) * (value - grid.low)) / (grid.high - grid.low || 1);
    return [share(first) * canvas.width, canvas.height - up];
  }

  function shade() {
    const shades = Array.from({ length: BANDS }, (_, i) => 12 + Math.round((150 * i) / (BANDS - 1)));
    const one = bytesOf(color("--one"));
    const image = brush.createImageData(canvas.width, canvas.height);
    for (let y = 0; y < canvas.height; y++)
      for (let x = 0; x < canvas.width; x++) {
        const [u, v] = [(CELLS * (x + 0.5)) / canvas.width, CELLS * (1 - (y + 0.5) / canvas.height)];
        const [i, j] = [Math.floor(u), Math.floor(v)];
        const [p, q] = [u - i, v - j];
        const mix = (row) => row[i] * (1 - p) + row[i + 1] * p;
        const value = mix(grid.rows[j]) * (1 - q) + mix(grid.rows[j + 1]) * q;
        const band = Math.min(Math.floor(BANDS * Math.sqrt((value - grid.low) / (grid.high - grid.low))), BANDS - 1);
        image.data.set([...one, shades[band]], 4 * (y * canvas.width + x));
      }
    return image;
  }

  function drawSection() {
    // The cost along its one weight.
    const [name] = names();
    brush.strokeStyle = color("--one");
    brush.lineWidth = 2.5;
    brush.beginPath();
    const many = grid.rows[0].length - 1;
    for (let i = 0; i <= many; i++) brush.lineTo(...toPixel({ [name]: between(state.cost.ranges[name], i / many) }, grid.rows[0][i]));
    brush.stroke();
    const { bars, value } = at(here());
    if (!Number.isFinite(value)) return;
    const [x, y] = toPixel(here(), value);
    const [low, high] = state.cost.ranges[name];
    const slope = (bars[name] * (canvas.height - 28) * (high - low)) / ((grid.high - grid.low) * canvas.width);
    const long = 60 / Math.hypot(1, slope); // The tangent, whose slope is the gradient.
    brush.strokeStyle = color("--gradient");
    brush.lineWidth = 1.5;
    brush.beginPath();
    brush.moveTo(x - long, y + long * slope);
    brush.lineTo(x + long, y - long * slope);
    brush.stroke();
  }

  function ticksOf(low, high) {
    // Round numbers in a range, at most seven.
    const least = (high - low) / 6;
    const power = 10 ** Math.floor(Math.log10(least));
    const gap = power * [1, 2, 5, 10].find((each) => each * power >= least);
    const first = Math.ceil(low / gap);
    return Array.from({ length: Math.floor(high / gap) - first + 1 }, (_, i) => gap * (first + i));
  }

  function drawAxes() {
    const [first, second] = names();
    const { ranges } = state.cost;
    const [left] = ranges[first];
    const write = (text, x, y, align) => {
      Object.assign(brush, { font: "12px monospace", textAlign: align, textBaseline: "middle", lineWidth: 3,
        strokeStyle: color("--paper"), fillStyle: color("--ink") });
      brush.strokeText(text, x, y);
      brush.fillText(text, x, y);
    };
    for (const value of ticksOf(...ranges[first])) {
      const [x] = toPixel({ [first]: value, [second]: 0 }, grid.low);
      if (x < 40 || x > canvas.width - 40) continue; // There are the names and the other axis.
      write(general(value, 3), x, canvas.height - 14, "center");
      brush.fillRect(x, canvas.height - 6, 1, 6);
    }
    for (const value of ticksOf(...(second ? ranges[second] : [grid.low, grid.high]))) {
      const [, y] = toPixel({ [first]: left, [second]: value }, value);
      if (y < 30 || y > canvas.height - 30) continue;
      write(general(value, 3), 9, y, "left");
      brush.fillRect(0, y, 6, 1);
    }
    write(`${first} \u2192`, canvas.width - 8, canvas.height - 14, "right");
    write(`${second ?? outputName()} \u2191`, 9, 14, "left");
  }

  function drawPicture() {
    grid ??= evaluate();
    brush.clearRect(0, 0, canvas.width, canvas.height);
    const isSurface = names().length > 1;
    if (isSurface) brush.putImageData((grid.image ??= shade()), 0, 0);
    else drawSection();
    drawAxes();
    const from = Math.max(state.way.length - 400, 0);
    const points = state.way.slice(from).map((point, i) => toPixel(point, state.values[from + i]));
    brush.strokeStyle = color("--ink");
    brush.lineWidth = 1.5;
    brush.beginPath();
    points.forEach(([x, y]) => brush.lineTo(x, y));
    if (isSurface) brush.stroke();
    points.forEach(([x, y], i) => {
      const isHere = i === points.length - 1;
      brush.beginPath();
      brush.arc(x, y, isHere ? 6 : 3, 0, 2 * Math.PI);
      brush.fillStyle = color(isHere ? "--zero" : "--ink");
      brush.fill();
      brush.strokeStyle = color("--paper");
      brush.stroke();
    });
  }

  function clicked(event) {
    const box = canvas.getBoundingClientRect();
    const [u, v] = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
    const [first, second] = names();
    const { ranges } = state.cost;
    const rounded = (name, share) => Number(between(ranges[name], share).toFixed(2));
    begin({ [first]: rounded(first, u), ...(second ? { [second]: rounded(second, v) } : {}) });
  }

  function drawStarts() {
    replaceInside(starts, ...names().flatMap((each) =>
      field(`start-${each}`, say(words, "start", { name: each }), () => state.way[0][each],
        (given) => begin({ ...state.way[0], [each]: given })).slice(0, 2)));
  }

  function render() {
    drawPicture();
    const { value, bars } = at(here());
    const name = outputName();
    const steps = state.way.length - 1;
    const place = names().map((each) => `${each} = ${show(here()[each])}`).join(", ");
    const ending = state.ending && ` ${say(words, state.ending, { n: steps, below: show(state.below) })}`;
    said.textContent = say(words, "status", { steps, f: name, value: show(value), place }) + ending;
    root.dataset.ending = state.ending;
    const next = stepFrom(here());
    // Where the descent has ended no step follows.
    const arrow = (each) => `   ${each} \u2190 ${show(here()[each])} ${MINUS} ${show(state.rate)} \u00b7 ${factor(show(bars[each]))} = ${show(next[each])}`;
    lines.textContent = names().map((each) => `d${name}/d${each} = ${show(bars[each])}${state.ending ? "" : arrow(each)}`).join("\n");
    formula.textContent = state.cost.formula;
    canvas.setAttribute("aria-label", say(words, "picture", { cost: words[state.cost.name], n: steps, place, value: show(value) }));
    for (const [key, [, , input]] of Object.entries(fields)) input.value = state[key];
    select.value = state.cost.name;
    runButton.textContent = running ? words.pause : words.run;
    chart.replaceChildren(drawCurve(thinned(state.values),
      { label: say(words, "curve", { f: name, value: show(value) }), show, name, steps: words.steps, count: steps }));
  }

  choose(costs[0].name);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { grid.image = undefined; render(); });
  root.descent = { state, choose, begin, one, run, at, tested };
  return root.descent;
}

startAll("section.descent", startDescent);
