// The card of a version: read when somebody opens it.

import { ask, path, request, send } from "./api.js";
import { errorLine, guarded, h, table } from "./dom.js";

/** A row that opens the card. */
export function cardView(name, version) {
  const error = errorLine();
  const place = h("div");
  let isRead = false;
  const base = `/v1/models/${path(name)}/versions/${path(version)}`;
  return h("details", {
    class: "card",
    ontoggle: async (event) => {
      if (!event.target.open || isRead) return;
      isRead = true;
      await guarded(error, async () => place.replaceChildren(...(await parts(await ask("GET", `${base}/card`), base, name, version))));
      isRead = !error.textContent;
    },
  }, h("summary", {}, `Card of ${name}, version ${version}`), error, place);
}

async function parts(card, base, name, version) {
  const words = (key) => key.replaceAll("_", " ");
  const rows = (values) => Object.entries(values).map(([key, value]) => [words(key), value]);
  const some = (caption, heads, values) => (Object.keys(values).length ? [table(`${caption}: ${name} ${version}`, heads, rows(values))] : []);
  return [
    ...some("Scores", ["Score", "Value"], card.scores),
    ...(card.limits.length ? [h("p", {}, h("strong", {}, "What it is not good for")), h("ul", {}, card.limits.map((limit) => h("li", {}, limit)))] : []),
    ...some("Sizes", ["File", "Bytes"], card.files),
    ...some("Data", ["File", "SHA-256"], card.data),
    ...some("Licences of the data", ["Data", "Licence"], card.licences),
    ...some("Training", ["Parameter", "Value"], card.training),
    h("div", { class: "plots" }, await Promise.all(card.plots.map((plot) => picture(`${base}/plots/${path(plot)}`, `${words(plot.replace(".png", ""))} of ${name}`)))),
  ];
}

/** The plot as an image; it is fetched, since an <img> could not show a key. */
async function picture(where, alt) {
  const blob = await (await send(request("GET", where))).blob();
  const url = URL.createObjectURL(blob);
  return h("img", { src: url, alt, onload: () => URL.revokeObjectURL(url) });
}
