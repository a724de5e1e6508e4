// What goes into a model and comes out of it, by datatype and shape.

/** The shape with a size for each axis that takes any: 1. */
export const someShape = (shape) => shape.map((size) => (size < 0 ? 1 : size));

export const count = (shape) => shape.reduce((product, size) => product * size, 1);

/** Nested lists of that shape; `make` gives the value of each element by its number. */
export function nested(shape, make, from = 0) {
  if (!shape.length) return make(from);
  const [size, ...rest] = shape;
  const step = count(rest);
  return Array.from({ length: size }, (_, i) => nested(rest, make, from + i * step));
}

/** The shape of nested lists. */
export function shapeOf(value) {
  return Array.isArray(value) ? [value.length, ...(value.length ? shapeOf(value[0]) : [])] : [];
}

/** A value that the datatype takes. */
export function example(datatype, text = "some text") {
  if (datatype === "BOOL") return true;
  if (datatype === "BYTES") return text;
  return datatype.startsWith("FP") || datatype === "BF16" ? 0.5 : 1;
}

/** Height, width, channels and whether the channels come first, where the shape is an image's; null where it is not. */
export function imageShape(shape) {
  const known = shape.length === 4 ? shape.slice(1) : shape;
  if (known.length === 2 && known.every((size) => size >= 8)) return { height: known[0], width: known[1], channels: 1, first: false, flat: true };
  if (known.length !== 3) return null;
  const [a, b, c] = known;
  if ([1, 3].includes(c) && a >= 8 && b >= 8) return { height: a, width: b, channels: c, first: false, flat: false };
  if ([1, 3].includes(a) && b >= 8 && c >= 8) return { height: b, width: c, channels: a, first: true, flat: false };
  return null;
}

/** The numbers of an image of that shape, from 0 to `most`, nested as the model takes them, in one row. */
export async function imageNumbers(file, image, most) {
  const picture = await createImageBitmap(file, { resizeWidth: image.width, resizeHeight: image.height, resizeQuality: "high" });
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  picture.close();
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const value = (y, x, channel) => {
    const at = 4 * (y * image.width + x);
    const byte = image.channels === 1 ? Math.round(0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2]) : data[at + channel];
    return most === 255 ? byte : (byte / 255) * most;
  };
  const range = (size, make) => Array.from({ length: size }, (_, i) => make(i));
  if (image.flat) return range(image.height, (y) => range(image.width, (x) => value(y, x, 0)));
  if (image.first) return range(image.channels, (channel) => range(image.height, (y) => range(image.width, (x) => value(y, x, channel))));
  return range(image.height, (y) => range(image.width, (x) => range(image.channels, (channel) => value(y, x, channel))));
}
