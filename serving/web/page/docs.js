// Makes the documentation answer: anchors open their row, and each row can send its request.

import { ask, path as encoded, request, send } from "./api.js";
import { errorLine, field, guarded, h } from "./dom.js";
import { RequestView } from "./requests.js";
import { example, nested, someShape } from "./tensors.js";

const MOST_TEXT = 20_000;
const EVENTS_MS = 3000;

const openapi = ask("GET", "/openapi.json");
const models = ask("GET", "/").then((index) => index.models).catch(() => []);

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const row = target?.closest("details");
  if (!row) return;
  row.open = true;
  target.scrollIntoView();
}

for (const row of document.querySelectorAll("details.route")) {
  row.addEventListener("toggle", async () => {
    const place = row.querySelector(".try");
    if (row.open && !place.firstChild) place.append(new Trial(row, await openapi, await models).element);
  });
}
addEventListener("hashchange", openTarget);
openTarget();

class Trial {
  constructor(row, document, names) {
    this.method = row.dataset.method;
    this.document = document;
    this.names = names;
    this.paths = [...row.querySelectorAll(".paths code")].map((code) => code.textContent);
    this.choice = h("select", { onchange: () => this.choose() }, this.paths.map((each) => h("option", { value: each }, each)));
    this.fields = h("div", { class: "buttons" });
    this.bodyText = h("textarea", { rows: "5", spellcheck: "false" });
    this.body = field("Body, as JSON", this.bodyText);
    this.status = h("p", { role: "status", class: "status" });
    this.error = errorLine();
    this.answer = h("pre", { tabindex: "0", role: "region", "aria-label": "The answer", hidden: true });
    this.view = new RequestView();
    this.element = h("form", { onsubmit: (event) => { event.preventDefault(); this.run(); } },
      h("h3", {}, "Try it"),
      this.paths.length > 1 ? field("Path", this.choice) : null,
      this.fields, this.body, h("p", {}, h("button", { class: "main" }, `Send ${this.method}`)),
      this.status, this.error, this.answer, this.view.element);
    this.choose();
    this.fill();
  }

  get operation() {
    return this.document.paths[this.choice.value][this.method.toLowerCase()];
  }

  choose() {
    const body = this.operation.requestBody?.content["application/json"];
    this.body.hidden = !body;
    if (body?.example) this.bodyText.value = JSON.stringify(body.example);
    const parameters = this.operation.parameters.map(({ $ref }) => this.document.components.parameters[$ref.split("/").pop()]);
    const before = this.inputs ?? new Map();
    this.inputs = new Map(parameters.filter((each) => each.in !== "header").map((each) => [each.name, { ...each, input: before.get(each.name)?.input ?? this.input(each) }]));
    this.fields.replaceChildren(...[...this.inputs.values()].map((each) => field(`${each.name}`, each.input)));
    this.preview();
  }

  input(parameter) {
    if (parameter.name === "model" && this.names.length) {
      const select = h("select", { onchange: () => this.fill() }, this.names.map((name) => h("option", { value: name }, name)));
      select.value = this.names.includes(parameter.example) ? parameter.example : this.names[0];
      return select;
    }
    const input = h("input", { type: "text", size: "14", oninput: () => this.preview() });
    input.value = parameter.in === "path" ? parameter.example ?? "" : "";
    return input;
  }

  /** A body that the chosen model takes. */
  async fill() {
    const verb = /:(predict)$|\/(infer)$/.exec(this.choice.value);
    const name = this.inputs.get("model")?.input.value;
    const metadata = verb && name ? await ask("GET", `/v2/models/${encoded(name)}`).catch(() => null) : null;
    if (metadata) {
      const files = metadata.parameters?.media ?? {};
      const optional = metadata.parameters?.optional_inputs ?? [];
      const inputs = metadata.inputs.filter((spec) => !optional.includes(spec.name));
      const value = (spec) => nested(someShape(spec.shape), () => example(spec.datatype, "a wonderful film"));
      const isFileOnly = (spec) => files[spec.name] && spec.datatype === "BYTES";
      if (!inputs.some(isFileOnly)) {
        this.bodyText.value = JSON.stringify(verb[1]
          ? { inputs: Object.fromEntries(inputs.map((spec) => [spec.name, value(spec)])) }
          : { inputs: inputs.map((spec) => ({ name: spec.name, datatype: spec.datatype, shape: someShape(spec.shape), data: [value(spec)].flat(Infinity) })) });
      }
    }
    this.preview();
  }

  what() {
    let where = this.choice.value;
    const query = new URLSearchParams();
    for (const { name, in: place, input } of this.inputs.values()) {
      if (place === "path") where = where.replace(`{${name}}`, encoded(input.value));
      else if (input.value) query.set(name, input.value);
    }
    if ([...query].length) where += `?${query}`;
    if (this.body.hidden || !this.bodyText.value.trim()) return request(this.method, where);
    return request(this.method, where, { json: JSON.parse(this.bodyText.value) });
  }

  preview() {
    try {
      this.view.show(this.what());
    } catch {
      // the body is being written
    }
  }

  async run() {
    this.answer.hidden = true;
    this.status.textContent = "";
    await guarded(this.error, async () => {
      const started = performance.now();
      const isEndless = this.choice.value.endsWith("/events");
      const options = isEndless ? { signal: AbortSignal.timeout(EVENTS_MS) } : {};
      const response = await send(this.view.show(this.what()), options);
      const text = await response.text();
      this.status.textContent = `${response.status} in ${Math.round(performance.now() - started)} ms`;
      this.answer.textContent = text.length > MOST_TEXT ? `${text.slice(0, MOST_TEXT)}…` : text;
      this.answer.hidden = false;
    });
  }
}
