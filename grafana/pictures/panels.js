// The kinds of panels that the dashboards have.

import { dateTime, getDisplayValueAlignmentFactors, getFieldDisplayValues } from "@grafana/data";
import { BigValue, Table, TimeSeries, VizRepeater } from "@grafana/ui";
import { createElement as h } from "react";

const MESSAGE = { display: "flex", height: "100%", alignItems: "center", justifyContent: "center" };

function timeseries({ options, ...panel }, frames, { width, height, answered }) {
  // The minutes since the pipeline began, or the days that it has rows of.
  const [from, to] = panel.datasource.type === "prometheus" ? answered.recent : answered.days;
  const range = { from: dateTime(from * 1_000), to: dateTime(to * 1_000) };
  return h(TimeSeries, { frames, structureRev: 1, timeRange: { ...range, raw: range }, timeZone: "utc", width, height, legend: options.legend, options: {} });
}

function stat({ options, fieldConfig }, frames, { width, height, theme, replace }) {
  const { reduceOptions, colorMode, graphMode, justifyMode, textMode, wideLayout } = options;
  const getValues = () => getFieldDisplayValues({ fieldConfig, reduceOptions, replaceVariables: replace, theme, data: frames, timeZone: "utc" });
  const renderValue = ({ value, alignmentFactors, width: wide, height: high, count }) => h(BigValue, {
    value: value.display, alignmentFactors, width: wide, height: high, count, theme, colorMode, graphMode, justifyMode, textMode, wideLayout,
  });
  return h(VizRepeater, {
    getValues, getAlignmentFactors: getDisplayValueAlignmentFactors, renderValue, source: frames, width, height, orientation: "auto",
    itemSpacing: 3, renderCounter: 1, autoGrid: true,
  });
}

function table({ options }, [frame], { width, height }) {
  return h(Table, { data: frame, width, height, initialSortBy: options.sortBy, cellHeight: options.cellHeight, columnMinWidth: 50 });
}

const KINDS = { stat, table, timeseries };

/** A panel's contents. */
export function drawn(panel, frames, place) {
  const isEmpty = frames.every(({ length }) => length === 0);
  if (isEmpty) return h("div", { style: MESSAGE }, panel.fieldConfig.defaults.noValue ?? "No data");
  return KINDS[panel.type](panel, frames, place);
}
