// The page, the packages' files and the models, on this machine only: node serve.js [PORT]
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { dirname, extname, join, normalize, sep } from "node:path";
import { fileURLToPath } from "node:url";

const FOLDER = dirname(fileURLToPath(import.meta.url));
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".wasm": "application/wasm",
};
// Nothing is loaded from another host; WebAssembly may be compiled, and the page's import map stands in the page.
const POLICY = "default-src 'self'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'";

async function answer(request, response) {
  const { pathname } = new URL(request.url, "http://localhost");
  const path = normalize(join(FOLDER, decodeURIComponent(pathname), pathname.endsWith("/") ? "index.html" : ""));
  const found = path.startsWith(FOLDER + sep) ? await stat(path).catch(() => null) : null;
  if (!found?.isFile()) {
    response.writeHead(404).end();
    return;
  }
  const type = TYPES[extname(path)] ?? "application/octet-stream";
  response.writeHead(200, { "Content-Type": type, "Content-Length": found.size, "Content-Security-Policy": POLICY });
  createReadStream(path).pipe(response);
}

/** Start; the address is there when the promise is. Port 0 is any free one. */
export function serve(port = 0) {
  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.writeHead(400).end());
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => resolve({ server, url: `http://127.0.0.1:${server.address().port}/` }));
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url } = await serve(Number(process.argv[2] ?? 8090));
  console.log(`open ${url}`);
}
