// A map of word vectors: their two directions of largest variance.

import { h, svg } from "./dom.js";

const [WIDTH, HEIGHT, EDGE] = [400, 300, 44];
const ROUNDS = 60;

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const unit = (a) => {
  const length = Math.sqrt(dot(a, a)) || 1;
  return a.map((value) => value / length);
};

/** The two first principal components of centred rows, by power iteration. */
function components(rows) {
  const found = [];
  for (let k = 0; k < 2; k++) {
    let direction = unit(rows[k % rows.length].map((value, i) => value + (i % 7) * 1e-3));
    for (let round = 0; round < ROUNDS; round++) {
      const next = new Array(direction.length).fill(0);
      for (const row of rows) {
        const along = dot(row, direction);
        row.forEach((value, i) => (next[i] += along * value));
      }
      for (const other of found) {
        const along = dot(next, other);
        other.forEach((value, i) => (next[i] -= along * value));
      }
      direction = unit(next);
    }
    found.push(direction);
  }
  return found;
}

function spread(values, size) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return values.map((value) => EDGE + ((value - least) / (most - least || 1)) * (size - 2 * EDGE));
}

/** Where each label stands: above its point, or lower where it would cover another one. */
function labelHeights(points, xs, ys) {
  const placed = [];
  const heights = [];
  for (const i of points.map((_, at) => at).sort((a, b) => ys[a] - ys[b])) {
    const half = points[i].word.length * 4;
    let y = ys[i] - 8;
    for (const other of placed) {
      if (Math.abs(xs[i] - other.x) < half + other.half && Math.abs(y - other.y) < 14) y = other.y + 14;
    }
    placed.push({ x: xs[i], y, half });
    heights[i] = y;
  }
  return heights;
}

/** The map; `points` have a word, a vector, and whether the word was given. */
export function drawMap(points) {
  const vectors = points.map((point) => unit(point.vector));
  const mean = vectors[0].map((_, i) => vectors.reduce((sum, vector) => sum + vector[i], 0) / vectors.length);
  const rows = vectors.map((vector) => vector.map((value, i) => value - mean[i]));
  const [first, second] = components(rows);
  const xs = spread(rows.map((row) => dot(row, first)), WIDTH);
  const ys = spread(rows.map((row) => dot(row, second)), HEIGHT);
  const heights = labelHeights(points, xs, ys);
  const marks = points.map((point, i) =>
    svg("g", { class: point.isGiven ? "given" : null },
      svg("circle", { cx: xs[i], cy: ys[i], r: 4 }),
      svg("text", { x: xs[i], y: heights[i], "text-anchor": "middle" }, point.word)));
  const label = `Map of ${points.length} words: near words have similar meanings.`;
  return h("figure", {}, svg("svg", { class: "map", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, marks),
    h("figcaption", { class: "hint" }, "The words of the sum and their neighbours, by the two directions in which they differ most."));
}
