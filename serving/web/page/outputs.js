// Shows an output of a model: bars where there are labels, an image where the shape is one, else a table or JSON.

import { bar, h, number, percent, table } from "./dom.js";
import { imageShape, shapeOf } from "./tensors.js";

const MOST_ROWS = 50;
const MOST_COLUMNS = 30;
const MOST_TEXT = 20_000;

export function outputView(name, value, labels) {
  const shape = shapeOf(value);
  const heading = h("h3", {}, `${name} [${shape.join(", ")}]`);
  return h("div", {}, heading, body(name, value, shape, labels));
}

function body(name, value, shape, labels) {
  const isNumbers = typeof [value].flat(Infinity)[0] === "number";
  if (isNumbers && labels?.length && shape.length && shape.at(-1) === labels.length && shape.length <= 2) {
    return (shape.length === 2 ? value : [value]).slice(0, MOST_ROWS).map((row, i) => labelled(row, labels, i));
  }
  if (isNumbers && imageShape(shape) && (shape.length > 2 || Math.min(...shape) >= 16)) return picture(name, value, shape);
  if (shape.length <= 2) return grid(name, value, shape);
  return h("pre", { tabindex: "0", role: "region", "aria-label": name }, shortened(JSON.stringify(value)));
}

function labelled(row, labels, i) {
  const isPart = row.every((value) => value >= 0 && value <= 1);
  const most = Math.max(...row.map(Math.abs)) || 1;
  const order = row.map((value, at) => [value, at]).sort((a, b) => b[0] - a[0]).slice(0, 10);
  return table(`Row ${i + 1}`, ["Label", "", "Score"], order.map(([value, at]) =>
    [labels[at], bar(isPart ? value : Math.max(0, value) / most), isPart ? percent(value) : number(value)]));
}

function grid(name, value, shape) {
  const rows = shape.length === 0 ? [[value]] : shape.length === 1 ? value.map((each) => [each]) : value;
  const shown = rows.slice(0, MOST_ROWS).map((row, i) => [h("span", {}, String(i)), ...row.slice(0, MOST_COLUMNS).map(cell)]);
  const width = Math.min(MOST_COLUMNS, rows[0]?.length ?? 0);
  const cut = rows.length > MOST_ROWS || (rows[0]?.length ?? 0) > MOST_COLUMNS ? " (cut)" : "";
  return table(`Values of ${name}${cut}`, ["row", ...Array.from({ length: width }, (_, i) => String(i))], shown);
}

const cell = (value) => (typeof value === "number" ? value : shortened(typeof value === "string" ? value : JSON.stringify(value)));
const shortened = (text) => (text.length > MOST_TEXT ? `${text.slice(0, MOST_TEXT)}…` : text);

function picture(name, value, shape) {
  const image = imageShape(shape);
  const one = shape.length === 4 ? value[0] : value;
  const numbers = one.flat(Infinity);
  const least = numbers.reduce((a, b) => Math.min(a, b), Infinity);
  const most = numbers.reduce((a, b) => Math.max(a, b), -Infinity);
  const scaled = (each) => (least >= 0 && most > 1 && most <= 255 ? each : ((each - least) / (most - least || 1)) * 255);
  const pixels = new ImageData(image.width, image.height);
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < image.width; x++) {
      const at = (channel) => (image.flat ? one[y][x] : image.first ? one[channel][y][x] : one[y][x][channel]);
      const rgb = [0, 1, 2].map((channel) => scaled(at(image.channels === 3 ? channel : 0)));
      pixels.data.set([...rgb, 255], 4 * (y * image.width + x));
    }
  }
  const canvas = h("canvas", { class: "output-image", width: image.width, height: image.height, role: "img", "aria-label": `${name} as an image` });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}
