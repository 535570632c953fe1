// The picture of the data: the points, and what the network answers over the plane or along a curve.
//
// What a click does is done from the keyboard too, with a cursor that the arrows move.

const GRID = 44; // Cells of the picture of the decision along each side.
const EXTENT = 1.7; // The picture shows the square from -EXTENT to EXTENT.
const [STRIDE, FINE] = [0.1, 0.01]; // How far an arrow moves the cursor; with Shift.
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };

function dataPicture({ help, act, removeLast, moved, redraw }) {
  // act([a, b]): a click at that place, or Enter; moved([a, b]): the cursor came there.
  const canvas = make("canvas", { width: 352, height: 352, role: "application", tabindex: 0, "aria-describedby": help.id,
    onclick: clicked, onkeydown: pressed, onfocus: () => show(canvas.matches(":focus-visible")), onblur: () => show(false) });
  const cells = make("canvas", { width: GRID, height: GRID }); // Smoothed when it is enlarged.
  const brush = canvas.getContext("2d");
  const style = getComputedStyle(canvas); // It follows the reader's setting.
  let cursor = [0, 0];
  let isShown = false; // To those who use the keyboard alone.

  const toPixel = ([a, b]) =>
    [(canvas.width * (a + EXTENT)) / (2 * EXTENT), (canvas.height * (EXTENT - b)) / (2 * EXTENT)];
  const within = (value) => Number(Math.min(Math.max(value, -EXTENT), EXTENT).toFixed(3));

  function show(is) {
    if (is === isShown) return;
    isShown = is;
    redraw();
  }

  function clicked(event) {
    const box = canvas.getBoundingClientRect();
    const [u, v] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    cursor = [2 * u - 1, 1 - 2 * v].map((share) => within(EXTENT * share));
    isShown = false;
    act(cursor);
  }

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = ARROWS[event.key];
    if (!way && !["Enter", " ", "Delete", "Backspace"].includes(event.key)) return;
    event.preventDefault();
    isShown = true;
    if (way) {
      cursor = cursor.map((at, k) => within(at + way[k] * (event.shiftKey ? FINE : STRIDE)));
      moved(cursor);
    } else if (event.key === "Enter" || event.key === " ") act(cursor);
    else removeLast();
    redraw();
  }

  // --- The drawing --------------------------------------------------------------------------------

  const color = (name) => style.getPropertyValue(name).trim();

  function stroke(name, width, ...lines) {
    brush.strokeStyle = color(name);
    brush.lineWidth = width;
    brush.beginPath();
    for (const [first, ...rest] of lines) {
      brush.moveTo(...first);
      rest.forEach((point) => brush.lineTo(...point));
    }
    brush.stroke();
  }

  function drawPlane(outputs) {
    // In the color of the class that is answered, the stronger the surer.
    const image = new ImageData(GRID, GRID);
    const [one, zero] = ["--one", "--zero"].map((name) => bytesOf(color(name)));
    const centers = Array.from({ length: GRID }, (_, i) => (2 * EXTENT * (i + 0.5)) / GRID - EXTENT);
    for (const [row, b] of centers.entries())
      outputs(centers.map((a) => [a, b])).forEach((z, i) => {
        const p = sigmoid(z);
        image.data.set([...(p > 0.5 ? one : zero), 153 * Math.abs(2 * p - 1)], 4 * ((GRID - 1 - row) * GRID + i));
      });
    cells.getContext("2d").putImageData(image, 0, 0);
    brush.drawImage(cells, 0, 0, canvas.width, canvas.height);
  }

  function drawPoint([u, v], name, isRound, isChosen) {
    brush.beginPath();
    if (isRound) brush.arc(u, v, 4.5, 0, 2 * Math.PI);
    else brush.rect(u - 4, v - 4, 8, 8);
    brush.fillStyle = color(name);
    brush.fill();
    brush.strokeStyle = color(isChosen ? "--ink" : "--paper");
    brush.lineWidth = isChosen ? 3 : 1;
    brush.stroke();
  }

  const placeOf = ({ x, targets }, n) => (x[n].length > 1 ? x[n] : [x[n][0], targets[n]]);

  function draw({ problem, isCurve, chosen, outputs }) {
    // outputs(x): what the network answers to inputs x [N][D_in].
    brush.clearRect(0, 0, canvas.width, canvas.height);
    if (isCurve) {
      const along = Array.from({ length: 177 }, (_, i) => (2 * EXTENT * i) / 176 - EXTENT);
      stroke("--blue", 2.5, outputs(along.map((a) => [a])).map((y, i) => toPixel([along[i], y])));
    } else drawPlane(outputs);
    problem.targets.forEach((target, n) => {
      const isOne = target > 0.5;
      const name = isCurve ? "--quiet" : isOne ? "--one" : "--zero";
      drawPoint(toPixel(placeOf(problem, n)), name, isCurve || isOne, n === chosen);
    });
    if (!isShown) return;
    const [u, v] = toPixel(cursor);
    const cross = [[[u - 12, v], [u + 12, v]], [[u, v - 12], [u, v + 12]]];
    stroke("--paper", 5, ...cross); // A rim, so that it is seen on any color.
    stroke("--ink", 2, ...cross);
  }

  function nearest(problem, [a, b]) {
    // The number of the point that is nearest to a place; -1 without points.
    const distances = problem.x.map((_, n) => { const [p, q] = placeOf(problem, n); return Math.hypot(p - a, q - b); });
    return distances.indexOf(Math.min(...distances));
  }

  return { canvas, draw, nearest, placeOf };
}
