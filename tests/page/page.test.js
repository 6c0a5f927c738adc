// What the status page has to do. The tests follow each other: what one dropped is there for the next.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import http from "node:http";
import { after, before, test } from "node:test";

import { Door, drop, execute, launch, output, query, remove, shell, signal } from "./browser.js";

const HEALTH = "location_id,date,dengue_cases,malaria_cases,heatstroke_cases,diarrhea_cases";
const HOSPITAL = "location_id,date,total_beds,available_beds,doctors,nurses";
const HOSTILE = `health/<img src=x onerror="document.title='owned'">'&amp;.csv`;
/** Well over the second or two that a row takes to the page. */
const LIMIT = { timeout: 20_000 };

let browser;
let door;
let page;
const complaints = [];
const asked = [];

/** A page that writes down what it asks for and what it complains of. */
async function opened(options) {
  const page = await browser.newPage(options);
  page.setDefaultTimeout(LIMIT.timeout);
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("dialog", (dialog) => { complaints.push(dialog.message()); dialog.dismiss(); });
  page.on("request", (request) => asked.push(request.url()));
  await page.goto(door.url);
  await page.locator("body[data-connection=live]").waitFor();
  return page;
}

/** Clicks twice before anything can be answered. */
const clickTwice = (locator) => locator.evaluate((button) => {
  button.click();
  button.click();
});

const row = (name) => page.getByRole("row").filter({ hasText: name });
const section = (title) => page.locator("section", { has: page.getByRole("heading", { name: title, exact: true }) });
/** Waits until the texts are there. */
const there = async (locator, ...texts) => {
  for (const text of texts) await locator.filter({ hasText: text }).first().waitFor();
};

/** Asks for exactly that path, as a browser would not, under that host's name. */
const ask = (host, path) => new Promise((resolve, reject) => {
  http.get({ host: "127.0.0.1", port: door.port, path, headers: { host } }, (answer) => {
    answer.resume();
    resolve(answer);
  }).on("error", reject);
});

before(async () => {
  browser = await launch();
  door = await Door.opened();
  page = await opened({ viewport: { width: 1240, height: 900 } });
});

after(async () => {
  await browser?.close();
  await door?.shut();
});

test("an empty pipeline says what to do", async () => {
  await there(page.getByRole("region", { name: "First steps" }), "No files yet", "s3://freshet-raw/", "hospital/");
  await there(section("Files"), "No files found yet");
});

test("what is dropped appears without a reload", async () => {
  await page.evaluate(() => { window.loadedOnce = true; });
  drop("locations/two.csv", ["id,name,type,population,area", "1,<u>Upper</u> Town,city,50000,10", "2,Low Town,city,90000,12"]);
  drop("health/good.csv", [HEALTH, "1,2025-09-20,120,70,1,310", "2,2025-09-20,20,7,0,31"]);
  drop("hospital/good.csv", [HOSPITAL, "1,2025-09-20,100,40,20,60", "2,2025-09-20,10,4,2,6"]);
  drop("health/dirty.csv", [HEALTH, "1,2025-09-21,-4,9,0,28", "<b>one</b>,2025-09-22,1,1,1,1", "2,,1,1,1,1"]);
  await there(row("health/good.csv"), "applied", "2 rows");
  await there(row("health/dirty.csv"), "2 rejected", "1 corrected", "3 rows");
  await there(page.locator("#flow li").filter({ hasText: "Kafka" }), "9rows published");
  await there(page.locator("#flow li").filter({ hasText: "Postgres" }), "7rows applied", "2 rejected");
  await there(page.locator("#flow li").filter({ hasText: "S3" }), "4files found");
  assert.equal(await page.locator("#empty").isVisible(), false);
  assert.equal(await page.evaluate(() => window.loadedOnce), true);
});

test("each domain has its lag and freshness as charts with words", async () => {
  for (const domain of ["locations", "health", "hospital"]) {
    await page.getByRole("img", { name: new RegExp(`^lag of ${domain}: now 0 messages, at most`) }).waitFor();
    await page.getByRole("img", { name: new RegExp(`^freshness of the last \\d files of ${domain}: the last [\\d.]+ s`) }).waitFor();
  }
  await page.getByRole("img", { name: "freshness of climate: no file yet" }).waitFor();
  // A file with rejected rows has its bar too, once it is applied.
  await there(row("health/dirty.csv"), "applied in part");
  await page.getByRole("img", { name: /^freshness of the last 2 files of health:/ }).waitFor();
  const bars = page.locator("article", { hasText: "health" }).locator(".chart.freshness rect");
  assert.equal(await bars.count(), 2);
  assert.ok((await page.locator("article", { hasText: "health" }).locator(".chart.lag .line").getAttribute("d")).length > 10);
});

test("rejects and corrections stand under their rules, with an example", async () => {
  const rejects = section("Rejected rows, by rule").getByRole("listitem").filter({ hasText: "uncastable" });
  await there(rejects, "uncastable1", "health 1", 'location_id = "<b>one</b>"', "health/dirty.csv, line 3");
  await there(section("Corrected values, by rule").getByRole("listitem"), "negative_to_zero1", "health.dengue_cases 1");
});

test("a file of which no row loaded is rejected, whatever the ledger calls it", async () => {
  drop("hospital/lost.csv", [HOSPITAL, "x,2025-09-21,100,40,20,60", "1,someday,10,4,2,6"]);
  await there(row("hospital/lost.csv"), "no row loaded", "2 rejected");
  assert.equal(await row("hospital/lost.csv").locator(".chip").getAttribute("data-state"), "rejected");
  await there(row("health/dirty.csv"), "applied in part");
  await page.getByRole("button", { name: "Rejected 1", exact: true }).click();
  await page.waitForFunction(() => document.querySelectorAll("#files .name").length === 1);
  assert.deepEqual(await page.locator("#files .name").allTextContents(), ["hospital/lost.csv"]);
  await page.getByRole("button", { name: "With rejected rows 2", exact: true }).click();
  await there(row("health/dirty.csv"), "applied in part");
  assert.deepEqual(await page.locator("#files .name").allTextContents(), ["hospital/lost.csv", "health/dirty.csv"]);
  await page.getByRole("button", { name: /^All / }).click();
  await there(page.locator("#flow li").filter({ hasText: "S3" }), "1 rejected");
});

test("a file whose rows wait to be applied is queued", async () => {
  const { stateOf } = await page.evaluateHandle(() => import("/page/files.js")).then((module) =>
    module.evaluate(({ stateOf }) => ({ stateOf: stateOf({ state: "published", rows: 2, rejected: 0 }) })));
  assert.equal(stateOf.name, "queued");
});

test("how long files took stays as it was when their rows are applied anew", async () => {
  const took = () => row("health/good.csv").locator(".took").textContent();
  const before = await took();
  execute("UPDATE pipeline.progress SET updated_at = now() + interval '1 hour'");
  drop("health/after.csv", [HEALTH, "2,2025-09-25,20,7,0,31"]);
  await there(row("health/after.csv"), "applied");
  assert.equal(await took(), before);
  await page.getByRole("img", { name: /^freshness of health: .* h/ }).waitFor({ state: "detached" });
});

test("a domain's card tells the rows of its table", async () => {
  drop("health/again.csv", [HEALTH, "2,2025-09-25,20,7,0,32"]);
  await there(row("health/again.csv"), "applied");
  const [held] = query("SELECT count(*) FROM health_data");
  await there(page.locator("article", { hasText: "health" }).locator("header"), `${held} rows`);
  assert.ok(Number(held) < Number(query("SELECT sum(applied) FROM pipeline.progress WHERE domain = 'health'")[0]));
});

test("a file opens at an address of its own, with its rejects by line and the way it went", async () => {
  await page.getByRole("link", { name: "health/dirty.csv" }).click();
  const view = page.locator("#view");
  await there(view.getByRole("heading", { name: "health/dirty.csv" }), "applied in part");
  assert.equal(await page.locator("#overview").isVisible(), false);
  const rejects = section("Rejected rows").getByRole("row");
  await there(rejects, "3location_id<b>one</b>uncastable", "4date");
  assert.equal(await view.locator("b b").count(), 0);
  await there(section("Corrected values").getByRole("row"), "2dengue_cases-4 → 0negative_to_zero");
  await there(view.locator("dl"), "3 rows, 2 rejected, 1 applied", "In the table1 row, 1 with new values");
  // Every stage has its time, and the first version of the outputs that holds it has a number.
  await there(view.locator(".way li[data-done]").filter({ hasText: "Outputs" }), "version");
  assert.equal(await view.locator(".way li[data-done] time").count(), 5);
  const times = (await view.locator(".way time").allTextContents()).slice(0, 4).map(Date.parse);
  assert.deepEqual(times, [...times].sort());
  // Whoever is sent the address sees the same.
  const other = await opened();
  await other.goto(page.url());
  await there(other.locator("#view"), "health/dirty.csv", "applied in part", "-4");
  await other.close();
});

test("the rejects of a file can be taken away as CSV, as the command gives them", async () => {
  const download = page.waitForEvent("download");
  await page.getByRole("link", { name: "Download as CSV" }).click();
  const file = await download;
  assert.match(file.suggestedFilename(), /^rejects-dirty-\d+\.csv$/);
  const lines = (await readFile(await file.path(), "utf8")).trim().split("\n");
  assert.match(lines[0], /^location_id,date,dengue_cases,.*_rejected_rule/);
  assert.match(lines[1], /^<b>one<\/b>,2025-09-22,1,1,1,1,uncastable,location_id,/);
  assert.equal(lines.length, 3);
  await page.goBack();
  await page.locator("#overview").waitFor();
  for (const path of ["/page/files/999999", "/page/files/999999/rejects.csv", "/page/files/x", "/page/files/1%27"]) {
    assert.ok([400, 404].includes((await ask("localhost", path)).statusCode), path);
  }
});

test("files are found by name and by domain, and all of them by going on", async () => {
  const names = () => page.locator("#files .name").allTextContents();
  const search = page.getByRole("searchbox", { name: "Search by name" });
  await search.fill("GOOD");
  await page.waitForFunction(() => document.querySelectorAll("#files .name").length === 2);
  assert.deepEqual((await names()).sort(), ["health/good.csv", "hospital/good.csv"]);
  await page.getByRole("combobox", { name: "Domain" }).selectOption("hospital");
  await page.waitForFunction(() => document.querySelectorAll("#files .name").length === 1);
  assert.deepEqual(await names(), ["hospital/good.csv"]);
  await search.fill("%_'");
  await there(page.locator("#files-none"), "No files under “All”");
  await search.fill("");
  await page.getByRole("button", { name: "With rejected rows" }).click();
  await there(page.locator("#files .name"), "hospital/lost.csv");
  assert.deepEqual(await names(), ["hospital/lost.csv"]);
  await page.getByRole("combobox", { name: "Domain" }).selectOption("");
  await page.getByRole("button", { name: /^All / }).click();
  // As if many had been found: none of them is anybody's to publish.
  execute(`INSERT INTO pipeline.objects (bucket, key, version_id, etag, size_bytes, last_modified, domain, src_ord, state)
    SELECT 'none', 'health/old-' || n || '.csv', 'v' || n, '', 0, '2020-01-01', 'health', -n, 'superseded' FROM generate_series(1, 100) n`);
  await there(page.getByRole("button", { name: /^Superseded/ }), "Superseded 100");
  await page.getByRole("button", { name: /^Superseded/ }).click();
  const more = page.getByRole("button", { name: "Show more" });
  for (const number of [8, 40, 80, 100]) {
    await page.waitForFunction((number) => document.querySelectorAll("#files .name").length === number, number);
    if (number < 100) await more.click();
  }
  await more.waitFor({ state: "hidden" });
  assert.equal(new Set(await names()).size, 100);
  execute("DELETE FROM pipeline.objects WHERE bucket = 'none'");
  await page.getByRole("button", { name: /^All / }).click();
});

test("columns that a file has beside its domain, or lacks, stand under their rules and on the file", async () => {
  drop("locations/told.csv", ["id,name,type,colour", "3,Far Town,Urban,red"]);
  const columns = section("Unknown and missing columns, by rule").getByRole("listitem");
  await there(columns.filter({ hasText: "unknown_column" }), "locations.colour 1", "locations/told.csv");
  await there(columns.filter({ hasText: "absent_default" }), "locations.population");
  await there(row("locations/told.csv"), "unknown: colour", "missing, default used: population, area");
});

test("the contract of a domain is told in words", async () => {
  await page.getByRole("link", { name: "hospital", exact: true }).click();
  const view = page.locator("#view");
  await there(view.getByRole("heading"), "Contract of hospital");
  await there(view.locator("dl"), "hospital_data", "location_id, date");
  const column = (name) => view.getByRole("row").filter({ has: page.getByRole("rowheader").filter({ hasText: name }) });
  await there(column("location_id"), "refers to id of locations", "part of the key", "unreadable: the row is rejected");
  await there(column("available_beds"), /negative_to_zero: at least 0; else the value becomes 0/);
  const guide = await ask("localhost", await view.getByRole("link", { name: "contracts.md" }).getAttribute("href"));
  assert.deepEqual([guide.statusCode, guide.headers["content-type"]], [200, "text/html; charset=utf-8"]);
  await page.getByRole("link", { name: "four questions" }).click();
  await page.getByRole("link", { name: "Undo a file" }).or(page.getByRole("link", { name: "undo that file" })).first().click();
  await there(page.getByRole("main"), "Why is this row not there?");
  assert.equal(new URL(page.url()).hash, "#undo-a-file");
  await page.getByRole("link", { name: "runbook", exact: true }).first().click();
  await there(page.getByRole("heading", { level: 2, name: "FreshetFileStuck" }), "FreshetFileStuck");
  await page.getByRole("link", { name: "← Status page" }).click();
  await page.locator("#overview").waitFor();
  await page.getByRole("link", { name: "hospital", exact: true }).click();
  assert.equal((await ask("localhost", "/docs/..%2FCargo.toml")).statusCode, 404);
  await page.getByRole("link", { name: "← Overview" }).click();
  await page.locator("#overview").waitFor();
});

test("an object that belongs to no domain is named on top, until it is gone", async () => {
  drop("helth/x.csv", [HEALTH]);
  // As something to look at, not as red as a halt.
  await there(page.locator("#alarms .notice.warn"), "helth/x.csv belongs to no domain: did you mean `health/`?");
  const background = (selector) => page.locator(selector).first().evaluate((node) => getComputedStyle(node).backgroundColor);
  execute("UPDATE pipeline.bookmarks SET halted = 'stopped' WHERE domain = 'health' AND partition = 1");
  await there(page.locator("#alarms .notice.bad"), "health is halted");
  assert.notEqual(await background("#alarms .notice.warn"), await background("#alarms .notice.bad"));
  execute("UPDATE pipeline.bookmarks SET halted = NULL");
  await page.getByRole("link", { name: /^1 object belongs to no domain/ }).click();
  await there(page.locator("#view").getByRole("row"), "helth/x.csvdid you mean `health/`?");
  await page.goBack();
  remove("helth/x.csv");
  await page.waitForFunction(() => !document.getElementById("alarms").textContent.includes("helth"));
});

test("a file that cannot be read is shown with its reason", async () => {
  drop("health/unreadable.csv", ["when,how many", "2025-09-20,3"]);
  await there(row("health/unreadable.csv"), "rejected", "location_id");
});

test("a file may be named anything and stays text", async () => {
  drop(HOSTILE, [HEALTH, "2,2025-09-23,1,1,1,1"]);
  await there(row("onerror"), "applied");
  assert.equal(await row("onerror").locator(".name").textContent(), HOSTILE);
  assert.equal(await page.locator("main img, main script, main b b, main u").count(), 0);
  assert.equal(await page.title(), "freshet");
});

test("what an output asks to be drawn is drawn as it is published, and sorted as asked", async () => {
  const chart = section("Resilience and risk");
  await there(chart.getByRole("row"), "Low Town", "<u>Upper</u> Town");
  await there(page.locator("#flow li").filter({ hasText: "Outputs" }), "up to date");
  const published = JSON.parse(output("metrics/resilience_scores.json"));
  const names = (rows) => rows.map((it) => it.location_name);
  const shown = () => chart.locator("tbody th").allTextContents();
  const worstFirst = [...published].sort((a, b) => a.resilience_score - b.resilience_score);
  assert.equal(worstFirst.length, 2);
  assert.deepEqual(await shown(), names(worstFirst));
  for (const [index, row] of worstFirst.entries()) {
    const cells = await chart.locator("tbody tr").nth(index).locator("td").allTextContents();
    assert.deepEqual([cells[0], cells[2]], [row.resilience_score.toFixed(1), row.date]);
    assert.ok(Math.abs(Number(cells[1]) - row.overall_risk) <= 0.05, cells[1]);
  }
  assert.equal(await chart.locator("tbody rect").count(), 4);
  await there(chart.locator(".hint"), "The newest date of each location name, as published.", "Resilience score: 0 to 100, high is good");
  await chart.getByRole("button", { name: "By location name" }).click();
  await chart.locator("tbody tr").first().filter({ hasText: "<u>" }).waitFor();
  assert.deepEqual(await shown(), names(published).sort());
  await chart.getByRole("button", { name: "Most overall risk" }).click();
  await chart.getByRole("button", { name: "Most overall risk", pressed: true }).waitFor();
  assert.deepEqual(await shown(), names([...published].sort((a, b) => b.overall_risk - a.overall_risk)));
});

test("what is known of one thing stands together, with the files that it is from", async () => {
  await section("Resilience and risk").getByRole("link", { name: "Low Town" }).click();
  const view = page.locator("#view");
  await there(view.getByRole("heading"), "locations 2");
  await there(view.locator("dl"), "Low Town", "90000", "locations/");
  const rows = view.getByRole("table", { name: "health 2" }).locator("tbody tr");
  const dates = (await rows.locator("td:nth-child(2)").allTextContents());
  assert.deepEqual(dates, query("SELECT date FROM health_data WHERE location_id = 2 ORDER BY date DESC"));
  await there(view.getByRole("table", { name: "hospital 2" }).locator("tbody tr"), "2025-09-20");
  execute(`INSERT INTO health_data (location_id, date, is_projected, src_object, src_gen, src_row, src_ord, value_ord)
    SELECT 2, '2001-01-01'::date + n, false, 0, 0, 0, 0, 0 FROM generate_series(1, 100) n`);
  await page.reload();
  const older = view.getByRole("button", { name: "Show older rows" });
  await page.route(/\/page\/facts\//, (route) => route.fulfill({ status: 503, body: "too much is asked" }), { times: 1 });
  await older.click();
  await there(view.locator(".none"), "too much is asked");
  // What the browser itself writes down of the answer 503.
  complaints.splice(0, complaints.length, ...complaints.filter((it) => !it.includes("503")));
  const before = asked.length;
  await clickTwice(older);
  await there(rows, "2001-01-02");
  assert.equal(await rows.count(), dates.length + 100);
  assert.equal(asked.slice(before).filter((url) => url.includes("/page/facts/")).length, 1);
  assert.equal(await view.getByText("too much is asked").count(), 0);
  assert.equal(await older.isVisible(), false);
  execute("DELETE FROM health_data WHERE date < '2002-01-01'");
  await page.evaluate(() => { window.loadedOnce = true; });
  await rows.first().getByRole("link").click();
  await there(view.getByRole("heading"), "health/");
  await page.getByRole("link", { name: "← Overview" }).click();
  await page.getByRole("searchbox", { name: "Search by id or name" }).fill("upper");
  await there(page.locator("#entities-found a"), "1: <u>Upper</u> Town");
  assert.equal(await page.locator("#entities-found u").count(), 0);
  await page.getByRole("searchbox", { name: "Search by id or name" }).fill("");
  for (const [path, status] of [["locations/2%20OR%201=1", 400], ["locations/77", 404], ["health/2", 404]]) {
    assert.equal((await ask("localhost", `/page/entities/${path}`)).statusCode, status, path);
  }
});

test("what is found of one dimension is never shown as another's", async () => {
  const other = await opened();
  const locations = /\/page\/entities\/locations\?/;
  let answer;
  await other.route(locations, async (route) => {
    await new Promise((resolve) => { answer = resolve; });
    await route.fulfill({ json: [{ value: "1", text: "Upper Town" }] });
  });
  await other.route(/\/page\/entities\/wards\?/, (route) => route.fulfill({ json: [{ value: "7", text: "Low Ward" }] }));
  const draw = () => other.evaluate(() => document.dispatchEvent(new Event("chosen")));
  // As if facts referred to a second dimension.
  await other.evaluate(async () => {
    const { state } = await import("/page/state.js");
    state.about.entities = { location_id: "locations", ward_id: "wards" };
  });
  await draw();
  const of = other.getByRole("combobox", { name: "Of", exact: true });
  const found = other.locator("#entities-found a");
  const links = () => found.evaluateAll((links) => links.map((link) => link.getAttribute("href")));

  let isAsked = other.waitForRequest(locations);
  await other.getByRole("searchbox", { name: "Search by id or name" }).fill("low");
  await isAsked;
  await of.selectOption("wards");
  await there(found, "7: Low Ward");
  const late = other.waitForResponse(locations);
  answer();
  await (await late).finished();
  await other.waitForTimeout(200);
  assert.deepEqual(await links(), ["#/entity/wards/7"], "an answer that comes too late is not taken");

  isAsked = other.waitForRequest(locations);
  await of.selectOption("locations");
  await isAsked;
  await draw();
  await other.waitForTimeout(200);
  assert.deepEqual(await links(), ["#/entity/wards/7"], "until the next answer the links are those of the last");
  answer();
  await there(found, "1: Upper Town");
  assert.deepEqual(await links(), ["#/entity/locations/1"]);
  await other.close();
});

test("an axis is the range that the output gives, whatever the values are, and else begins at 0", async () => {
  const chart = section("Resilience and risk");
  const ticks = (index) => chart.locator("thead th").nth(index).locator("text").allTextContents();
  assert.deepEqual(await ticks(1), ["0", "20", "40", "60", "80", "100"]);
  assert.equal((await ticks(2))[0], "0");
  const cases = [[0, 100], [0, 2.2], [99.98, 100], [-3, 8000], [5, 5], [0, 0], [-2, -2], [0, 0.004]];
  const scales = await page.evaluate(async (cases) => {
    const { scale } = await import("/page/charts.js");
    return cases.map(([from, to]) => {
      const { ticks, digits, place } = scale(from, to);
      return { ticks, digits, places: [from, to].map(place) };
    });
  }, cases);
  assert.deepEqual(scales[0], { ticks: [0, 20, 40, 60, 80, 100], digits: 1, places: [0, 100] });
  assert.deepEqual([scales[1].ticks, scales[1].digits], [[0, 0.5, 1, 1.5, 2, 2.5], 2]);
  assert.deepEqual([scales[3].ticks, scales[3].digits], [[-2000, 0, 2000, 4000, 6000, 8000], 0]);
  for (const [index, { ticks, places }] of scales.entries()) {
    const [from, to] = cases[index];
    assert.ok(ticks.length >= 2 && ticks.length <= 7 && ticks[0] <= from && ticks.at(-1) >= to, `${cases[index]}: ${ticks}`);
    assert.ok(places.every((place) => place >= 0 && place <= 100), `${cases[index]}: ${places}`);
  }
});

test("the outputs can be taken away, and nothing else", async () => {
  const download = page.waitForEvent("download");
  await page.getByRole("link", { name: "Download resilience_scores as csv" }).click();
  const file = await download;
  assert.equal(file.suggestedFilename(), "resilience_scores.csv");
  assert.deepEqual(await readFile(await file.path()), output("metrics/resilience_scores.csv"));
  for (const name of ["current.json", "resilience_scores.exe", "..%2Fcurrent.json", "data%2Fx.csv", "..", "%2e%2e", ""]) {
    assert.equal((await ask("localhost", `/outputs/${name}`)).statusCode, 404, name);
  }
});

test("what needs a person is said at the top", async () => {
  const alarms = page.getByRole("alert");
  execute("UPDATE pipeline.bookmarks SET halted = 'made again: <adopt> it' WHERE domain = 'health' AND partition IN (1, 2)");
  await there(alarms, "health is halted at partitions 1, 2: made again: <adopt> it");
  execute("UPDATE pipeline.bookmarks SET halted = NULL");
  execute("ALTER TABLE hospital_data RENAME COLUMN nurses TO hidden");
  execute(`WITH marked AS (INSERT INTO pipeline.marks (domain, dates) SELECT 'hospital', daterange(date, date + 1) FROM hospital_data)
    SELECT pg_notify('freshet_marks', 'hospital')`);
  await there(alarms, "The output resilience_scores cannot be derived; its published files are older than the tables: prepare: column h.nurses does not exist");
  execute("ALTER TABLE hospital_data RENAME COLUMN hidden TO nurses");
  // What cannot be read leaves the rest as it was.
  execute("ALTER TABLE pipeline.rejects RENAME TO hidden");
  await there(alarms, "Not up to date. Postgres: count the rejects");
  assert.equal(await row("onerror").count(), 1);
  execute("ALTER TABLE pipeline.hidden RENAME TO rejects");
  await page.waitForFunction(() => document.getElementById("alarms").childElementCount === 0);
});

test("everything can be reached and used by keyboard", async () => {
  const keys = await opened();
  await keys.getByRole("button", { name: "Rejected 2" }).waitFor();
  const focused = () => keys.evaluate(() => document.activeElement.textContent);
  const reached = [];
  for (let tabs = 0; tabs < 30; tabs += 1) {
    await keys.keyboard.press("Tab");
    reached.push(await focused());
    if (reached.at(-1) === "Rejected 2") break;
  }
  assert.equal(reached[0], "Skip to the content");
  assert.equal(reached.at(-1), "Rejected 2");
  const outline = await keys.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(outline, "solid", "the focus is seen");
  await keys.keyboard.press("Enter");
  await keys.waitForFunction(() => document.querySelectorAll("#files tr").length === 2);
  assert.equal(await keys.getByRole("button", { name: "Rejected 2" }).getAttribute("aria-pressed"), "true");
  assert.equal(await focused(), "Rejected 2", "the focus stays");
  await there(keys.locator("#files-shown"), "Rejected: 2 of 2 files shown");
  // News do not take the focus away.
  drop("health/unreadable-2.csv", ["when,how many", "2025-09-20,3"]);
  await there(keys.locator("#files tr"), "unreadable-2.csv");
  // What is shown is counted, though the counts are read apart from the list.
  assert.equal(await focused(), "Rejected 3");
  assert.equal(await keys.locator("#files-shown").textContent(), "Rejected: 3 of 3 files shown");
  await keys.close();
});

test("it is readable in the dark and on a phone", async () => {
  const luminance = (page, name) => page.evaluate((name) => {
    const [red, green, blue] = getComputedStyle(document.body)[name].match(/\d+/g).map(Number);
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255;
  }, name);
  const dark = await opened({ colorScheme: "dark", viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true });
  assert.ok(await luminance(dark, "backgroundColor") < 0.15 && await luminance(dark, "color") > 0.8);
  assert.ok(await luminance(page, "backgroundColor") > 0.85 && await luminance(page, "color") < 0.2);
  await dark.getByText("onerror").waitFor();
  for (const width of [390, 320]) {
    await dark.setViewportSize({ width, height: 844 });
    assert.equal(await dark.evaluate(() => document.documentElement.scrollWidth), width, "nothing sticks out");
  }
  await dark.close();
});

test("a file that is dropped on the page is in the pipeline, and none is replaced or sent by a page elsewhere", async () => {
  const zone = page.locator("#upload");
  await zone.getByRole("combobox").selectOption("health");
  const content = [HEALTH, "1,2025-10-01,7,7,7,7"].join("\n");
  const transfer = await page.evaluateHandle((content) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([content], "by hand.csv", { type: "text/csv" }));
    return transfer;
  }, content);
  await zone.dispatchEvent("drop", { dataTransfer: transfer });
  await there(zone.getByRole("listitem"), "by hand.csv: in the bucket as health/by hand.csv");
  await page.getByRole("button", { name: /^All / }).click();
  await there(row("health/by hand.csv"), "applied", "1 row");
  assert.deepEqual(query("SELECT dengue_cases FROM health_data WHERE date = '2025-10-01'"), ["7"]);
  const refused = page.waitForResponse(/uploads/);
  await zone.dispatchEvent("drop", { dataTransfer: transfer });
  assert.equal((await refused).status(), 409);
  await there(zone.getByRole("listitem"), "already exists");
  // What the browser itself writes down of the answer 409.
  complaints.splice(0, complaints.length, ...complaints.filter((it) => !it.includes("409")));
  const post = (headers, name = "x.csv", body = content) => new Promise((resolve, reject) => {
    const path = `/page/uploads?domain=health&name=${encodeURIComponent(name)}`;
    const request = http.request({ host: "127.0.0.1", port: door.port, path, method: "POST", headers }, (answer) => {
      answer.resume();
      resolve(answer.statusCode);
    });
    request.on("error", reject);
    request.end(body);
  });
  const host = `localhost:${door.port}`;
  const own = { host, origin: `http://${host}`, "x-freshet-page": "1" };
  assert.equal(await post({ host, origin: own.origin }), 403);
  assert.equal(await post({ ...own, origin: "http://elsewhere.example" }), 403);
  assert.equal(await post({ ...own, host: "elsewhere.example", origin: "http://elsewhere.example" }), 403);
  assert.equal(await post(own, "../climate/x.csv"), 400);
  assert.equal(await post(own, "_SUCCESS"), 400);
  assert.equal(await post(own, "large.csv", Buffer.alloc((32 << 20) + 1, "x")).catch(() => 413), 413);
  assert.equal(query("SELECT count(*) FROM pipeline.objects WHERE key LIKE '%x.csv' OR key LIKE '%large%'")[0], "0");
});

test("a file's page says how to undo it, with commands that do", async () => {
  drop("health/known.csv", [HEALTH, "1,2025-11-01,5,5,5,5"]);
  await there(row("health/known.csv"), "applied");
  drop("health/bad.csv", [HEALTH, "1,2025-11-01,99,9,9,9", "1,2025-11-02,99,9,9,9"]);
  await there(row("health/bad.csv"), "applied");
  await page.getByRole("link", { name: "health/bad.csv" }).click();
  const undo = section("Undo this file");
  await there(undo, "It has a name of its own", "a replay of it brings removed rows back");
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  const steps = undo.locator("ol > li");
  assert.equal(await steps.count(), 4);
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "long commands are wrapped");
  const commands = [];
  for (const step of await steps.all()) {
    await step.getByRole("button", { name: "Copy" }).click();
    await there(step.getByRole("button"), "Copied");
    commands.push(await page.evaluate(() => navigator.clipboard.readText()));
  }
  const [load, changes, again, removed] = commands;
  const listed = shell(`${load}\n${changes}`).replaceAll("\n", " ");
  assert.match(listed, /it replaced 1 row, of health\/known.csv \(1\).*added .*date=2025-11-02/);
  shell([load, again.replace("GOOD", "known").replace("--as-new", "--as-new --yes"), removed].join("\n"));
  assert.deepEqual(query("SELECT dengue_cases FROM health_data WHERE date BETWEEN '2025-11-01' AND '2025-11-02'"), ["5"]);
  const { pathname, hash } = new URL(await undo.getByRole("link", { name: "undo a file" }).getAttribute("href"), page.url());
  assert.deepEqual([pathname, hash], ["/docs/answers.md", "#undo-a-file"]);

  // Overwritten, it has an older version to go back to; that one has none to undo any more.
  drop("health/known.csv", [HEALTH, "1,2025-11-01,6,6,6,6"]);
  await page.getByRole("link", { name: "← Overview" }).click();
  await page.waitForFunction(() => [...document.querySelectorAll("#files tr")].filter((it) => it.textContent.includes("health/known.csv")
    && it.textContent.includes("applied")).length === 2);
  await page.getByRole("link", { name: "health/known.csv" }).first().click();
  await there(undo, "It overwrote an older version of the same name");
  const [version] = query("SELECT coalesce(version_id, '') FROM pipeline.objects WHERE key = 'health/known.csv' ORDER BY src_ord LIMIT 1");
  await there(undo.locator("code"), version ? `--version-id ${version} older-known.csv` : "aws s3 cp older-known.csv");
  await section("Versions").getByRole("link").last().click();
  await there(undo, "A newer version of the file has been loaded");
  const [unreadable] = query("SELECT id FROM pipeline.objects WHERE key = 'health/unreadable.csv'");
  await page.evaluate((id) => { location.hash = `#/file/${id}`; }, unreadable);
  await there(undo, "It was not loaded, so there is nothing to undo");
  assert.equal(await undo.getByRole("button").count(), 0);
  await page.getByRole("link", { name: "← Overview" }).click();
});

test("a file without rows, one that was refused and one in progress do not look finished", async () => {
  const view = page.locator("#view");
  const open = (id) => page.evaluate((id) => { location.hash = `#/file/${id}`; }, id);
  const idOf = (key) => query(`SELECT id FROM pipeline.objects WHERE key = '${key}' ORDER BY src_ord DESC`);
  drop("health/header.csv", [HEALTH]);
  await there(row("health/header.csv"), "applied", "0 rows");
  await open(idOf("health/header.csv")[0]);
  await there(view.locator("dl"), "none, only a header");
  await there(view.locator(".way li[data-done]"), "it has no rows");
  assert.deepEqual(await view.locator(".way .stage").allTextContents(), ["S3", "Found", "Kafka", "Postgres"]);
  await open(idOf("health/unreadable.csv")[0]);
  await there(view.locator(".way li[data-out]"), "Kafka", "rejected");
  assert.equal(await view.locator(".way li[data-done]").count(), 2);
  await there(view.locator(".way li").last(), "not reached");
  // As if its contract said onOverwrite: replace.
  const [newest, older] = idOf("health/known.csv");
  execute(`UPDATE pipeline.objects SET replaced_by = ${newest} WHERE id = ${older}`);
  await open(newest);
  await there(view.locator("dl"), "Removedthe rows that only the version before had (onOverwrite: replace)");
  await view.getByRole("link", { name: /^the rows that only/ }).click();
  await there(view.locator("dl"), `its rows were removed by file ${newest}`);
  execute(`UPDATE pipeline.objects SET replaced_by = NULL WHERE id = ${older}`);
  // One that is sent again has the times of before.
  const stages = await page.evaluate(async () => {
    const { stagesOf } = await import("/page/file.js");
    const [before, at] = ["2025-01-01T00:00:00Z", "2025-01-02T00:00:00Z"];
    const again = { state: "publishing", rows: 3, applied: 3, last_modified: before, discovered_at: before, published_at: at, applied_at: at, outputs: null };
    return stagesOf(again).map(({ what, at }) => [what, Boolean(at)]);
  });
  assert.deepEqual(stages.slice(2), [["not all rows published yet", false], ["not all rows judged yet", false], ["not derived from all rows yet", false]]);
  await page.getByRole("link", { name: "← Overview" }).click();
});

test("an impatient second click asks once and shows no row twice", async () => {
  const bad = Array.from({ length: 150 }, (_, index) => `x${index},2025-12-01,1,1,1,1`);
  drop("health/many.csv", [HEALTH, "2,2025-12-01,1,1,1,1", ...bad]);
  await there(row("health/many.csv"), "150 rejected", "applied in part");
  await page.getByRole("link", { name: "health/many.csv" }).click();
  const rejects = section("Rejected rows");
  const rows = rejects.locator("tbody tr");
  const more = rejects.getByRole("button", { name: "Show more" });
  await more.waitFor();
  assert.equal(await rows.count(), 100);
  await page.route(/\/rejects\?after=/, (route) => route.fulfill({ status: 503, body: "too much is asked" }), { times: 1 });
  await more.click();
  await there(rejects.locator(".none"), "too much is asked");
  complaints.splice(0, complaints.length, ...complaints.filter((it) => !it.includes("503")));
  const before = asked.length;
  await clickTwice(more);
  await there(rows, "x149");
  await more.waitFor({ state: "hidden" });
  assert.equal(await rows.count(), 150);
  assert.equal(asked.slice(before).filter((url) => url.includes("/rejects?after=")).length, 1);
  assert.equal(await rejects.locator(".none").isVisible(), false);
  await page.getByRole("link", { name: "← Overview" }).click();
});

test("a list that had a key twice is as long as its items again", async () => {
  const left = await page.evaluate(async () => {
    const { element, list } = await import("/page/dom.js");
    const parent = element("ul");
    const draw = (items) => list(parent, items, String, () => element("li"), (item, it) => { item.textContent = it; });
    for (const items of [["a", "b", "b"], ["a", "b", "b"], ["b", "c"]]) draw(items);
    return [...parent.children].map((item) => item.textContent);
  });
  assert.deepEqual(left, ["b", "c"]);
});

test("all of it came from the page's own server, without a complaint", async () => {
  assert.deepEqual(complaints, []);
  assert.ok(asked.length > 10);
  assert.deepEqual(asked.filter((url) => !url.startsWith(door.url)), []);
});

test("a web page elsewhere cannot read it by a name of its own", async () => {
  for (const path of ["/", "/page/events", "/page/page.js", "/outputs/resilience_scores.csv"]) {
    assert.equal((await ask("elsewhere.example", path)).statusCode, 403, path);
  }
  const { statusCode, headers } = await ask(`localhost:${door.port}`, "/");
  assert.equal(statusCode, 200);
  assert.match(headers["content-security-policy"], /default-src 'none'.*require-trusted-types-for 'script'/);
});

test("it says which service does not answer, and since when", async () => {
  const state = page.getByRole("status").first();
  const alarms = page.getByRole("alert");
  for (const [service, program] of [["Kafka", "kafka"], ["S3", "s3"]]) {
    signal(program, "STOP");
    try {
      await there(state, `${service} does not answer`);
      await there(alarms, new RegExp(`^${service} at .* has not answered since .*\\d`));
      // The rest goes on.
      const before = await page.locator("#updated").getAttribute("datetime");
      await page.waitForFunction((before) => document.getElementById("updated").dateTime !== before, before);
    } finally {
      signal(program, "CONT");
    }
    await there(state, "Live");
    await page.waitForFunction(() => document.getElementById("alarms").childElementCount === 0);
  }
});

test("it says when freshet is away, and goes on by itself", async () => {
  const state = page.getByRole("status").first();
  await there(state, "Live");
  await door.shut();
  await there(state, "does not answer");
  await door.open();
  await there(state, "Live");
  drop("health/later.csv", [HEALTH, "2,2025-09-24,1,1,1,1"]);
  await page.getByRole("button", { name: /^All / }).click();
  await there(row("health/later.csv"), "applied");
  assert.equal(await page.evaluate(() => window.loadedOnce), true);
});
