// One file: what became of it, its way through the stages, its rejected rows and what was changed in it.

import { ask, askOnce, bytes, copyButton, count, counted, duration, element, list, moment, show, text } from "./dom.js";
import { stateOf } from "./files.js";
import { OPEN, state } from "./state.js";
import { refuse } from "./views.js";

/** A file that is not through is asked for again, in milliseconds. */
const ASK_AGAIN_MS = 1_000;
/** So is how many of its rows are in the table, which is read as a whole for it. */
const COUNT_AGAIN_MS = 30_000;

/** Makes the view of a file; what it gives draws it anew. */
export function fileView(place, id) {
  const known = { file: null, at: 0, isAsking: false, rejects: null, values: null, table: null };
  const draw = () => known.file && renderFile(place, known);
  const askFor = async () => {
    Object.assign(known, { isAsking: true, at: Date.now(), of: state.files });
    try {
      known.file = await ask(`/page/files/${encodeURIComponent(id)}`);
      draw();
    } catch (error) {
      if (!known.file) refuse(place, error.message);
    } finally {
      known.isAsking = false;
    }
  };
  return () => {
    const isOld = Date.now() - known.at > ASK_AGAIN_MS;
    if (!known.isAsking && (!known.file || (isOld && (known.of !== state.files || isUnderWay(known.file))))) askFor();
  };
}

const isUnderWay = ({ state, outputs, applied }) => OPEN.includes(state) || (state === "applied" && applied > 0 && !outputs);

function renderFile(place, known) {
  const { file } = known;
  if (place.children.length !== 7) place.replaceChildren(...makeFile(known));
  const [title, way, facts, rejects, values, versions, undo] = place.children;
  renderTitle(title, file);
  list(way.lastChild, stagesOf(file), (it) => it.name, makeStage, updateStage);
  renderFacts(facts.lastChild, factsOf(known));
  countInTable(facts.lastChild, known);
  renderRejects(rejects, known);
  renderValues(values, known);
  renderVersions(versions, file);
  renderUndo(undo, file);
}

function makeFile(known) {
  const section = (heading, ...children) => element("section", {}, element("h2", {}, heading), ...children);
  const table = (...heads) => element("table", { class: "cells", role: "table" },
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" },
      ...heads.map(([name, kind]) => element("th", { role: "columnheader", scope: "col", class: kind ?? "" }, name)))),
    element("tbody", { role: "rowgroup" }));
  const heads = [["Line", "number"], ["Column"], ["Value"], ["Rule"]];
  const panel = (table) => element("div", { class: "panel" }, table, element("p", { class: "none" }),
    element("p", { class: "whole" }, element("button", { type: "button" }, "Show more")));
  const { id } = known.file;
  return [
    element("div", { class: "title" }, element("h2", {}, element("span"), element("span", { class: "chip" })), element("p", { class: "reason" })),
    element("section", {}, element("h2", { class: "visually-hidden" }, "Stages"), element("ol", { class: "way" })),
    element("section", {}, element("h2", { class: "visually-hidden" }, "Details"), element("dl", { class: "panel facts" })),
    section("Rejected rows", element("p", { class: "hint" }, element("span"), " ",
      element("a", { href: `/page/files/${id}/rejects.csv`, download: "" }, "Download as CSV")), panel(table(...heads))),
    section("Corrected values", element("p", { class: "hint" }), panel(table(...heads))),
    section("Versions", element("ul", { class: "inline" })),
    section("Undo this file", element("p"), element("ol", { class: "steps" }), element("p"), element("p", { class: "hint" },
      "The page cannot do it itself. The guide: ", element("a", { href: "/docs/answers.md#undo-a-file" }, "undo a file"), ".")),
  ];
}

function renderTitle(title, file) {
  const [heading, reason] = title.children;
  const { name, look, means } = stateOf(file);
  text(heading.firstChild, file.key);
  text(heading.lastChild, name);
  heading.lastChild.dataset.state = look;
  text(reason, [file.reason, means && `${means}.`].filter(Boolean).join(" "));
}

/** Where it was when; a stage that it has not come to has no time, whatever it had before it was sent again. */
export function stagesOf(file) {
  const isOut = ["rejected", "superseded"].includes(file.state);
  const isApplied = file.state === "applied";
  const isPublished = isApplied || file.state === "published";
  const { outputs } = file;
  const published = outputs && `version ${count(outputs.version)}${outputs.is_first ? "" : " or before"}`;
  const rows = (done, open) => (isOut ? "not reached" : done ? (file.rows === 0 ? "it has no rows" : `all rows ${open}`) : `not all rows ${open} yet`);
  return [
    { name: "S3", what: "written", at: file.last_modified },
    { name: "Found", what: "by the listener", at: file.discovered_at, from: file.last_modified },
    { name: "Kafka", what: isOut ? file.state : rows(isPublished, "published"), isOut, at: isPublished ? file.published_at : null, from: file.discovered_at },
    { name: "Postgres", what: rows(isApplied, "judged"), at: isApplied ? file.applied_at : null, from: file.published_at },
    // Rows that never came to the table are in no output.
    ...(isApplied && file.applied === 0 ? [] : [{ name: "Outputs", what: isOut ? "not reached" : published ?? "not derived from all rows yet",
      at: isApplied ? outputs?.at : null, from: outputs?.is_first ? file.applied_at : null }]),
  ];
}

const makeStage = () => element("li", {}, element("span", { class: "stage" }), element("b"), element("span", { class: "what faint" }),
  element("br"), element("time"));

function updateStage(item, { name, what, isOut, at, from }) {
  const [stage, took, label, , time] = item.children;
  item.toggleAttribute("data-done", Boolean(at));
  item.toggleAttribute("data-out", Boolean(isOut));
  text(stage, name);
  const seconds = at && from ? Math.max(0, (Date.parse(at) - Date.parse(from)) / 1_000) : null;
  text(took, seconds === null ? (at ? "" : "–") : `+ ${duration(seconds)}`);
  text(label, what);
  text(time, at ? moment(at) : "");
}

/** Counts the rows of an applied file that are in the table, now and then: newer rows may have replaced some. */
async function countInTable(facts, known) {
  const { file } = known;
  const at = Date.now();
  if (file.state !== "applied" || file.applied === 0 || at - (known.table?.at ?? 0) < COUNT_AGAIN_MS) return;
  known.table = { ...known.table, at };
  try {
    Object.assign(known.table, await ask(`/page/files/${file.id}/table`), { failure: "" });
  } catch (error) {
    known.table.failure = error.message;
  }
  renderFacts(facts, factsOf(known));
}

/** What the table has of the rows that were applied. */
function inTable({ file, table }) {
  if (file.applied === 0 || !table) return "";
  const { rows, new_values: fresh, failure } = table;
  if (failure) return failure;
  if (rows === undefined) return "counting …";
  const replaced = Math.max(0, file.applied - rows);
  return [counted(rows, "row"), `${count(fresh)} with new values`,
    ...(replaced > 0 ? [`${count(replaced)} replaced since by newer rows`] : [])].join(", ");
}

function factsOf(known) {
  const { file } = known;
  const { removed } = file;
  const isKnown = ([, value]) => value !== null && value !== "" && value !== undefined;
  const rows = file.rows === null ? "" : file.rows === 0 ? "none, only a header" : [counted(file.rows, "row"), `${count(file.rejected)} rejected`, `${count(file.applied)} applied`,
    ...(file.stale > 0 ? [`${count(file.stale)} older than existing rows`] : []), ...(file.overtaken > 0 ? [`${count(file.overtaken)} overtaken by a later row of the file (counted as applied or older, too)`] : []),
    ...(file.received < file.rows ? [`${count(file.rows - file.received)} not applied yet`] : [])].join(", ");
  return [
    ["Domain", file.domain, `#/contract/${encodeURIComponent(file.domain)}`],
    ["Rows", rows],
    ["In the table", inTable(known)],
    ["Values corrected", file.corrected > 0 ? count(file.corrected) : ""],
    ["Unknown columns", file.unknown_columns.join(", ")],
    ["Missing columns, default used", file.absent_defaults.join(", ")],
    ["Size", bytes(file.size_bytes)],
    ["Version", file.version_id ?? file.etag],
    ["Deleted", file.deleted_at && `${moment(file.deleted_at)}: its rows stay`],
    ["Removed", removed.length > 0 ? `the rows that only ${removed.length > 1 ? "its older versions" : "the version before"} had (onOverwrite: replace)` : "",
      `#/file/${removed[0]}`],
    ["Replaced", file.replaced_by && `its rows were removed by file ${file.replaced_by}`, `#/file/${file.replaced_by}`],
    ["Sent again", file.repairs > 0 ? counted(file.repairs, "time") : ""],
  ].filter(isKnown);
}

function renderFacts(facts, known) {
  const items = known.flatMap(([name, value, link]) =>
    [{ name: `dt ${name}`, tag: "dt", value: name }, { name: `dd ${name}`, tag: "dd", value, link }]);
  list(facts, items, (it) => it.name, ({ tag, link }) => element(tag, {}, ...(link ? [element("a", { href: link })] : [])),
    (node, { value }) => text(node.firstElementChild ?? node, String(value)));
}

const makeCells = () => element("tr", { role: "row" }, element("td", { role: "cell", class: "number" }), element("td", { role: "cell" }),
  element("td", { role: "cell" }, element("code"), element("span")), element("td", { role: "cell" }));

function updateCells(row, { line, column, value, stored, rule }) {
  text(row.children[0], count(line));
  text(row.children[1], column ?? "–");
  text(row.children[2].firstChild, value ?? "–");
  text(row.children[2].lastChild, stored === undefined ? "" : ` → ${stored}`);
  text(row.children[3], rule);
}

const rulesOf = (counted) => counted.map(({ column, rule, number }) => `${column ? `${column}: ` : ""}${rule} ${count(number)}`).join(", ");

/** The rejected rows, which are asked for once there are some. */
function renderRejects(section, known) {
  const { file } = known;
  const [, hint, panel] = section.children;
  const [table, none, more] = panel.children;
  show(section, file.rejected > 0);
  if (file.rejected === 0) return;
  known.rejects ??= { rows: [], next: null, of: 0, isAsking: false, failure: "" };
  const askFor = (after) => {
    const take = ({ rejects, next }) => Object.assign(known.rejects, { rows: after < 0 ? rejects : [...known.rejects.rows, ...rejects], next });
    askOnce(known.rejects, `/page/files/${file.id}/rejects?after=${after}`, take, () => renderRejects(section, known));
  };
  if (known.rejects.of !== file.rejected && !known.rejects.isAsking) {
    known.rejects.of = file.rejected;
    askFor(-1);
  }
  const { rows, next, isAsking, failure } = known.rejects;
  text(hint.firstChild, `${counted(file.rejected, "row")}: ${rulesOf(file.rules)}. Correct them and drop them again; pipeline.rejects has them whole.`);
  show(hint.lastChild, file.has_csv);
  show(table, rows.length > 0);
  list(table.tBodies[0], rows, (it) => it.row, makeCells, updateCells);
  show(none, rows.length === 0 || failure !== "");
  text(none, failure || "Looking …");
  show(more, next !== null);
  text(more.firstChild, isAsking ? "Looking …" : "Show more");
  // Not disabled while it waits: it would lose the focus.
  more.firstChild.onclick = () => askFor(next);
}

/** What was changed: by line where the file is still there to be read, else by column and rule. */
function renderValues(section, known) {
  const { file } = known;
  const [, hint, panel] = section.children;
  const [table, none, more] = panel.children;
  show(section, file.corrected > 0);
  if (file.corrected === 0) return;
  const askFor = async () => {
    known.values = { places: [], failure: "", of: file.corrected };
    try {
      known.values.places = (await ask(`/page/files/${file.id}/values`)).corrections;
    } catch (error) {
      known.values.failure = error.message;
    }
    renderValues(section, known);
  };
  if (known.values?.of !== file.corrected) askFor();
  const { places = [], failure = "" } = known.values ?? {};
  const which = places.length > 0 && places.length < file.corrected ? ` The first ${count(places.length)}, with` : " With";
  text(hint, `${counted(file.corrected, "value")}: ${rulesOf(file.corrections)}.${which} the values that were sent and stored:`);
  show(table, places.length > 0);
  list(table.tBodies[0], places.map((it, index) => ({ ...it, index })), (it) => it.index, makeCells, updateCells);
  show(none, places.length === 0);
  text(none, failure || "Looking …");
  show(more, false);
}

function renderVersions(section, { id, versions }) {
  show(section, versions.length > 1);
  list(section.lastChild, versions, (it) => it.id, (it) => element("li", {}, element("a", { href: `#/file/${it.id}` })), (item, it) => {
    text(item.firstChild, moment(it.last_modified));
    item.firstChild.toggleAttribute("aria-current", it.id === id);
  });
}

/** The steps, with a button for each command; the cases differ in them. */
function renderUndo(section, { undo }) {
  const [, which, steps, stays] = section.children;
  show(section, Boolean(undo));
  if (!undo) return;
  text(which, undo.case);
  text(stays, undo.stays);
  show(stays, undo.stays !== "");
  list(steps, undo.steps, ({ command }) => command, makeStep, (item, { text: said, command }) => {
    text(item.children[0], said);
    text(item.querySelector("code"), command);
  });
}

function makeStep() {
  const command = element("code");
  return element("li", {}, element("p"), element("div", { class: "command" }, element("pre", { tabindex: "0" }, command), copyButton(() => command)));
}
