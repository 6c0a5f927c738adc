// What the page says once a topic has been deleted under a running pipeline.

import assert from "node:assert/strict";
import { test } from "node:test";

import { launch, shell } from "./browser.js";

const { env } = process;

test("a topic that does not exist is named on top, as the command names it", async () => {
  const browser = await launch();
  const page = await browser.newPage();
  page.setDefaultTimeout(20_000);
  await page.goto(env.FRESHET_HTTP);
  const alarm = page.locator("#alarms p").filter({ hasText: "freshet.climate" });
  await alarm.waitFor();
  await page.locator("article", { hasText: "climate" }).filter({ hasText: "topic missing" }).waitFor();
  const said = shell(`freshet --data data status`).replaceAll(/\s+/g, " ");
  const expected = "topic freshet.climate does not exist, so no row of climate is published or applied: run `freshet";
  assert.ok((await alarm.textContent()).startsWith(expected) && said.includes(expected), said);
  await browser.close();
});
