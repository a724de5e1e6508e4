// Makes elements. Text always becomes a text node: no HTML is ever made from data.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`onclick`) and children: elements, texts, or lists of them. */
export function h(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A bar of that part of its whole, 0 to 1. Screen readers get the number beside it. */
export function bar(part, kind = "") {
  const inner = h("span");
  inner.style.setProperty("--part", Math.max(0, Math.min(1, part || 0)));
  return h("span", { class: `bar ${kind}`, "aria-hidden": "true" }, inner);
}

/** A table with a caption; `heads` are texts, `rows` lists of texts or elements. Numbers stand on the right. */
export function table(caption, heads, rows) {
  const kind = (column) => (rows.length && rows.every((row) => typeof row[column] === "number") ? "number" : null);
  const cell = (value) => h("td", { class: typeof value === "number" ? "number" : null }, typeof value === "number" ? number(value) : value);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, heads.map((text, column) => (text ? h("th", { scope: "col", class: kind(column) }, text) : h("td"))))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell))))));
}

let fields = 0;

/** A control with its label, and a word behind it where there is one. */
export function field(label, control, unit = "") {
  control.id ||= `field-${++fields}`;
  return h("span", { class: "field" }, h("label", { for: control.id }, label), " ", control, unit);
}

/** A number for people: at most four significant digits behind the point. */
export function number(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

export const percent = (part) => `${(part * 100).toFixed(1)} %`;

/** Calls `work` now, or again when the running call is done: however often it is asked, one call runs at a time. */
export function latest(work) {
  let running = false;
  let again = false;
  return async function run() {
    again = true;
    if (running) return;
    running = true;
    try {
      while (again) {
        again = false;
        await work();
      }
    } finally {
      running = false;
    }
  };
}

/** A place for the server's errors, read out when it changes. */
export function errorLine() {
  return h("p", { class: "error", role: "alert" });
}

/** Runs `work`; an error of the server is shown in its own words, with what to do. */
export async function guarded(line, work) {
  try {
    const result = await work();
    line.textContent = "";
    return result;
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    line.textContent = error.advice ? `${error.message} ${error.advice}` : error.message;
    return undefined;
  }
}

/** Takes files dropped on the element. */
export function takeDrops(element, take) {
  element.addEventListener("dragover", (event) => {
    event.preventDefault();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    element.classList.remove("over");
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}
