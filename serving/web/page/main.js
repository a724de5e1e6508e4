// The panels, which one is shown, and which ones there are.

import { ask } from "./api.js";
import { guarded, h } from "./dom.js";
import { AnyModel } from "./anymodel.js";
import { Digits } from "./digits.js";
import { Jobs } from "./jobs.js";
import { Models } from "./models.js";
import { Sentiment } from "./sentiment.js";
import { StackView } from "./stack.js";
import { Words } from "./words.js";

// `needs` says by models and access whether a panel is there.
const PANELS = [
  { id: "digits", title: "Digits", make: Digits, needs: ({ models }) => models.includes("digits") },
  { id: "sentiment", title: "Sentiment", make: Sentiment, needs: ({ models }) => models.includes("sentiment") },
  { id: "words", title: "Words", make: Words, needs: ({ models }) => models.includes("word2vec") },
  { id: "model", title: "Any model", make: AnyModel, needs: () => true },
  { id: "models", title: "Models", make: Models, needs: () => true },
  { id: "stack", title: "Stack", make: StackView, needs: () => true },
  { id: "jobs", title: "Jobs", make: Jobs, needs: ({ access }) => access.jobs },
];

const place = document.getElementById("panel");
const list = document.getElementById("panels");
const notice = document.getElementById("notice");
const made = new Map();
let shown = null;
let state = { models: [], access: { may_change_models: false, reason: "", jobs: false } };

function there() {
  return PANELS.filter((panel) => panel.needs(state));
}

async function learn() {
  const [index, access] = await Promise.all([ask("GET", "/"), ask("GET", "/v1/access")]);
  state = { models: index.models, access };
}

function navigate({ focus = true } = {}) {
  const panels = there();
  const wanted = panels.find((panel) => panel.id === location.hash.slice(1)) ?? panels[0];
  list.replaceChildren(...panels.map((panel) =>
    h("li", {}, h("a", { href: `#${panel.id}`, "aria-current": panel === wanted ? "page" : null }, panel.title))));
  shown?.hide?.();
  if (!made.has(wanted.id)) made.set(wanted.id, new wanted.make());
  shown = made.get(wanted.id);
  place.replaceChildren(shown.element);
  document.title = `${wanted.title} · Millrace`;
  shown.show?.(state);
  if (focus) place.focus({ preventScroll: true });
}

async function begin({ focus = true } = {}) {
  await guarded(notice, learn);
  notice.hidden = !notice.textContent;
  navigate({ focus });
}

addEventListener("hashchange", () => {
  if (location.hash !== "#panel") begin();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) shown?.hide?.();
  else shown?.show?.(state);
});
begin({ focus: false });
