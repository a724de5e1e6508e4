// Two runtimes behind one function: open(url, filling) resolves to run(inputs), which resolves to the outputs by name.
// Inputs and outputs are {type, shape, data}. `filling` says of inputs what shorter rows are filled up with where the
// file has one size: "0", or "last" for the row's last number.
import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import * as ort from "onnxruntime-web";

const ARRAYS = { float32: Float32Array, int32: Int32Array };

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more need the headers COOP and COEP
const liteRt = loadLiteRt(new URL("./node_modules/@litertjs/core/wasm/", import.meta.url).href);

async function openOnnx(url) {
  const session = await ort.InferenceSession.create(url, { executionProviders: ["wasm"] });
  return async (inputs) => {
    const tensors = mapped(inputs, ({ type, shape, data }) => new ort.Tensor(type, ARRAYS[type].from(data), shape));
    return mapped(await session.run(tensors), ({ type, dims, data }) => ({ type, shape: [...dims], data }));
  };
}

async function openLiteRt(url, filling) {
  await liteRt;
  const model = await loadAndCompile(url, { accelerator: "wasm" });
  const shapes = Object.fromEntries(model.getInputDetails().map(({ name, shape }) => [name, [...shape]]));
  return async (inputs) => {
    const tensors = mapped(inputs, ({ type, data }, name) => {
      return new Tensor(filled(ARRAYS[type].from(data), shapes[name], filling[name]), shapes[name]);
    });
    const outputs = await model.run(tensors);
    const found = {};
    for (const [name, tensor] of Object.entries(outputs)) {
      found[name] = { type: tensor.type.dtype, shape: [...tensor.type.layout.dimensions], data: await tensor.data() };
    }
    for (const tensor of [...Object.values(tensors), ...Object.values(outputs)]) tensor.delete(); // no collector does it
    return found;
  };
}

function filled(data, shape, fill) {
  const size = shape.reduce((product, side) => product * side, 1);
  if (data.length > size || (data.length < size && !fill)) {
    throw new Error(`${data.length} numbers do not fit the shape ${shape}`);
  }
  const whole = new data.constructor(size).fill(fill === "last" ? data.at(-1) : 0);
  whole.set(data);
  return whole;
}

function mapped(object, change) {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value, name)]));
}

export const open = { "ONNX Runtime Web": openOnnx, "LiteRT.js": openLiteRt };
