// What came of the rows: rejects and corrections, the scores of the locations, and the outputs to take away.

import { drawAxis, drawBar, drawDot, line, scale } from "./charts.js";
import { bytes, choice, count, counted, element, list, score, setTime, show, text, the, whole } from "./dom.js";
import { chosen, state, sum } from "./state.js";

// --- Rejects and corrections --------------------------------------------------------------------------------------

/** Places of a rule that are named. */
const PLACES = 4;

export function renderQuality({ rejects, corrections }) {
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

// --- Resilience and risk ------------------------------------------------------------------------------------------

/** The least first, what is not known last. */
const by = (value) => (left, right) => (value(left) ?? Number.MAX_VALUE) - (value(right) ?? Number.MAX_VALUE);
const ORDERS = [
  { name: "resilience", title: "Least resilient", compare: by((it) => it.resilience_score) },
  { name: "risk", title: "Most at risk", compare: by((it) => (it.overall_risk === null ? null : -it.overall_risk)) },
  { name: "name", title: "By name", compare: (left, right) => left.location_name.localeCompare(right.location_name) },
];
/** Locations shown at first, and when more are asked for. */
const SHOWN = [12, 60];

export function renderScores({ scores, locations, too_large }) {
  choice(the("order"), ORDERS, chosen.order, ({ title }) => title, (order) => { chosen.order = order; });
  const known = (name) => scores.map((it) => it[name]).filter((value) => value !== null);
  const risks = scale(0, Math.max(0, ...known("overall_risk")));
  const resiliences = scale(Math.min(100, ...known("resilience_score")), 100);
  drawAxis(the("risk-axis"), risks);
  drawAxis(the("resilience-axis"), resiliences);
  const shown = [...scores].sort(ORDERS.find((order) => order.name === chosen.order).compare).slice(0, SHOWN[chosen.scores]);
  list(the("scores"), shown, (it) => it.location_id, makeScore, (row, it) => {
    const [name, risk, resilience, day] = row.children;
    text(name, it.location_name);
    drawBar(risk.firstChild, risks, it.overall_risk);
    text(risk.lastChild, score(it.overall_risk));
    drawDot(resilience.firstChild, resiliences, it.resilience_score);
    text(resilience.lastChild, score(it.resilience_score));
    text(day, it.date);
  });
  show(the("scores-table"), scores.length > 0);
  show(the("scores-none"), scores.length === 0);
  text(the("scores-none"), too_large
    ? "There are more rows than a chart can hold: take the output resilience_scores instead."
    : "No scores yet: a location has them once it is known, with a health and a hospital row of one day.");
  whole(the("scores-more"), scores.length, shown.length, locations, () => { chosen.scores = 1; });
}

function makeScore() {
  const charted = () => element("td", { role: "cell" }, line(), element("span", { class: "value" }));
  return element("tr", { role: "row" }, element("th", { scope: "row", role: "rowheader" }), charted(), charted(),
    element("td", { role: "cell", class: "number day" }));
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
