// The status page: takes the sections of the state as they come, and shows them.

import { count, counted, element, list, setClock, setTime, show, text, the } from "./dom.js";
import { renderCharts } from "./drawn.js";
import { renderEntities } from "./entity.js";
import { renderFiles } from "./files.js";
import { renderOutputs, renderQuality } from "./outcome.js";
import { queueFailure, renderDomains, renderFlow, renderQueue } from "./pipeline.js";
import { filesIn, state } from "./state.js";
import { renderUpload } from "./upload.js";
import { renderView } from "./views.js";

/** The first pause before connecting again, and the longest. */
const AGAIN_MS = [500, 5_000];
/** A server that has not sent a word for so long is said to be silent. */
const SILENT_MS = 30_000;

const SAYS = {
  connecting: "Connecting …",
  live: "Live",
  away: "",
  silent: "No news for a while",
  lost: "freshet does not answer, trying again",
};

const connection = { source: null, again: AGAIN_MS[0], timer: 0, heard: 0, drawing: 0 };

/** What a service that is away keeps from happening. */
const MEANS = {
  Postgres: "Nothing is applied or published; the numbers below are from before.",
  Kafka: "New files and unread rows wait; nothing is lost.",
  S3: "No files are found and no outputs are published; nothing is lost.",
};

function say(what) {
  document.body.dataset.connection = what;
  text(the("connection-text"), SAYS[what] || `${state.away.map(({ service }) => service).join(" and ")} ${
    state.away.length === 1 ? "does" : "do"} not answer`);
}

function connect() {
  disconnect();
  const source = new EventSource("/page/events");
  connection.source = source;
  for (const name of Object.keys(state)) {
    source.addEventListener(name, (event) => take(name, JSON.parse(event.data)));
  }
  source.onerror = () => {
    disconnect();
    say("lost");
    connection.timer = setTimeout(connect, connection.again);
    connection.again = Math.min(2 * connection.again, AGAIN_MS[1]);
  };
}

function disconnect() {
  clearTimeout(connection.timer);
  connection.source?.close();
  connection.source = null;
}

function take(name, value) {
  state[name] = value;
  if (name !== "when") return;
  // The last section of a reading: only a whole one is drawn.
  setClock(value);
  connection.heard = Date.now();
  connection.again = AGAIN_MS[0];
  say(state.away.length > 0 ? "away" : "live");
  draw();
}

/** Draws with the next frame, once. */
function draw() {
  connection.drawing ||= requestAnimationFrame(() => {
    connection.drawing = 0;
    render();
  });
}

function render() {
  renderAlarms();
  if (!state.status) return;
  setTime(the("updated"), state.status.at);
  if (state.about) renderAbout(state.about);
  if (state.about) renderUpload(state.about);
  renderUnmatched(state.status.unmatched);
  renderFlow();
  renderQueue(state.status.event_queue);
  renderDomains();
  renderFiles();
  renderEntities();
  if (state.quality) renderQuality(state.quality);
  if (state.charts) renderCharts(state.charts);
  if (state.outputs) renderOutputs(state.outputs);
  renderView();
}

function renderAbout(about) {
  text(the("version"), about.version);
  show(the("empty"), filesIn() === 0);
  text(the("empty-bucket"), `s3://${about.raw_bucket}/`);
  text(the("empty-env"), `. ${about.env_file}`);
  const prefixes = about.prefixes.flatMap(([, prefixes]) => prefixes);
  list(the("empty-prefixes"), prefixes, String, () => element("li", {}, element("code")),
    (item, prefix) => text(item.firstChild, prefix));
}

function renderUnmatched({ objects }) {
  show(the("unmatched"), objects > 0);
  text(the("unmatched").firstChild, `${counted(objects, "object belongs", "objects belong")} to no domain`);
}

/** What needs attention. */
function renderAlarms() {
  const away = state.away.map(({ service, place, since, reason }) =>
    `${service} at ${place} has not answered since ${new Date(since).toLocaleTimeString()}: ${reason}. ${MEANS[service]}`);
  const trouble = state.trouble.map((trouble) => `Not up to date. ${trouble}`);
  const known = state.status ? alarmsOf(state.status) : [];
  const notices = state.status ? noticesOf(state.status) : [];
  const items = [...[...away, ...known, ...trouble].map((said) => ({ said, look: "bad" })), ...notices.map((said) => ({ said, look: "warn" }))];
  list(the("alarms"), items, ({ said }) => said, () => element("p"), (node, { said, look }) => {
    node.className = `notice ${look}`;
    text(node, said);
  });
}

/** Partitions with the same reason are one alarm. */
function haltedOf({ domain, halted }) {
  return [...new Set(halted.map(({ reason }) => reason))].map((reason) => {
    const partitions = halted.filter((one) => one.reason === reason).map(({ partition }) => partition);
    return `${domain} is halted at partition${partitions.length > 1 ? "s" : ""} ${partitions.join(", ")}: ${reason}`;
  });
}

function blockedBy({ table, waited_seconds: waited, holder, who, statement }) {
  return `${table} is locked: freshet has waited ${Math.round(waited)} s for session ${holder} (${who}): ${statement}. ` +
    `Wait for it, or end it: SELECT pg_terminate_backend(${holder})`;
}

const missing = ({ domain, topic }) =>
  `topic ${topic} does not exist, so no row of ${domain} is published or applied: run \`freshet topics create\``;

function alarmsOf({ domains, missing_topics: topics, blocked, outputs, event_queue: queue }) {
  const halted = domains.flatMap(haltedOf);
  const failed = outputs.failed.map(({ output, reason }) =>
    `The output ${output} cannot be derived; its published files are older than the tables: ${reason}`);
  return [...halted, ...topics.map(missing), ...blocked.map(blockedBy), ...failed, ...queueFailure(queue)];
}

/** What a person is to look at, though everything runs: files that nobody reads. */
function noticesOf({ unmatched: { objects, newest } }) {
  const unmatched = newest.map(({ key, hint }) => `${key} belongs to no domain${hint ? `: ${hint}` : ""}`);
  if (objects > newest.length) unmatched.push(`${count(objects - newest.length)} more objects belong to no domain.`);
  return unmatched;
}

// A tab that nobody sees asks for nothing.
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
document.addEventListener("chosen", draw);
window.addEventListener("hashchange", draw);
setInterval(() => {
  if (connection.source && connection.heard && Date.now() - connection.heard > SILENT_MS) say("silent");
}, 1_000);

say("connecting");
connect();
