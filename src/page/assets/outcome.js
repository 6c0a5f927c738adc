// What came of the rows: rejects and corrections, and the outputs to take away.

import { bytes, count, counted, element, list, setTime, show, text, the } from "./dom.js";
import { state, sum } from "./state.js";

// --- Rejects and corrections --------------------------------------------------------------------------------------

/** Places of a rule that are named. */
const PLACES = 4;

export function renderQuality({ rejects, corrections }) {
  renderRules("columns", state.status.columns.map((it) =>
    ({ ...it, number: it.files, place: `${it.domain}.${it.column}`, example: `for example ${it.key}` })));
  const example = ({ key, line, column, value }) => (key === null ? ""
    : `for example ${key}, line ${count(line)}${column === null ? "" : `: ${column} = ${JSON.stringify(value ?? "")}`}`);
  renderRules("rejects", rejects.map((it) => ({ ...it, number: it.rows, place: it.domain, example: example(it) })));
  renderRules("corrections", corrections.map((it) =>
    ({ ...it, number: it.values, place: `${it.domain}.${it.column}`, example: "" })));
}

/** A bar a rule, with the places where it applied, the most frequent first. */
function renderRules(id, found) {
  const rules = Object.entries(Object.groupBy(found, (it) => it.rule)).map(([rule, places]) => ({
    rule, places, number: sum(places.map((it) => it.number)),
  }));
  rules.sort((left, right) => right.number - left.number);
  show(the(`${id}-none`), rules.length === 0);
  list(the(id), rules, (it) => it.rule, makeRule, (item, { rule, places, number }) => {
    const [head, track, where, example] = item.children;
    text(head.children[0], rule);
    text(head.children[1], count(number));
    track.firstChild.style.width = `${(100 * number) / rules[0].number}%`;
    const named = places.slice(0, PLACES).map((it) => `${it.place} ${count(it.number)}`);
    const rest = places.length - named.length;
    text(where, [...named, ...(rest > 0 ? [`${count(rest)} more`] : [])].join(", "));
    text(example, places[0].example);
  });
}

function makeRule() {
  return element("li", {}, element("p", { class: "rule" }, element("span"), element("b")),
    element("div", { class: "track", "aria-hidden": "true" }, element("div")), element("p"), element("p"));
}

// --- Outputs ------------------------------------------------------------------------------------------------------

export function renderOutputs({ version, at, outputs, copies_behind }) {
  show(the("outputs-none"), version === null);
  show(the("outputs-hint"), version !== null);
  text(the("outputs-version"), count(version ?? 0));
  if (at) setTime(the("outputs-at"), at);
  text(the("outputs-bucket"), `s3://${state.about?.processed_bucket}/metrics/`);
  list(the("outputs"), outputs, (output) => output.name, makeOutput, (item, output) => {
    const [name, rows, links] = item.children;
    text(name, output.name);
    const follows = copies_behind.some((key) => key.startsWith(`metrics/${output.name}.`));
    text(rows, `${counted(output.rows, "row")}${follows ? ", the files follow in a moment" : ""}`);
    Object.values(output.bytes).forEach((size, index) => text(links.children[index].lastChild, bytes(size)));
  });
}

function makeOutput({ name, bytes }) {
  const links = Object.keys(bytes).map((format) => element("a",
    { href: `/outputs/${name}.${format}`, download: `${name}.${format}`, "aria-label": `Download ${name} as ${format}` },
    element("span", {}, format), element("span", { class: "faint" })));
  return element("li", {}, element("b"), element("span", { class: "faint" }), element("span", { class: "links" }, ...links));
}
