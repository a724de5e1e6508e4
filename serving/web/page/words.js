// Add and take away words; the nearest words as a list and on a map.

import { request, send } from "./api.js";
import { bar, errorLine, field, guarded, h, latest } from "./dom.js";
import { drawMap } from "./wordmap.js";
import { DeviceLine } from "./device.js";
import { RequestView } from "./requests.js";

const EXAMPLES = [
  [["king", 1], ["man", -1], ["woman", 1]],
  [["paris", 1], ["france", -1], ["italy", 1]],
  [["music", 1], ["film", 1]],
];

export class Words {
  constructor() {
    this.words = EXAMPLES[0];
    this.chips = h("ul", { class: "chips", "aria-label": "Words of the sum" });
    this.input = h("input", { type: "text", autocomplete: "off", autocapitalize: "none", spellcheck: "false", maxlength: "60" });
    this.neighbours = h("ol", { "aria-label": "Nearest words" });
    this.summary = h("p", { class: "status", role: "status" });
    this.map = h("div");
    this.error = errorLine();
    this.request = new RequestView();
    this.device = new DeviceLine("word2vec", () => this.update());
    this.update = latest(() => guarded(this.error, () => this.ask()));
    this.element = h("section", { "aria-labelledby": "words-title" },
      h("h2", { id: "words-title" }, "Words"),
      h("p", { class: "hint" }, "Each word is a vector. Add and take away words, and see which words are nearest to the sum. Press a word to take it out."),
      this.chips,
      h("form", { onsubmit: (event) => { event.preventDefault(); this.add(1); } },
        h("p", { class: "buttons" }, field("Word", this.input),
          h("button", {}, "Add"), h("button", { type: "button", onclick: () => this.add(-1) }, "Take away"),
          EXAMPLES.map((example) => h("button", { type: "button", onclick: () => this.put(example) }, formula(example))))),
      this.error,
      h("div", { class: "columns" }, h("div", {}, this.summary, this.neighbours, this.device.element), this.map),
      this.request.element);
  }

  show({ access }) {
    this.device.allow(access.device);
    this.put(this.words);
  }

  put(words) {
    this.words = words;
    this.chips.replaceChildren(...words.map(([word, weight], i) =>
      h("li", {}, h("button", { type: "button", "aria-label": `Take out ${weight < 0 ? "minus" : "plus"} ${word}`, onclick: () => this.put(words.filter((_, j) => j !== i)) },
        `${weight < 0 ? "−" : "+"} ${word} ×`))));
    this.update();
  }

  add(weight) {
    const words = this.input.value.toLowerCase().trim().split(/\s+/).filter(Boolean);
    this.input.value = "";
    this.input.focus();
    if (words.length) this.put([...this.words, ...words.map((word) => [word, weight])].slice(-20));
  }

  async ask() {
    const words = this.words;
    if (!words.length) {
      this.neighbours.replaceChildren();
      this.map.replaceChildren();
      this.summary.textContent = "Add a word.";
      return;
    }
    const sum = { tokens: words.map(([word]) => word), weights: words.map(([, weight]) => weight) };
    const what = this.request.show(request("POST", "/v1/models/word2vec:predict", { json: { instances: [sum] } }));
    const started = performance.now();
    const found = (await (await send(what)).json()).predictions[0];
    const milliseconds = performance.now() - started;
    this.neighbours.replaceChildren(...found.neighbors.map((word, i) =>
      h("li", {}, h("button", { type: "button", "aria-label": `Add ${word}`, onclick: () => this.put([...this.words, [word, 1]]) }, word),
        ` ${found.similarities[i].toFixed(3)}`, bar(found.similarities[i]))));
    this.summary.textContent = `${formula(words)} is nearest to ${found.neighbors[0]}.`;
    await this.place(words, found);
    if (!this.device.isOn) return;
    const ids = await this.device.lookUp(sum.tokens);
    await this.device.compare({ ids: ["int32", ids, [1, ids.length]], weights: ["float32", sum.weights, [1, ids.length]] }, "vector", found.vector, milliseconds,
      (vector) => `a vector of ${vector.length} numbers`);
  }

  async place(words, found) {
    const all = [...new Set([...words.map(([word]) => word), ...found.neighbors])];
    const instances = all.map((word) => ({ tokens: [word] }));
    const { predictions } = await (await send(request("POST", "/v1/models/word2vec:predict", { json: { instances } }))).json();
    const points = all.map((word, i) => ({ word, vector: predictions[i].vector, isGiven: words.some(([given]) => given === word) }));
    this.map.replaceChildren(drawMap(points));
  }
}

const formula = (words) => words.map(([word, weight], i) => `${weight < 0 ? "− " : i ? "+ " : ""}${word}`).join(" ");
