// Shows a request as curl, Python and JavaScript, ready to copy.

import { hasKey } from "./api.js";
import { h } from "./dom.js";

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function headersOf(what, type) {
  const headers = { ...what.headers };
  if (type) headers["Content-Type"] = type;
  return headers;
}

export function curl(what, base) {
  const words = ["curl", "-s"];
  const hasBody = what.json !== undefined || what.file || what.form;
  if (what.method !== (hasBody ? "POST" : "GET")) words.push("-X", what.method);
  for (const [name, value] of Object.entries(headersOf(what, what.json !== undefined ? "application/json" : what.file?.type))) {
    words.push("-H", shell(`${name}: ${value}`));
  }
  if (hasKey()) words.push("-H", '"Authorization: Bearer $MILLRACE_KEY"');
  words.push(shell(base + what.path));
  if (what.json !== undefined) words.push("-d", shell(JSON.stringify(what.json)));
  if (what.file) words.push("--data-binary", shell(`@${what.file.name || "image.png"}`));
  if (what.form) {
    words.push("-F", shell(`job=${JSON.stringify(what.form.job)};type=application/json`), "-F", shell(`input=@${what.form.input.name}`));
  }
  return words.join(" ");
}

/** A value of JSON as Python writes it. */
export function pythonLiteral(value) {
  if (value === null || value === undefined) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(pythonLiteral).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, inner]) => `${JSON.stringify(name)}: ${pythonLiteral(inner)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

export function python(what, base) {
  if (what.form) {
    return [
      "import json, httpx  # pip install httpx", "",
      `response = httpx.${what.method.toLowerCase()}(`,
      `    ${JSON.stringify(base + what.path)},`,
      `    files={"job": (None, json.dumps(${pythonLiteral(what.form.job)}), "application/json"),`,
      `           "input": open(${JSON.stringify(what.form.input.name)}, "rb")},`,
      ...(hasKey() ? ['    headers={"Authorization": f"Bearer {key}"},'] : []),
      ")", "print(response.json())",
    ].join("\n");
  }
  const lines = ["import json", "import urllib.request", ""];
  if (hasKey()) lines.unshift("import os");
  const headers = headersOf(what, what.json !== undefined ? "application/json" : what.file?.type);
  const shown = Object.entries(headers).map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  if (hasKey()) shown.push('"Authorization": "Bearer " + os.environ["MILLRACE_KEY"]');
  lines.push("request = urllib.request.Request(", `    ${JSON.stringify(base + what.path)},`, `    method=${JSON.stringify(what.method)},`);
  if (shown.length) lines.push(`    headers={${shown.join(", ")}},`);
  if (what.json !== undefined) lines.push(`    data=json.dumps(${pythonLiteral(what.json)}).encode(),`);
  if (what.file) lines.push(`    data=open(${JSON.stringify(what.file.name || "image.png")}, "rb").read(),`);
  lines.push(")", "with urllib.request.urlopen(request) as response:", "    print(json.load(response))");
  return lines.join("\n");
}

export function javascript(what, base) {
  const headers = headersOf(what, what.json !== undefined ? "application/json" : what.file?.type);
  if (hasKey()) headers.Authorization = "Bearer KEY";
  const options = [`  method: ${JSON.stringify(what.method)},`];
  if (Object.keys(headers).length) options.push(`  headers: ${JSON.stringify(headers)},`);
  const lines = [];
  if (what.json !== undefined) options.push(`  body: JSON.stringify(${JSON.stringify(what.json)}),`);
  if (what.file) options.push("  body: file, // of an <input type=\"file\">");
  if (what.form) {
    lines.push("const body = new FormData();", `body.append("job", new Blob([JSON.stringify(${JSON.stringify(what.form.job)})], { type: "application/json" }));`, 'body.append("input", file); // of an <input type="file">');
    options.push("  body,");
  }
  lines.push(`const response = await fetch(${JSON.stringify(base + what.path)}, {`, ...options, "});", "console.log(await response.json());");
  return lines.join("\n");
}

const FORMS = { curl, Python: python, JavaScript: javascript };

/** The last request of a panel. `show` it each time one is sent; it is written when somebody looks. */
export class RequestView {
  constructor() {
    this.what = null;
    this.form = "curl";
    this.text = h("pre", { tabindex: "0", role: "region", "aria-label": "The request" });
    this.copied = h("span", { role: "status" });
    this.choices = Object.keys(FORMS).map((name) =>
      h("button", { type: "button", "aria-pressed": String(name === this.form), onclick: () => this.choose(name) }, name));
    this.element = h("details", { class: "request", hidden: true, ontoggle: () => this.write() },
      h("summary", {}, "The request this panel sent"),
      h("div", { class: "buttons" }, this.choices, h("button", { type: "button", onclick: () => this.copy() }, "Copy"), this.copied),
      this.text);
  }

  show(what) {
    this.what = what;
    this.element.hidden = false;
    this.write();
    return what;
  }

  choose(name) {
    this.form = name;
    for (const button of this.choices) button.setAttribute("aria-pressed", String(button.textContent === name));
    this.write();
  }

  write() {
    if (this.what && this.element.open) this.text.textContent = FORMS[this.form](this.what, location.origin);
  }

  async copy() {
    try {
      await navigator.clipboard.writeText(this.text.textContent);
      this.copied.textContent = "Copied.";
    } catch {
      const range = document.createRange();
      range.selectNodeContents(this.text);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      this.copied.textContent = "Selected: press Ctrl+C.";
    }
  }
}
