// Draws dashboards: `node draw.js ANSWERS PICTURES`, where ANSWERS is a folder with a JSON file for each dashboard, as
// tests/grafana/pictures.rs writes them. Leaves one PNG a dashboard.

import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, delimiter, join, parse } from "node:path";

import { build } from "esbuild";
import { chromium } from "playwright-core";

const BROWSERS = ["chromium", "chromium-browser", "google-chrome"];
/** Pixels; a dashboard is as high as its panels. */
const WIDTH = 1180;
/** Around a part: pixels. */
const SPACE = 8;
/** Parts that docs/dashboards.md shows: each begins and ends with the panel of this title. */
const PARTS = {
  overview: ["Is each domain fine?", "Domain by domain"],
  pipeline: ["Cost of each output", "Requests: data files"],
  "data-quality": ["Share of rows rejected", "Rejects by file"],
};
/** Nobody is asked there: the components want an origin, for what they keep in the browser. */
const ORIGIN = "http://dashboard.invalid/";

function browser() {
  const folders = process.env.PATH.split(delimiter);
  const found = folders.flatMap((folder) => BROWSERS.map((name) => join(folder, name))).find(existsSync);
  if (!found) throw new Error("there is no chromium: run `scripts/setup pictures`");
  return found;
}

/**
 * Bundlers that Grafana is made with take `default` of an old module that says that it was a new one; esbuild takes the
 * whole of it, as Node.js does.
 */
const defaults = {
  name: "defaults",
  setup(building) {
    building.onLoad({ filter: /@grafana\/.*\.mjs$/ }, async ({ path }) => {
      const given = await readFile(path, "utf8");
      const contents = given.replace(/^import (\w+)((?:, \{[^}]*\})?) from '([^.'][^']*)';$/gm,
        (_, name, others, from) => `import ${name}__${others} from '${from}'; const ${name} = ${name}__?.__esModule ? ${name}__.default : ${name}__;`);
      return { contents, loader: "js" };
    });
  },
};

/** What is on a page from the top of a panel to the bottom of another. */
async function between(page, first, last) {
  const box = (title) => page.locator(`[data-title=${JSON.stringify(title)}]`).boundingBox();
  const [above, below] = [await box(first), await box(last)];
  const y = Math.max(0, above.y - SPACE);
  return { x: 0, y, width: WIDTH, height: below.y + below.height + SPACE - y };
}

/** The script and the style sheet of the page. */
async function bundled() {
  const { outputFiles } = await build({
    entryPoints: ["page.js"],
    bundle: true,
    write: false,
    outdir: "bundle",
    format: "iife",
    minify: true,
    define: { "process.env.NODE_ENV": '"production"', "process.env.JEST_WORKER_ID": "undefined", global: "window" },
    loader: { ".woff2": "dataurl", ".woff": "empty", ".svg": "dataurl", ".ttf": "empty" },
    // Editors of code are no part of a picture.
    external: ["monaco-editor", "monaco-editor/*"],
    plugins: [defaults],
    logLevel: "error",
  });
  const of = (end) => outputFiles.find((file) => file.path.endsWith(end)).text;
  return { script: of(".js"), style: of(".css") };
}

/** Grafana's fonts, which its components come without. */
const FONTS = { "Inter-Regular.woff2": "inter-latin-400-normal.woff2", "Inter-Medium.woff2": "inter-latin-500-normal.woff2" };

/** The page, which is empty at first, and Grafana's icons and fonts. */
const answer = (route) => {
  const { href, pathname } = new URL(route.request().url());
  if (href === ORIGIN) return route.fulfill({ contentType: "text/html", body: '<!doctype html><div id="dashboard"></div>' });
  const font = FONTS[basename(pathname)];
  const path = font ? `@fontsource/inter/files/${font}` : `@grafana/ui/dist${pathname.replace("/public/build/", "/public/")}`;
  return route.fulfill(existsSync(join("node_modules", path)) ? { path: join("node_modules", path) } : { status: 204 });
};

const [answers, pictures] = process.argv.slice(2);
mkdirSync(pictures, { recursive: true });
const { script, style } = await bundled();
const chrome = await chromium.launch({
  executablePath: browser(),
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"],
});
const complaints = [];
for (const file of readdirSync(answers).filter((name) => name.endsWith(".json")).sort()) {
  const { name } = parse(file);
  const page = await chrome.newPage({ viewport: { width: WIDTH, height: 900 }, timezoneId: "UTC", locale: "en-GB" });
  page.on("pageerror", (error) => complaints.push(`${name}: ${error.stack}`));
  page.on("console", (message) => message.type() === "error" && complaints.push(`${name}: ${message.text()}`));
  await page.route(`${ORIGIN}**`, answer);
  await page.goto(ORIGIN);
  await page.addStyleTag({ content: style });
  await page.addScriptTag({ content: script });
  if (complaints.length > 0) break;
  await page.evaluate((answered) => window.draw(answered), JSON.parse(readFileSync(join(answers, file), "utf8")));
  const save = async (picture, options) => {
    const path = join(pictures, `${picture}.png`);
    await page.screenshot({ path, ...options });
    console.log(path);
  };
  await save(name, { fullPage: true });
  if (PARTS[name]) await save(`part-${name}`, { clip: await between(page, ...PARTS[name]), fullPage: true });
  await page.close();
}
await chrome.close();
if (complaints.length > 0) {
  console.error(complaints.join("\n"));
  process.exitCode = 1;
}
