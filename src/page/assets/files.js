// The files, newest first, and the buttons that choose which.

import { ask, choice, count, counted, duration, element, list, setTime, show, tellChosen, text, the } from "./dom.js";
import { OPEN, chosen, filesIn, state } from "./state.js";

/** A file of which no row loaded is rejected to whoever sent it, whatever the ledger calls it. */
const isLost = ({ state, rows, rejected }) => state === "rejected" || (state === "applied" && rows > 0 && rejected >= rows);

const lost = () => state.losses?.whole ?? 0;
const FILTERS = [
  { name: "all", title: "All", has: () => true, number: () => filesIn() },
  { name: "open", title: "In progress", has: (file) => OPEN.includes(file.state), number: () => filesIn(OPEN) },
  { name: "applied", title: "Applied", has: (file) => file.state === "applied" && !isLost(file),
    number: () => filesIn(["applied"]) - lost() },
  { name: "rejected", title: "Rejected", has: isLost, number: () => filesIn(["rejected"]) + lost() },
  { name: "rejects", title: "With rejected rows", has: (file) => file.rejected > 0, number: () => state.losses?.files ?? 0 },
  { name: "superseded", title: "Superseded", has: (file) => file.state === "superseded", number: () => filesIn(["superseded"]) },
];
/** Files shown at first: the newest, as they are told of by themselves. */
const SHOWN = 8;
/** Between two times that the list is asked for, in milliseconds, while something changes. */
const ASK_AGAIN_MS = 1_000;
/** After the last key that was pressed. */
const TYPED_MS = 250;

/** What was asked for: the pages so far by id, where to go on, and for which choice and state of the files. */
const asked = { choice: "", of: null, at: 0, files: new Map(), next: null, isCut: false, isAsking: false, failure: "" };

const byId = (files) => [...files].sort((left, right) => right.id - left.id);

/** The newest are told of; whatever else is chosen is asked for. A rejected file may be behind many with rejected rows. */
const isAsked = () => chosen.more || chosen.domain !== "" || chosen.search !== "" || chosen.filter === "rejected";

const address = (before) => {
  const parameters = { show: chosen.filter, domain: chosen.domain, search: chosen.search, before: before ?? "" };
  return `/page/files?${Object.entries(parameters).map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&")}`;
};

/** Asks for the first page, or for the one behind `before`; the answer is drawn if it is still wanted. */
async function askFor(before) {
  if (asked.isAsking) return;
  const choice = address();
  Object.assign(asked, { isAsking: true, of: state.files, at: Date.now() });
  try {
    const { files, next, is_cut: isCut } = await ask(address(before));
    if (choice !== address()) return;
    if (asked.choice !== choice) Object.assign(asked, { choice, files: new Map(), next: null });
    // A first page that is asked for again is put before those that went on from it; what left its part is gone.
    const isAgain = before === undefined && next !== null && asked.files.size > files.length;
    if (before === undefined) for (const id of asked.files.keys()) if (id >= (next ?? 0)) asked.files.delete(id);
    for (const file of files) asked.files.set(file.id, file);
    if (!isAgain) Object.assign(asked, { next, isCut });
    asked.failure = "";
  } catch (error) {
    asked.failure = error.message;
  } finally {
    asked.isAsking = false;
    tellChosen();
  }
}

function askAgain() {
  const isOther = asked.choice !== address();
  const isOld = asked.of !== state.files && Date.now() - asked.at > ASK_AGAIN_MS;
  if (isOther && (asked.failure === "" || isOld) || isOld) askFor();
}

export function renderFiles() {
  renderSearch();
  if (isAsked()) askAgain();
  const { has, title, number } = FILTERS.find((filter) => filter.name === chosen.filter);
  const isThere = isAsked() && asked.choice === address();
  const shown = isThere ? byId(asked.files.values()) : isAsked() && asked.choice !== "" ? [] : state.files.filter(has).slice(0, SHOWN);
  list(the("files"), shown, (file) => file.id, makeFile, updateFile);
  const isAll = chosen.domain === "" && chosen.search === "";
  // The list may have been read after the counts: what is shown is counted.
  const total = isAll ? Math.max(number(), shown.length) : number();
  choice(the("filters"), FILTERS, chosen.filter,
    (filter) => `${filter.title} ${count(filter.name === chosen.filter ? total : filter.number())}`,
    (filter) => Object.assign(chosen, { filter, more: false }));
  const of = isAll ? `${count(shown.length)} of ${counted(total, "file")}` : counted(shown.length, "file");
  text(the("files-shown"), `${title}: ${of} shown`);
  const isWaiting = isAsked() && !isThere;
  show(the("files-none"), shown.length === 0 || (isAsked() && asked.failure !== ""));
  text(the("files-none"), noneOf(title, isWaiting));
  const hasMore = isThere ? asked.next !== null : !isAsked() && total > shown.length;
  show(the("files-more"), hasMore);
  const button = the("files-more").firstElementChild;
  text(button, asked.isCut && isThere ? "Search older files" : "Show more");
  button.onclick = () => {
    if (isThere) askFor(asked.next);
    chosen.more = true;
    tellChosen();
  };
}

function noneOf(title, isWaiting) {
  if (isAsked() && asked.failure !== "") return asked.failure;
  if (isWaiting) return "Looking …";
  return filesIn() === 0 ? "No files found yet." : `No files under “${title}”.`;
}

/** The fields for name and domain, which a person fills in. */
function renderSearch() {
  const select = the("search-domain");
  const domains = [{ domain: "" }, ...state.status.domains];
  list(select, domains, ({ domain }) => domain, ({ domain }) => element("option", { value: domain }),
    (option, { domain }) => text(option, domain || "All domains"));
  select.onchange = () => {
    Object.assign(chosen, { domain: select.value, more: false });
    tellChosen();
  };
  const field = the("search-text");
  field.oninput = () => {
    clearTimeout(asked.typed);
    asked.typed = setTimeout(() => {
      Object.assign(chosen, { search: field.value.trim(), more: false });
      tellChosen();
    }, TYPED_MS);
  };
  the("search").onsubmit = (event) => event.preventDefault();
}

/** What a file's state is called, what it means, and how it looks. */
export function stateOf(file) {
  if (isLost(file) && file.state === "applied") {
    return { name: "no row loaded", look: "rejected", means: "All of its rows were rejected" };
  }
  if (file.state === "applied" && file.rejected > 0) {
    return { name: "applied in part", look: "part", means: "Some of its rows were rejected; the others are applied" };
  }
  if (file.state === "published") return { name: "queued", look: "published", means: "Its rows are in Kafka and wait to be applied" };
  return { name: file.state, look: file.state, means: "" };
}

function makeFile() {
  return element("tr", { role: "row" },
    element("th", { scope: "row", role: "rowheader" }, element("a", { class: "name" }), element("span", { class: "reason" })),
    element("td", { role: "cell" }, element("span", { class: "chip" })),
    element("td", { role: "cell", class: "number rows" }, element("span", { class: "bad" }), element("span", { class: "warn" }),
      element("span", { class: "warn" }), element("span")),
    element("td", { role: "cell", class: "number took" }),
    element("td", { role: "cell", class: "number" }, element("time")));
}

function updateFile(row, file) {
  const [name, status, rows, took, written] = row.children;
  text(name.children[0], file.key);
  name.children[0].setAttribute("href", `#/file/${file.id}`);
  text(name.children[1], said(file));
  const { name: called, look, means } = stateOf(file);
  text(status.firstChild, called);
  status.firstChild.dataset.state = look;
  status.firstChild.title = means;
  text(rows.children[0], file.rejected > 0 ? `${count(file.rejected)} rejected` : "");
  text(rows.children[1], file.corrected > 0 ? `${count(file.corrected)} corrected` : "");
  text(rows.children[2], file.overtaken > 0 ? `${count(file.overtaken)} overtaken` : "");
  text(rows.children[3], received(file));
  text(took, file.seconds === null ? "" : duration(file.seconds));
  setTime(written.firstChild, file.last_modified);
}

/** Why the file is where it is, and what its header has or lacks. */
function said({ reason, unknown_columns: unknown, absent_defaults: absent }) {
  const columns = [["unknown", unknown], ["missing, default used", absent]]
    .filter(([, names]) => names.length > 0).map(([what, names]) => `${what}: ${names.join(", ")}`);
  return [reason, ...columns].filter(Boolean).join("; ");
}

function received({ state, rows, received }) {
  if (rows === null) return "";
  return state === "published" && received < rows ? `${count(received)} of ${count(rows)}` : counted(rows, "row");
}
