// Background jobs: submit a file, watch, cancel, fetch the result.

import { ApiError, ask, path, request, send } from "./api.js";
import { bar, errorLine, field, guarded, h, number, takeDrops } from "./dom.js";
import { RequestView } from "./requests.js";

const LOOK_MS = 1500;

export class Jobs {
  constructor() {
    this.models = h("select");
    this.column = h("input", { type: "text", value: "text", size: "12" });
    this.file = h("input", { type: "file", accept: ".csv,.jsonl,.ndjson,.parquet,.npy,.txt" });
    this.status = h("p", { class: "status", role: "status" });
    this.error = errorLine();
    this.list = h("tbody");
    this.request = new RequestView();
    this.timer = null;
    const form = h("form", { class: "drop", onsubmit: (event) => { event.preventDefault(); this.submit(this.file.files[0]); } },
      h("p", {}, "Score a file with a model: drop it here, or choose it."),
      h("p", { class: "buttons" }, field("Model", this.models), field("Column", this.column), field("File", this.file),
        h("button", { class: "main" }, "Score the file")));
    takeDrops(form, (file) => this.submit(file));
    this.element = h("section", { "aria-labelledby": "jobs-title" },
      h("h2", { id: "jobs-title" }, "Jobs"), form, this.status, this.error,
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The newest jobs" },
        h("table", {}, h("caption", {}, "The newest jobs"),
          h("thead", {}, h("tr", {}, ["Job", "State", "Progress", "Rows", "Errors", "Actions"].map((text) => h("th", { scope: "col" }, text)))), this.list)),
      this.request.element);
  }

  show({ models }) {
    const before = this.models.value;
    this.models.replaceChildren(...models.map((name) => h("option", { value: name }, name)));
    this.models.value = models.includes(before) ? before : models.includes("sentiment") ? "sentiment" : models[0] ?? "";
    this.hide();
    this.look();
  }

  hide() {
    clearTimeout(this.timer);
    this.timer = null;
  }

  async look() {
    clearTimeout(this.timer);
    await guarded(this.error, async () => {
      const { jobs } = await ask("GET", "/v1/jobs?limit=30");
      const rows = jobs.map((job) => this.row(job));
      // What has the focus stays: rows are replaced where they differ.
      const old = new Map([...this.list.children].map((row) => [row.dataset.job, row]));
      this.list.replaceChildren(...rows.map((row) => (old.get(row.dataset.job)?.isEqualNode(row) ? old.get(row.dataset.job) : row)));
    });
    this.timer = setTimeout(() => this.element.isConnected && this.look(), LOOK_MS);
  }

  row(job) {
    const base = `/v1/jobs/${path(job.id)}`;
    const part = job.rows ? job.rows_done / job.rows : job.state === "finished" ? 1 : 0;
    const button = (text, work) => h("button", { type: "button", "aria-label": `${text} ${job.id}`, onclick: () => guarded(this.error, work) }, text);
    const act = (method, ending) => async () => {
      await send(this.request.show(request(method, base + ending)));
      await this.look();
    };
    const isOpen = job.state === "queued" || job.state === "started";
    const actions = [
      isOpen ? button("Cancel", act("POST", "/cancel")) : null,
      job.links.result ? button("Result", () => this.fetchResult(job, base)) : null,
      job.state === "failed" || job.state === "canceled" ? button("Retry", act("POST", "/retry")) : null,
      isOpen ? null : button("Forget", act("DELETE", "")),
    ];
    const eta = job.eta_s ? `, ${number(Math.ceil(job.eta_s))} s left` : "";
    const row = h("tr", { "data-job": job.id },
      h("td", {}, h("code", {}, job.id), h("br"), `${job.kind} ${job.document.model ?? ""}`),
      h("td", { class: job.state === "failed" ? "bad" : null }, job.state, job.error ? `: ${job.error}` : ""),
      h("td", {}, bar(part), `${Math.round(part * 100)} %${eta}`),
      h("td", { class: "number" }, `${number(job.rows_done)}${job.rows ? ` of ${number(job.rows)}` : ""}`),
      h("td", { class: "number" }, number(job.errors)),
      h("td", {}, h("div", { class: "buttons" }, actions)));
    return row;
  }

  async submit(file) {
    await guarded(this.error, async () => {
      if (!file) throw new ApiError(0, "No file was chosen.", "Choose a CSV, JSON Lines, Parquet or NumPy file.");
      const job = { kind: "score", model: this.models.value };
      if (this.column.value.trim()) job.column = this.column.value.trim();
      const made = await (await send(this.request.show(request("POST", "/v1/jobs", { form: { job, input: file } })))).json();
      this.status.textContent = `Job ${made.id} was submitted.`;
      await this.look();
    });
  }

  async fetchResult(job, base) {
    const what = this.request.show(request("GET", `${base}/result`));
    const url = URL.createObjectURL(await (await send(what)).blob());
    h("a", { href: url, download: job.outputs[0] ?? "result" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
}
