// A contract: what each column of a domain must hold, and what becomes of a value that does not.

import { ask, element } from "./dom.js";
import { refuse } from "./views.js";

/** Makes the view of a domain's contract, which does not change while the program runs. */
export function contractView(place, domain) {
  ask(`/page/contracts/${encodeURIComponent(domain)}`)
    .then((contract) => place.replaceChildren(...makeContract(contract)))
    .catch((error) => refuse(place, error.message));
  return () => {};
}

const lines = (texts) => texts.map((text) => element("div", {}, text));

function makeContract({ name, description, facts, columns, rules }) {
  const head = (text) => element("th", { role: "columnheader", scope: "col" }, text);
  const cell = (...children) => element("td", { role: "cell" }, ...children);
  const row = (column) => element("tr", { role: "row" },
    element("th", { role: "rowheader", scope: "row" }, element("b", {}, column.name), element("div", { class: "faint" }, column.description)),
    cell(column.kind, element("div", { class: "faint" }, ...lines(column.notes))),
    cell(...lines(column.rules)), cell(...lines(column.instead)));
  const table = element("table", { class: "cells contract", role: "table", "aria-label": `Columns of ${name}` },
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...["Column", "Type", "Rules", "If a value cannot be read"].map(head))),
    element("tbody", { role: "rowgroup" }, ...columns.map(row)));
  const known = facts.flatMap(([what, value]) => [element("dt", {}, what), element("dd", {}, value)]);
  return [
    element("div", { class: "title" }, element("h2", {}, `Contract of ${name}`), element("p", {}, description),
      element("p", { class: "hint" }, "Explained in ", element("a", { href: "/docs/contracts.md" }, "contracts.md"))),
    element("section", {}, element("dl", { class: "panel facts" }, ...known)),
    element("section", {}, element("h2", {}, "Columns"), element("div", { class: "panel scroll" }, table)),
    ...(rules.length > 0 ? [element("section", {}, element("h2", {}, "Rules over two columns"),
      element("ul", { class: "panel rules" }, ...rules.map((rule) => element("li", {}, rule))))] : []),
  ];
}
