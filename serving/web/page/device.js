// Runs the bundled models in the browser itself, with onnxruntime-web, beside the server: both answers, both times.

import { ask, path, request, send } from "./api.js";
import { errorLine, guarded, h, number } from "./dom.js";

const RUNTIME = "/page/assets/";
const MOST_WORDS = 400; // of a text, the last ones, as in the model's manifest
const UNKNOWN = 1;

let runtime = null;

function load() {
  runtime ??= import(`${RUNTIME}ort.wasm.min.mjs`).then((ort) => {
    ort.env.wasm.wasmPaths = RUNTIME;
    ort.env.wasm.numThreads = 1;
    return ort;
  });
  return runtime;
}

/** The words of a text, as the models' vocabularies have them. */
export function wordsOf(text) {
  const plain = text.replace(/<[^<>]{1,20}>/g, " ").toLowerCase().replaceAll("\u2019", "'");
  return plain.match(/[a-z0-9]+(?:'[a-z]+)?|[!?]/g) ?? [];
}

/** A choice to run one model on the device, too, and a line that compares the answers. */
export class DeviceLine {
  constructor(name, changed) {
    this.name = name;
    this.isOn = false;
    this.session = null;
    this.box = h("input", { type: "checkbox", id: `device-${name}`, onchange: () => { this.isOn = this.box.checked; this.line.textContent = ""; changed(); } });
    this.line = h("p", { class: "status", role: "status" });
    this.error = errorLine();
    this.element = h("div", { hidden: true },
      h("p", {}, this.box, " ", h("label", { for: `device-${name}` }, `Run ${name} in this browser, too`)), this.line, this.error);
  }

  allow(isThere) {
    this.element.hidden = !isThere;
  }

  async file(name) {
    const { versions } = await ask("GET", `/v2/models/${path(this.name)}`);
    const newest = Math.max(...versions.map(Number));
    return send(request("GET", `/v1/models/${path(this.name)}/versions/${newest}/files/${name}`));
  }

  async ready() {
    this.session ??= Promise.all([load(), this.file("model.onnx").then((response) => response.arrayBuffer())])
      .then(async ([ort, model]) => ({ ort, run: await ort.InferenceSession.create(model) }));
    return this.session;
  }

  async vocabulary() {
    this.ids ??= this.file("vocabulary.txt").then((response) => response.text())
      .then((text) => new Map(text.split("\n").map((word, i) => [word, i])));
    return this.ids;
  }

  /** The ids of a text's words. */
  async encode(text) {
    const ids = await this.vocabulary();
    const found = wordsOf(text).slice(-MOST_WORDS).map((word) => ids.get(word) ?? UNKNOWN);
    return found.length ? found : [UNKNOWN];
  }

  /** The ids of words that the server knows. */
  async lookUp(words) {
    const ids = await this.vocabulary();
    return words.map((word) => ids.get(word));
  }

  /** Runs the model on the same input: `inputs` are type, values and shape by name; `say` puts an answer into words. */
  async compare(inputs, output, answer, serverMs, say) {
    if (!this.isOn) return;
    await guarded(this.error, async () => {
      const { ort, run } = await this.ready();
      const made = Object.fromEntries(Object.entries(inputs).map(([name, [type, values, shape]]) =>
        [name, new ort.Tensor(type, type === "int32" ? Int32Array.from(values) : Float32Array.from(values), shape)]));
      const started = performance.now();
      const values = [...(await run.run(made))[output].data];
      const milliseconds = performance.now() - started;
      const difference = Math.max(...values.map((value, i) => Math.abs(value - answer[i])));
      this.line.textContent = `This browser: ${say(values)}, in ${number(milliseconds)} ms. The server: ${say(answer)}, in ${number(serverMs)} ms. Largest difference: ${difference.toExponential(1)}.`;
    });
  }
}
