// The stack, live: workers, rates, times, batches, slow requests.

import { request } from "./api.js";
import { bar, errorLine, h, number, svg, table } from "./dom.js";
import { figures } from "./figures.js";
import { Live } from "./live.js";
import { RequestView } from "./requests.js";

const KEPT = 60; // documents, of about a minute
const WINDOW = 10; // of them make the figures shown
const STAGES = ["parse", "queue", "batch", "compute", "reply"];
const TILES = {
  rate: "Requests/s", p50: "p50", p99: "p99", open: "Requests waiting or running", refused: "Refused/s", failed: "Failed/s", workers: "Workers", processes: "API processes",
};

export class StackView {
  constructor() {
    this.kept = [];
    this.rates = [];
    this.live = new Live((stack) => this.take(stack), (way, error) => this.told(way, error));
    this.way = h("p", { class: "status hint", role: "status" }, "Connecting …");
    this.error = errorLine();
    this.values = Object.fromEntries(Object.keys(TILES).map((name) => [name, h("dd", {}, "–")]));
    this.line = svg("polyline");
    this.workers = h("div");
    this.batches = h("div");
    this.slow = h("div");
    this.request = new RequestView();
    this.request.show(request("GET", "/v1/stack"));
    this.element = h("section", { "aria-labelledby": "stack-title" },
      h("h2", { id: "stack-title" }, "Stack"), this.way, this.error,
      h("dl", { class: "tiles" }, Object.entries(TILES).map(([name, title]) => h("div", {}, h("dt", {}, title), this.values[name]))),
      svg("svg", { class: "spark", viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": "Requests per second in the last minute" }, this.line),
      h("h3", {}, "Workers"), this.workers,
      h("div", { class: "columns" },
        h("div", {}, h("h3", {}, "Batch sizes"), this.batches),
        h("div", {}, h("h3", {}, "Slow requests"),
          h("ul", { class: "legend" }, STAGES.map((stage, i) => h("li", {}, h("span", { class: `s${i}` }), stage))), this.slow)),
      this.request.element);
  }

  show() {
    this.live.start();
  }

  hide() {
    this.live.stop();
    this.kept = [];
  }

  told(way, error) {
    const words = { live: "Live: the server sends news every second.", polling: "The page asks every two seconds.", lost: "" };
    if (this.way.textContent !== words[way]) this.way.textContent = words[way];
    this.error.textContent = error ? `${error.message} ${error.advice ?? ""}` : "";
  }

  take(stack) {
    this.kept = [...this.kept, stack].slice(-WINDOW - 1);
    const before = this.kept.length > 1 ? this.kept[0] : null;
    const now = figures(before ?? stack, stack);
    if (before) this.rates = [...this.rates, figures(this.kept.at(-2), stack).rate].slice(-KEPT);
    this.write(stack, now);
  }

  write(stack, now) {
    const milliseconds = (seconds) => (seconds === null ? "–" : `${number(seconds * 1000)} ms`);
    const texts = {
      rate: number(Math.round(now.rate * 10) / 10), p50: milliseconds(now.p50), p99: milliseconds(now.p99), open: number(now.open),
      refused: number(Math.round(now.refused * 10) / 10), failed: number(Math.round(now.failed * 10) / 10),
      workers: number(stack.workers.length), processes: number(stack.api_processes),
    };
    for (const [name, text] of Object.entries(texts)) this.values[name].textContent = text;
    const most = Math.max(1, ...this.rates);
    this.line.setAttribute("points", this.rates.map((rate, i) => `${(100 * i) / (KEPT - 1)},${98 - (94 * rate) / most}`).join(" "));
    this.put(this.workers, workerTable(stack));
    this.put(this.batches, batchTable(now.batches.length ? now.batches : Object.entries(now.totals.batches).map(([rows, count]) => [Number(rows), count]), now.batches.length));
    this.put(this.slow, slowTable(stack.slow));
  }

  /** Replaces what is shown where it differs: what stands still can be selected and read. */
  put(place, made) {
    if (place.firstChild?.isEqualNode(made)) return;
    place.replaceChildren(made);
  }
}

function workerTable(stack) {
  if (!stack.workers.length) return h("p", { class: "bad" }, stack.queue_up ? "No worker is alive: requests get 503 until one starts." : "The queue does not answer: start Redis, or look at MILLRACE_REDIS_URL.");
  const models = (worker) => worker.models.map((model) => `${model.name} ${model.version}${model.state === "AVAILABLE" ? "" : ` (${model.state}${model.error ? `: ${model.error}` : ""})`}`).join(", ");
  return table("Live workers and what each has", ["Worker", "State", "Models"], stack.workers.map((worker) => [worker.worker, worker.is_leaving ? "leaving" : "serving", models(worker)]));
}

function batchTable(batches, isRecent) {
  if (!batches.length) return h("p", { class: "hint" }, "No batch has run yet.");
  const most = Math.max(...batches.map(([, count]) => count));
  return table(isRecent ? "Batches of the last seconds" : "All batches", ["Rows", "", "Batches"], batches.map(([rows, count]) => [rows, bar(count / most), count]));
}

function slowTable(slow) {
  if (!slow.length) return h("p", { class: "hint" }, "No request in the last minute.");
  return table("The slowest requests of the last minute", ["Model", "Status", "ms", "Stages", "Request"], slow.map((each) => [
    `${each.model || "unknown"} ${each.version}`, String(each.status), Math.round(each.duration_ms * 100) / 100, stages(each), h("code", {}, each.request_id),
  ]));
}

function stages(each) {
  const total = Math.max(each.duration_ms, STAGES.reduce((sum, stage) => sum + each.stages[stage], 0)) || 1;
  const label = STAGES.map((stage) => `${stage} ${number(each.stages[stage])} ms`).join(", ");
  return h("div", { class: "stages", role: "img", "aria-label": label, title: label }, STAGES.map((stage, i) => {
    const part = h("span", { class: `s${i}` });
    part.style.setProperty("--part", each.stages[stage] / total);
    return part;
  }));
}
