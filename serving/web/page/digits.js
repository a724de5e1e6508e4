// Draw a digit: the probabilities follow the pen, the student's beside the teacher's.

import { ApiError, request, send } from "./api.js";
import { bar, errorLine, field, guarded, h, latest, percent, takeDrops } from "./dom.js";
import { seen, showSeen } from "./ink.js";
import { DeviceLine } from "./device.js";
import { RequestView } from "./requests.js";

const SIZE = 280;
const PEN = 22;
const MODELS = ["digits", "digits-student"];
const SAMPLE = [[[75, 70], [205, 70], [180, 130], [150, 190], [135, 235]]];

export class Digits {
  constructor() {
    this.canvas = h("canvas", {
      class: "draw", width: SIZE, height: SIZE, tabindex: "0", role: "img",
      "aria-label": "Drawing area. Draw one digit with mouse, finger or pen, or drop or paste an image.",
      onpointerdown: (event) => this.press(event), onpointermove: (event) => this.move(event),
      onpointerup: () => this.lift(), onpointercancel: () => this.lift(),
    });
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.seen = h("canvas", { class: "seen", width: 28, height: 28, role: "img", "aria-label": "What the model sees: 28 × 28 pixels" });
    this.file = h("input", { type: "file", accept: "image/*", onchange: () => this.file.files[0] && this.take(this.file.files[0]) });
    this.verdict = h("p", { class: "status", role: "status" });
    this.error = errorLine();
    this.request = new RequestView();
    this.device = new DeviceLine("digits", () => this.update());
    this.last = null;
    this.answers = MODELS.map(() => null);
    this.bars = this.makeBars();
    this.update = latest(() => guarded(this.error, () => this.ask()));
    this.element = h("section", { "aria-labelledby": "digits-title" },
      h("h2", { id: "digits-title" }, "Digits"),
      h("p", { class: "hint" }, "Draw one digit. Each stroke is sent to two models: digits, and digits-student, a small network that learned from it."),
      h("div", { class: "columns" },
        h("div", {},
          h("div", { class: "drawn" }, this.canvas, h("figure", {}, this.seen, h("figcaption", { class: "hint" }, "What the model sees"))),
          h("p", { class: "buttons" },
            h("button", { type: "button", onclick: () => this.clear() }, "Clear"),
            h("button", { type: "button", onclick: () => this.sample() }, "Draw a 7")),
          field("Or choose an image, drop one here, or paste one:", this.file)),
        h("div", {}, this.verdict, this.bars.element, this.device.element, this.error)),
      this.request.element);
    takeDrops(this.element, (file) => this.take(file));
    this.pasted = (event) => {
      const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
      if (file) this.take(file);
    };
    this.clear();
  }

  show({ access }) {
    this.device.allow(access.device);
    document.addEventListener("paste", this.pasted);
  }

  hide() {
    document.removeEventListener("paste", this.pasted);
  }

  makeBars() {
    const cells = [];
    const rows = Array.from({ length: 10 }, (_, digit) => {
      const own = MODELS.map((_, i) => ({ bar: bar(0, i ? "second" : ""), text: h("td", { class: "number" }, "–") }));
      cells.push(own);
      return h("tr", {}, h("th", { scope: "row" }, String(digit)), own.map((cell) => [h("td", {}, cell.bar), cell.text]).flat());
    });
    const heads = MODELS.map((name) => h("th", { scope: "colgroup", colspan: "2" }, name));
    const element = h("table", {},
      h("caption", {}, "Probability of each digit"),
      h("colgroup"), h("colgroup", { span: "2" }), h("colgroup", { span: "2" }),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Digit"), heads)), h("tbody", {}, rows));
    return { element, cells };
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * SIZE) / box.width, ((event.clientY - box.top) * SIZE) / box.height];
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.point(event);
    this.stroke(this.last, this.last);
    this.update();
  }

  move(event) {
    if (!this.last) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) {
      const next = this.point(each);
      this.stroke(this.last, next);
      this.last = next;
    }
    this.update();
  }

  lift() {
    this.last = null;
  }

  stroke([x0, y0], [x1, y1]) {
    const pen = this.context;
    pen.lineWidth = PEN;
    pen.lineCap = pen.lineJoin = "round";
    pen.strokeStyle = "#000";
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.lineTo(x1 + 0.01, y1); // a line of no length would leave no dot
    pen.stroke();
  }

  paper() {
    this.context.fillStyle = "#fff";
    this.context.fillRect(0, 0, SIZE, SIZE);
  }

  clear() {
    this.paper();
    this.seen.getContext("2d").clearRect(0, 0, 28, 28);
    this.answers = MODELS.map(() => null);
    this.write();
  }

  sample() {
    this.paper();
    for (const line of SAMPLE) line.slice(1).forEach((point, i) => this.stroke(line[i], point));
    this.update();
  }

  async take(file) {
    await guarded(this.error, async () => {
      let picture;
      try {
        picture = await createImageBitmap(file);
      } catch {
        throw new ApiError(0, `${file.name || "This"} is no image that the browser can read.`, "Choose a PNG, JPEG, WebP or GIF.");
      }
      this.paper();
      const scale = SIZE / Math.max(picture.width, picture.height);
      const [width, height] = [picture.width * scale, picture.height * scale];
      this.context.drawImage(picture, (SIZE - width) / 2, (SIZE - height) / 2, width, height);
      picture.close();
      this.update();
    });
  }

  async ask() {
    const rows = seen(this.canvas);
    if (!rows) return;
    showSeen(this.seen, rows);
    const requests = MODELS.map((name) => request("POST", `/v1/models/${name}:predict`, { json: { instances: [rows] } }));
    this.request.show(requests[0]);
    const started = performance.now();
    const answers = await Promise.allSettled(requests.map(async (each) => (await (await send(each)).json()).predictions[0]));
    if (!seen(this.canvas)) return; // cleared meanwhile
    this.milliseconds = performance.now() - started;
    this.answers = answers.map((answer) => answer.value ?? null);
    this.write();
    const failed = answers.find((answer) => answer.reason);
    if (failed) throw failed.reason;
    await this.device.compare({ image: ["float32", rows.flat(), [1, 28, 28, 1]] }, "probabilities", this.answers[0], this.milliseconds, (values) => String(values.indexOf(Math.max(...values))));
  }

  write() {
    this.bars.cells.forEach((cells, digit) => cells.forEach((cell, i) => {
      const part = this.answers[i]?.[digit];
      cell.bar.firstChild.style.setProperty("--part", part ?? 0);
      cell.text.textContent = part === undefined ? "–" : percent(part);
    }));
    const says = MODELS.flatMap((name, i) => {
      const best = this.answers[i] ? this.answers[i].indexOf(Math.max(...this.answers[i])) : -1;
      return best < 0 ? [] : [`${name}: ${best} (${percent(this.answers[i][best])})`];
    });
    this.verdict.textContent = says.length ? `${says.join(", ")}, in ${Math.round(this.milliseconds)} ms` : "Nothing drawn yet.";
  }
}
