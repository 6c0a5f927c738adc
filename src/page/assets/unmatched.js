// The objects of the raw bucket that belong to no domain, all that are kept.

import { ask, bytes, count, element, list, moment, show, text } from "./dom.js";
import { state } from "./state.js";
import { refuse } from "./views.js";

/** Makes their view; what it gives asks for them again once there are others. */
export function unmatchedView(place) {
  const known = { of: "", isAsking: false };
  return async () => {
    const of = JSON.stringify(state.status.unmatched);
    if (known.isAsking || known.of === of) return;
    Object.assign(known, { of, isAsking: true });
    try {
      renderUnmatched(place, await ask("/page/unmatched"));
    } catch (error) {
      refuse(place, error.message);
    } finally {
      known.isAsking = false;
    }
  };
}

function makeUnmatched() {
  const head = (text, kind = "") => element("th", { role: "columnheader", scope: "col", class: kind }, text);
  return [
    element("div", { class: "title" }, element("h2", {}, "Objects that belong to no domain"), element("p", { class: "hint" },
      "Their names do not begin with the prefix of a domain, so they are not read. Move each under the prefix of its domain: ",
      "the nearest is named below it, if one is similar. More in ", element("a", { href: "/docs/files.md" }, "files.md"), ".")),
    element("section", {}, element("div", { class: "panel" },
      element("table", { class: "cells", role: "table", "aria-label": "Objects that belong to no domain" },
        element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, head("Object"), head("Size", "number"), head("Written", "number"))),
        element("tbody", { role: "rowgroup" })),
      element("p", { class: "none" }, "Every object belongs to a domain."))),
  ];
}

function renderUnmatched(place, { objects, newest }) {
  if (place.children.length !== 2) place.replaceChildren(...makeUnmatched());
  text(place.firstElementChild.firstElementChild, `Objects that belong to no domain: ${count(objects)}`);
  const [table, none] = place.lastElementChild.firstElementChild.children;
  show(table, newest.length > 0);
  show(none, newest.length === 0);
  list(table.tBodies[0], newest, (it) => it.key, () => element("tr", { role: "row" },
    element("th", { role: "rowheader", scope: "row" }, element("span"), element("div", { class: "faint" })),
    element("td", { role: "cell", class: "number" }), element("td", { role: "cell", class: "number" })), (row, it) => {
    text(row.children[0].firstChild, it.key);
    text(row.children[0].lastChild, it.hint ?? "");
    text(row.children[1], bytes(it.size_bytes));
    text(row.children[2], moment(it.last_modified));
  });
}
