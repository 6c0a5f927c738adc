// Files and rows on their way through the stages, and each domain's lag and freshness.

import { chart, drawBars, drawLine } from "./charts.js";
import { count, counted, decimal, duration, element, list, show, text, the } from "./dom.js";
import { OPEN, filesIn, state, sum } from "./state.js";

/** Rates are those of the last so many milliseconds. */
const RATE_MS = 4_000;
/** The charts over time show at least so much. */
const SPAN_MS = 180_000;
/** Files that there is room for in a chart. */
const CHARTED = 40;

const times = () => state.history?.at ?? [];
const span = () => Math.max(SPAN_MS, (times().at(-1) ?? 0) - (times()[0] ?? 0));
const points = (values) => times().map((time, index) => [time, values[index]]);
const greatest = (points) => Math.max(0, ...points.map(([, value]) => value));
const few = (number) => (number < 10 && !Number.isInteger(number) ? decimal(number, 1) : count(number));
const said = (number, what) => (number > 0 ? [`${count(number)} ${what}`] : []);

/** [time, number a second] of what the history counts, over all domains. */
function rates(counter) {
  const at = times();
  const columns = Object.values(state.history?.domains ?? {}).map((domain) => domain[counter]);
  const total = at.map((_, index) => sum(columns.map((column) => column[index])));
  let from = 0;
  return at.map((time, index) => {
    while (time - at[from] > RATE_MS) from += 1;
    const seconds = (time - at[from]) / 1_000;
    return [time, seconds > 0 ? Math.max(0, total[index] - total[from]) / seconds : 0];
  });
}

export function renderFlow() {
  const { domains, outputs } = state.status;
  const rows = (what) => sum(domains.map((domain) => domain.rows[what]));
  const changes = points(state.history?.dirty_windows ?? []);
  const stages = [
    { name: "S3", what: "files found", number: filesIn(), unit: "files/s", charted: rates("files"),
      more: [...said(filesIn(OPEN), "in progress"), ...said(filesIn(["rejected"]) + (state.losses?.whole ?? 0), "rejected")] },
    { name: "Kafka", what: "rows published", number: rows("published"), unit: "rows/s", charted: rates("published"),
      more: [] },
    { name: "Postgres", what: "rows applied", number: rows("applied"), unit: "rows/s", charted: rates("processed"),
      more: [...said(rows("stale"), "stale"), ...said(rows("rejected"), "rejected")] },
    { name: "Outputs", what: "versions published", number: outputs.version ?? 0, unit: "waiting to be derived", charted: changes,
      more: outputsState(outputs) },
  ];
  list(the("flow"), stages, (stage) => stage.name, makeStage, updateStage);
}

function outputsState({ dirty_windows, copies_behind, version }) {
  if (dirty_windows > 0) return [];
  if (copies_behind?.length > 0) return [`${counted(copies_behind.length, "copy", "copies")} to follow`];
  return [version === null ? "nothing yet" : "up to date"];
}

function makeStage() {
  return element("li", {}, element("span", { class: "stage" }), element("b"), element("span", { class: "what" }),
    element("span", { class: "more" }), chart("rate"));
}

function updateStage(item, { name, number, what, unit, more, charted }) {
  const [stage, big, label, small, line] = item.children;
  const now = charted.at(-1)?.[1] ?? 0;
  const moving = now > 0 ? [`${few(now)} ${unit}`] : [];
  text(stage, name);
  text(big, count(number));
  text(label, what);
  text(small, [...moving, ...more].join(" · ") || "quiet");
  item.dataset.moves = now > 0;
  drawLine(line, `${name} in the last ${duration(span() / 1_000)}, ${unit}: now ${few(now)}, at most ${few(greatest(charted))}`,
    charted, span());
}

/** How the store's events come in; nothing where no queue is set. */
export function renderQueue(queue) {
  show(the("queue"), Boolean(queue));
  if (!queue) return;
  const since = (then) => duration((Date.parse(queue.at) - Date.parse(then)) / 1_000);
  const waiting = queue.waiting === null ? "" : `, ${counted(queue.waiting, "message waits", "messages wait")}`;
  const last = queue.last_message_at ? `last event ${since(queue.last_message_at)} ago` : "no event yet";
  const counts = [["settled", "settled"], ["other", "not about a file"], ["come_again", "not settled, received again"],
    ["unreadable", "unreadable"]].filter(([name]) => queue[name] > 0).map(([name, what]) => `${count(queue[name])} ${what}`);
  text(the("queue"), `Event queue: ${queue.reading}${waiting}; ${[last, ...counts].join(", ")}.`);
}

/** What a person is to know of the queue. */
export function queueFailure(queue) {
  if (!queue || queue.reading === "reachable") return [];
  const why = queue.failure ?? "no listener has read it for five minutes";
  return [`The event queue ${queue.queue} is not read, so files are found by listing only: ${why}`];
}

export function renderDomains() {
  text(the("lag-span"), `in the last ${duration(span() / 1_000)}`);
  list(the("domains"), state.status.domains, (domain) => domain.domain, makeDomain, (card, domain) => {
    const [header, lag, freshness, more] = card.children;
    text(header.children[0].firstChild, domain.domain);
    const { rows: held = 0, about } = state.tables[domain.domain] ?? {};
    text(header.children[1], `${about ? "about " : ""}${counted(held, "row")}`);
    header.children[1].title = "Rows of its table";
    updateLag(lag, domain);
    updateFreshness(freshness, domain.domain);
    const { rows = 0, more: plus, locations } = domain.orphans ?? {};
    text(more, rows > 0 ? `${plus ? `${count(rows)}+ rows` : counted(rows, "row")} of ${counted(locations, "unknown location")}` : "");
  });
}

function makeDomain({ domain }) {
  const figure = (name, kind) => element("figure", {}, element("figcaption", {},
    element("span", {}, name), element("b"), element("span", { class: "faint" })), chart(kind));
  return element("article", { class: "card" }, element("header", {},
    element("h3", {}, element("a", { href: `#/contract/${encodeURIComponent(domain)}`, title: "Its contract" })), element("span", { class: "faint" })),
    figure("lag", "lag"), figure("freshness", "freshness"), element("p", { class: "more" }));
}

function caption(figure, value, aside) {
  const [, number, more] = figure.firstChild.children;
  text(number, value);
  text(more, aside);
}

function updateLag(figure, { domain, lag_messages }) {
  const columns = state.history?.domains[domain];
  const isMissing = state.status.missing_topics.some((it) => it.domain === domain);
  const charted = points(columns?.lag_messages ?? []);
  const [messages, seconds] = [columns?.lag_messages.at(-1) ?? lag_messages, columns?.lag_seconds.at(-1) ?? 0];
  const most = `at most ${count(greatest(charted))}`;
  caption(figure, isMissing ? "topic missing" : counted(messages, "message"), seconds > 0 ? `for ${duration(seconds)}` : most);
  drawLine(figure.lastChild, `lag of ${domain}: now ${counted(messages, "message")}, ${most}`, charted, span());
}

function updateFreshness(figure, domain) {
  const seconds = (state.freshness[domain] ?? []).map((file) => file.seconds);
  if (seconds.length === 0) {
    caption(figure, "–", "no file yet");
    return drawBars(figure.lastChild, `freshness of ${domain}: no file yet`, seconds, CHARTED);
  }
  const [last, slowest] = [duration(seconds.at(-1)), `slowest ${duration(Math.max(...seconds))}`];
  caption(figure, last, slowest);
  drawBars(figure.lastChild, `freshness of the last ${seconds.length} files of ${domain}: the last ${last}, the ${slowest}`,
    seconds, CHARTED);
}
