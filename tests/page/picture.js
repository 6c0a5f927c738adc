// Takes the picture of the README: sample files on their way.

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { Door, drop, dropFile, launch } from "./browser.js";

const samples = join(process.env.SCRATCH, "samples");
const files = readdirSync(samples, { recursive: true }).filter((name) => name.endsWith(".csv")).sort().reverse();
const browser = await launch();
const door = await Door.opened();
const page = await browser.newPage({ viewport: { width: 1180, height: 975 } });
await page.goto(door.url);
drop("health/unreadable.csv", ["when,how many", "2025-09-20,3"]);
// Over a minute or so, that the charts have a past to show.
for (const [index, name] of files.entries()) {
  await sleep(index % 5 === 0 ? 9_000 : 1_200);
  dropFile(name, join(samples, name));
}
await page.getByRole("row").filter({ hasText: files.at(-1) }).filter({ hasText: "applied" }).waitFor();
await page.screenshot({ path: join(process.env.SCRATCH, "status-page.png") });
await browser.close();
await door.shut();
