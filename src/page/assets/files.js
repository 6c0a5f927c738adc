// The files, newest first, and the buttons that choose which.

import { choice, count, counted, duration, element, list, setTime, show, text, the, whole } from "./dom.js";
import { OPEN, chosen, filesIn, state } from "./state.js";

const FILTERS = [
  { name: "all", title: "All" },
  { name: "open", title: "In progress", states: OPEN },
  { name: "applied", title: "Applied", states: ["applied"] },
  { name: "rejected", title: "Rejected", states: ["rejected"] },
  { name: "superseded", title: "Superseded", states: ["superseded"] },
];
/** Files shown at first, and when more are asked for. */
const SHOWN = [8, 40];

export function renderFiles() {
  choice(the("filters"), FILTERS, chosen.filter, ({ title, states }) => `${title} ${count(filesIn(states))}`,
    (filter) => Object.assign(chosen, { filter, files: 0 }));
  const { states, title } = FILTERS.find((filter) => filter.name === chosen.filter);
  const fitting = state.files.filter((file) => !states || states.includes(file.state)).slice(0, SHOWN[1]);
  const shown = fitting.slice(0, SHOWN[chosen.files]);
  const all = filesIn(states);
  list(the("files"), shown, (file) => file.id, makeFile, updateFile);
  text(the("files-shown"), `${title}: ${count(shown.length)} of ${counted(all, "file")} shown`);
  show(the("files-none"), shown.length === 0);
  text(the("files-none"), filesIn() === 0 ? "No file was found yet." : `No file is ${title.toLowerCase()}.`);
  whole(the("files-more"), fitting.length, shown.length, all, () => { chosen.files = 1; });
}

function makeFile() {
  return element("tr", { role: "row" },
    element("th", { scope: "row", role: "rowheader" }, element("span", { class: "name" }), element("span", { class: "reason" })),
    element("td", { role: "cell" }, element("span", { class: "chip" })),
    element("td", { role: "cell", class: "number rows" }, element("span", { class: "bad" }), element("span", { class: "warn" }),
      element("span", { class: "warn" }), element("span")),
    element("td", { role: "cell", class: "number took" }),
    element("td", { role: "cell", class: "number" }, element("time")));
}

function updateFile(row, file) {
  const [name, status, rows, took, written] = row.children;
  text(name.children[0], file.key);
  text(name.children[1], said(file));
  text(status.firstChild, file.state);
  status.firstChild.dataset.state = file.state;
  text(rows.children[0], file.rejected > 0 ? `${count(file.rejected)} rejected` : "");
  text(rows.children[1], file.corrected > 0 ? `${count(file.corrected)} corrected` : "");
  text(rows.children[2], file.overtaken > 0 ? `${count(file.overtaken)} overtaken` : "");
  text(rows.children[3], received(file));
  text(took, file.seconds === null ? "" : duration(file.seconds));
  setTime(written.firstChild, file.last_modified);
}

/** Why the file is where it is, and what its header has or lacks. */
function said({ reason, unknown_columns: unknown, absent_defaults: absent }) {
  const columns = [["unknown", unknown], ["absent, default taken", absent]]
    .filter(([, names]) => names.length > 0).map(([what, names]) => `${what}: ${names.join(", ")}`);
  return [reason, ...columns].filter(Boolean).join("; ");
}

function received({ state, rows, received }) {
  if (rows === null) return "";
  return state === "published" && received < rows ? `${count(received)} of ${count(rows)}` : counted(rows, "row");
}
