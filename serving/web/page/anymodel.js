// A form for any model, made from its metadata.

import { ask, path, request, send } from "./api.js";
import { errorLine, field, guarded, h } from "./dom.js";
import { exampleOf } from "./examples.js";
import { inputField } from "./inputs.js";
import { outputView } from "./outputs.js";
import { RequestView } from "./requests.js";

export class AnyModel {
  constructor() {
    this.names = h("select", { id: "model-name", onchange: () => this.choose() });
    this.about = h("div");
    this.form = h("form", { onsubmit: (event) => { event.preventDefault(); this.run(); } });
    this.status = h("p", { class: "status", role: "status" });
    this.outputs = h("div");
    this.error = errorLine();
    this.request = new RequestView();
    this.fields = [];
    this.chosen = null;
    this.element = h("section", { "aria-labelledby": "model-title" },
      h("h2", { id: "model-title" }, "Any model"),
      h("p", { class: "hint" }, "The form comes from the model's metadata, filled in with the manifest's example, or with values that it takes."),
      field("Model", this.names),
      h("div", { class: "columns" }, h("div", {}, this.about, this.form), h("div", {}, this.status, this.error, this.outputs)),
      this.request.element);
  }

  async show({ models }) {
    const before = this.names.value;
    this.names.replaceChildren(...models.map((name) => h("option", { value: name }, name)));
    if (!models.length) this.status.textContent = "No model is served yet.";
    const own = models.find((name) => !["digits", "digits-student", "sentiment", "word2vec"].includes(name));
    this.names.value = models.includes(before) ? before : own ?? models[0] ?? "";
    if (this.names.value && this.names.value !== this.chosen?.name) await this.choose();
  }

  async choose() {
    this.outputs.replaceChildren();
    this.status.textContent = "";
    const name = this.names.value;
    const found = await guarded(this.error, () => ask("GET", `/v2/models/${path(name)}`));
    const given = found ? await exampleOf(found) : {};
    if (this.names.value !== name) return; // another one was chosen meanwhile
    this.chosen = found;
    this.fields = [];
    if (!found) {
      this.about.replaceChildren();
      this.form.replaceChildren();
      return;
    }
    const parameters = found.parameters ?? {};
    this.fields = found.inputs.map((spec) => [spec.name, inputField(spec, {
      media: parameters.media?.[spec.name], optional: parameters.optional_inputs?.includes(spec.name) ?? false,
    }, given[spec.name])]);
    this.about.replaceChildren(
      h("p", {}, parameters.description ?? "", ` Versions: ${found.versions.join(", ")}.`),
      ...(parameters.notes ?? []).map((note) => h("p", { class: "hint" }, note)));
    this.form.replaceChildren(...this.fields.map(([, field]) => field.element), h("p", {}, h("button", { class: "main" }, "Run")));
  }

  async run() {
    const { name, outputs, parameters } = this.chosen;
    await guarded(this.error, async () => {
      const inputs = {};
      for (const [input, field] of this.fields) {
        const value = await field.value();
        if (value !== undefined) inputs[input] = value;
      }
      const what = this.request.show(request("POST", `/v1/models/${path(name)}:predict`, { json: { inputs } }));
      const started = performance.now();
      const answer = (await (await send(what)).json()).outputs;
      const found = outputs.length === 1 ? { [outputs[0].name]: answer } : answer;
      this.outputs.replaceChildren(...Object.entries(found).map(([output, value]) => outputView(output, value, parameters?.labels)));
      const hints = this.fields.map(([, field]) => field.hint()).filter(Boolean);
      this.status.textContent = [`Answered in ${Math.round(performance.now() - started)} ms.`, ...hints].join(" ");
    });
  }
}
