// Runs every case of files/cases.json and shows its answers beside Python's.
import { open } from "./runtimes.js";

const MOST = 1e-5; // that two answers may differ by
const body = document.querySelector("tbody");

async function main() {
  const response = await fetch("files/cases.json");
  if (!response.ok) throw new Error("files/cases.json is missing; prepare.py writes it");
  const cases = await response.json();
  let bad = 0;
  for (const each of cases) {
    try {
      const run = await open[each.runtime](`files/${each.file}`, each.filling);
      for (const example of each.examples) bad += await shown(each, example, run);
    } catch (error) {
      row([each.model, each.runtime, each.file, `${error.message ?? error}`, "", "", ""], true);
      bad += 1;
    }
  }
  document.querySelector("[role=status]").textContent = bad
    ? `Answers that are not Python's: ${bad}.`
    : `All answers of ${cases.length} files are Python's.`;
}

/** Run an example and add its row; 1 where the answer is another than Python's, else 0. */
async function shown(each, { name, inputs, answers }, run) {
  await run(inputs); // the first run also prepares
  const start = performance.now();
  const found = await run(inputs);
  const time = performance.now() - start;
  const difference = largest(found, answers);
  const isBad = !(difference <= MOST);
  const said = [found, answers].map((outputs) => inWords(outputs, each.labels));
  row([each.model, each.runtime, name, ...said, difference.toExponential(1), `${time.toFixed(1)} ms`], isBad);
  return Number(isBad);
}

function largest(found, expected) {
  let most = 0;
  for (const [name, { data }] of Object.entries(expected)) {
    if (found[name]?.data.length !== data.length) return NaN;
    data.forEach((value, place) => (most = Math.max(most, Math.abs(value - found[name].data[place]))));
  }
  return most;
}

/** The best label with its probability; of word vectors, the three nearest words. */
function inWords({ probabilities, neighbors }, labels) {
  if (neighbors) return Array.from(neighbors.data.slice(0, 3), (number) => labels[number]).join(", ");
  const data = [...probabilities.data];
  const best = data.indexOf(Math.max(...data));
  return `${labels[best]} (${data[best].toFixed(4)})`;
}

function row(cells, isBad) {
  const line = body.insertRow();
  line.classList.toggle("bad", isBad);
  for (const cell of cells) line.insertCell().textContent = cell;
}

main().catch((error) => (document.querySelector("[role=status]").textContent = `It failed: ${error.message}`));
