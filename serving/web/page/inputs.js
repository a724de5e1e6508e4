// One field of a form for one input of a model, by what its metadata says.

import { ApiError } from "./api.js";
import { field, h } from "./dom.js";
import { count, example, imageNumbers, imageShape, nested, shapeOf, someShape } from "./tensors.js";

const MANY = 2000; // numbers that nobody wants to read in a text field

/**
 * A field, filled in with the values that are `given` for it in TensorFlow Serving's column form, undefined for none.
 * `value()` gives what is sent in that form, undefined where it is left out.
 */
export function inputField(spec, { media, optional }, given) {
  if (media) return new FileField(spec, media, optional, given);
  if (isText(spec) && (given === undefined || lines(given) !== null)) return new TextField(spec, optional, given);
  return new ArrayField(spec, optional, given);
}

function isText(spec) {
  return spec.datatype === "BYTES" && spec.shape.length <= 2 && spec.shape.slice(1).every((size) => size === 1);
}

/** The rows as lines of a text field; null where one is no text, or has several lines. */
function lines(given) {
  const rows = [given].flat(2);
  return rows.every((row) => typeof row === "string" && !row.includes("\n")) ? rows.join("\n") : null;
}

function title(spec, optional) {
  return `${spec.name}: ${spec.datatype} [${spec.shape.map((size) => (size < 0 ? "any" : size)).join(", ")}]${optional ? ", optional" : ""}`;
}

class FileField {
  constructor(spec, media, optional, given) {
    this.optional = optional;
    this.given = given;
    this.input = h("input", { type: "file", accept: media === "image" ? "image/*" : null });
    this.element = field(`${title(spec, optional)} (a file: ${media})`, this.input);
  }

  async value() {
    const file = this.input.files[0];
    if (!file && this.given) return this.given;
    if (!file && this.optional) return undefined;
    if (!file) {
      const blob = await blankImage();
      return [{ b64: await base64(blob) }];
    }
    return [{ b64: await base64(file) }];
  }

  hint() {
    if (this.input.files[0] || (this.optional && !this.given)) return "";
    return `No file was chosen: ${this.given ? "the manifest's example" : "a grey image"} was sent.`;
  }
}

class TextField {
  constructor(spec, optional, given) {
    this.spec = spec;
    this.optional = optional;
    this.input = h("textarea", { rows: "2" });
    this.input.value = given !== undefined ? lines(given) : optional ? "" : example("BYTES");
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
  constructor(spec, optional, given) {
    this.spec = spec;
    this.optional = optional;
    this.shape = someShape(spec.shape);
    this.image = imageShape(spec.shape);
    this.input = h("textarea", { rows: "4", spellcheck: "false" });
    const isLarge = count(given === undefined ? this.shape : shapeOf(given)) > MANY;
    this.given = isLarge ? given : undefined; // what an empty field stands for
    if (this.given !== undefined) this.input.placeholder = "Empty: the manifest's example is sent.";
    else if (given !== undefined) this.input.value = JSON.stringify(given);
    else if (isLarge) this.input.placeholder = `Empty: ${count(this.shape)} equal values are sent.`;
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
    if (!text && this.given !== undefined) return this.given;
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
