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

/** An empty chart of one value, beside its number, which says what it shows. */
export const line = () => svg("svg", { "aria-hidden": "true" });

/** Steps between the ticks of an axis, per power of ten. */
const STEPS = [1, 2, 5, 10];

/**
 * An axis that holds both numbers, with two to six ticks at round numbers, and the digits that tell its values apart.
 *
 * | from | to | ticks | digits |
 * |---|---|---|---|
 * | 0 | 100 | 0, 20, 40, 60, 80, 100 | 1 |
 * | 0 | 2.2 | 0, 0.5, 1, 1.5, 2, 2.5 | 2 |
 * | -3 | 8000 | -2000, 0, 2000, 4000, 6000, 8000 | 0 |
 */
export function scale(from, to) {
  const width = to - from || Math.abs(to) || 1;
  const power = 10 ** Math.floor(Math.log10(width / 5));
  const step = STEPS.map((it) => it * power).find((it) => width / it <= 5 + 1e-9);
  let [first, last] = [Math.floor(from / step + 1e-9), Math.ceil(to / step - 1e-9)];
  // A single number still has two ends.
  if (first === last) [first, last] = to > 0 ? [first - 1, last] : [first, last + 1];
  const ticks = Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(12)));
  const [least, greatest] = [ticks[0], ticks.at(-1)];
  const share = (value) => Math.min(1, Math.max(0, (value - least) / (greatest - least)));
  const digits = Math.min(3, Math.max(0, -Math.floor(Math.log10(step / 50))));
  return { ticks, digits, place: (value) => 100 * share(value) };
}

/** A value as a bar from 0; as a dot where the axis does not reach 0, and the length of a bar would say nothing. */
export function drawValue(chart, scale, value) {
  const { ticks, place } = scale;
  const shapes = ticks.map((tick) => svg("line", { x1: `${place(tick)}%`, x2: `${place(tick)}%`, y1: 0, y2: "100%" }));
  if (value !== null && ticks[0] <= 0 && ticks.at(-1) >= 0) {
    const [start, end] = [place(0), place(value)].sort((left, right) => left - right);
    shapes.push(svg("rect", { x: `${start}%`, y: "25%", width: `${end - start}%`, height: "50%", rx: 2 }));
  } else if (value !== null) {
    shapes.push(svg("circle", { cx: `${place(value)}%`, cy: "50%", r: 5 }));
  }
  chart.replaceChildren(...shapes);
}

const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 6 });

/** The numbers above such charts. */
export function drawAxis(chart, { ticks, place }) {
  chart.replaceChildren(...ticks.map((tick) => {
    const label = svg("text", { x: `${place(tick)}%`, y: 11, "text-anchor": "middle" });
    label.textContent = short.format(tick);
    return label;
  }));
}

function draw(chart, label, shapes) {
  chart.setAttribute("aria-label", label);
  chart.replaceChildren(...shapes);
}
