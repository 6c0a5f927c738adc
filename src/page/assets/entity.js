// The history of one entity: the row that describes it, and the facts that refer to it, each with the file that it is from.

import { ask, askOnce, count, counted, element, list, show, tellChosen, text, the } from "./dom.js";
import { state } from "./state.js";
import { refuse } from "./views.js";

/** After the last key that was pressed, in milliseconds. */
const TYPED_MS = 250;

/** The address of an entity that is known by a column; none where no dimension describes it. */
export function entityAddress(column, value) {
  const domain = state.about?.entities[column];
  return domain && `#/entity/${encodeURIComponent(domain)}/${encodeURIComponent(value)}`;
}

/** Makes the view of an entity. */
export function entityView(place, domain, value) {
  ask(`/page/entities/${encodeURIComponent(domain)}/${encodeURIComponent(value)}`)
    .then((entity) => place.replaceChildren(...makeEntity(entity, value)))
    .catch((error) => refuse(place, error.message));
  return () => {};
}

/** The file that a row is from, by name, and which of its rows it is. */
const fileLink = ({ file, key, row }) => (file > 0
  ? element("a", { href: `#/file/${file}`, title: key ?? "" }, `${key ?? `file ${file}`} row ${count(row + 1)}`) : "–");

function makeEntity({ domain, columns, row, histories }, value) {
  const facts = row ? columns.map((name, index) => [name, row.cells[index]]).filter(([, cell]) => cell !== null) : [];
  const known = facts.flatMap(([name, cell]) => [element("dt", {}, name), element("dd", {}, cell)]);
  const about = row ? element("dl", { class: "panel facts" }, ...known, element("dt", {}, "From"), element("dd", {}, fileLink(row)))
    : element("p", { class: "notice" }, `${domain} has no row for it; only facts refer to it.`);
  return [
    element("div", { class: "title" }, element("h2", {}, `${domain} ${value}`)),
    element("section", {}, element("h2", { class: "visually-hidden" }, "Its row"), about),
    ...histories.map((history) => makeHistory(history, value)),
  ];
}

/** The facts of a domain; columns that are empty throughout are left out. */
function makeHistory(history, value) {
  const known = { rows: history.rows, next: history.next, isAsking: false, failure: "" };
  const { domain, columns } = history;
  const head = element("tr", { role: "row" });
  const body = element("tbody", { role: "rowgroup" });
  const table = element("table", { class: "cells history", role: "table", "aria-label": `${domain} ${value}` },
    element("thead", { role: "rowgroup" }, head), body);
  const none = element("p", { class: "none" });
  const button = element("button", { type: "button" });
  const more = element("p", { class: "whole" }, button);
  const draw = () => {
    const places = columns.map((_, index) => index).filter((index) => known.rows.some(({ cells }) => cells[index] !== null));
    head.replaceChildren(...[...places.map((index) => columns[index]), "from"].map((name) =>
      element("th", { role: "columnheader", scope: "col" }, name)));
    body.replaceChildren(...known.rows.map((it) => element("tr", { role: "row" },
      ...places.map((index) => element("td", { role: "cell" }, it.cells[index] ?? "–")), element("td", { role: "cell" }, fileLink(it)))));
    show(table, known.rows.length > 0);
    show(none, known.rows.length === 0 || known.failure !== "");
    text(none, known.failure || "No rows refer to it.");
    show(more, known.next !== null);
    text(button, known.isAsking ? "Looking …" : "Show older rows");
  };
  // Not disabled while it waits: it would lose the focus.
  const take = ({ rows, next }) => Object.assign(known, { rows: [...known.rows, ...rows], next });
  button.onclick = () => askOnce(known, `/page/facts/${encodeURIComponent(domain)}/${encodeURIComponent(value)}?until=${known.next}`, take, draw);
  draw();
  return element("section", {}, element("h2", {}, domain), element("div", { class: "panel" }, element("div", { class: "scroll" }, table), none, more));
}

/** What was found, and of which dimension. */
const search = { domain: "", found: null, typed: 0, failure: "" };

/** The field by which an entity is found. */
export function renderEntities() {
  const dimensions = [...new Set(Object.values(state.about?.entities ?? {}))];
  show(the("entities"), dimensions.length > 0);
  const select = the("entity-domain");
  show(select, dimensions.length > 1);
  list(select, dimensions, String, (name) => element("option", { value: name }), text);
  const field = the("entity-text");
  const look = () => {
    clearTimeout(search.typed);
    search.typed = setTimeout(async () => {
      const domain = select.value;
      const wanted = field.value.trim();
      const take = (answer) => {
        // What was typed or chosen since is asked for by itself.
        if (domain !== select.value || wanted !== field.value.trim()) return;
        Object.assign(search, { domain, failure: "", ...answer });
        tellChosen();
      };
      try {
        const path = `/page/entities/${encodeURIComponent(domain)}?search=${encodeURIComponent(wanted)}`;
        take({ found: wanted === "" ? null : await ask(path) });
      } catch (error) {
        take({ found: [], failure: error.message });
      }
    }, TYPED_MS);
  };
  field.oninput = look;
  select.onchange = look;
  the("entity-search").onsubmit = (event) => event.preventDefault();
  const found = search.found ?? [];
  list(the("entities-found"), found, ({ value }) => value, () => element("li", {}, element("a")), (item, it) => {
    item.firstChild.setAttribute("href", `#/entity/${encodeURIComponent(search.domain)}/${encodeURIComponent(it.value)}`);
    text(item.firstChild, [it.value, it.text].filter(Boolean).join(": "));
  });
  text(the("entities-said"), search.failure || (search.found === null ? "" : `${counted(found.length, "row")} found`));
}
