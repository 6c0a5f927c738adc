// The status page: takes the sections of the state as they come, and shows them.

import { count, element, list, setClock, setTime, show, text, the } from "./dom.js";
import { renderCharts } from "./drawn.js";
import { renderFiles } from "./files.js";
import { renderOutputs, renderQuality } from "./outcome.js";
import { queueFailure, renderDomains, renderFlow, renderQueue } from "./pipeline.js";
import { filesIn, state } from "./state.js";

/** The first pause before connecting again, and the longest. */
const AGAIN_MS = [500, 5_000];
/** A server that has not sent a word for so long is said to be silent. */
const SILENT_MS = 30_000;

const SAYS = {
  connecting: "Connecting …",
  live: "Live",
  silent: "No news for a while",
  lost: "freshet does not answer, trying again",
};

const connection = { source: null, again: AGAIN_MS[0], timer: 0, heard: 0, drawing: 0 };

function say(what) {
  document.body.dataset.connection = what;
  text(the("connection-text"), SAYS[what]);
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
  say("live");
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
  if (!state.status) return;
  setTime(the("updated"), state.status.at);
  if (state.about) renderAbout(state.about);
  renderAlarms();
  renderFlow();
  renderQueue(state.status.event_queue);
  renderDomains();
  renderFiles();
  if (state.quality) renderQuality(state.quality);
  if (state.charts) renderCharts(state.charts);
  if (state.outputs) renderOutputs(state.outputs);
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

/** What needs a person. */
function renderAlarms() {
  const halted = state.status.domains.flatMap((domain) => domain.halted.map((halted) =>
    `${domain.domain} is halted at partition ${halted.partition}: ${halted.reason}`));
  const failed = state.status.outputs.failed.map(({ output, reason }) =>
    `The output ${output} is not derived, and what is published of it is older than the tables: ${reason}`);
  const { objects, newest } = state.status.unmatched;
  const unmatched = newest.map(({ key, hint }) => `${key} belongs to no domain${hint ? `: ${hint}` : ""}`);
  if (objects > newest.length) unmatched.push(`${count(objects - newest.length)} more objects belong to no domain.`);
  const queue = queueFailure(state.status.event_queue);
  const trouble = state.trouble.map((trouble) => `Not up to date. ${trouble}`);
  list(the("alarms"), [...halted, ...failed, ...unmatched, ...queue, ...trouble], String, () => element("p", { class: "notice bad" }), text);
}

// A tab that nobody sees asks for nothing.
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
document.addEventListener("chosen", draw);
setInterval(() => {
  if (connection.source && connection.heard && Date.now() - connection.heard > SILENT_MS) say("silent");
}, 1_000);

say("connecting");
connect();
