// Opens the page in Chromium, without a network, and prints its table. Ends with 1 where an answer is not Python's.
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { chromium } from "playwright-core";
import { serve } from "./serve.js";

const NAMES = ["chromium", "chromium-browser", "google-chrome"];

function browser() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  const places = process.env.PATH.split(delimiter).flatMap((folder) => NAMES.map((name) => join(folder, name)));
  const found = places.find((place) => {
    try {
      accessSync(place, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
  if (!found) throw new Error("there is no Chromium: install it, or name its program in CHROMIUM");
  return found;
}

const { server, url } = await serve();
// Root may not use its sandbox. Every name and address but the server's leads nowhere.
const args = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"];
const running = await chromium.launch({ executablePath: browser(), args });
try {
  const page = await running.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("request", (request) => {
    const at = request.url();
    if (!/^(data|blob):/.test(at) && !at.startsWith(url)) problems.push(`it asked for ${at}`);
  });
  await page.goto(url);
  await page.locator("[role=status]", { hasNotText: "Running" }).waitFor({ timeout: 120_000 });
  for (const cells of await page.locator("tr").all()) {
    console.log((await cells.locator("th, td").allTextContents()).join(" | "));
  }
  const said = await page.locator("[role=status]").textContent();
  console.log(said);
  for (const problem of problems) console.log(problem);
  process.exitCode = said.startsWith("All answers") && problems.length === 0 ? 0 : 1;
} finally {
  await running.close();
  server.close();
}
