// One gate, large: values come from the left, the upstream gradient from the right; in the gate are
// its local gradients, and what leaves to the left is upstream times local.

const MOST_PORTS = 8;

function drawCloseUp(node, solved, known, show, { nameOf, localSymbol }) {
  // node: the gate; known: which of its numbers are known yet; show(number, isKnown) formats one.
  const ports = node.inputs.map((_, slot) => slot).slice(0, MOST_PORTS);
  const [rowHeight, left, right, width] = [62, 96, 252, 344];
  const height = Math.max(ports.length * rowHeight, 92) + 24;
  const middle = height / 2;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "closeup", role: "img" });
  const said = [];
  const write = (kind, x, y, text, anchor = "start") =>
    svg.append(draw("text", { class: kind, x, y, "text-anchor": anchor }, text));
  svg.append(draw("rect", { x: left, y: 10, width: right - left, height: height - 20, rx: 40, class: "body" }));
  ports.forEach((slot, i) => {
    const y = middle + (i - (ports.length - 1) / 2) * rowHeight;
    const source = node.inputs[slot];
    const value = show(solved.values[source], known.inputs[slot]);
    const local = show(solved.local[node.name][slot], known.local);
    const sent = show(solved.downstream[node.name][slot], known.downstream);
    svg.append(draw("path", { class: "wire", d: `M8 ${y}H${left}` }));
    write("value", 10, y - 6, value);
    if (known.constant[slot]) return said.push(value); // By which nothing is differentiated.
    write("name", 10, y - 22, nameOf(source));
    write("gradient", 10, y + 16, sent);
    write("local small", left + 12, y - 4, localSymbol(node.name, slot));
    write("local", left + 12, y + 13, local);
    said.push(`${nameOf(source)} = ${value}, \u2202 = ${local}, ${sent}`);
  });
  if (ports.length < node.inputs.length) write("name", 10, height - 6, "\u22ee"); // More than are drawn.
  const value = show(solved.values[node.name], known.value);
  const upstream = show(solved.bars[node.name], known.upstream);
  if (node.symbol.length > 3) write("word", (left + right) / 2, 32, node.symbol, "middle");
  else write("big", right - 34, middle + 9, node.symbol, "middle");
  svg.append(draw("path", { class: "wire", d: `M${right} ${middle}H${width - 8}` }));
  write("name", right + 10, middle - 22, nameOf(node.name));
  write("value", right + 10, middle - 6, value);
  write("gradient", right + 10, middle + 16, upstream);
  svg.setAttribute("aria-label", `${nameOf(node.name)} = ${value}, d = ${upstream}; ${said.join("; ")}`);
  return svg;
}
