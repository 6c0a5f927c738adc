// The charts that outputs ask for in their heads: of each thing its newest row, a column a value.

import { drawAxis, drawValue, line, scale } from "./charts.js";
import { choice, decimal, element, list, show, svg, text, the, whole } from "./dom.js";
import { entityAddress } from "./entity.js";
import { chosen } from "./state.js";

/** Things shown at first, and when more are asked for. */
const SHOWN = [12, 60];

export function renderCharts(charts) {
  list(the("charts"), charts, (chart) => chart.output, makeChart, updateChart);
}

/** resilience_score as "Resilience score" */
const title = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");

function makeChart({ output, label, values, newest }) {
  const id = `chart-${output}`;
  const head = (attributes, ...children) => element("th", { role: "columnheader", scope: "col", ...attributes }, ...children);
  const heads = [
    head({}, title(label.name)),
    ...values.map(({ name }) => head({ class: "value" }, element("span", {}, title(name)), svg("svg", { "aria-hidden": "true" }))),
    ...(newest ? [head({ class: "number newest" }, title(newest.name))] : []),
  ];
  const table = element("table", { class: "drawn", role: "table", "aria-labelledby": id },
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)),
    element("tbody", { role: "rowgroup" }));
  table.style.setProperty("--values", values.length);
  return element("section", { "aria-labelledby": id },
    element("div", { class: "heading" }, element("h2", { id }),
      element("div", { class: "filters", role: "group", "aria-label": "Sort by" })),
    element("p", { class: "hint" }),
    element("div", { class: "panel" }, table, element("p", { class: "none" }),
      element("p", { class: "whole" }, element("button", { type: "button" }), element("span", { class: "faint" }))));
}

function updateChart(section, chart) {
  const [heading, hint, panel] = section.children;
  const [table, none, more] = panel.children;
  const choices = (chosen.charts[chart.output] ??= { order: chart.values[0].name, more: 0 });
  const orders = ordersOf(chart);
  text(heading.firstChild, chart.title ?? title(chart.output));
  choice(heading.lastChild, orders, choices.order, (it) => it.title, (order) => { choices.order = order; });
  text(hint, hintOf(chart));
  const scales = chart.values.map((_, index) => scale(...endsOf(chart, index)));
  const heads = table.tHead.rows[0].cells;
  scales.forEach((scale, index) => drawAxis(heads[index + 1].lastChild, scale));
  const { compare } = orders.find((order) => order.name === choices.order);
  const shown = [...chart.rows].sort(compare).slice(0, SHOWN[choices.more]);
  list(table.tBodies[0], shown, (row) => row.thing, (row) => makeRow(chart, row), (item, row) => updateRow(item, row, scales));
  show(table, chart.rows.length > 0);
  show(none, chart.rows.length === 0);
  text(none, chart.too_large
    ? `Too many rows for a chart: see the output ${chart.output} instead.`
    : "Nothing to draw yet: the output has no rows.");
  whole(more, chart.rows.length, shown.length, chart.things, () => { choices.more = 1; });
}

/** What the axis of a column holds: the range of the head, or all its values and 0. */
function endsOf({ range, rows }, index) {
  if (index === 0 && range) return range;
  const known = rows.map((row) => row.values[index]).filter((value) => value !== null);
  return [Math.min(0, ...known), Math.max(0, ...known)];
}

/** The worst first, what is not known last: the least or the greatest of the first column, the greatest of others. */
function ordersOf({ label, values, is_low_worst }) {
  const by = (value) => (left, right) => (value(left) ?? Number.MAX_VALUE) - (value(right) ?? Number.MAX_VALUE);
  const orders = values.map(({ name }, index) => {
    const low = index === 0 && is_low_worst;
    const signed = ({ values }) => (values[index] === null ? null : (low ? 1 : -1) * values[index]);
    return { name, title: `${low ? "Least" : "Most"} ${name.replaceAll("_", " ")}`, compare: by(signed) };
  });
  const compare = (left, right) => left.label.localeCompare(right.label);
  return [...orders, { name: "", title: `By ${label.name.replaceAll("_", " ")}`, compare }];
}

/** What the output is for, and what its columns mean. */
function hintOf({ description, newest, label, values }) {
  const sentence = (words) => (/[.!?]$/.test(words) ? words : `${words}.`);
  const meanings = values.filter(({ meaning }) => meaning).map(({ name, meaning }) => sentence(`${title(name)}: ${meaning}`));
  const which = newest ? [`The newest ${newest.name.replaceAll("_", " ")} of each ${label.name.replaceAll("_", " ")}, as published.`] : [];
  return [sentence(description), ...which, ...meanings].join(" ");
}

function makeRow({ by, values, newest }, { thing }) {
  const address = entityAddress(by, thing);
  const name = address ? element("a", { href: address, title: "Its history" }) : element("span");
  return element("tr", { role: "row" }, element("th", { scope: "row", role: "rowheader" }, name),
    ...values.map(() => element("td", { role: "cell", class: "value" }, line(), element("span"))),
    ...(newest ? [element("td", { role: "cell", class: "number newest" })] : []));
}

function updateRow(item, row, scales) {
  const cells = [...item.children];
  text(cells[0].firstChild, row.label);
  scales.forEach((scale, index) => {
    const [drawn, number] = cells[index + 1].children;
    drawValue(drawn, scale, row.values[index]);
    text(number, decimal(row.values[index], scale.digits));
  });
  if (row.newest !== null) text(cells.at(-1), row.newest);
}
