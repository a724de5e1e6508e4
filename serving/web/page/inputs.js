// One field of a form for one input of a model, by what its metadata says.

import { ApiError } from "./api.js";
import { field, h } from "./dom.js";
import { count, example, imageNumbers, imageShape, nested, someShape } from "./tensors.js";

const MANY = 2000; // numbers that nobody wants to read in a text field

/** A field. `value()` gives what is sent in TensorFlow Serving's column form, undefined where it is left out. */
export function inputField(spec, { media, optional }) {
  if (media) return new FileField(spec, media, optional);
  if (spec.datatype === "BYTES" && spec.shape.length <= 2 && spec.shape.slice(1).every((size) => size === 1)) return new TextField(spec, optional);
  return new ArrayField(spec, optional);
}

function title(spec, optional) {
  return `${spec.name}: ${spec.datatype} [${spec.shape.map((size) => (size < 0 ? "any" : size)).join(", ")}]${optional ? ", optional" : ""}`;
}

class FileField {
  constructor(spec, media, optional) {
    this.optional = optional;
    this.input = h("input", { type: "file", accept: media === "image" ? "image/*" : null });
    this.element = field(`${title(spec, optional)} (a file: ${media})`, this.input);
  }

  async value() {
    const file = this.input.files[0];
    if (!file && this.optional) return undefined;
    if (!file) {
      const blob = await blankImage();
      return [{ b64: await base64(blob) }];
    }
    return [{ b64: await base64(file) }];
  }

  hint() {
    return this.input.files[0] || this.optional ? "" : "No file was chosen: a grey image was sent.";
  }
}

class TextField {
  constructor(spec, optional) {
    this.spec = spec;
    this.optional = optional;
    this.input = h("textarea", { rows: "2" });
    this.input.value = optional ? "" : example("BYTES");
    this.element = field(`${title(spec, optional)}, one row a line`, this.input);
  }

  value() {
    if (!this.input.value && this.optional) return undefined;
    const rows = this.input.value.split("\n");
    return this.spec.shape.length === 2 ? rows.map((text) => [text]) : this.spec.shape.length ? rows : rows[0];
  }

  hint() {
    return "";
  }
}

class ArrayField {
  constructor(spec, optional) {
    this.spec = spec;
    this.optional = optional;
    this.shape = someShape(spec.shape);
    this.image = imageShape(spec.shape);
    this.input = h("textarea", { rows: "4", spellcheck: "false" });
    const isLarge = count(this.shape) > MANY;
    if (isLarge) this.input.placeholder = `Empty: ${count(this.shape)} equal values are sent.`;
    else if (!optional) this.input.value = JSON.stringify(nested(this.shape, () => example(spec.datatype)));
    const parts = [field(`${title(spec, optional)}, as JSON`, this.input)];
    if (this.image && spec.datatype !== "BYTES" && spec.datatype !== "BOOL") parts.push(this.imageChoice());
    this.element = h("fieldset", {}, h("legend", {}, spec.name), parts);
  }

  imageChoice() {
    this.file = h("input", { type: "file", accept: "image/*" });
    this.most = h("select", {}, h("option", { value: "1" }, "0 to 1"), h("option", { value: "255" }, "0 to 255"));
    if (!this.spec.datatype.startsWith("FP")) this.most.value = "255";
    return [field(`Or an image, made ${this.image.width} × ${this.image.height}`, this.file), field("with numbers from", this.most)];
  }

  async value() {
    if (this.file?.files[0]) {
      const numbers = await imageNumbers(this.file.files[0], this.image, Number(this.most.value));
      return this.spec.shape.length === 4 ? [numbers] : numbers;
    }
    const text = this.input.value.trim();
    if (!text && this.optional) return undefined;
    if (!text) return nested(this.shape, () => example(this.spec.datatype));
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new ApiError(0, `${this.spec.name} is no JSON: ${error.message}.`, "Write lists such as [[1, 2, 3]].");
    }
  }

  hint() {
    return "";
  }
}

async function blankImage() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 64;
  const context = canvas.getContext("2d");
  context.fillStyle = "#888";
  context.fillRect(0, 0, 64, 64);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}
