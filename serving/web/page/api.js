// Asks the API. The key, where the server wants one, is kept in memory only.

let key = "";
let asking = null;

/** An error of the server, in its own words; `advice` says what to do. */
export class ApiError extends Error {
  constructor(status, text, advice = "") {
    super(text);
    this.status = status;
    this.advice = advice;
  }
}

/** A request of the page: what is sent, and what is shown of it. One of `json`, `file` and `form` is its body, or none. */
export function request(method, path, { json, file, form, headers = {} } = {}) {
  return { method, path, json, file, form, headers };
}

/** The response to a request. Raises `ApiError`. */
export async function send(what, { signal } = {}) {
  for (;;) {
    const response = await fetched(what, signal);
    if (response.ok) return response;
    const error = await errorOf(response);
    if (response.status !== 401 || !(await askForKey(error.message))) throw error;
  }
}

/** The JSON of the response. */
export async function ask(method, path, body, options) {
  return (await send(request(method, path, body), options)).json();
}

async function fetched(what, signal) {
  const headers = { ...what.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let body;
  if (what.json !== undefined) {
    body = JSON.stringify(what.json);
    headers["Content-Type"] = "application/json";
  } else if (what.file) {
    body = what.file;
    headers["Content-Type"] = what.file.type || "application/octet-stream";
  } else if (what.form) {
    body = new FormData();
    body.append("job", new Blob([JSON.stringify(what.form.job)], { type: "application/json" }));
    body.append("input", what.form.input);
  }
  try {
    return await fetch(what.path, { method: what.method, headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer.", "Is it running? The page tries again with your next input.");
  }
}

async function errorOf(response) {
  const text = await response.text();
  let message = text;
  try {
    message = JSON.parse(text).error ?? text;
  } catch {
    // it is no JSON: shown as it is
  }
  const seconds = response.headers.get("Retry-After");
  const advice = seconds ? `Try again in ${seconds} s.` : "";
  return new ApiError(response.status, message || `The server answered ${response.status}.`, advice);
}

/** Asks the person for a key; false where there is none to be had. All who wait are asked once. */
function askForKey(why) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key");
    const input = document.getElementById("key-input");
    document.getElementById("key-why").textContent = why;
    dialog.addEventListener("close", () => {
      key = dialog.returnValue === "use" ? input.value.trim() : "";
      input.value = "";
      asking = null;
      resolve(Boolean(key));
    }, { once: true });
    dialog.returnValue = "";
    dialog.showModal();
  });
  return asking;
}

export const hasKey = () => Boolean(key);
export const path = (...parts) => parts.map(encodeURIComponent).join("/");
