// Numbers and formulas as text, as fbackprop/circuit/notation.py writes them.

const MINUS = "\u2212";

function general(value, digits) {
  // As Python's format(value, ".4g"), with a typographic minus.
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : `${MINUS}inf`;
  if (value === 0) return "0";
  const rounded = exponential(value, digits - 1);
  const exponent = Number(rounded.split("e")[1]);
  if (exponent < -4 || exponent >= digits) return scientific(value, digits - 1);
  return shorter(Number(rounded).toFixed(digits - 1 - exponent)).replace("-", MINUS);
}

function exponential(value, decimals) {
  // As Python's format(value, ".3e"), which rounds a tie to the even digit; toExponential doesn't.
  const [mantissa, exponent] = value.toExponential(100).split("e");
  const point = mantissa.indexOf(".");
  const rest = mantissa.slice(point + 1 + decimals);
  const kept = mantissa.slice(0, point + (decimals && 1 + decimals));
  const isTie = /^50*$/.test(rest) && Number(kept.at(-1)) % 2 === 0;
  return isTie ? `${kept}e${exponent}` : value.toExponential(decimals);
}

function scientific(value, decimals) {
  const [mantissa, exponent] = exponential(value, decimals).split("e");
  return `${shorter(mantissa)}e${Number(exponent)}`.replaceAll("-", MINUS);
}

const shorter = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

function format(value, { digits, width }) {
  // With fewer digits if it would be wider than the picture has room for.
  let text = general(value, digits);
  for (let few = digits - 1; few >= 0 && text.length > width; few--)
    text = Number.isFinite(value) ? scientific(value, few) : text;
  return text;
}

function read(text) {
  // A number as a person types it: 0.5, −3, 1/3, 1e-4 or 0,5; NaN for anything else.
  const plain = text.trim().replaceAll(MINUS, "-").replace(",", ".");
  const [top, bottom = "1", ...more] = plain.split("/").map((part) => part.trim());
  return more.length || !top || !bottom ? NaN : Number(top) / Number(bottom);
}

const factor = (text) => (text.startsWith(MINUS) ? `(${text})` : text);

function signed(terms) {
  // A sum of formatted terms, as pieces: ["2", "+ 3", "− 1"].
  const sign = (term) => (term.startsWith(MINUS) ? `${MINUS} ${term.slice(1)}` : `+ ${term}`);
  return terms.map((term, i) => (i ? sign(term) : term));
}

const writeSum = (terms) => signed(terms).join(" ");

function sumLines(total, terms, longest) {
  // A gradient as lines: "5", or "5 = 2 + 3", broken where it is long.
  if (terms.length < 2) return [total];
  const pieces = signed(terms);
  pieces[0] = `= ${pieces[0]}`;
  const whole = [total, ...pieces].join(" ");
  if (whole.length <= longest) return [whole];
  const lines = [total];
  for (const piece of pieces) {
    const longer = `${lines.at(-1)} ${piece}`;
    if (lines.length > 1 && longer.length <= longest) lines[lines.length - 1] = longer;
    else lines.push(piece);
  }
  return lines;
}

function fill(template, operands, y) {
  // A formula with names or numbers in it; a negative number behind an operator, or raised to a
  // power, in parentheses.
  const text = template.replaceAll("-", MINUS).replaceAll(" ** ", "^");
  return text.replace(/\{(\d+|y)\}/g, (slot, key, at) => {
    const operand = key === "y" ? y : operands[key];
    const isFirst = /(^|[(,]\s*)$/.test(text.slice(0, at));
    const isBase = /^[²^]/.test(text.slice(at + slot.length));
    return isFirst && !isBase ? operand : factor(operand);
  });
}

const equate = (...sides) => sides.filter((side, i) => side && side !== sides[i - 1]).join(" = ");

const say = (words, key, values = {}) =>
  words[key].replace(/\{(\w+)\}/g, (_, name) => values[name] ?? `{${name}}`);
