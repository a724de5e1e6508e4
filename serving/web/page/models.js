// The models: versions, states, traffic, cards; and the changes that the caller may make.

import { ask, path, request, send } from "./api.js";
import { cardView } from "./card.js";
import { errorLine, field, guarded, h, table } from "./dom.js";
import { RequestView } from "./requests.js";

export class Models {
  constructor() {
    this.list = h("div");
    this.may = h("p", { class: "hint" });
    this.status = h("p", { class: "status", role: "status" });
    this.error = errorLine();
    this.request = new RequestView();
    this.cards = new Map();
    this.access = {};
    this.element = h("section", { "aria-labelledby": "models-title" },
      h("h2", { id: "models-title" }, "Models"),
      h("p", { class: "buttons" }, h("button", { type: "button", onclick: () => this.refresh() }, "Look again"), this.status),
      this.may, this.error, this.list, this.request.element);
  }

  show({ access }) {
    this.access = access;
    this.may.textContent = access.may_change_models ? "" : `You cannot change models here: ${access.reason}`;
    this.refresh();
  }

  async refresh() {
    await guarded(this.error, async () => {
      const [{ models }, index] = await Promise.all([
        ask("GET", "/v1/models"),
        send(this.request.show(request("POST", "/v2/repository/index", { json: { ready: false } }))).then((response) => response.json()),
      ]);
      const traffic = await Promise.all(models.map((model) => ask("GET", `/v1/models/${path(model.name)}/traffic`)));
      const known = new Set(models.map((model) => model.name));
      const refused = index.filter((entry) => !known.has(entry.name));
      this.list.replaceChildren(...models.map((model, i) => this.model(model, traffic[i])), ...(refused.length ? [this.refused(refused)] : []));
    });
  }

  refused(entries) {
    return h("section", {}, h("h3", {}, "Refused"),
      table("Models that are not served", ["Model", "Version", "State", "Why"], entries.map((entry) => [entry.name, entry.version, entry.state, entry.reason])));
  }

  model(model, traffic) {
    const labelsOf = (version) => Object.entries(traffic.labels).filter(([, number]) => String(number) === version).map(([label]) => label).join(", ");
    const share = (version) => {
      if (traffic.shadow && String(traffic.shadow.version) === version) return `shadow of ${traffic.shadow.percent} %`;
      const weight = traffic.weights[version];
      return weight === undefined ? "" : `weight ${weight}`;
    };
    const rows = model.versions.map((each) => [
      each.version, h("span", { class: each.state === "AVAILABLE" ? "good" : "bad" }, each.state), labelsOf(each.version), share(each.version),
      [each.error_message, ...(each.notes ?? []), each.warmed === false ? "The first request is slow: it is not warmed up." : ""].filter(Boolean).join(" "),
    ]);
    return h("section", { "aria-label": model.name },
      h("h3", {}, model.name), h("p", { class: "hint" }, model.description),
      table(`Versions of ${model.name}`, ["Version", "State", "Labels", "Traffic", "Notes"], rows),
      model.versions.filter((each) => Number(each.version) > 0).map((each) => this.card(model.name, each.version)),
      this.access.may_change_models ? this.controls(model, traffic) : null);
  }

  card(name, version) {
    const key = `${name}/${version}`;
    if (!this.cards.has(key)) this.cards.set(key, cardView(name, version));
    return this.cards.get(key);
  }

  controls(model, traffic) {
    const name = path(model.name);
    const change = (method, ending, json, said) => () => this.change(request(method, ending, { json }), `${model.name}: ${said}`);
    const versions = () => h("select", {}, model.versions.filter((each) => each.state === "AVAILABLE").map((each) => h("option", { value: each.version }, each.version)));
    const [labelled, canary, shadow] = [versions(), versions(), versions()];
    const label = h("input", { type: "text", size: "10", maxlength: "100" });
    const percent = (text) => h("input", { type: "number", min: "0", max: "100", value: "10", "aria-label": text });
    const [share, copies] = [percent("Percent of requests"), percent("Percent of requests to copy")];
    const others = () => {
      const part = Number(share.value);
      const rest = model.versions.filter((each) => each.state === "AVAILABLE" && each.version !== canary.value);
      return { weights: { [canary.value]: part, ...Object.fromEntries(rest.slice(0, 1).map((each) => [each.version, 100 - part])) }, shadow: traffic.shadow };
    };
    const base = `/v1/models/${name}`;
    return h("details", {}, h("summary", {}, `Change ${model.name}`),
      h("p", { class: "buttons" },
        h("button", { type: "button", onclick: change("POST", `/v2/repository/models/${name}/load`, {}, "loaded") }, "Load"),
        h("button", { type: "button", onclick: change("POST", `/v2/repository/models/${name}/unload`, {}, "unloaded") }, "Unload")),
      h("p", { class: "buttons" }, field("Label", label), field("for version", labelled),
        h("button", { type: "button", onclick: () => change("PUT", `${base}/labels/${path(label.value)}`, { version: Number(labelled.value) }, "label set")() }, "Set label"),
        h("button", { type: "button", onclick: () => change("DELETE", `${base}/labels/${path(label.value)}`, undefined, "label removed")() }, "Remove label")),
      h("p", { class: "buttons" }, field("Canary: version", canary), field("gets", share, " %"),
        h("button", { type: "button", onclick: () => change("PUT", `${base}/traffic`, others(), "weights set")() }, "Set weights")),
      h("p", { class: "buttons" }, field("Shadow: version", shadow), field("gets copies of", copies, " %"),
        h("button", { type: "button", onclick: () => change("PUT", `${base}/traffic`, { weights: traffic.weights, shadow: { version: Number(shadow.value), percent: Number(copies.value) } }, "shadow set")() }, "Set shadow"),
        h("button", { type: "button", onclick: change("PUT", `${base}/traffic`, {}, "all requests go to the newest version") }, "Take back weights and shadow")));
  }

  async change(what, said) {
    this.status.textContent = "Waiting for the workers …";
    const done = await guarded(this.error, async () => {
      await send(this.request.show(what));
      return true;
    });
    this.status.textContent = done ? said : "";
    if (done) await this.refresh();
    if (done) this.request.show(what);
  }
}
