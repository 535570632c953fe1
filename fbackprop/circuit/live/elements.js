// Elements of the page: make("p", { class: "quiet", onclick: f }, "text", another element).

const SVG = "http://www.w3.org/2000/svg";
const COLUMN = 70; // The width of the page's column, in the size of its letters.
const SMALLEST = 0.7; // The scale below which a picture's numbers are too small to be read.

function assemble(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const make = (tag, attributes = {}, ...children) =>
  assemble(document.createElement(tag), attributes, children);

const draw = (tag, attributes = {}, ...children) =>
  assemble(document.createElementNS(SVG, tag), attributes, children);

const SIGNS = {
  play: "M5 2l12 8-12 8z",
  pause: "M4 2h4v16h-4zM12 2h4v16h-4z",
  back: "M15 2L3 10l12 8z",
  next: "M3 2l10 8-10 8zM14 2h3v16h-3z",
  first: "M17 2L7 10l10 8zM3 2h3v16h-3z",
  last: "M3 2l6 8-6 8zM10 2l6 8-6 8zM16 2h2.5v16h-2.5z",
};

const drawSign = (name) =>
  draw("svg", { viewBox: "0 0 20 20", class: "sign", "aria-hidden": "true" }, draw("path", { d: SIGNS[name] }));

function replaceInside(parent, ...children) {
  // As replaceChildren; the focus stays on the element with the same data-key, or near it.
  const { key } = parent.contains(document.activeElement) ? document.activeElement.dataset : {};
  parent.replaceChildren(...children);
  if (key === undefined) return;
  const found = [...parent.querySelectorAll("[data-key]")].find(({ dataset }) => dataset.key === key);
  (found && !found.disabled ? found : parent.querySelector("button:enabled"))?.focus();
}

let lastId = 0;
const newId = (stem) => `${stem}-${++lastId}`;

function setLines(text, lines) {
  // Write lines into an SVG text, the later ones below the first.
  if (text.dataset.shown === lines.join("\n")) return;
  text.dataset.shown = lines.join("\n");
  const x = text.getAttribute("x");
  const rest = lines.slice(1).map((line) => draw("tspan", { x, dy: 15.5 }, line));
  text.replaceChildren(lines[0], ...rest);
}

function drawCurve(values, { label, show, name, steps, count = values.length - 1 }) {
  // A curve of values by their index over the axis of zero; the first and the last one as numbers.
  // name: of the values; steps: what the index counts; count: the last index, of a thinned curve.
  const [width, height, left, right, top, bottom] = [400, 160, 72, 74, 28, 22];
  const known = values.filter(Number.isFinite);
  const low = Math.min(0, ...known);
  const high = Math.max(0, ...known);
  const span = high - low || 1;
  const x = (i) => left + ((width - left - right) * i) / Math.max(values.length - 1, 1);
  const y = (v) => height - bottom - ((height - top - bottom) * (v - low)) / span;
  const points = values.flatMap((v, i) => (Number.isFinite(v) ? [`${x(i).toFixed(1)},${y(v).toFixed(1)}`] : []));
  const last = values.length - 1;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "curve", role: "img", "aria-label": label });
  svg.append(
    draw("line", { x1: left, x2: width - right, y1: y(0), y2: y(0), class: "axis" }),
    draw("polyline", { points: points.join(" "), class: "line" }),
    draw("text", { x: left, y: height - 6, "text-anchor": "middle" }, "0"),
    draw("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle", class: "axis-name" }, `${steps} \u2192`),
    draw("text", { x: x(last), y: height - 6, "text-anchor": "middle" }, last ? String(count) : ""),
    draw("text", { x: left, y: 12, class: "axis-name" }, `${name} \u2191`),
  );
  if (last && Number.isFinite(values[0]))
    svg.append(draw("text", { x: left - 8, y: y(values[0]) + 4, class: "value start", "text-anchor": "end" }, show(values[0])));
  if (Number.isFinite(values[last])) {
    svg.append(
      draw("circle", { cx: x(last), cy: y(values[last]), r: 3.5, class: "point" }),
      draw("text", { x: x(last) + 8, y: y(values[last]) + 4, class: "value" }, show(values[last])),
    );
  }
  return svg;
}

const bytesOf = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)); // Of #rrggbb.

function thinned(values, most = 400) {
  // At most so many of the values, the last one among them.
  const every = Math.ceil(values.length / most);
  return values.filter((_, i) => (values.length - 1 - i) % every === 0);
}

function refusalOf(text, { min, max, whole }) {
  // Why a field doesn't take a text: a key of the words; "" if it does.
  const value = read(text);
  if (!Number.isFinite(value)) return "notNumber";
  if (/^[^\d]?[1-9]\d*,\d{3}$/.test(text.trim())) return "twoReadings"; // 1,000 is 1000, or 1.
  if (whole && !Number.isInteger(value)) return "notWhole";
  return value < min() ? "tooSmall" : value > max() ? "tooLarge" : "";
}

function numberField(words, { min = () => -Infinity, max = () => Infinity, whole = false, ...attributes }, get, set) {
  // A field for a number, with a decimal point or comma, or a fraction. What it can't take it refuses
  // with a message, and the old number stays. Arrows count where it is whole.
  // min(), max(): what it takes; get(), set(number): what it shows. Returns its box and itself.
  const refusal = make("span", { class: "refusal", role: "alert" });
  const put = (text) => {
    const key = refusalOf(text, { min, max, whole });
    if (key) {
      refusal.textContent = say(words, key, { text: text.trim() || "\u2013", min: min(), max: max(), kept: get() });
      const clear = () => { refusal.textContent = ""; };
      for (const event of ["pointerdown", "keydown"]) document.addEventListener(event, clear, { once: true });
    } else set(read(text));
    input.value = get();
  };
  const input = make("input", { type: "text", autocomplete: "off", value: get(), ...attributes, onchange: () => put(input.value),
    // Without a minus sign on their keyboards, phones have larger keys.
    inputmode: min() < 0 ? "text" : whole ? "numeric" : "decimal",
    onkeydown: (event) => {
      const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      if (!whole || !by) return;
      event.preventDefault();
      const next = read(input.value) + by;
      if (next >= min() && next <= max()) put(String(next));
    } });
  return { box: make("span", { class: "number" }, input, refusal), input };
}

function fitPicture(picture, words) {
  // A picture that is wider than its room is scaled down, as long as it stays readable; else it scrolls,
  // and says so. On paper the style scales it, to --wide.
  const note = make("p", { class: "scrolls", hidden: true }, `\u2194 ${words.scrolls}`);
  picture.after(note);
  const fit = () => {
    const paper = picture.firstElementChild;
    if (!paper.firstElementChild) return;
    const wide = Number(paper.firstElementChild.getAttribute("width"));
    paper.style.setProperty("--wide", wide);
    picture.classList.toggle("wide", wide > COLUMN * parseFloat(getComputedStyle(document.documentElement).fontSize) - 20);
    const { paddingLeft, paddingRight } = getComputedStyle(picture);
    const scale = (picture.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight)) / wide;
    paper.style.zoom = scale < 1 && scale >= SMALLEST ? scale : "";
    note.hidden = scale >= SMALLEST;
  };
  new ResizeObserver(fit).observe(picture);
  fit();
  return fit;
}

// --- Whether the page computes what JAX computes ---------------------------------------------------

function noticeOf(tested, words) {
  // What the page says of its own test: { count, error, ok }.
  const key = !tested.ok ? "failed" : tested.error ? "tested" : "testedExactly";
  return make("p", { class: `notice ${tested.ok ? "" : "bad"}` },
    say(words, key, { count: tested.count, error: general(tested.error, 1) }));
}

function startAll(selector, start) {
  // Start every element of a kind; the root says whether all of the page pass their tests.
  for (const root of document.querySelectorAll(selector)) {
    root.dataset.selftest = "fail"; // Until it is started.
    try {
      root.dataset.selftest = start(root).tested.ok ? "pass" : "fail";
    } catch (error) {
      // A reader doesn't look into the console; the others of the page are started all the same.
      root.append(make("p", { class: "notice bad" }, `${error.name}: ${error.message}`));
      reportError(error);
    }
  }
  const tested = [...document.querySelectorAll("section[data-selftest]")];
  if (tested.length)
    document.documentElement.dataset.selftest = tested.every(({ dataset }) => dataset.selftest === "pass") ? "pass" : "fail";
}
