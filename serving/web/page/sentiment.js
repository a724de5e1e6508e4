// Type: the verdict on each sentence follows.

import { request, send } from "./api.js";
import { bar, errorLine, field, guarded, h, latest, percent } from "./dom.js";
import { DeviceLine } from "./device.js";
import { RequestView } from "./requests.js";

const EXAMPLES = [
  "A wonderful film.\nA dull, lifeless film.",
  "The film is good.\nThe film is not good.\nThe film is not bad at all.",
  "I did not like it.\nI have never been bored for a minute.\nNobody should miss it.",
];

export class Sentiment {
  constructor() {
    this.text = h("textarea", { rows: "5", maxlength: "20000", "aria-describedby": "sentiment-hint", oninput: () => this.update() });
    this.verdicts = h("ol");
    this.summary = h("p", { class: "status", role: "status" });
    this.error = errorLine();
    this.request = new RequestView();
    this.device = new DeviceLine("sentiment", () => this.update());
    this.update = latest(() => guarded(this.error, () => this.ask()));
    this.element = h("section", { "aria-labelledby": "sentiment-title" },
      h("h2", { id: "sentiment-title" }, "Sentiment"),
      h("p", { class: "hint", id: "sentiment-hint" }, "Write about a film, one sentence a line. The model says how likely each is positive. It learned from film reviews, and misreads about one in four sentences with a negation."),
      h("div", { class: "columns" },
        h("div", {}, field("Sentences", this.text),
          h("p", { class: "buttons" }, EXAMPLES.map((example, i) =>
            h("button", { type: "button", onclick: () => this.put(example) }, i ? `Negation ${i}` : "Example")))),
        h("div", {}, this.summary, this.verdicts, this.device.element, this.error)),
      this.request.element);
    this.text.value = EXAMPLES[0];
  }

  show({ access }) {
    this.device.allow(access.device);
    this.update();
  }

  put(example) {
    this.text.value = example;
    this.update();
  }

  async ask() {
    const texts = this.text.value.split("\n").map((line) => line.trim()).filter(Boolean).slice(0, 100);
    if (!texts.length) {
      this.verdicts.replaceChildren();
      this.summary.textContent = "";
      return;
    }
    const what = this.request.show(request("POST", "/v1/models/sentiment:predict", { json: { instances: texts } }));
    const started = performance.now();
    const { predictions } = await (await send(what)).json();
    const milliseconds = performance.now() - started;
    this.verdicts.replaceChildren(...texts.map((text, i) => this.verdict(text, predictions[i][1])));
    const positive = predictions.filter((each) => each[1] >= 0.5).length;
    this.summary.textContent = `${positive} positive, ${texts.length - positive} negative`;
    if (!this.device.isOn) return;
    const ids = await this.device.encode(texts[0]);
    await this.device.compare({ ids: ["int32", ids, [1, ids.length]] }, "probabilities", predictions[0], milliseconds,
      ([negative, positive]) => `the first is ${positive >= negative ? "positive" : "negative"}`);
  }

  verdict(text, positive) {
    const isGood = positive >= 0.5;
    const part = isGood ? positive : 1 - positive;
    return h("li", {}, text, " ", h("strong", { class: isGood ? "good" : "bad" }, `${isGood ? "positive" : "negative"} ${percent(part)}`), bar(positive));
  }
}
