// Small charts as inline SVG. Each says in words what it shows.

import { svg } from "./dom.js";

const WIDTH = 100;
const HEIGHT = 28;

/** An empty chart that is as wide as its place. */
export function chart(kind) {
  return svg("svg", {
    class: `chart ${kind}`,
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": "",
  });
}

/** A line over time with what is below it filled. `points`: [milliseconds, value]; `span` milliseconds are shown. */
export function drawLine(chart, label, points, span) {
  const greatest = Math.max(1, ...points.map(([, value]) => value));
  const end = points.at(-1)?.[0] ?? 0;
  const x = (time) => WIDTH - ((end - time) / span) * WIDTH;
  const y = (value) => HEIGHT - 1 - (value / greatest) * (HEIGHT - 3);
  const line = points.map(([time, value]) => `${x(time).toFixed(2)},${y(value).toFixed(2)}`).join(" L");
  const shapes = [svg("path", { class: "base", d: `M0,${HEIGHT - 1} H${WIDTH}` })];
  if (points.length > 1) {
    const start = x(points[0][0]).toFixed(2);
    shapes.push(
      svg("path", { class: "area", d: `M${start},${HEIGHT - 1} L${line} L${WIDTH},${HEIGHT - 1} Z` }),
      svg("path", { class: "line", d: `M${line}` }),
    );
  }
  draw(chart, label, shapes);
}

/** A bar a value, the newest at the right edge; there is room for `room` of them. */
export function drawBars(chart, label, values, room) {
  const greatest = Math.max(0.001, ...values);
  const step = WIDTH / room;
  const shapes = values.map((value, index) => {
    const height = Math.max(1, (value / greatest) * (HEIGHT - 3));
    const x = WIDTH - (values.length - index) * step;
    return svg("rect", { x: x + step * 0.15, y: HEIGHT - 1 - height, width: step * 0.7, height });
  });
  shapes.unshift(svg("path", { class: "base", d: `M0,${HEIGHT - 1} H${WIDTH}` }));
  draw(chart, label, shapes);
}

/** An empty chart of one score, beside its number, which says what it shows. */
export const line = () => svg("svg", { class: "score", "aria-hidden": "true" });

/** Steps between the ticks of an axis, per power of ten. */
const STEPS = [1, 2, 5, 10];

/**
 * An axis that holds both numbers, with three to six ticks at round numbers.
 *
 * | from | to | ticks |
 * |---|---|---|
 * | 0 | 2.2 | 0, 1, 2, 3 |
 * | 99.2 | 100 | 99.2, 99.4, 99.6, 99.8, 100 |
 */
export function scale(from, to) {
  const width = Math.max(to - from, 0.1);
  const power = 10 ** Math.floor(Math.log10(width / 5));
  const step = STEPS.map((it) => it * power).find((it) => width / it <= 5);
  let [first, last] = [Math.floor(from / step + 1e-9), Math.ceil(to / step - 1e-9)];
  // A single number still has two ends.
  if (first === last) [first, last] = to > 0 ? [first - 1, last] : [first, last + 1];
  const ticks = Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toFixed(6)));
  return { ticks, place: (value) => `${(100 * (value - ticks[0])) / (ticks.at(-1) - ticks[0])}%` };
}

/** A score as a bar from the axis' beginning, which is 0. */
export function drawBar(chart, scale, value) {
  const bar = value === null ? [] : [svg("rect", { x: 0, y: "25%", width: scale.place(value), height: "50%", rx: 2 })];
  chart.replaceChildren(...gridOf(scale), ...bar);
}

/** A score as a dot, on an axis that may begin anywhere. */
export function drawDot(chart, scale, value) {
  const dot = value === null ? [] : [svg("circle", { cx: scale.place(value), cy: "50%", r: 5 })];
  chart.replaceChildren(...gridOf(scale), ...dot);
}

const gridOf = ({ ticks, place }) =>
  ticks.map((tick) => svg("line", { x1: place(tick), x2: place(tick), y1: 0, y2: "100%" }));

/** The numbers above such charts. */
export function drawAxis(chart, { ticks, place }) {
  chart.replaceChildren(...ticks.map((tick) => {
    const label = svg("text", { x: place(tick), y: 11, "text-anchor": "middle" });
    label.textContent = String(tick);
    return label;
  }));
}

function draw(chart, label, shapes) {
  chart.setAttribute("aria-label", label);
  chart.replaceChildren(...shapes);
}
