// The paths of a picture: under the pointer a wire is lit from its start to the gates that it enters,
// and a gate's wires are, also where it has the focus. A branch of a fork shows its name then.

function lightPaths(picture, wires, label) {
  const paths = [...picture.querySelectorAll(".wire")].map((path) => [path, path.dataset.wires.split(" ")]);
  const gates = [...picture.querySelectorAll(".gate")];
  const shares = [...picture.querySelectorAll("[data-share]")];
  const names = [];
  let kept = []; // Of the gate with the focus, or of the wire that was clicked.

  const keyed = (source) => wires[source].map(({ target }, branch) => [`${source}:${branch}`, target]);
  const keysOf = (gate) => Object.keys(wires).flatMap((source) =>
    keyed(source).filter(([, target]) => source === gate || target === gate).map(([key]) => key));

  function light(keys) {
    for (const [path, served] of paths) path.classList.toggle("lit", served.some((key) => keys.includes(key)));
    for (const name of names.splice(0)) name.remove();
    for (const share of shares.filter(({ dataset }) => keys.includes(dataset.share))) {
      const [x, y] = ["x", "y"].map((key) => Number(share.getAttribute(key)));
      const source = share.dataset.share.replace(/:\d+$/, "");
      names.push(draw("text", { class: "name branch", x: x - 4, y: y - 9, "text-anchor": "end" }, label(source)));
    }
    picture.querySelector("svg").append(...names);
  }

  function keep(keys) {
    kept = keys;
    light(kept);
  }

  function follow(element, keys) {
    element.addEventListener("pointerenter", () => light(keys));
    element.addEventListener("pointerleave", () => light(kept));
  }

  const targets = paths.map(([path, served]) => {
    // A line as thin as a wire is hard to meet.
    const from = served[0].replace(/:\d+$/, "");
    const to = keyed(from).filter(([key, target]) => target !== null && served.includes(key)).map(([, target]) => label(target));
    const target = draw("path", { class: "target", d: path.getAttribute("d") },
      draw("title", {}, [label(from), [...new Set(to)].join(", ")].filter(Boolean).join(" \u2192 ")));
    follow(target, served);
    target.addEventListener("click", (event) => { event.stopPropagation(); keep(served); });
    return target;
  });
  picture.querySelector("svg").prepend(...targets); // Below the gates, and below the numbers, which are dragged.
  picture.addEventListener("click", () => keep([]));
  for (const gate of gates) {
    const keys = keysOf(gate.dataset.gate);
    follow(gate, keys);
    gate.addEventListener("focus", () => keep(keys));
    gate.addEventListener("blur", () => keep([]));
    gate.addEventListener("click", (event) => { event.stopPropagation(); keep(keys); });
  }
}
