// The example of a version's manifest: a body of `:predict`, taken apart by input.

import { ask, path } from "./api.js";

const isNamed = (value) => value !== null && typeof value === "object" && !Array.isArray(value) && !("b64" in value);

/** What each of these inputs has in the body, in column form; empty where the body is of another signature. */
export function columns(body, names) {
  const { inputs, instances, signature_name: signature = "serving_default" } = body;
  if (signature !== "serving_default") return {};
  const alone = (value) => (names.length === 1 ? { [names[0]]: value } : {});
  if (inputs !== undefined) return isNamed(inputs) ? inputs : alone(inputs);
  if (!Array.isArray(instances) || !instances.length) return {};
  if (!instances.every(isNamed)) return alone(instances);
  return Object.fromEntries(Object.keys(instances[0]).map((name) => [name, instances.map((row) => row[name])]));
}

/** The example of the newest version, by input. Without a card there is none, which is no fault. */
export async function exampleOf({ name, versions, inputs }) {
  const newest = Math.max(...versions.map(Number));
  try {
    const card = await ask("GET", `/v1/models/${path(name)}/versions/${newest}/card`);
    return columns(card.example, inputs.map((input) => input.name));
  } catch {
    return {};
  }
}
