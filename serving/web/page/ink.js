// From a drawing to the 28 × 28 numbers that the digit models were trained on: the digit 20 pixels large, its centre of
// mass in the middle, 0 for paper and 255 for ink.

const SIZE = 28;
const BOX = 20;
const FAINT = 40;

function canvas(size) {
  const made = document.createElement("canvas");
  made.width = made.height = size;
  return made;
}

/** The darkness of each pixel of a drawing on white paper; of a picture with a dark border, the brightness. */
function inkOf(drawing) {
  const { width } = drawing;
  const { data } = drawing.getContext("2d").getImageData(0, 0, width, width);
  const ink = new Uint8ClampedArray(width * width);
  let border = 0;
  for (let i = 0; i < ink.length; i++) {
    ink[i] = 255 - (0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2]);
    const x = i % width;
    if (x === 0 || x === width - 1 || i < width || i >= ink.length - width) border += ink[i];
  }
  if (border / (4 * width - 4) > 127) for (let i = 0; i < ink.length; i++) ink[i] = 255 - ink[i];
  return ink;
}

function boundsOf(ink, width) {
  let [left, top, right, bottom] = [width, width, -1, -1];
  for (let y = 0; y < width; y++) {
    for (let x = 0; x < width; x++) {
      if (ink[y * width + x] <= FAINT) continue;
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = Math.max(bottom, y);
    }
  }
  return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
}

function asPicture(ink, width) {
  const picture = canvas(width);
  const pixels = new ImageData(width, width);
  ink.forEach((value, i) => pixels.data.set([value, value, value, 255], 4 * i));
  picture.getContext("2d").putImageData(pixels, 0, 0);
  return picture;
}

function grey(picture) {
  const { data } = picture.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, SIZE, SIZE);
  return Array.from({ length: SIZE * SIZE }, (_, i) => data[4 * i]);
}

/** 28 rows of 28 numbers; null where nothing is drawn. */
export function seen(drawing) {
  const ink = inkOf(drawing);
  const box = boundsOf(ink, drawing.width);
  if (!box) return null;
  const picture = asPicture(ink, drawing.width);
  const scale = BOX / Math.max(box.width, box.height);
  const [width, height] = [box.width * scale, box.height * scale];
  const draw = (x, y) => {
    const small = canvas(SIZE);
    const context = small.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.fillRect(0, 0, SIZE, SIZE);
    context.drawImage(picture, box.left, box.top, box.width, box.height, x, y, width, height);
    return grey(small);
  };
  const [x, y] = [(SIZE - width) / 2, (SIZE - height) / 2];
  const first = draw(x, y);
  let [sum, sumX, sumY] = [0, 0, 0];
  first.forEach((value, i) => {
    sum += value;
    sumX += value * (i % SIZE);
    sumY += value * Math.floor(i / SIZE);
  });
  const middle = (SIZE - 1) / 2;
  const pixels = draw(x + Math.round(middle - sumX / sum), y + Math.round(middle - sumY / sum));
  return Array.from({ length: SIZE }, (_, row) => pixels.slice(row * SIZE, (row + 1) * SIZE));
}

/** Shows the numbers as the model sees them: ink is white. */
export function showSeen(target, rows) {
  const pixels = new ImageData(SIZE, SIZE);
  rows.flat().forEach((value, i) => pixels.data.set([value, value, value, 255], 4 * i));
  target.getContext("2d").putImageData(pixels, 0, 0);
}
