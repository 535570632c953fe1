// A circuit's formulas, with names or with their numbers, as fbackprop/circuit/text.py writes them.

function formulasOf(circuit, { nodes, wires, show, solved }) {
  // solved(): the numbers as they are now; show: formats one.
  const label = (name) => nodes[name]?.label ?? name;
  const rootName = label(circuit.root);
  const valueText = (name) => show(solved().values[name]);
  const nameOf = (name) => (nodes[name].op === "constant" ? valueText(name) : label(name));
  const barName = (name) => `d${rootName}/d${label(name)}`;

  function forwardFormula(name) {
    const { formula, inputs } = nodes[name];
    return `${label(name)} = ${fill(formula, inputs.map(nameOf), label(name))}`;
  }

  function forwardLine(name) {
    const { formula, inputs } = nodes[name];
    const numbers = fill(formula, inputs.map(valueText), valueText(name));
    return equate(forwardFormula(name), numbers, valueText(name));
  }

  function localSymbol(name, slot) {
    // \u2202f/\u2202x; where x enters a gate more than once, each has its number: \u2202f/\u2202x\u2082.
    const { inputs } = nodes[name];
    const source = inputs[slot];
    const isSame = (each) => each === source;
    const place = inputs.slice(0, slot + 1).filter(isSame).length;
    const mark = inputs.filter(isSame).length > 1 ? String.fromCharCode(0x2080 + place) : "";
    return `\u2202${label(name)}/\u2202${nameOf(source)}${mark}`;
  }

  function localLine(name, slot) {
    const { derivatives, inputs } = nodes[name];
    const formula = derivatives[slot] && fill(derivatives[slot], inputs.map(nameOf), label(name));
    return equate(localSymbol(name, slot), formula, show(solved().local[name][slot]));
  }

  const product = (name, slot) => `${barName(name)} \u00b7 ${localSymbol(name, slot)}`;

  function backwardFormula(name, branch) {
    // Of a node's gradient, or of a branch's share of it.
    const ways = branch === undefined ? wires[name] : [wires[name][branch]];
    const weight = Object.fromEntries(circuit.outputs)[name];
    const terms = ways.map(({ target, slot }) => (target === null ? show(weight) : product(target, slot)));
    return terms.length ? writeSum(terms) : "0";
  }

  function backwardLine(name, slot) {
    const source = nodes[name].inputs[slot];
    const { bars, local, downstream } = solved();
    const numbers = `${show(bars[name])} \u00b7 ${factor(show(local[name][slot]))}`;
    const isForked = wires[source].length > 1;
    const left = isForked ? say(circuit.words, "via", { bar: barName(source), gate: label(name) }) : barName(source);
    return equate(left, product(name, slot), numbers, show(downstream[name][slot]));
  }

  function sumLine(name) {
    // A node's gradient as the sum of its branches.
    const { bars, shares } = solved();
    return `${barName(name)} = ${writeSum(shares[name].map(show))} = ${show(bars[name])}`;
  }

  return { label, rootName, valueText, nameOf, barName, forwardFormula, forwardLine, localSymbol, localLine,
    backwardFormula, backwardLine, sumLine };
}
